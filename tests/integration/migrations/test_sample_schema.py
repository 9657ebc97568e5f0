"""The schema of sql/, table by table, in a migrated database."""

from __future__ import annotations

import pytest

from tests.servers.databases import Database

TABLES: dict[str, list[tuple[str, str, bool, str | None]]] = {
    "jobs": [
        ("id", "text", True, None),
        ("type", "text", True, None),
        ("name", "text", True, None),
        ("priority", "integer", True, None),
        ("status", "text", True, None),
        ("tool", "text", False, None),
        ("endpoint", "text", False, None),
        ("payload", "jsonb", True, None),
        ("result", "jsonb", False, None),
        ("created_at", "timestamp with time zone", True, None),
        ("updated_at", "timestamp with time zone", True, None),
        ("started_at", "timestamp with time zone", False, None),
        ("completed_at", "timestamp with time zone", False, None),
        ("retry_count", "integer", True, "0"),
        ("persisted_at", "timestamp with time zone", True, "now()"),
        ("recovery_attempts", "integer", True, "0"),
    ],
    "job_history": [
        ("id", "integer", True, "nextval('job_history_id_seq'::regclass)"),
        ("job_id", "text", True, None),
        ("attempt", "integer", True, None),
        ("status", "text", True, None),
        ("started_at", "timestamp with time zone", True, None),
        ("completed_at", "timestamp with time zone", False, None),
        ("duration_ms", "integer", False, None),
        ("error_message", "text", False, None),
    ],
    "rate_limits": [
        ("id", "text", True, None),
        ("platform", "text", True, None),
        ("limit_remaining", "integer", False, None),
        ("limit_total", "integer", False, None),
        ("reset_time", "timestamp with time zone", False, None),
        ("last_updated", "timestamp with time zone", True, None),
        ("created_at", "timestamp with time zone", True, "now()"),
    ],
    "tool_configs": [
        ("tool_name", "text", True, None),
        ("enabled", "boolean", True, "true"),
        ("config", "jsonb", False, None),
        ("refresh_interval", "integer", False, None),
        ("notifications", "boolean", True, "true"),
        ("updated_at", "timestamp with time zone", True, "now()"),
    ],
    "app_state": [
        ("key", "text", True, None),
        ("value", "text", False, None),
        ("updated_at", "timestamp with time zone", True, "now()"),
    ],
    "users": [
        ("id", "text", True, None),
        ("provider", "text", True, None),
        ("provider_user_id", "text", True, None),
        ("email", "text", False, None),
        ("username", "text", False, None),
        ("display_name", "text", False, None),
        ("avatar_url", "text", False, None),
        ("created_at", "timestamp with time zone", True, "now()"),
        ("updated_at", "timestamp with time zone", True, "now()"),
    ],
    "oauth_tokens": [
        ("id", "integer", True, "nextval('oauth_tokens_id_seq'::regclass)"),
        ("user_id", "text", True, None),
        ("tool_name", "text", True, None),
        ("access_token", "text", True, None),
        ("refresh_token", "text", False, None),
        ("token_type", "text", True, "'Bearer'::text"),
        ("expires_at", "timestamp with time zone", False, None),
        ("refresh_expires_at", "timestamp with time zone", False, None),
        ("scopes", "text", False, None),
        ("metadata", "jsonb", False, None),
        ("iv_access", "text", True, None),
        ("iv_refresh", "text", False, None),
        ("created_at", "timestamp with time zone", True, "now()"),
        ("updated_at", "timestamp with time zone", True, "now()"),
    ],
    "user_sessions": [
        ("session_id", "text", True, None),
        ("user_id", "text", True, None),
        ("provider", "text", True, None),
        ("created_at", "timestamp with time zone", True, "now()"),
        ("last_activity", "timestamp with time zone", True, "now()"),
    ],
}
PRIMARY_KEYS = {
    "jobs": "id",
    "job_history": "id",
    "rate_limits": "id",
    "tool_configs": "tool_name",
    "app_state": "key",
    "users": "id",
    "oauth_tokens": "id",
    "user_sessions": "session_id",
}
INDEXES = {
    "idx_jobs_status": ("jobs", "status"),
    "idx_jobs_created_at": ("jobs", "created_at"),
    "idx_jobs_tool": ("jobs", "tool"),
    "idx_job_history_job_id": ("job_history", "job_id"),
    "idx_job_history_status": ("job_history", "status"),
    "idx_rate_limits_platform": ("rate_limits", "platform"),
    "idx_users_provider": ("users", "provider"),
    "idx_users_email": ("users", "email"),
    "idx_oauth_tokens_user_id": ("oauth_tokens", "user_id"),
    "idx_oauth_tokens_tool_name": ("oauth_tokens", "tool_name"),
    "idx_user_sessions_user_id": ("user_sessions", "user_id"),
    "idx_user_sessions_provider": ("user_sessions", "provider"),
}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_its_columns(migrated: Database, table: str) -> None:
    rows = migrated.rows(
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)"
        " FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        f"public.{table}",
    )
    assert rows == TABLES[table]
    key = migrated.rows(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'p'",
        f"public.{table}",
    )
    assert key == [(f"PRIMARY KEY ({PRIMARY_KEYS[table]})",)]


def test_the_schema_has_these_tables_only(migrated: Database) -> None:
    rows = migrated.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert {name for (name,) in rows} == set(TABLES)


def test_the_schema_has_these_indexes(migrated: Database) -> None:
    rows = migrated.rows(
        "SELECT i.relname, t.relname, pg_get_indexdef(x.indexrelid, 1, false) FROM pg_index AS x"
        " JOIN pg_class AS i ON i.oid = indexrelid JOIN pg_class AS t ON t.oid = indrelid"
        " WHERE i.relname LIKE 'idx%%' AND indisvalid AND indnatts = 1"
    )
    assert {str(name): (table, column) for name, table, column in rows} == INDEXES


def test_job_history_refers_to_jobs(migrated: Database) -> None:
    rows = migrated.rows(
        "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f'"
    )
    assert rows == [("job_history", "FOREIGN KEY (job_id) REFERENCES jobs(id)")]


def test_the_schema_has_these_rows(migrated: Database) -> None:
    rows = migrated.rows("SELECT key, value FROM app_state ORDER BY key")
    assert rows == [("migration_version", "001"), ("version", "1.0.0")]


def test_each_test_has_its_own_database(migrated: Database, template: Database) -> None:
    migrated.run("DELETE FROM app_state")
    assert template.rows("SELECT count(*) FROM app_state") == [(2,)]
