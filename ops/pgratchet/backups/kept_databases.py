"""Lists and drops the databases kept by restores beside the live database.

A kept database is an old live database, or a restored database without a swap. A record in the comment of the database
says which. A database without one, because its restore was killed, is known by its name, which is derived from the name
of the live database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Literal

import psycopg
from psycopg import sql

from pgratchet.backups.restore_server import (
    NAME_LIMIT,
    RestoreServer,
    fetch,
    make_droppable,
    take_lock,
    translate_errors,
)
from pgratchet.errors import ConfigurationError
from pgratchet.formatting import join_names

_RECORD = "kept by pgratchet: "
_HASH_LENGTH = 8
_KEPT = "_(old|restore)_[0-9]{14}$"


def derive_name(database: str, kind: str) -> str:
    """Derive a name from a database's name: the beginning, a kind such as `old` or `restore`, and the UTC time."""
    return _join(database, f"_{kind}_{datetime.now(timezone.utc):%Y%m%d%H%M%S}")


def _join(database: str, ending: str) -> str:
    """A name of at most 63 bytes. A hash of the whole name keeps long names apart that begin alike."""
    if len(database.encode()) + len(ending) <= NAME_LIMIT:
        return database + ending
    ending = f"_{hashlib.sha256(database.encode()).hexdigest()[:_HASH_LENGTH]}{ending}"
    return database.encode()[: NAME_LIMIT - len(ending)].decode(errors="ignore") + ending


@dataclass(frozen=True, slots=True)
class KeptRecord:
    """The record of a kept database, written in its comment.

    `live` is the name of the live database. A restored database has the id of its `backup`, and is `equal` when all its
    rows were as in the manifest. An old database has the `comment` that it had as the live one.
    """

    kind: Literal["old", "restored"]
    live: str
    backup: str
    equal: bool = True
    comment: str | None = None

    def as_comment(self) -> str:
        return _RECORD + json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def of_comment(cls, comment: str | None) -> KeptRecord | None:
        """The record in a comment, or None for any other comment."""
        if comment is None or not comment.startswith(_RECORD):
            return None
        try:
            return cls(**json.loads(comment.removeprefix(_RECORD)))
        except (ValueError, TypeError):
            return None


def list_kept_databases(server: RestoreServer, database: str) -> tuple[str, ...]:
    """List the databases kept by restores of a database, sorted by name."""
    with translate_errors(), closing(server.open_session(server.maintenance)) as maintenance:
        rows = fetch(maintenance, "kept_databases", pattern=_KEPT, prefix=_RECORD)
    records = {name: KeptRecord.of_comment(comment) for name, comment in rows}
    return tuple(
        name for name, record in records.items() if (record.live == database if record else _is_derived(name, database))
    )


def find_restored(maintenance: psycopg.Connection, database: str, backup: str | None) -> tuple[str, KeptRecord]:
    """Find the newest restored database that was not swapped with the live one, of one backup or of any.

    Raises ConfigurationError when there is none.
    """
    rows = fetch(maintenance, "kept_databases", pattern=_KEPT, prefix=_RECORD)
    restored = [
        (name, record)
        for name, comment in rows
        if (record := KeptRecord.of_comment(comment)) and (record.kind, record.live) == ("restored", database)
    ]
    candidates = [(name, record) for name, record in restored if backup in (None, record.backup)]
    if candidates:
        return max(candidates)
    if restored:
        raise _restored_from_others(str(backup), restored)
    raise ConfigurationError(
        f"there is no restored database that could become {database}",
        detail="A restore that cannot be finished keeps the restored database, and says so.",
        hint="`invoke restore --backup=ID` restores a backup. `invoke backups` lists the ids.",
    )


def _restored_from_others(backup: str, restored: Sequence[tuple[str, KeptRecord]]) -> ConfigurationError:
    name, newest = max(restored)
    names = [f'The database "{each}" was restored from {record.backup}.' for each, record in restored]
    return ConfigurationError(
        f"there is no restored database of backup {backup}",
        detail="\n".join(names),
        hint=f'`invoke restore --continue --backup={newest.backup}` gives "{name}" the live name. '
        f"`invoke restore --backup={backup}` restores the backup that you named.",
    )


def _is_derived(name: str, database: str) -> bool:
    _, kind, time = name.rsplit("_", 2) if name.count("_") >= 2 else ("", "", "")
    return name == _join(database, f"_{kind}_{time}")


def drop_kept_databases(server: RestoreServer, database: str, names: Sequence[str]) -> None:
    """Drop kept databases of a database.

    Raises ConfigurationError and drops nothing when any has slots, subscriptions or prepared transactions, because DROP
    DATABASE would silently delete an inactive slot. Raises LockBusy during a restore, whose new database is also listed
    as kept.
    """
    with translate_errors(), closing(server.open_session(server.maintenance)) as maintenance:
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
                hint="First drop the slots and subscriptions and finish the prepared transactions.",
            )
        for name in names:
            make_droppable(maintenance, name)
            maintenance.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
