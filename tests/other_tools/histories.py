"""The history tables of each tool, by column and type, as the tool creates them."""

from __future__ import annotations

from collections.abc import Mapping

Tables = Mapping[str, Mapping[str, str]]

DRIZZLE: Tables = {"drizzle.__drizzle_migrations": {"id": "integer", "hash": "text", "created_at": "bigint"}}
DRIZZLE_1: Tables = {
    "drizzle.__drizzle_migrations": {
        "id": "integer",
        "hash": "text",
        "created_at": "bigint",
        "name": "text",
        "applied_at": "timestamp with time zone",
    }
}
DBMATE: Tables = {"schema_migrations": {"version": "character varying"}}
NODE_PG_MIGRATE: Tables = {
    "pgmigrations": {
        "id": "integer",
        "name": "character varying(255)",
        "run_on": "timestamp without time zone",
    }
}
PRISMA: Tables = {
    "_prisma_migrations": {
        "id": "character varying(36)",
        "checksum": "character varying(64)",
        "finished_at": "timestamp with time zone",
        "migration_name": "character varying(255)",
        "logs": "text",
        "rolled_back_at": "timestamp with time zone",
        "started_at": "timestamp with time zone",
        "applied_steps_count": "integer",
    }
}
ALEMBIC: Tables = {"alembic_version": {"version_num": "character varying(32)"}}
YOYO: Tables = {
    "_yoyo_migration": {
        "migration_hash": "character varying(64)",
        "migration_id": "character varying(255)",
        "applied_at_utc": "timestamp without time zone",
    },
    "_yoyo_log": {
        "id": "character varying(36)",
        "migration_hash": "character varying(64)",
        "migration_id": "character varying(255)",
        "operation": "character varying(10)",
        "username": "character varying(255)",
        "hostname": "character varying(255)",
        "comment": "character varying(255)",
        "created_at_utc": "timestamp without time zone",
    },
    "_yoyo_version": {"version": "integer", "installed_at_utc": "timestamp without time zone"},
    "yoyo_lock": {"locked": "integer", "ctime": "timestamp without time zone", "pid": "integer"},
}
LIQUIBASE: Tables = {
    "databasechangelog": {
        "id": "character varying(255)",
        "author": "character varying(255)",
        "filename": "character varying(255)",
        "dateexecuted": "timestamp without time zone",
        "orderexecuted": "integer",
        "exectype": "character varying(10)",
        "md5sum": "character varying(35)",
        "description": "character varying(255)",
        "comments": "character varying(255)",
        "tag": "character varying(255)",
        "liquibase": "character varying(20)",
        "contexts": "character varying(255)",
        "labels": "character varying(255)",
        "deployment_id": "character varying(10)",
    },
    "databasechangeloglock": {
        "id": "integer",
        "locked": "boolean",
        "lockgranted": "timestamp without time zone",
        "lockedby": "character varying(255)",
    },
}
