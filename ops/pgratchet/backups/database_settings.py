"""Builds statements to give a restored database the owner, privileges, settings and comment of another database.

PostgreSQL stores these by the database's oid, so renaming a database does not give them to a restored database
(https://www.postgresql.org/docs/current/catalog-pg-db-role-setting.html).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from psycopg import sql

from pgratchet.backups.manifest import Database, Grant, Setting

_QUOTED_LISTS = ("search_path", "session_preload_libraries", "local_preload_libraries", "temp_tablespaces")
"""Settings that are stored as a list of quoted names: those with GUC_LIST_QUOTE in PostgreSQL's guc_tables.c."""
_LIST_ELEMENT = re.compile(r'"((?:[^"]|"")*)"|([^,\s]+)')
_PRIVILEGES = ("CREATE", "CONNECT", "TEMPORARY")
_AFTER_DATA = frozenset(
    ("default_transaction_read_only", "event_triggers", "role", "session_authorization", "session_replication_role")
)
"""Settings that would stop the restore itself, or change its result."""


def before_data(database: Database, name: str, roles: Sequence[str]) -> list[sql.Composed]:
    """Build the statements to prepare the empty database `name` for the data of another.

    Functions in generated columns, indexes and materialized views run during the restore and may read settings. Nobody
    else may connect until the database's own privileges are restored. Settings of roles other than `roles` are skipped.
    """
    target = sql.Identifier(name)
    revoke = sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(target)
    return [revoke, *_settings(database, target, roles, are_late=False)]


def after_data(database: Database, name: str, roles: Sequence[str]) -> list[sql.Composed]:
    """Build the statements to make the restored database `name` like another, except for its comment.

    Settings and grants of roles other than `roles` are skipped.
    """
    target = sql.Identifier(name)
    statements = [sql.SQL("ALTER DATABASE {} OWNER TO {}").format(target, sql.Identifier(database.owner))]
    if database.connection_limit != -1:
        limit = sql.Literal(database.connection_limit)
        statements.append(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(target, limit))
    statements += _settings(database, target, roles, are_late=True)
    if database.grants is None:
        # PostgreSQL's default privileges (https://www.postgresql.org/docs/current/ddl-priv.html)
        statements.append(sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO PUBLIC").format(target))
    else:
        statements.append(
            sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(target, sql.Identifier(database.owner)),
        )
        statements += [_grant(target, grant) for grant in database.grants if grant.grantee in (None, *roles)]
    if database.is_template:
        statements.append(sql.SQL("ALTER DATABASE {} IS_TEMPLATE true").format(target))
    return statements


def comment_on(name: str, comment: str | None) -> sql.Composed:
    """Build the statement to give the database `name` a comment, or none."""
    return sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), sql.Literal(comment))


def lacking(database: Database, restored: Database, name: str, roles: Sequence[str]) -> list[sql.Composed]:
    """Build the statements whose effect the restored database `name` lacks: owner, settings, limit and so on."""
    target = sql.Identifier(name)
    statements = []
    if restored.owner != database.owner:
        statements.append(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(target, sql.Identifier(database.owner)))
    if restored.connection_limit != database.connection_limit:
        limit = sql.Literal(database.connection_limit)
        statements.append(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(target, limit))
    settings = [setting for setting in database.settings if setting.role in (None, *roles)]
    statements += [_set(target, setting) for setting in settings if setting not in restored.settings]
    grants = [grant for grant in database.grants or () if grant.grantee in (None, *roles)]
    statements += [_grant(target, grant) for grant in grants if grant not in (restored.grants or ())]
    if database.is_template and not restored.is_template:
        statements.append(sql.SQL("ALTER DATABASE {} IS_TEMPLATE true").format(target))
    return statements


def _settings(
    database: Database, target: sql.Identifier, roles: Sequence[str], *, are_late: bool
) -> list[sql.Composed]:
    return [
        _set(target, setting)
        for setting in database.settings
        if setting.role in (None, *roles) and (setting.name in _AFTER_DATA) is are_late
    ]


def _set(target: sql.Identifier, setting: Setting) -> sql.Composed:
    name = sql.SQL(".").join(map(sql.Identifier, setting.name.split(".")))
    values = [setting.value]
    if setting.name in _QUOTED_LISTS:
        elements = _LIST_ELEMENT.findall(setting.value)
        values = [quoted.replace('""', '"') or bare for quoted, bare in elements] or [""]
    value = sql.SQL(", ").join(map(sql.Literal, values))
    if setting.role is None:
        return sql.SQL("ALTER DATABASE {} SET {} TO {}").format(target, name, value)
    role = sql.Identifier(setting.role)
    return sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} TO {}").format(role, target, name, value)


def _grant(target: sql.Identifier, grant: Grant) -> sql.Composed:
    grantee = sql.SQL("PUBLIC") if grant.grantee is None else sql.Identifier(grant.grantee)
    option = sql.SQL(" WITH GRANT OPTION") if grant.grantable else sql.SQL("")
    return sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(_privilege(grant.privilege), target, grantee, option)


def _privilege(name: str) -> sql.SQL:
    """The keyword of a privilege. Raises ValueError for any other text, because a manifest may contain anything."""
    return sql.SQL(_PRIVILEGES[_PRIVILEGES.index(name)])
