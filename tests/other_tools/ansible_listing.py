"""Reads inventories with ansible-core, as `ansible-inventory --list` does, in one process for many inventories.

A separate process, because ansible-core changes the locale, the output streams and the warnings of its process.
Run as a program it reads paths of inventory files from standard input, one a line, and answers each with a line of
JSON: the groups and variables of each host, or null for an inventory that ansible-core cannot read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict


class ListedHost(TypedDict):
    groups: list[str]
    variables: dict[str, Any]


class AnsibleListing:
    """A running process that reads inventories with ansible-core."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def read(self, path: Path) -> dict[str, ListedHost] | None:
        """The hosts of an inventory by name; None when ansible-core cannot read it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"ansible-core has ended; it wrote:\n{self._log.read_text()}"
        hosts: dict[str, ListedHost] | None = json.loads(answer)
        return hosts


@contextmanager
def ansible_listing(home: Path) -> Iterator[AnsibleListing]:
    """Start ansible-core for the block. Its settings come from `home`, and from no ansible.cfg of this machine."""
    settings, log = home / "ansible.cfg", home / "ansible.log"
    settings.write_text("[inventory]\nenable_plugins = yaml\nany_unparsed_is_failed = true\n")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_CONFIG": str(settings),
        "ANSIBLE_LOCAL_TEMP": str(home),
    }
    command, pipe = [sys.executable, __file__], subprocess.PIPE
    with (
        log.open("w") as errors,
        subprocess.Popen(command, env=environ, cwd=home, text=True, stdin=pipe, stdout=pipe, stderr=errors) as process,
    ):
        try:
            yield AnsibleListing(process, log)
        finally:
            process.communicate()


def _main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from ansible.plugins.loader import init_plugin_loader

    init_plugin_loader()
    for line in sys.stdin:
        print(json.dumps(_hosts(line.rstrip("\n")), default=_name_of_type), file=answers, flush=True)


def _name_of_type(value: object) -> str:
    """For dates, and for values with a tag, which differ among versions of ansible-core."""
    return type(value).__name__


def _hosts(path: str) -> dict[str, ListedHost] | None:
    from ansible.errors import AnsibleError
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.vars.manager import VariableManager

    loader = DataLoader()
    try:
        inventory = InventoryManager(loader=loader, sources=[path])
        variables = VariableManager(loader=loader, inventory=inventory)
        return {
            str(host.name): {
                "groups": sorted(str(group.name) for group in host.get_groups()),
                "variables": dict(variables.get_vars(host=host, include_hostvars=False, stage="all")),
            }
            for host in inventory.get_hosts()
        }
    except AnsibleError:
        return None


if __name__ == "__main__":
    _main()
