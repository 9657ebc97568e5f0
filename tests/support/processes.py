"""The processes of this machine. They are listed by psutil, since a minimal system has no `ps`."""

from __future__ import annotations

from collections.abc import Iterator

import psutil


def command_lines(parent: int | None = None) -> list[str]:
    """The command lines of all processes, or of the children of `parent`."""
    processes = psutil.process_iter(["ppid", "cmdline"])
    return [" ".join(each.info["cmdline"] or ()) for each in processes if parent in (None, each.info["ppid"])]


def environments() -> Iterator[str]:
    """The environment of each process that may be read, as NAME=value words."""
    for each in psutil.process_iter(["environ"]):
        yield " ".join(f"{name}={value}" for name, value in (each.info["environ"] or {}).items())


def children(parent: int) -> list[int]:
    """The process ids of the children of `parent`."""
    return [each.pid for each in psutil.process_iter(["ppid"]) if each.info["ppid"] == parent]
