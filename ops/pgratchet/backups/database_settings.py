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


def restore_settings(database: Database, name: str, roles: Sequence[str]) -> list[sql.Composed]:
    """Build the statements to make the database `name` like another.

    Settings and grants of roles other than `roles` are skipped.
    """
    target = sql.Identifier(name)
    statements = [sql.SQL("ALTER DATABASE {} OWNER TO {}").format(target, sql.Identifier(database.owner))]
    if database.connection_limit != -1:
        limit = sql.Literal(database.connection_limit)
        statements.append(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(target, limit))
    if database.comment is not None:
        statements.append(sql.SQL("COMMENT ON DATABASE {} IS {}").format(target, sql.Literal(database.comment)))
    statements += [_set(target, setting) for setting in database.settings if setting.role in (None, *roles)]
    if database.grants is not None:
        statements += [
            sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(target),
            sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(target, sql.Identifier(database.owner)),
            *(_grant(target, grant) for grant in database.grants if grant.grantee in (None, *roles)),
        ]
    return statements


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
