"""Lists and drops the databases kept by restores beside the live database.

A kept database is an old live database, or a restored database without a swap. The name is derived from the name of the
live database.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timezone

from psycopg import sql

from pgratchet.backups.restore_server import NAME_LIMIT, RestoreServer, fetch, take_lock, translate_errors
from pgratchet.errors import ConfigurationError
from pgratchet.formatting import join_names


def derive_name(database: str, kind: str) -> str:
    """Derive a name from a database's name: the beginning, a kind such as `old` or `restore`, and the UTC time."""
    return _join(database, f"_{kind}_{datetime.now(timezone.utc):%Y%m%d%H%M%S}")


def _join(database: str, ending: str) -> str:
    return database.encode()[: NAME_LIMIT - len(ending)].decode(errors="ignore") + ending


def list_kept_databases(server: RestoreServer, database: str) -> tuple[str, ...]:
    """List the databases kept by restores of a database, sorted by name."""
    stem = _join(database, "_restore_00000000000000").removesuffix("_restore_00000000000000")
    pattern = f"^{re.escape(stem)}.*_(old|restore)_[0-9]{{14}}$"
    with translate_errors(), closing(server.connect(server.maintenance)) as maintenance:
        names = [name for (name,) in fetch(maintenance, "kept_databases", pattern=pattern)]
    return tuple(name for name in names if _is_derived(name, database))


def _is_derived(name: str, database: str) -> bool:
    _, kind, time = name.rsplit("_", 2)
    return name == _join(database, f"_{kind}_{time}")


def drop_kept_databases(server: RestoreServer, database: str, names: Sequence[str]) -> None:
    """Drop kept databases of a database.

    Raises ConfigurationError and drops nothing when any has slots, subscriptions or prepared transactions, because DROP
    DATABASE would silently delete an inactive slot. Raises LockBusy during a restore, whose new database is also listed
    as kept.
    """
    with translate_errors(), closing(server.connect(server.maintenance)) as maintenance:
        take_lock(maintenance, database)
        obstacles = [
            f"{name}: the {kind} {object_name}."
            for name in names
            for kind, object_name in fetch(maintenance, "obstacles", name=name)
        ]
        if obstacles:
            raise ConfigurationError(
                f"{join_names(names)} cannot be dropped",
                detail="\n".join(obstacles),
                hint="Drop the slots and subscriptions, and finish the prepared transactions, first.",
            )
        for name in names:
            maintenance.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
