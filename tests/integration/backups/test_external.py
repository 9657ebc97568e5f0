"""Backups by another tool: a command that prints the id and the time of its backup."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgratchet import events
from pgratchet.backups import external
from pgratchet.backups.disk_store import DiskStore
from pgratchet.errors import BackupFailed
from pgratchet.operations.backups import take_backup
from pgratchet.operations.base import Machine
from tests.servers.databases import Database


def write_command(path: Path, script: str) -> list[str]:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return [str(path)]


NOW = "20261124-101500F $(date -u +%Y-%m-%dT%H:%M:%SZ)"


@pytest.mark.parametrize(
    ("script", "last_event"),
    [
        ("echo disk on fire >&2; exit 3", "disk on fire\nIt ended with status 3."),
        ("echo done", "Its last line must be"),
        ("", "Its last line must be"),
        ("echo old 2020-01-01T00:00:00Z", "may be 3600 s old at most"),
        ("echo nozone 2026-11-24T10:15:00", "Its last line must be"),
        ("echo future 2099-01-01T00:00:00Z", "may be 3600 s old at most"),
    ],
)
def test_another_tool_must_name_a_fresh_backup(tmp_path: Path, script: str, last_event: str) -> None:
    command = write_command(tmp_path / "tool", script)
    with pytest.raises(BackupFailed, match="gave no fresh backup") as caught:
        list(external.run_command(command, os.environ, 3600))
    assert last_event in caught.value.detail
    with pytest.raises(BackupFailed, match="gave no fresh backup"):
        list(external.run_command([str(tmp_path / "none")], os.environ, 3600))


def test_another_tool_replaces_pg_dump(migrated: Database, disk_store: DiskStore, tmp_path: Path) -> None:
    from tests.support.targets import target_of

    tool = write_command(tmp_path / "tool", f'echo "$PGSERVICE of $PGRATCHET_ENV" > {tmp_path}/said; echo {NOW}')
    target = target_of(migrated, backup_command=tool)
    with target.connected() as connection:
        (event,) = take_backup(target, Machine(tmp_path), connection)
    assert isinstance(event, events.BackupTaken)
    assert event.backup_id == "20261124-101500F"
    assert (tmp_path / "said").read_text() == "target of env\n"
    assert disk_store.ids() == []
