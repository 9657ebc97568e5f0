"""Finds the rights that a role lacks to restore a backup, before anything is read or changed.

Owners of a database without superuser can dump everything that they own, but not restore everything: some objects can
be created by superusers only, and an object's owner can be set by the owner's members only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import psycopg

from pgratchet.backups.manifest import Contents, Database
from pgratchet.backups.snapshot import read_database, read_owners
from pgratchet.database import queries
from pgratchet.errors import ConfigurationError

_ADMINISTRATORS = ("alloydbsuperuser", "azure_pg_admin", "cloudsqlsuperuser", "neon_superuser", "rds_superuser")
"""Roles of managed services without superuser that may create some objects for which others need superuser."""
_HAS_SET_OPTION = 160000
_HAS_PARAMETER_PRIVILEGES = 150000
"""The first versions, as server_version_num, with GRANT ... WITH SET and with GRANT SET ON PARAMETER."""

_SENTENCES = {
    "create": "It may not create databases.",
    "rename": "It does not own the database {}, so it may not rename it.",
    "owner": "It is not a member of {}, which owns objects in the backup.",
    "superuser": "Objects in the backup belong to {}, a superuser.",
    "extension": "Only a superuser may create the extension {}.",
    "guest": "Only a superuser may restore what {} owns in schemas of other roles.",
    "object": "Only a superuser may create the {}.",
    "setting": "It may not set {} for the database.",
}


@dataclass(frozen=True, slots=True)
class MissingRight:
    """A right that a role lacks. `statement` gives the right; it is empty where only a superuser can do it."""

    kind: Literal["create", "rename", "owner", "extension", "guest", "object", "setting"]
    name: str
    statement: str

    def __str__(self) -> str:
        kind = "superuser" if self.kind == "owner" and not self.statement else self.kind
        return _SENTENCES[kind].format(self.name)


def find_missing_rights(
    connection: psycopg.Connection, live: str, contents: Contents, database: Database
) -> tuple[MissingRight, ...]:
    """Find the rights that the role of a connection lacks to restore a backup in the place of the database `live`."""
    version = connection.info.server_version
    query = queries.load(__file__, "restore_rights")["missing"]
    grant_set = "GRANT SET ON PARAMETER %s TO %I;"
    if version < _HAS_PARAMETER_PRIVILEGES:
        query, grant_set = query.replace("has_parameter_privilege(s.name, 'SET')", "false"), ""
    values: dict[str, object] = {
        "administrators": list(_ADMINISTRATORS),
        "live": live,
        "membership": "SET" if version >= _HAS_SET_OPTION else "MEMBER",
        "owners": [*contents.owners, database.owner],
        "extensions": list(contents.extensions),
        "guests": list(contents.guests),
        "objects": list(contents.superuser_objects),
        "setting_roles": [setting.role for setting in database.settings],
        "setting_names": [setting.name for setting in database.settings],
        "grant_set": grant_set,
    }
    rows = connection.execute(query.encode(), values).fetchall()
    return tuple(dict.fromkeys(MissingRight(*row) for row in rows))


def missing_rights_of(connection: psycopg.Connection) -> tuple[MissingRight, ...]:
    """Find the rights that the role of a connection lacks to restore a backup of the connection's database now."""
    name = connection.info.dbname
    database, _ = read_database(connection, name)
    extensions = connection.execute("SELECT extname FROM pg_catalog.pg_extension").fetchall()
    empty = Contents({}, 0, {name: "" for (name,) in extensions}, (), (), {})
    owners = read_owners(connection)
    contents = replace(
        empty,
        owners=owners["owners"],
        guests=owners["guests"],
        superuser_objects=owners["superuser_objects"],
    )
    return find_missing_rights(connection, name, contents, database)


def require_rights(user: str, missing: Sequence[MissingRight], *, swaps: bool) -> None:
    """Raise ConfigurationError when any right is missing."""
    if not missing:
        return
    statements = [right.statement for right in missing if right.statement]
    ways = []
    if statements:
        ways.append("\n".join(["Have a superuser run:", *dict.fromkeys(statements)]))
    ways.append(
        f"{'Or set' if ways else 'Set'} restore_environment in the inventory to an environment of the same database "
        "whose role is a superuser, or has these rights."
    )
    if swaps and all(right.kind == "rename" for right in missing):
        ways.append("Or restore beside it with --into=NAME, and give the application the new name.")
    elif all(right.kind == "setting" for right in missing):
        ways.append("Or add --accept-differences to restore without these settings.")
    raise ConfigurationError(
        f"the role {user} lacks rights for this restore",
        detail="\n".join([*map(str, missing), "Nothing was restored."]),
        hint="\n".join(ways),
    )


def sessions_to_wait_for(connection: psycopg.Connection, database: str) -> tuple[str, ...]:
    """The sessions of a database that the role of a connection may not end, each in a phrase."""
    query = queries.load(__file__, "restore_rights")["sessions_to_wait_for"]
    return describe_sessions(connection.execute(query.encode(), {"name": database}).fetchall())


def describe_sessions(rows: Iterable[tuple[Any, ...]]) -> tuple[str, ...]:
    """Describe sessions in phrases. Each row has the pid, the role and the application's name."""
    return tuple(f"pid {pid}, role {role}, {program or 'no application name'}" for pid, role, program in rows)
