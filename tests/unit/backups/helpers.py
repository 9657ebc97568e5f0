"""A manifest for the tests of this folder."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from pgratchet.backups import manifest
from pgratchet.backups.manifest import (
    BackupFile,
    Contents,
    Database,
    Grant,
    Manifest,
    MaterializedView,
    SequenceState,
    Setting,
)

NOW = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)


CONTENTS = Contents(
    tables={"public.t": 2, 'public."o\'dd"': 0},
    large_objects=1,
    extensions={"plpgsql": "1.0"},
    invalid_indexes=("public.bad",),
    roles=("owner",),
    history={"1_a": "c"},
    sequences={"public.s": SequenceState(5, True, 7)},
    materialized_views={"public.v": MaterializedView(True, 3)},
    left_out=("The subscription s.",),
)


DATABASE = Database("db", "owner", "UTF8", "i", "C", "C", "und", None, -1)


def make_manifest(hours_ago: float = 1, *, keep: bool = False) -> Manifest:
    moment = NOW - timedelta(hours=hours_ago)
    return Manifest(
        backup_id=manifest.new_id(moment, 0),
        environment="prod",
        target="db",
        created_at=moment.isoformat(timespec="milliseconds"),
        server_version=180006,
        system_identifier="7",
        client_version="18.6",
        tool_version="0",
        archive="custom",
        compression="gzip",
        files={"database.dump": BackupFile(10, "0" * 64, "1")},
        database=replace(DATABASE, settings=(Setting(None, "a", "b"),), grants=(Grant(None, "CONNECT", False),)),
        database_size=100,
        contents=CONTENTS,
        dump_ms=1,
        verify_ms=2,
        keep=keep,
    )
