"""The keys by which a test reaches an SSH server."""

from __future__ import annotations

from pathlib import Path


class SshServer:
    """The folder of the keys for an SSH server."""

    folder: Path

    @property
    def key(self) -> Path:
        return self.folder / "id"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def ssh(self) -> dict[str, object]:
        """The inventory variables for SSH."""
        return {
            "reach": "ssh",
            "ssh_key": str(self.key),
            "ssh_known_hosts": str(self.known_hosts),
            "ssh_config": "/nonexistent",
            "ssh_silence": 10,
        }
