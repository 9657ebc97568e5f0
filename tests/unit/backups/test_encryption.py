"""Encryption and decryption as streams, and the forms of keys. No error contains a key, and nothing hangs."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyrage import x25519

from pgratchet.backups import encryption
from pgratchet.errors import BackupFailed, ConfigurationError
from tests.support.waiting import until

KEY = x25519.Identity.generate()
RECIPIENT = str(KEY.to_public())


def sealed(content: bytes) -> bytes:
    written: list[bytes] = []
    with encryption.encrypted_writer(written.append, [RECIPIENT]) as write:
        write(content)
    return b"".join(written)


def in_pieces(content: bytes, ended: list[bool]) -> Iterator[bytes]:
    for start in range(0, len(content), 1000):
        yield content[start : start + 1000]
    ended.append(True)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 131072, 3_000_000])
def test_encrypted_content_is_decrypted_and_read_to_its_end(size: int) -> None:
    """The hash is checked at the end only. A block of age has 65,536 bytes."""
    content, ended = os.urandom(size), list[bool]()
    assert b"".join(encryption.decrypt(in_pieces(sealed(content), ended), [KEY])) == content
    assert ended == [True]


@pytest.mark.parametrize("fault", ["flipped", "truncated", "by a block", "longer", "headless", "empty"])
def test_changed_content_is_not_decrypted(fault: str) -> None:
    content = sealed(os.urandom(200_000))
    changed = {
        "flipped": content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
        "truncated": content[:-1],
        "by a block": content[: -(200_000 % 65_536) - 16],
        "longer": content + b"x",
        "headless": content[1:],
        "empty": b"",
    }[fault]
    with pytest.raises(BackupFailed, match="the backup cannot be decrypted") as caught:
        list(encryption.decrypt(iter([changed]), [KEY]))
    assert caught.value.detail
    assert caught.value.hint


def test_an_error_of_the_writer_is_raised_and_nothing_hangs() -> None:
    caught: list[BaseException] = []

    def full(chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def run() -> None:
        try:
            with encryption.encrypted_writer(full, [RECIPIENT]) as write:
                for _ in range(100):
                    write(os.urandom(1 << 20))
        except OSError as error:
            caught.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until(lambda: not thread.is_alive())
    (error,) = caught
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC


def test_an_error_of_the_source_is_raised() -> None:
    def broken() -> Iterator[bytes]:
        yield sealed(os.urandom(200_000))[:100_000]
        raise BackupFailed("the line was cut")

    with pytest.raises(BackupFailed, match="the line was cut"):
        list(encryption.decrypt(broken(), [KEY]))


def test_an_error_of_the_block_is_raised() -> None:
    def interrupted() -> None:
        with encryption.encrypted_writer(lambda _: None, [RECIPIENT]) as write:
            write(b"x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()


def test_a_reader_that_stops_half_way_leaves_no_thread() -> None:
    before = threading.active_count()
    opened = encryption.decrypt(iter([sealed(os.urandom(3_000_000))]), [KEY])
    next(opened)
    assert threading.active_count() > before
    opened.close()  # type: ignore[attr-defined]
    until(lambda: threading.active_count() == before)


SECRET = str(KEY)


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense",
        b"",
        b"# a comment\n",
        b"\xff\xfe\x00binary",
        pytest.param(SECRET[:-1].encode(), id="cut short"),
        pytest.param(f"{SECRET}\n{SECRET[:-2]}\n".encode(), id="second cut short"),
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n",
    ],
)
def test_an_identity_file_without_an_identity_is_named_without_its_content(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "identity"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        encryption.read_identities(file)
    assert str(file) in caught.value.message
    assert caught.value.detail
    assert caught.value.hint
    assert SECRET[:40] not in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)


def test_a_missing_identity_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        encryption.read_identities(tmp_path / "none")
    assert caught.value.detail == "No such file or directory."


@pytest.mark.parametrize(
    "wrong",
    [pytest.param(SECRET, id="a private key"), "age1nonsense", "ssh-ed25519 AAAA", "ssh-foo x", "someone@example.org"],
)
def test_an_invalid_recipient_is_named_by_its_number(wrong: str) -> None:
    """Its text may be a private key in the wrong place."""
    with pytest.raises(ConfigurationError, match="number 2 of backup_recipients") as caught:
        encryption.parse_recipients([RECIPIENT, wrong])
    assert wrong not in str(caught.value)
