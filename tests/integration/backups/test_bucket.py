"""Backups in a bucket of a server that speaks S3's protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pgratchet import events
from pgratchet.backups import (
    drill_records,
    kept_databases,
    listing,
    restore,
    retention,
    store,
    verification,
)
from pgratchet.backups.backup import BackupSource
from pgratchet.backups.drill import Drill
from pgratchet.backups.loading import BackupArchive
from pgratchet.backups.pg_programs import Programs
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.backups.retention import Retention
from pgratchet.backups.signing import Signer, TrustedKeys
from pgratchet.checks.stored_backups import check_backups
from pgratchet.operations.backups import take_backup
from pgratchet.operations.base import Machine
from tests import ROOT
from tests.faults.byte_proxy import ByteLimitProxy
from tests.integration.backups.bucket_helpers import (
    INCOMPRESSIBLE,
    embedded_server_only,
    take,
    target_with_bucket,
    verify,
)
from tests.integration.backups.helpers import run_drill
from tests.servers.databases import Database
from tests.servers.object_store import CANARY, KEYS, S3Server


@embedded_server_only
def test_a_backup_is_written_to_the_bucket_of_the_inventory_only(
    migrated: Database, s3: S3Server, programs: Programs, tmp_path: Path
) -> None:
    target = target_with_bucket(migrated, s3, "by/inventory")
    machine = Machine(tmp_path)
    bucket_store = machine.backup_store(target)
    assert CANARY not in repr(bucket_store) + repr(target)
    with target.connected() as connection:
        happened = [event for _ in range(2) for event in take_backup(target, machine, connection)]
    first, second = (event.backup_id for event in happened if isinstance(event, events.BackupTaken))
    assert events.BackupsRemoved((first,)) in happened
    names = ("database.dump", "globals.sql", "manifest.json")
    assert s3.names() == [f"by/inventory/env/target/{second}/{name}" for name in names], "retention leaves nothing"
    assert CANARY.encode() not in b"".join(s3.body(key) for key in s3.names())
    (entry,) = listing.list_backups(bucket_store)
    assert entry.manifest
    assert entry.manifest.files["database.dump"].size == len(s3.body(s3.names()[0]))
    assert verify(bucket_store, second, programs) == entry.manifest
    assert list(tmp_path.rglob("*")) == []


@embedded_server_only
def test_a_backup_in_a_bucket_is_restored_and_drilled(
    migrated: Database, backup_source: BackupSource, programs: Programs, s3: S3Server, scratch_server: RestoreServer
) -> None:
    migrated.run("CREATE TABLE planted AS SELECT generate_series(1, 1000) AS n")
    bucket_store = s3.at("restored")
    manifest = take(backup_source, bucket_store, programs)
    migrated.run("DELETE FROM planted")

    def archived() -> BackupArchive:
        content = verification.open_content(manifest, bucket_store, None)
        assert not isinstance(content, Path)
        return BackupArchive(manifest, content, programs)

    beside = f"{migrated.name}_beside"
    try:
        list(restore.restore(scratch_server, migrated.name, archived(), restore.RestoreOptions(into=beside)))
        restored = Database({**migrated.parameters, "dbname": beside})
        assert restored.rows("SELECT count(*) FROM planted") == [(1000,)]
        assert migrated.rows("SELECT count(*) FROM planted") == [(0,)]
        *_, swapped = restore.restore(scratch_server, migrated.name, archived(), restore.RestoreOptions())
        assert isinstance(swapped, events.Swapped)
        assert migrated.rows("SELECT count(*) FROM planted") == [(1000,)]
    finally:
        kept_databases.drop_kept_databases(
            scratch_server, migrated.name, [beside, *kept_databases.list_kept_databases(scratch_server, migrated.name)]
        )
    record = run_drill(Drill(scratch_server, archived()))
    assert record.good, record.problem
    drill_records.write_record(bucket_store, record)
    assert drill_records.read_records(bucket_store) == (record,)


def test_the_manifest_is_deleted_first(s3: S3Server, byte_proxy: ByteLimitProxy) -> None:
    """An interrupted deletion then leaves nothing that is listed as a backup."""
    bucket_store = s3.at("removed")
    for number in range(2):
        with bucket_store.draft(f"20260101T000000-000{number}") as draft:
            for name in ("a", "z"):
                with draft.write(name) as write:
                    write(b"x")
            draft.finish("manifest.json", b"{}")
    s3.at("removed", endpoint=byte_proxy.endpoint).remove("20260101T000000-0000")
    names = [key.rpartition("/")[2] for key in byte_proxy.deleted]
    assert names == ["manifest.json", "a", "z"]
    assert {key.split("/")[3] for key in s3.names()} == {"20260101T000000-0001"}


@embedded_server_only
def test_retention_deletes_in_the_bucket(backup_source: BackupSource, programs: Programs, s3: S3Server) -> None:
    bucket_store = s3.at("retention")
    manifests = [take(backup_source, bucket_store, programs, keep=number == 0).backup_id for number in range(3)]
    emitted = list(retention.prune(bucket_store, Retention(count=1), datetime.now(timezone.utc) + timedelta(days=1)))
    assert emitted == [events.BackupsRemoved((manifests[1],))]
    assert {key.split("/")[3] for key in s3.names()} == {manifests[0], manifests[2]}


def test_targets_and_environments_below_one_prefix_are_separate(s3: S3Server) -> None:
    options = {**KEYS, "endpoint": s3.endpoint}
    places = [("env", "target"), ("env", "target2"), ("env", "targe"), ("env2", "target"), ("en", "v")]
    for number, (environment, target) in enumerate(places):
        bucket_store = store.open_store("s3://bucket/shared/", options, Path("nowhere"), environment, target)
        with bucket_store.draft(f"20260101T000000-000{number}") as draft:
            draft.finish("manifest.json", b"{}")
        bucket_store.note("n.json", str(number).encode())
    for number, (environment, target) in enumerate(places):
        bucket_store = store.open_store("s3://bucket/shared", options, Path("nowhere"), environment, target)
        assert bucket_store.ids() == [f"20260101T000000-000{number}"]
        assert list(bucket_store.notes()) == [str(number).encode()]


LARGE = """
import hashlib, json, re, sys
from pathlib import Path
from pgratchet.backups import store

kept = store.open_store(*json.loads(sys.argv[1]), Path("nowhere"), "env", "target")
block = bytes(range(256)) * 4096

def peak():
    # Not ru_maxrss, which a process inherits from the one that started it, and that is a large one here.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak()
written, read = hashlib.sha256(), hashlib.sha256()
with kept.draft("20260101T000000-0000") as draft:
    with draft.write("database.dump") as write:
        for number in range(120):
            chunk = number.to_bytes(4, "big") + block
            written.update(chunk)
            write(chunk)
    draft.finish("manifest.json", b"{}")
for chunk in kept.read("20260101T000000-0000", "database.dump"):
    read.update(chunk)
assert read.digest() == written.digest()
print(peak() - before)
"""


def test_a_large_file_is_transferred_in_parts_with_bounded_memory(s3: S3Server) -> None:
    options = {**KEYS, "endpoint": s3.endpoint}
    arguments = json.dumps(["s3://bucket/large", options])
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "ops")}
    done = subprocess.run([sys.executable, "-c", LARGE, arguments], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (dump, _) = s3.names()
    tag = s3.client.head_object(Bucket="bucket", Key=dump)
    assert tag["ContentLength"] == 120 * (4 + (1 << 20))
    assert tag["ETag"].endswith('-13"'), "a multipart upload"
    assert int(done.stdout) < 80_000, f"kilobytes: {done.stdout} of 123,000"


@embedded_server_only
def test_a_database_larger_than_a_part_is_restored_identically(
    migrated: Database, backup_source: BackupSource, programs: Programs, s3: S3Server
) -> None:
    migrated.run(INCOMPRESSIBLE.format(700_000))
    bucket_store = s3.at("parts")
    manifest = take(backup_source, bucket_store, programs)
    assert manifest.files["database.dump"].size > 25_000_000
    key = f"parts/env/target/{manifest.backup_id}/database.dump"
    assert int(s3.client.head_object(Bucket="bucket", Key=key)["ETag"].strip('"').partition("-")[2]) >= 3
    content = verification.open_content(manifest, bucket_store, None)
    assert not isinstance(content, Path)
    assert b"".join(content) == s3.body(key)
    assert verify(bucket_store, manifest.backup_id, programs) == manifest


@embedded_server_only
def test_encrypted_backups_are_written_to_a_bucket(
    migrated: Database,
    backup_source: BackupSource,
    programs: Programs,
    s3: S3Server,
    scratch_server: RestoreServer,
    tmp_path: Path,
) -> None:
    from pyrage import x25519

    key = x25519.Identity.generate()
    identity = tmp_path / "identity"
    identity.write_text(f"{key}\n")
    migrated.run("CREATE TABLE planted AS SELECT 'planted row'::text AS x FROM generate_series(1, 500)")
    bucket_store = s3.at("encrypted")
    manifest = take(backup_source, bucket_store, programs, recipients=[str(key.to_public())])
    assert sorted(manifest.files) == ["database.dump.age", "globals.sql.age"]
    assert all(s3.body(k).startswith(b"age-encryption.org/v1") for k in s3.names() if k.endswith(".age"))
    assert verify(bucket_store, manifest.backup_id, programs, identity) == manifest
    archived = BackupArchive(manifest, verification.open_content(manifest, bucket_store, identity), programs)
    record = run_drill(Drill(scratch_server, archived))
    assert record.good, record.problem


@embedded_server_only
def test_a_signature_and_what_a_killed_backup_left_are_found_in_a_bucket(
    backup_source: BackupSource, migrated: Database, s3: S3Server, programs: Programs, tmp_path: Path
) -> None:
    bucket_store = Machine(tmp_path).backup_store(target_with_bucket(migrated, s3, "by/inventory"))
    key = Ed25519PrivateKey.generate()
    keys = TrustedKeys((key.public_key(),))
    signed = take(backup_source, bucket_store, programs, signer=Signer(key)).backup_id
    unsigned = take(backup_source, bucket_store, programs).backup_id
    assert [(each.backup_id, each.distrust) for each in listing.list_backups(bucket_store, keys)] == [
        (unsigned, "It is not signed."),
        (signed, ""),
    ]
    assert list(check_backups(bucket_store, datetime.now(timezone.utc))) == []
    s3.client.delete_object(Bucket="bucket", Key=f"by/inventory/env/target/{unsigned}/manifest.json")
    (finding,) = check_backups(bucket_store, datetime.now(timezone.utc))
    assert finding.what.startswith(f"{unsigned} is unfinished, begun ")
    assert f"run `aws s3 rm --recursive {bucket_store.location}/{unsigned}/`" in finding.remedy
