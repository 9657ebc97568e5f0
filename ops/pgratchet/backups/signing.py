"""Signs the manifests of backups, and checks the signatures with trusted keys.

Encryption does not show who wrote a backup, because everybody may have the public key. A signature does: Ed25519 (RFC
8032) by the library cryptography. It is a file beside the manifest, so versions without signatures read the backup too.

The signed text is the manifest without its own hash and without the modification stamps of files, which change when a
backup is copied. It is made from the JSON as stored, so a later version with more fields reads old signatures.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.errors import ConfigurationError
from pgratchet.variables import BackupVariables

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

NAME = "manifest.json.sig"
"""The file with the signature."""
MOST_BYTES = 4096
_PREFIX = b"pgratchet backup manifest\n"
"""Keeps a signature from being taken for one of another kind of text by the same key."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs manifests with a private key."""

    key: Ed25519PrivateKey

    def sign(self, manifest: bytes) -> bytes:
        """The content of the signature's file for the text of a manifest."""
        signature = self.key.sign(_signed_text(manifest))
        shape = {"key": _public_text(self.key.public_key()), "signature": base64.b64encode(signature).decode()}
        return json.dumps(shape, indent=2).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The public keys whose backups are accepted."""

    keys: tuple[Ed25519PublicKey, ...]

    def problem(self, manifest: bytes, signature: bytes | None) -> str:
        """Describe in a sentence why a manifest is not accepted; an empty text when it is."""
        if signature is None:
            return "It is not signed."
        try:
            shape, text = json.loads(signature), _signed_text(manifest)
            raw = base64.b64decode(shape["signature"], validate=True)
        except (ValueError, TypeError, KeyError, RecursionError):
            return "Its signature is no signature of a backup."
        if any(_verifies(key, raw, text) for key in self.keys):
            return ""
        if shape.get("key") in [_public_text(key) for key in self.keys]:
            return "Its manifest was changed after it was signed."
        return "It is not signed by a trusted key."


def make_signer(variables: BackupVariables) -> Signer | None:
    """The signer of the inventory, None when backups are not signed.

    Raises ConfigurationError for an unusable key, and when backups would be taken that are refused afterwards.
    """
    trusted = trusted_keys(variables)
    if not variables.signing_key_file:
        if trusted:
            raise ConfigurationError(
                "a backup taken here would be refused, because it would not be signed",
                detail="The inventory sets backup_verify_keys, and not backup_signing_key.",
                hint="Set backup_signing_key in the inventory to the file with the private key.",
            )
        return None
    signer = Signer(_read_private_key(variables.signing_key_file))
    public = _public_text(signer.key.public_key())
    if trusted and public not in [_public_text(key) for key in trusted.keys]:
        raise ConfigurationError(
            "a backup taken here would be refused, because its key is not trusted",
            detail=f"The public key of backup_signing_key is not in backup_verify_keys: {public}.",
            hint="Add it to backup_verify_keys in the inventory.",
        )
    return signer


def trusted_keys(variables: BackupVariables) -> TrustedKeys | None:
    """The trusted keys of the inventory, None when signatures are not checked."""
    keys = [_parse_public_key(text, n) for n, text in enumerate(variables.backup_verify_keys, 1)]
    return TrustedKeys(tuple(keys)) if keys else None


def _signed_text(manifest: bytes) -> bytes:
    """Raises ValueError or TypeError for a text that is no manifest."""
    shape = json.loads(manifest)
    shape.pop("sha256", None)
    shape["files"] = {name: {**file, "stamp": ""} for name, file in shape["files"].items()}
    return _PREFIX + json.dumps(shape, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _verifies(key: Ed25519PublicKey, signature: bytes, text: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, text)
    except InvalidSignature:
        return False
    return True


def _public_text(key: Ed25519PublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _read_private_key(file: Path) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        text = file.read_bytes()
        is_openssh = b"OPENSSH PRIVATE KEY" in text
        load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
        key = load(text, password=None)
    except OSError as error:
        raise _unusable(file, f"It cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):  # whose messages may quote the file
        raise _unusable(file, "It is not a private key in OpenSSH's or PEM form, or it has a passphrase.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _unusable(file, "Its key is not of the type Ed25519.")
    return key


def _unusable(file: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"the backup_signing_key {file} cannot be used",
        detail=reason,
        hint="`ssh-keygen -t ed25519 -N '' -f backup-signing-key` creates a pair of keys.",
    )


def _parse_public_key(text: str, number: int) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    is_pem = text.lstrip().startswith("-----BEGIN")
    load = serialization.load_pem_public_key if is_pem else serialization.load_ssh_public_key
    try:
        key: object = load(text.strip().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(
            f"not a public key of the type Ed25519: number {number} of backup_verify_keys",
            detail="A key is a line of a .pub file, such as `ssh-ed25519 AAAA...`, or a public key in PEM form.",
            hint="`ssh-keygen -y -f KEY` prints the public key of a private key.",
        )
    return key
