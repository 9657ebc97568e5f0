"""Buckets that are unreachable, refuse access, or hold damaged backups; and connections that are cut."""

from __future__ import annotations

import functools
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pgratchet.backups import (
    bucket_store,
    listing,
    store,
    verification,
)
from pgratchet.backups.backup import BackupSource
from pgratchet.backups.bucket_store import BucketStore
from pgratchet.backups.choice import TargetStore, choose_newest
from pgratchet.backups.pg_programs import Programs
from pgratchet.backups.store import Store
from pgratchet.errors import BackupFailed, ConfigurationError
from tests.faults.byte_proxy import ByteLimitProxy
from tests.integration.backups.bucket_helpers import (
    INCOMPRESSIBLE,
    embedded_server_only,
    error_text,
    ids_of_good_backups,
    take,
    verify,
    write_backup,
)
from tests.servers.databases import Database
from tests.servers.object_store import CANARY, KEYS, S3Server
from tests.support.waiting import until


@embedded_server_only
def test_an_interrupted_upload_leaves_no_backup_and_the_next_attempt_works(
    migrated: Database, backup_source: BackupSource, programs: Programs, s3: S3Server, byte_proxy: ByteLimitProxy
) -> None:
    migrated.run(INCOMPRESSIBLE.format(20000))
    bucket_store = s3.at("up", endpoint=byte_proxy.endpoint)
    byte_proxy.up = 300_000
    text = error_text(lambda: take(backup_source, bucket_store, programs))
    assert byte_proxy.broken
    assert text.startswith("the backup could not be written to s3://bucket/up/env/target\n")
    byte_proxy.mend()
    assert ids_of_good_backups(bucket_store) == []
    assert s3.names() == []
    manifest = take(backup_source, bucket_store, programs)
    assert ids_of_good_backups(bucket_store) == [manifest.backup_id]


@embedded_server_only
def test_an_interrupted_download_verifies_nothing_and_the_next_attempt_works(
    migrated: Database, backup_source: BackupSource, programs: Programs, s3: S3Server, byte_proxy: ByteLimitProxy
) -> None:
    migrated.run(INCOMPRESSIBLE.format(20000))
    bucket_store = s3.at("down", endpoint=byte_proxy.endpoint)
    byte_proxy.down = 300_000
    text = error_text(lambda: take(backup_source, bucket_store, programs))
    assert byte_proxy.broken
    assert text.startswith("the backup could not be read from s3://bucket/down/env/target\n")
    assert not any(key.endswith("manifest.json") for key in s3.names())
    byte_proxy.mend()
    assert ids_of_good_backups(bucket_store) == []
    manifest = take(backup_source, bucket_store, programs)
    byte_proxy.carried["down"], byte_proxy.down = 0, 300_000
    (entry,) = [each for each in listing.list_backups(bucket_store) if each.manifest]
    text = error_text(lambda: list(verification.verify(entry, bucket_store, programs)))
    assert "could not be read from" in text
    byte_proxy.mend()
    assert verify(bucket_store, manifest.backup_id, programs) == manifest


def test_a_download_may_take_longer_than_one_request(
    s3: S3Server, byte_proxy: ByteLimitProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow reader is not an error while it makes progress."""
    content = os.urandom(2 << 20)
    s3.put("slow/env/target/20260101T000000-0000/database.dump", content)
    monkeypatch.setattr(bucket_store, "_PART", 1 << 18)
    store_settings = BucketStore._settings
    monkeypatch.setattr(BucketStore, "_settings", lambda self: _hurried(store_settings(self)))
    byte_proxy.delay = 0.06
    store = s3.at("slow", endpoint=byte_proxy.endpoint)
    assert b"".join(store.read("20260101T000000-0000", "database.dump")) == content


def _hurried(store_settings: dict[str, Any]) -> dict[str, Any]:
    return {**store_settings, "client_options": {**store_settings["client_options"], "timeout": "400ms"}}


def test_an_unreachable_object_store_is_named(s3: S3Server, byte_proxy: ByteLimitProxy) -> None:
    byte_proxy.broken = True
    text = error_text(s3.at("x", endpoint=byte_proxy.endpoint).ids)
    assert text.startswith("the backup could not be listed in s3://bucket/x/env/target\n")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    assert "could not be listed" in error_text(s3.at("x", endpoint=f"http://127.0.0.1:{port}").ids)


class _Forbidding(BaseHTTPRequestHandler):
    """The answer of S3 to a wrong key, which moto does not check."""

    def do_GET(self) -> None:
        code = "<Code>SignatureDoesNotMatch</Code><Message>The signature does not match.</Message>"
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{code}</Error>'.encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""


def test_wrong_credentials_are_reported_with_the_message_of_the_service(s3: S3Server) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Forbidding) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        text = error_text(s3.at("x", endpoint=f"http://127.0.0.1:{refusing.server_port}").ids)
        refusing.shutdown()
    assert "DETAIL: SignatureDoesNotMatch: The signature does not match.\n" in text
    assert "credentials" in text


@embedded_server_only
def test_a_missing_bucket_is_named(backup_source: BackupSource, programs: Programs, s3: S3Server) -> None:
    bucket_store = S3Server(s3.endpoint, s3.client, "no-such-bucket").at("x")
    for run in (
        bucket_store.ids,
        lambda: write_backup(bucket_store),
        lambda: take(backup_source, bucket_store, programs),
    ):
        assert "DETAIL: NoSuchBucket: The specified bucket does not exist.\n" in error_text(run)


FAULTS: dict[str, Callable[[S3Server, str, str], object]] = {
    "flipped": lambda s3, prefix, _: s3.put(f"{prefix}/database.dump", _flipped(s3.body(f"{prefix}/database.dump"))),
    "truncated": lambda s3, prefix, _: s3.put(f"{prefix}/database.dump", s3.body(f"{prefix}/database.dump")[:-100]),
    "emptied": lambda s3, prefix, _: s3.put(f"{prefix}/database.dump", b""),
    "swapped": lambda s3, prefix, other: s3.put(f"{prefix}/database.dump", s3.body(f"{other}/database.dump")),
    "another's manifest": lambda s3, prefix, other: s3.put(
        f"{prefix}/manifest.json", s3.body(f"{other}/manifest.json")
    ),
    "edited": lambda s3, prefix, _: s3.put(f"{prefix}/manifest.json", _edited(s3.body(f"{prefix}/manifest.json"))),
    "no manifest": lambda s3, prefix, _: s3.client.delete_object(Bucket="bucket", Key=f"{prefix}/manifest.json"),
    "no dump": lambda s3, prefix, _: s3.client.delete_object(Bucket="bucket", Key=f"{prefix}/database.dump"),
}


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _edited(content: bytes) -> bytes:
    return json.dumps(json.loads(content) | {"keep": True}).encode()


@embedded_server_only
def test_a_backup_damaged_in_the_bucket_is_never_listed_as_good(
    migrated: Database, backup_source: BackupSource, programs: Programs, s3: S3Server
) -> None:
    bucket_store = s3.at("damaged")
    other = take(backup_source, bucket_store, programs).backup_id
    migrated.run("CREATE TABLE meanwhile (x int)")
    backup_id = take(backup_source, bucket_store, programs).backup_id
    prefix = f"damaged/env/target/{backup_id}"
    whole = {key: s3.body(key) for key in s3.names() if key.startswith(prefix)}
    for fault, damage in FAULTS.items():
        damage(s3, prefix, f"damaged/env/target/{other}")
        assert {key: s3.body(key) for key in s3.names() if key.startswith(prefix)} != whole, fault
        assert ids_of_good_backups(bucket_store) == [other], fault
        assert f"backup {backup_id} is " in error_text(lambda: verify(bucket_store, backup_id, programs)), fault
        choice = choose_newest([TargetStore("env", "target", bucket_store)])
        assert choice.entry.backup_id == other, fault
        skipped = [] if fault == "no manifest" else [backup_id]  # it may be a backup that is still being written
        assert [each.backup_id for each in choice.skipped] == skipped, fault
        for key, content in whole.items():
            s3.put(key, content)
    assert ids_of_good_backups(bucket_store) == [backup_id, other], "written anew, with what the manifest says"


@pytest.mark.parametrize(
    "url", ["foo://bucket", "memory:///", "file:///tmp", "http://127.0.0.1:1", "/tmp/folder", "s3"]
)
def test_a_url_that_is_not_an_object_store_is_refused(url: str) -> None:
    """Also memory, where a backup would be verified and then lost."""
    bucket_store = store.open_store(url, {}, Path("nowhere"), "env", "target")
    with pytest.raises(ConfigurationError, match="cannot be used") as caught:
        bucket_store.ids()
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
def test_unknown_options_are_refused_without_their_values(option: str, value: str) -> None:
    bucket_store = store.open_store("s3://bucket", {**KEYS, option: value}, Path("nowhere"), "env", "target")
    text = error_text(bucket_store.ids)
    assert "cannot be used" in text
    assert option in text


@embedded_server_only
def test_an_interrupted_encrypted_upload_is_reported(
    migrated: Database, backup_source: BackupSource, programs: Programs, s3: S3Server, byte_proxy: ByteLimitProxy
) -> None:
    from pyrage import x25519

    migrated.run(INCOMPRESSIBLE.format(20000))
    bucket_store = s3.at("cut", endpoint=byte_proxy.endpoint)
    byte_proxy.up = 300_000
    failed: list[str] = []
    recipients = [str(x25519.Identity.generate().to_public())]
    run = functools.partial(take, backup_source, bucket_store, programs, recipients=recipients)
    thread = threading.Thread(target=lambda: failed.append(error_text(run)), daemon=True)
    thread.start()
    until(lambda: not thread.is_alive(), 30)
    assert failed[0].startswith("the backup could not be written to s3://bucket/cut/env/target\n")
    assert BackupFailed.exit_code == 9
    byte_proxy.mend()
    assert ids_of_good_backups(bucket_store) == []


def test_environment_variables_do_not_change_the_endpoint(
    s3: S3Server, byte_proxy: ByteLimitProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """obstore itself follows AWS_ENDPOINT_URL. Requests to S3's real address end at the proxy."""
    from obstore import list_with_delimiter
    from obstore.store import S3Store

    monkeypatch.setenv("AWS_ENDPOINT_URL", byte_proxy.endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for name, value in KEYS.items():
        monkeypatch.setenv(f"AWS_{name.upper()}", value)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    list_with_delimiter(S3Store("bucket"))
    carried = dict(byte_proxy.carried)
    assert carried["up"] > 0, "obstore reads the variable"
    bucket_store = store.open_store("s3://bucket/x", KEYS, Path("nowhere"), "env", "target")
    assert "https://s3.us-east-1.amazonaws.com/bucket" in error_text(bucket_store.ids)
    assert byte_proxy.carried == carried
    assert os.environ["AWS_ENDPOINT_URL"] == byte_proxy.endpoint


@pytest.mark.parametrize(
    "use",
    [
        lambda bucket_store: bucket_store.ids(),
        lambda bucket_store: list(bucket_store.notes()),
        lambda bucket_store: bucket_store.stat("id", "name"),
    ],
)
def test_a_missing_obstore_is_named(use: Callable[[Store], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    bucket_store = store.open_store("s3://bucket/x", KEYS, Path("nowhere"), "env", "target")
    with pytest.raises(ConfigurationError, match="the package obstore is not installed"):
        use(bucket_store)
