"""Backups in a bucket, against a server that speaks S3's protocol; the line to it breaks where a test says."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pgratchet import events
from pgratchet.backups import (
    backup,
    bucket_store,
    drill_records,
    kept_databases,
    listing,
    restore,
    retention,
    store,
    verification,
)
from pgratchet.backups.backup import BackupOptions, BackupSource
from pgratchet.backups.bucket_store import BucketStore
from pgratchet.backups.drill import Drill
from pgratchet.backups.manifest import Manifest
from pgratchet.backups.pg_programs import Programs
from pgratchet.backups.restore import BackupArchive
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.backups.retention import Retention
from pgratchet.backups.store import Store
from pgratchet.config import settings
from pgratchet.config.inventory import InventoryTarget
from pgratchet.errors import BackupFailed, ConfigurationError, RatchetError
from pgratchet.operations.backups import take_backup
from pgratchet.operations.base import Machine
from tests import ROOT
from tests.integration.backups.test_backup import manifest_of
from tests.integration.backups.test_drill import drilled
from tests.servers.databases import Database
from tests.support.waiting import until

embedded = pytest.mark.parametrize("server", ["embedded"], indirect=True)
"""One PostgreSQL will do, where there has to be one."""

CANARY = "canary-9f2c"
KEYS = {"access_key_id": "someone", "secret_access_key": CANARY, "region": "us-east-1"}


@dataclass
class S3:
    """A server with one bucket, and a client that is not ours to look into it with."""

    endpoint: str
    client: Any
    bucket: str = "bucket"

    def at(self, prefix: str, **options: str) -> Store:
        given = {**KEYS, "endpoint": self.endpoint, **options}
        return store.open_store(f"s3://{self.bucket}/{prefix}", given, Path("nowhere"), "env", "target")

    def names(self) -> list[str]:
        return [each["Key"] for each in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", ())]

    def body(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)


@pytest.fixture(scope="module")
def running() -> Iterator[S3]:
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    with closing(client):
        client.create_bucket(Bucket="bucket")
        yield S3(f"http://{host}:{port}", client)
    server.stop()


@pytest.fixture
def s3(running: S3) -> Iterator[S3]:
    yield running
    for key in running.names():
        running.client.delete_object(Bucket="bucket", Key=key)


@dataclass
class Line:
    """A line to a server that is cut once it has carried so many bytes up or down, and then refuses until mended."""

    upstream: str
    up: float = float("inf")
    down: float = float("inf")
    carried: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    delay: float = 0.0
    deleted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.broken = False
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def mend(self) -> None:
        self.up = self.down = float("inf")
        self.broken = False

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()
        self._thread.join(10)

    def _cut(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.broken:
                client.close()
                continue
            host, port = self.upstream.removeprefix("http://").split(":")
            server = socket.create_connection((host, int(port)))
            self._sockets += [client, server]
            for way, source, sink in (("up", client, server), ("down", server, client)):
                threading.Thread(target=self._carry, args=(way, source, sink), daemon=True).start()

    def _carry(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError), source:
            while chunk := source.recv(1 << 16):
                self.carried[way] += len(chunk)
                self.deleted += re.findall(r"<Key>(.+?)</Key>", chunk.decode(errors="replace")) if way == "up" else []
                if self.carried[way] > getattr(self, way):
                    self.broken = True
                    self._cut()
                    return
                if way == "down" and self.delay:
                    threading.Event().wait(self.delay)
                sink.sendall(chunk)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def line(s3: S3) -> Iterator[Line]:
    made = Line(s3.endpoint)
    yield made
    made.close()


def take(source: BackupSource, kept: Store, programs: Programs, **wishes: object) -> Manifest:
    return manifest_of(backup.take(source, kept, programs, BackupOptions(**wishes)), kept)  # type: ignore[arg-type]


def verify(kept: Store, backup_id: str, programs: Programs, identity: Path | None = None) -> Manifest:
    entry = listing.inspect_backup(kept, backup_id)
    list(verification.verify(entry, kept, programs, identity))
    return listing.require_manifest(entry)


def good(kept: Store) -> list[str]:
    return [each.backup_id for each in listing.list_backups(kept) if each.manifest]


def told(run: Callable[[], object]) -> str:
    """The error that a run ends with, in three parts, its traceback free of the secret."""
    with pytest.raises(RatchetError) as caught:
        run()
    text = str(caught.value)
    assert re.fullmatch(r"[^\n]+\nDETAIL: .+\nHINT: .+", text, re.DOTALL), text
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return text


def settings_in(database: Database, s3: S3, prefix: str) -> settings.RenderedTarget:
    given: dict[str, object] = {f"pg_{key}": value for key, value in database.parameters.items() if key != "password"}
    options = {name: f"{{{{ env('S3_{name.upper()}') }}}}" for name in (*KEYS, "endpoint")}
    given |= {"backup_store": f"s3://bucket/{prefix}", "backup_store_options": options, "backup_keep_count": 1}
    environ = {f"S3_{name.upper()}": value for name, value in {**KEYS, "endpoint": s3.endpoint}.items()}
    return settings.render_target(InventoryTarget("env", "target", (), given), ROOT / "templates", environ, dict)


@embedded
def test_a_backup_by_the_inventory_lies_in_the_bucket_and_nowhere_else(
    migrated: Database, s3: S3, programs: Programs, tmp_path: Path
) -> None:
    given = settings_in(migrated, s3, "by/inventory")
    machine = Machine(tmp_path)
    kept = machine.backup_store(given)
    assert CANARY not in repr(kept) + repr(given)
    with given.connected() as connection:
        happened = [event for _ in range(2) for event in take_backup(given, machine, connection)]
    first, second = (event.backup_id for event in happened if isinstance(event, events.BackupTaken))
    assert events.BackupsRemoved((first,)) in happened
    names = ("database.dump", "globals.sql", "manifest.json")
    assert s3.names() == [f"by/inventory/env/target/{second}/{name}" for name in names], "retention leaves nothing"
    assert CANARY.encode() not in b"".join(s3.body(key) for key in s3.names())
    (listed,) = listing.list_backups(kept)
    assert listed.manifest
    assert listed.manifest.files["database.dump"].size == len(s3.body(s3.names()[0]))
    assert verify(kept, second, programs) == listed.manifest
    assert list(tmp_path.rglob("*")) == []


@embedded
def test_it_is_restored_beside_swapped_in_and_drilled_from_the_bucket(
    migrated: Database, source: BackupSource, programs: Programs, s3: S3, site: RestoreServer
) -> None:
    migrated.run("CREATE TABLE planted AS SELECT generate_series(1, 1000) AS n")
    kept = s3.at("restored")
    made = take(source, kept, programs)
    migrated.run("DELETE FROM planted")

    def archived() -> BackupArchive:
        content = verification.open_content(made, kept, None)
        assert not isinstance(content, Path)
        return BackupArchive(made, content, programs)

    beside = f"{migrated.name}_beside"
    try:
        list(restore.restore(site, migrated.name, archived(), restore.RestoreOptions(into=beside)))
        there = Database({**migrated.parameters, "dbname": beside})
        assert there.rows("SELECT count(*) FROM planted") == [(1000,)]
        assert migrated.rows("SELECT count(*) FROM planted") == [(0,)]
        *_, swapped = restore.restore(site, migrated.name, archived(), restore.RestoreOptions())
        assert isinstance(swapped, events.Swapped)
        assert migrated.rows("SELECT count(*) FROM planted") == [(1000,)]
    finally:
        kept_databases.drop_kept_databases(
            site, migrated.name, [beside, *kept_databases.list_kept_databases(site, migrated.name)]
        )
    record = drilled(Drill(site, archived()))
    assert record.good, record.problem
    drill_records.write_record(kept, record)
    assert drill_records.read_records(kept) == (record,)


INCOMPRESSIBLE = (
    "CREATE TABLE bytes AS SELECT sha256((n::text || random()::text)::bytea) AS x FROM generate_series(1, {}) n"
)


@embedded
def test_a_line_cut_half_way_up_leaves_no_backup_and_the_next_try_works(
    migrated: Database, source: BackupSource, programs: Programs, s3: S3, line: Line
) -> None:
    migrated.run(INCOMPRESSIBLE.format(20000))
    kept = s3.at("up", endpoint=line.endpoint)
    line.up = 300_000
    text = told(lambda: take(source, kept, programs))
    assert line.broken
    assert text.startswith("the backup could not be written to s3://bucket/up/env/target\n")
    line.mend()
    assert good(kept) == []
    assert s3.names() == []
    made = take(source, kept, programs)
    assert good(kept) == [made.backup_id]


@embedded
def test_a_line_cut_half_way_down_proves_nothing_and_the_next_try_works(
    migrated: Database, source: BackupSource, programs: Programs, s3: S3, line: Line
) -> None:
    migrated.run(INCOMPRESSIBLE.format(20000))
    kept = s3.at("down", endpoint=line.endpoint)
    line.down = 300_000
    text = told(lambda: take(source, kept, programs))
    assert line.broken
    assert text.startswith("the backup could not be read from s3://bucket/down/env/target\n")
    assert not any(key.endswith("manifest.json") for key in s3.names())
    line.mend()
    assert good(kept) == []
    made = take(source, kept, programs)
    line.carried["down"], line.down = 0, 300_000
    (listed,) = [each for each in listing.list_backups(kept) if each.manifest]
    text = told(lambda: list(verification.verify(listed, kept, programs)))
    assert "could not be read from" in text
    line.mend()
    assert verify(kept, made.backup_id, programs) == made


def test_a_download_may_take_longer_than_one_request(s3: S3, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour of reading is no fault, as long as it goes on."""
    content = os.urandom(2 << 20)
    s3.put("slow/env/target/20260101T000000-0000/database.dump", content)
    monkeypatch.setattr(bucket_store, "_PART", 1 << 18)
    given = BucketStore._settings
    monkeypatch.setattr(BucketStore, "_settings", lambda self: _hurried(given(self)))
    line.delay = 0.06
    kept = s3.at("slow", endpoint=line.endpoint)
    assert b"".join(kept.read("20260101T000000-0000", "database.dump")) == content


def _hurried(given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "client_options": {**given["client_options"], "timeout": "400ms"}}


def test_a_store_that_cannot_be_reached_is_named(s3: S3, line: Line) -> None:
    line.broken = True
    text = told(s3.at("x", endpoint=line.endpoint).ids)
    assert text.startswith("the backup could not be listed in s3://bucket/x/env/target\n")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    assert "could not be listed" in told(s3.at("x", endpoint=f"http://127.0.0.1:{port}").ids)


class _Forbidding(BaseHTTPRequestHandler):
    """What S3 answers to a wrong key, which the server of these tests does not look at."""

    def do_GET(self) -> None:
        code = "<Code>SignatureDoesNotMatch</Code><Message>The signature does not match.</Message>"
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{code}</Error>'.encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""


def test_wrong_credentials_are_told_in_the_services_own_words(s3: S3) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Forbidding) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        text = told(s3.at("x", endpoint=f"http://127.0.0.1:{refusing.server_port}").ids)
        refusing.shutdown()
    assert "DETAIL: SignatureDoesNotMatch: The signature does not match.\n" in text
    assert "credentials" in text


@embedded
def test_a_missing_bucket_is_said_to_be_missing(source: BackupSource, programs: Programs, s3: S3) -> None:
    kept = S3(s3.endpoint, s3.client, "no-such-bucket").at("x")
    for run in (kept.ids, lambda: _written(kept), lambda: take(source, kept, programs)):
        assert "DETAIL: NoSuchBucket: The specified bucket does not exist.\n" in told(run)


def _written(kept: Store) -> None:
    with kept.draft("20260101T000000-0000") as draft, draft.write("database.dump") as write:
        write(b"x")


FAULTS: dict[str, Callable[[S3, str, str], object]] = {
    "flipped": lambda s3, made, _: s3.put(f"{made}/database.dump", _flipped(s3.body(f"{made}/database.dump"))),
    "truncated": lambda s3, made, _: s3.put(f"{made}/database.dump", s3.body(f"{made}/database.dump")[:-100]),
    "emptied": lambda s3, made, _: s3.put(f"{made}/database.dump", b""),
    "swapped": lambda s3, made, other: s3.put(f"{made}/database.dump", s3.body(f"{other}/database.dump")),
    "another's manifest": lambda s3, made, other: s3.put(f"{made}/manifest.json", s3.body(f"{other}/manifest.json")),
    "edited": lambda s3, made, _: s3.put(f"{made}/manifest.json", _edited(s3.body(f"{made}/manifest.json"))),
    "no manifest": lambda s3, made, _: s3.client.delete_object(Bucket="bucket", Key=f"{made}/manifest.json"),
    "no dump": lambda s3, made, _: s3.client.delete_object(Bucket="bucket", Key=f"{made}/database.dump"),
}


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _edited(content: bytes) -> bytes:
    return json.dumps(json.loads(content) | {"keep": True}).encode()


@embedded
def test_what_was_damaged_in_the_bucket_is_never_a_backup(
    migrated: Database, source: BackupSource, programs: Programs, s3: S3
) -> None:
    kept = s3.at("damaged")
    other = take(source, kept, programs).backup_id
    migrated.run("CREATE TABLE meanwhile (x int)")
    made = take(source, kept, programs).backup_id
    there = f"damaged/env/target/{made}"
    whole = {key: s3.body(key) for key in s3.names() if key.startswith(there)}
    for fault, damage in FAULTS.items():
        damage(s3, there, f"damaged/env/target/{other}")
        assert {key: s3.body(key) for key in s3.names() if key.startswith(there)} != whole, fault
        assert good(kept) == [other], fault
        assert f"{made} is no backup" in told(lambda: verify(kept, made, programs)), fault
        for key, content in whole.items():
            s3.put(key, content)
    assert good(kept) == [made, other], "written anew, with what the manifest says"


def test_the_manifest_is_deleted_first(s3: S3, line: Line) -> None:
    """So that a deletion that breaks off leaves nothing that passes for a backup."""
    kept = s3.at("removed")
    for number in range(2):
        with kept.draft(f"20260101T000000-000{number}") as draft:
            for name in ("a", "z"):
                with draft.write(name) as write:
                    write(b"x")
            draft.finish("manifest.json", b"{}")
    s3.at("removed", endpoint=line.endpoint).remove("20260101T000000-0000")
    names = [key.rpartition("/")[2] for key in line.deleted]
    assert names == ["manifest.json", "a", "z"]
    assert {key.split("/")[3] for key in s3.names()} == {"20260101T000000-0001"}


@embedded
def test_retention_deletes_in_the_bucket(source: BackupSource, programs: Programs, s3: S3) -> None:
    kept = s3.at("retention")
    made = [take(source, kept, programs, keep=number == 0).backup_id for number in range(3)]
    seen = list(retention.prune(kept, Retention(count=1), datetime.now(timezone.utc) + timedelta(days=1)))
    assert seen == [events.BackupsRemoved((made[1],))]
    assert {key.split("/")[3] for key in s3.names()} == {made[0], made[2]}


def test_targets_and_environments_below_one_prefix_do_not_see_each_other(s3: S3) -> None:
    options = {**KEYS, "endpoint": s3.endpoint}
    places = [("env", "target"), ("env", "target2"), ("env", "targe"), ("env2", "target"), ("en", "v")]
    for number, (environment, target) in enumerate(places):
        kept = store.open_store("s3://bucket/shared/", options, Path("nowhere"), environment, target)
        with kept.draft(f"20260101T000000-000{number}") as draft:
            draft.finish("manifest.json", b"{}")
        kept.note("n.json", str(number).encode())
    for number, (environment, target) in enumerate(places):
        kept = store.open_store("s3://bucket/shared", options, Path("nowhere"), environment, target)
        assert kept.ids() == [f"20260101T000000-000{number}"]
        assert list(kept.notes()) == [str(number).encode()]


@pytest.mark.parametrize(
    "url", ["foo://bucket", "memory:///", "file:///tmp", "http://127.0.0.1:1", "/tmp/folder", "s3"]
)
def test_what_is_no_object_store_is_refused(url: str) -> None:
    """Memory among them, where a backup would be proved good, and be gone."""
    kept = store.open_store(url, {}, Path("nowhere"), "env", "target")
    with pytest.raises(ConfigurationError, match="cannot be used") as caught:
        kept.ids()
    assert caught.value.detail
    assert "backup_store" in caught.value.hint


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("secret_acces_key", CANARY),
        ("endpoint", CANARY),
        ("aws_endpoint_url", "127.0.0.1:9000"),
        ("endpoint", "http://"),
        ("region", "eu west"),
    ],
)
def test_options_that_mean_nothing_are_refused_without_their_values(option: str, value: str) -> None:
    kept = store.open_store("s3://bucket", {**KEYS, option: value}, Path("nowhere"), "env", "target")
    text = told(kept.ids)
    assert "cannot be used" in text
    assert option in text


def test_the_environment_does_not_lead_to_another_endpoint(s3: S3, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """obstore itself follows AWS_ENDPOINT_URL. Requests to S3's real address end at the proxy."""
    from obstore import list_with_delimiter
    from obstore.store import S3Store

    monkeypatch.setenv("AWS_ENDPOINT_URL", line.endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for name, value in KEYS.items():
        monkeypatch.setenv(f"AWS_{name.upper()}", value)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    list_with_delimiter(S3Store("bucket"))
    carried = dict(line.carried)
    assert carried["up"] > 0, "obstore reads the variable"
    kept = store.open_store("s3://bucket/x", KEYS, Path("nowhere"), "env", "target")
    assert "https://s3.us-east-1.amazonaws.com/bucket" in told(kept.ids)
    assert line.carried == carried
    assert os.environ["AWS_ENDPOINT_URL"] == line.endpoint


@pytest.mark.parametrize(
    "use", [lambda kept: kept.ids(), lambda kept: list(kept.notes()), lambda kept: kept.stat("id", "name")]
)
def test_a_missing_obstore_is_named(use: Callable[[Store], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    kept = store.open_store("s3://bucket/x", KEYS, Path("nowhere"), "env", "target")
    with pytest.raises(ConfigurationError, match="the package obstore is not installed"):
        use(kept)


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


def test_a_large_file_goes_in_parts_and_comes_back_with_bounded_memory(s3: S3) -> None:
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


@embedded
def test_a_database_larger_than_a_part_comes_back_identical(
    migrated: Database, source: BackupSource, programs: Programs, s3: S3
) -> None:
    migrated.run(INCOMPRESSIBLE.format(700_000))
    kept = s3.at("parts")
    made = take(source, kept, programs)
    assert made.files["database.dump"].size > 25_000_000
    key = f"parts/env/target/{made.backup_id}/database.dump"
    assert int(s3.client.head_object(Bucket="bucket", Key=key)["ETag"].strip('"').partition("-")[2]) >= 3
    content = verification.open_content(made, kept, None)
    assert not isinstance(content, Path)
    assert b"".join(content) == s3.body(key)
    assert verify(kept, made.backup_id, programs) == made


@embedded
def test_encrypted_backups_go_to_a_bucket_too(
    migrated: Database, source: BackupSource, programs: Programs, s3: S3, site: RestoreServer, tmp_path: Path
) -> None:
    from pyrage import x25519

    key = x25519.Identity.generate()
    identity = tmp_path / "identity"
    identity.write_text(f"{key}\n")
    migrated.run("CREATE TABLE planted AS SELECT 'planted row'::text AS x FROM generate_series(1, 500)")
    kept = s3.at("encrypted")
    made = take(source, kept, programs, recipients=[str(key.to_public())])
    assert sorted(made.files) == ["database.dump.age", "globals.sql.age"]
    assert all(s3.body(k).startswith(b"age-encryption.org/v1") for k in s3.names() if k.endswith(".age"))
    assert verify(kept, made.backup_id, programs, identity) == made
    archived = BackupArchive(made, verification.open_content(made, kept, identity), programs)
    record = drilled(Drill(site, archived))
    assert record.good, record.problem


@embedded
def test_an_encrypted_upload_that_is_cut_says_so_and_ends(
    migrated: Database, source: BackupSource, programs: Programs, s3: S3, line: Line
) -> None:
    from pyrage import x25519

    migrated.run(INCOMPRESSIBLE.format(20000))
    kept = s3.at("cut", endpoint=line.endpoint)
    line.up = 300_000
    failed: list[str] = []
    recipients = [str(x25519.Identity.generate().to_public())]
    run = functools.partial(take, source, kept, programs, recipients=recipients)
    thread = threading.Thread(target=lambda: failed.append(told(run)), daemon=True)
    thread.start()
    until(lambda: not thread.is_alive(), 30)
    assert failed[0].startswith("the backup could not be written to s3://bucket/cut/env/target\n")
    assert BackupFailed.exit_code == 9
    line.mend()
    assert good(kept) == []
