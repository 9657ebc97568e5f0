"""Signatures of manifests: which keys are read, and which changes are noticed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pgratchet.backups import manifest as manifests
from pgratchet.backups.manifest import BackupFile
from pgratchet.backups.signing import make_signer, trusted_keys
from pgratchet.errors import ConfigurationError
from pgratchet.variables import BackupVariables
from tests.requirements import require
from tests.unit.backups.helpers import make_manifest

_ENCODING, _PRIVATE, _PUBLIC = (
    serialization.Encoding,
    serialization.PrivateFormat,
    serialization.PublicFormat,
)
PLAIN = serialization.NoEncryption()
SECRET = serialization.BestAvailableEncryption(b"passphrase")
MANIFEST = make_manifest()
TEXT = manifests.dumps(MANIFEST)


def write_key(
    path: Path, *, form: serialization.PrivateFormat = _PRIVATE.OpenSSH, key: Ed25519PrivateKey | None = None
) -> tuple[BackupVariables, str]:
    """A new private key in a file, and the line of its public key."""
    key = key or Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(_ENCODING.PEM, form, PLAIN))
    public = key.public_key().public_bytes(_ENCODING.OpenSSH, _PUBLIC.OpenSSH).decode()
    return BackupVariables(backup_signing_key=str(path)), public


def sign(variables: BackupVariables, text: bytes = TEXT) -> bytes:
    signer = make_signer(variables)
    assert signer is not None
    return signer.sign(text)


def problem(public: str, text: bytes, signature: bytes | None) -> str:
    keys = trusted_keys(BackupVariables(backup_verify_keys=(public,)))
    assert keys is not None
    return keys.problem(text, signature)


@pytest.mark.parametrize("form", [_PRIVATE.OpenSSH, _PRIVATE.PKCS8])
def test_keys_of_openssh_and_pem_sign_and_verify(tmp_path: Path, form: serialization.PrivateFormat) -> None:
    key = Ed25519PrivateKey.generate()
    variables, public = write_key(tmp_path / "key", form=form, key=key)
    pem = key.public_key().public_bytes(_ENCODING.PEM, _PUBLIC.SubjectPublicKeyInfo).decode()
    for text in (public, f"  {public} ops@example.com\n", pem):
        assert problem(text, TEXT, sign(variables)) == ""


def test_a_key_of_ssh_keygen_signs(tmp_path: Path) -> None:
    command = [
        require("ssh-keygen"),
        "-q",
        "-t",
        "ed25519",
        "-N",
        "",
        "-C",
        "ops@example.com",
        "-f",
        str(tmp_path / "key"),
    ]
    subprocess.run(command, check=True)
    signature = sign(BackupVariables(backup_signing_key=str(tmp_path / "key")))
    assert problem((tmp_path / "key.pub").read_text(), TEXT, signature) == ""


def exchanged_globals() -> bytes:
    """What anybody can do who has the public key of the encryption: another file, and a new hash."""
    return manifests.dumps(replace(MANIFEST, files={"database.dump": BackupFile(10, "f" * 64, "1")}))


CHANGES: dict[str, Callable[[], bytes]] = {
    "a file": exchanged_globals,
    "a file more": lambda: manifests.dumps(
        replace(MANIFEST, files={**MANIFEST.files, "globals.sql": BackupFile(1, "0" * 64)})
    ),
    "the id": lambda: manifests.dumps(replace(MANIFEST, backup_id="20261124T110000-0001")),
    "the target": lambda: manifests.dumps(replace(MANIFEST, target="other")),
    "the privileges": lambda: manifests.dumps(replace(MANIFEST, database=replace(MANIFEST.database, grants=None))),
    "the recipients": lambda: manifests.dumps(replace(MANIFEST, recipients=("age1x",))),
    "a new field": lambda: json.dumps({**json.loads(TEXT), "later": 1}).encode(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_manifest_is_noticed(tmp_path: Path, change: Callable[[], bytes]) -> None:
    variables, public = write_key(tmp_path / "key")
    assert problem(public, change(), sign(variables)) == "Its manifest was changed after it was signed."


def test_stamps_may_change_because_a_copy_has_others(tmp_path: Path) -> None:
    variables, public = write_key(tmp_path / "key")
    files = {name: replace(file, stamp="other") for name, file in MANIFEST.files.items()}
    assert problem(public, manifests.dumps(replace(MANIFEST, files=files)), sign(variables)) == ""


def test_a_later_version_with_more_fields_keeps_old_signatures(tmp_path: Path) -> None:
    variables, public = write_key(tmp_path / "key")
    older = json.loads(TEXT)
    del older["label"]
    text = json.dumps(older).encode()
    assert problem(public, text, sign(variables, text)) == ""


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b'"x"',
        b"[" * 100_000,
        b'{"signature": 1}',
        b'{"signature": "%%"}',
        b'{"signature": "AAAA"}',
        b'{"key": [], "signature": ""}',
    ],
)
def test_what_is_no_signature_is_refused(tmp_path: Path, signature: bytes) -> None:
    _, public = write_key(tmp_path / "key")
    assert problem(public, TEXT, signature) in (
        "Its signature is no signature of a backup.",
        "It is not signed by a trusted key.",
    )


def test_another_key_and_a_missing_signature_are_refused(tmp_path: Path) -> None:
    (mine, public), (theirs, _) = write_key(tmp_path / "mine"), write_key(tmp_path / "theirs")
    assert problem(public, TEXT, sign(theirs)) == "It is not signed by a trusted key."
    forged = {**json.loads(sign(theirs)), "key": public}
    assert problem(public, TEXT, json.dumps(forged).encode()) == "Its manifest was changed after it was signed."
    assert problem(public, TEXT, None) == "It is not signed."
    assert sign(mine) == sign(mine)


def unusable_private_keys() -> dict[str, bytes]:
    key = Ed25519PrivateKey.generate()
    rsa_key, curve = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    return {
        "text": b"SECRET",
        "empty": b"",
        "public": key.public_key().public_bytes(_ENCODING.OpenSSH, _PUBLIC.OpenSSH),
        "passphrase, OpenSSH": key.private_bytes(_ENCODING.PEM, _PRIVATE.OpenSSH, SECRET),
        "passphrase, PEM": key.private_bytes(_ENCODING.PEM, _PRIVATE.PKCS8, SECRET),
        "RSA": rsa_key.private_bytes(_ENCODING.PEM, _PRIVATE.OpenSSH, PLAIN),
        "EC": curve.private_bytes(_ENCODING.PEM, _PRIVATE.PKCS8, PLAIN),
        "cut": key.private_bytes(_ENCODING.PEM, _PRIVATE.OpenSSH, PLAIN)[:100],
    }


@pytest.mark.parametrize("name", unusable_private_keys())
def test_an_unusable_private_key_is_refused_without_quoting_it(tmp_path: Path, name: str) -> None:
    content = unusable_private_keys()[name]
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigurationError, match="cannot be used") as caught:
        make_signer(BackupVariables(backup_signing_key=str(tmp_path / "key")))
    assert not content or content.decode() not in str(caught.value)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        make_signer(BackupVariables(backup_signing_key=str(tmp_path / "none")))


@pytest.mark.parametrize("public", ["x", "ssh-ed25519 AAAA", "ssh-rsa AAAA", "-----BEGIN PUBLIC KEY-----\nx"])
def test_an_unusable_public_key_is_refused_with_its_number(tmp_path: Path, public: str) -> None:
    _, good = write_key(tmp_path / "key")
    with pytest.raises(ConfigurationError, match="number 2 of backup_verify_keys"):
        trusted_keys(BackupVariables(backup_verify_keys=(good, public)))


def test_a_backup_that_would_be_refused_afterwards_is_not_taken(tmp_path: Path) -> None:
    (mine, public), (_, other) = write_key(tmp_path / "mine"), write_key(tmp_path / "theirs")
    path = mine.backup_signing_key
    assert make_signer(BackupVariables()) is None
    with pytest.raises(ConfigurationError, match="would not be signed"):
        make_signer(BackupVariables(backup_verify_keys=(public,)))
    with pytest.raises(ConfigurationError, match="its key is not trusted"):
        make_signer(BackupVariables(backup_signing_key=path, backup_verify_keys=(other,)))
    assert make_signer(BackupVariables(backup_signing_key=path, backup_verify_keys=(other, public)))
