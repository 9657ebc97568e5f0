"""The keys by which a test reaches an SSH server."""

from __future__ import annotations

from pathlib import Path


class SshServer:
    """By which keys hosts are reached; the folder holds them."""

    folder: Path

    @property
    def key(self) -> Path:
        return self.folder / "id"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def ssh(self) -> dict[str, object]:
        """What every inventory that leads there says."""
        return {
            "reach": "ssh",
            "ssh_key": str(self.key),
            "ssh_known_hosts": str(self.known_hosts),
            "ssh_config": "/nonexistent",
            "ssh_silence": 4,
        }
