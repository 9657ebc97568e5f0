"""Login shells and start-up files that print: their output is told apart from that of the commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from tests.hosts.local_target import LocalTarget
from tests.hosts.remote_target import RemoteTarget
from tests.support.invoke import PARTS

NOISE = 'Welcome! {not json\n{"event": "Exploded"}\n[1]\nno newline at the end'
HOME = "/home/deploy"
STARTUP = {
    "bash": (".bashrc", "cat /tmp/noise; trap 'printf bye' EXIT"),
    "rbash": (".bashrc", "cat /tmp/noise"),
    "zsh": (".zshenv", "cat /tmp/noise; setopt NO_NOMATCH"),
    "fish": (".config/fish/config.fish", "cat /tmp/noise"),
    "tcsh": (".tcshrc", "cat /tmp/noise; set noclobber"),
}


@pytest.fixture(params=STARTUP)
def shell(request: pytest.FixtureRequest, remote: RemoteTarget) -> Iterator[str]:
    """A login shell of the host's user, whose start-up file prints. Nothing of ours is on the host yet."""
    name: str = request.param
    file, text = STARTUP[name]
    commands = [
        f"rm -rf {HOME}/.pgratchet",
        f"printf %s {shlex.quote(NOISE)} > /tmp/noise",
        f"usermod -s $(command -v {name}) deploy",
        f"cp {HOME}/.bashrc /root/",
        f"mkdir -p {HOME}/.config/fish",
        f"echo {shlex.quote(text)} > {HOME}/{file}",
        f"chown -R deploy {HOME}/.config",
    ]
    remote.host.run(" && ".join(commands))
    yield name
    remote.host.run(f"usermod -s /bin/bash deploy; rm -r {HOME}/{file} {HOME}/.config; mv /root/.bashrc {HOME}/")


def test_commands_and_transfers_work_in_every_shell_that_prints(remote: RemoteTarget, shell: str) -> None:
    remote.describe(backup_dir="it's \\ \u00fc !x $(touch /tmp/executed)")
    assert "applied 001_initial_schema" in remote("migrate").stderr, shell
    remote.describe(backup_at="here")
    here = remote("backup", "--json").json["backup"]
    remote.host.psql("CREATE TABLE later ()", remote.name)
    remote("restore", f"--backup={here}", "--yes", "--drop-old")
    assert remote.rows("SELECT to_regclass('later')") == []
    assert "executed" not in remote.host.run("ls /tmp")


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize(
    "command",
    [
        'cat {noise}; sh -c "$SSH_ORIGINAL_COMMAND"',
        'cat {noise}; eval "$SSH_ORIGINAL_COMMAND"; cat {noise}',
        "cat {noise}; exec bash",
    ],
)
def test_a_forced_command_may_print(near: LocalTarget, command: str) -> None:
    """The last one reads commands from its input."""
    force(near, command)
    near("migrate", "--without-backup=the test is about the shell")
    near.describe(backup_at="here")
    near("backup")
    assert "restores" in near("drill").stdout


def force(near: LocalTarget, command: str) -> None:
    """Let every login run this command, whatever was asked for."""
    (near.home / "noise").write_text(NOISE)
    quoted = command.format(noise=near.home / "noise").replace('"', '\\"')
    key = near.home / "id.pub"
    key.write_text(f'command="{quoted}" {key.read_text()}')


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("echo This account is not available.; exit 1", "It ended with status 1. It printed:\n        This account is"),
        ("echo closed for maintenance >&2; exit 3", "closed for maintenance"),
        ("echo Password:; sleep 30", "It was silent for 2 seconds. It printed:\n        Password:"),
        ("yes", "It printed:\n        y\n        y"),
        ("true", "It ended with status 0. It printed nothing."),
    ],
)
def test_the_output_of_a_host_that_runs_no_command_is_shown(near: LocalTarget, command: str, shown: str) -> None:
    force(near, command)
    near.describe(ssh_silence=2)
    before = near.database.fingerprint()
    for task in ("status", "migrate"):
        done = near(task, status=10)
        assert "no command could be run on 127.0.0.1" in done.stderr
        assert shown in done.stderr
        assert PARTS.search(done.stderr)
        assert f"`ssh -p {near.sshd.port} 127.0.0.1 true`" in done.stderr
    assert near.database.fingerprint() == before


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_an_old_python_is_named_with_and_without_the_bundle(near: LocalTarget) -> None:
    (near.home / "old.py").write_text(OLD)
    python = near.home / "python3.9"
    python.write_text(f'#!/bin/sh\nexec python3 {near.home}/old.py "$@"\n')
    python.chmod(0o755)
    near.describe(ssh_python=str(python))
    assert "Its Python is 3.9" in near("status", status=2).stderr
    near.describe()
    near("status")
    near.describe(ssh_python=str(python))
    done = near("migrate", status=2)
    assert f"127.0.0.1 has an old {python}" in done.stderr
    assert PARTS.search(done.stderr)


OLD = """import runpy, sys
sys.version_info = (3, 9, 2, "final", 0)
if sys.argv[1] == "-c":
    program, sys.argv = sys.argv[2], sys.argv[2:]
    exec(program)
else:
    sys.argv = sys.argv[4:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A Python that takes itself for an old one."""
