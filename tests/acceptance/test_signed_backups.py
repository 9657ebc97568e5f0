"""Backups with signatures: what somebody writes who can write to the store is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pgratchet.backups import manifest as manifests
from tests.hosts.local_target import LocalTarget
from tests.servers.databases import Database
from tests.support.invoke import PARTS, InvokeOnDatabase
from tests.support.ssh_keys import write_key_pair

embedded = pytest.mark.parametrize("server", ["embedded"], indirect=True)


def describe(clone: Path, **variables: object) -> None:
    """The inventory of dev, with more variables."""
    shape = {"pg_url": "{{ env('DATABASE_URL') }}", "pg_dbname": "x", **variables}
    (clone / "inventory" / "dev.yml").write_text(json.dumps({"all": {"hosts": {"app": shape}}}))


def exchange_globals(folder: Path) -> None:
    """Other roles, and manifests that know of them: with the hash, and with the same signature."""
    (folder / "globals.sql").write_bytes(text := b"ALTER ROLE intruder SUPERUSER;\n")
    manifest = manifests.loads((folder / "manifest.json").read_bytes())
    file = replace(manifest.files["globals.sql"], size=len(text), sha256=hashlib.sha256(text).hexdigest(), stamp="")
    changed = replace(manifest, files={**manifest.files, "globals.sql": file})
    (folder / "manifest.json").write_bytes(manifests.dumps(changed))


def remove_signature(folder: Path) -> None:
    (folder / "manifest.json.sig").unlink()


def take_signature_of_another(folder: Path) -> None:
    other = next(path for path in folder.parent.iterdir() if path.name != folder.name and path.name != "drills")
    shutil.copy(other / "manifest.json.sig", folder)


def write_nonsense(folder: Path) -> None:
    (folder / "manifest.json.sig").write_text("x" * 100_000)


@embedded
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (exchange_globals, "Its manifest was changed after it was signed."),
        (remove_signature, "It is not signed."),
        (take_signature_of_another, "Its manifest was changed after it was signed."),
        (write_nonsense, "Its signature is no signature of a backup."),
    ],
)
def test_a_backup_that_was_not_signed_here_is_refused(
    invoke_on_database: InvokeOnDatabase,
    checkout: Path,
    database: Database,
    tmp_path: Path,
    change: Callable[[Path], None],
    reason: str,
) -> None:
    public = write_key_pair(tmp_path / "key")
    describe(checkout, backup_signing_key=str(tmp_path / "key"), backup_verify_keys=[public])
    invoke_on_database("migrate", "--without-backup=the test takes them")
    first = invoke_on_database("backup", "--json").json["backup"]
    last = invoke_on_database("backup", "--json").json["backup"]
    assert "read back whole" in invoke_on_database("verify").stdout
    folder = checkout / "backups" / "dev" / "app" / last
    change(folder)
    listing = invoke_on_database("backups", "--json").json["backups"]
    assert [(each["id"], each["signed"]) for each in listing] == [(last, False), (first, True)]
    assert f"refused: {reason}" in invoke_on_database("backups").stdout
    failed = invoke_on_database("verify", status=9)
    assert first in failed.stdout, "the newest one that is signed"
    assert f"backup {last} is not signed by a trusted key\nDETAIL: {reason}" in failed.stderr
    before, files = database.fingerprint(), sorted(path.name for path in folder.iterdir())
    for task in ("verify", "drill", "restore"):
        failed = invoke_on_database(task, f"--backup={last}", *(["--yes"] if task == "restore" else []), status=9)
        assert failed.stderr.startswith(f"backup {last} is not signed by a trusted key\nDETAIL: {reason}")
        assert PARTS.search(failed.stderr)
    assert (database.fingerprint(), sorted(path.name for path in folder.iterdir())) == (before, files)
    assert database.rows("SELECT 1 FROM pg_database WHERE datname LIKE %s", f"{database.name}_%") == []
    describe(checkout)
    assert {each["signed"] for each in invoke_on_database("backups", "--json").json["backups"]} == {None}
    assert "read back whole" in invoke_on_database("verify", f"--backup={last}").stdout, (
        "who checks no signature sees nothing"
    )


@embedded
def test_no_migration_runs_when_its_backup_could_not_be_signed(
    invoke_on_database: InvokeOnDatabase, checkout: Path, database: Database, tmp_path: Path
) -> None:
    public, other = write_key_pair(tmp_path / "key"), write_key_pair(tmp_path / "other")
    before = database.fingerprint()
    for variables, message in (
        ({"backup_signing_key": str(tmp_path / "none")}, "cannot be used"),
        ({"backup_verify_keys": [public]}, "would not be signed"),
        ({"backup_signing_key": str(tmp_path / "key"), "backup_verify_keys": [other]}, "its key is not trusted"),
    ):
        describe(checkout, **variables)
        assert message in invoke_on_database("migrate", status=2).stderr
        assert database.fingerprint() == before
    assert not (checkout / "backups").exists()


@embedded
def test_a_backup_of_a_host_is_signed_here_and_the_key_stays_here(near: LocalTarget, tmp_path: Path) -> None:
    public = write_key_pair(tmp_path / "key")
    signing = {"backup_signing_key": str(tmp_path / "key"), "backup_verify_keys": [public]}
    near.describe(**signing)
    refused = near("backup", status=2)
    assert "backup_signing_key: not supported with backup_at: host" in refused.stderr
    assert "backup_verify_keys: not supported with backup_at: host" in refused.stderr
    near.describe(backup_at="here", **signing)
    near("migrate")
    (entry,) = near("backups", "--json").json["backups"]
    assert entry["signed"] is True
    folder = near.clone / "backups" / "near" / "app" / entry["id"]
    assert "read back whole" in near("verify").stdout
    near.database.run("CREATE TABLE later ()")
    near("restore", f"--backup={entry['id']}", "--yes", "--drop-old")
    assert near.database.rows("SELECT to_regclass('later')") == [(None,)]
    texts = [path.read_bytes() for path in (near.home / ".pgratchet").rglob("*") if path.is_file()]
    assert texts
    assert not any(str(tmp_path / "key").encode() in text or public.split()[1].encode() in text for text in texts)
    exchange_globals(folder)
    before = near.database.fingerprint()
    failed = near("restore", f"--backup={entry['id']}", "--yes", status=9)
    assert "Its manifest was changed after it was signed." in failed.stderr
    assert near.database.fingerprint() == before
