"""Brings a bundle to its place on a host. Sent there as a text, and run by the Python that is found: nothing of ours is
there yet, and until the version is known, nothing is written that an old one could not read.

The bundle comes by standard input, of the size and the SHA-256 that the arguments say. It is unpacked, so that Python
keeps it compiled, below a name that is no one's, and renamed when it is whole.
"""

import json
import os
import sys

# mypy: allow-untyped-defs, allow-untyped-calls

KEPT = 5
"""Bundles that a host keeps."""


def say(**told):
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def lacking():
    """What the host has not, as a sentence; empty where it has all."""
    import ctypes.util

    if sys.version_info < (3, 10):
        return "Its Python is %d.%d, and 3.10 or newer is needed." % sys.version_info[:2]
    if not ctypes.util.find_library("pq"):
        return "It has no libpq: libpq5 on Debian and Ubuntu, libpq or postgresql-libs elsewhere."
    return ""


def install(digest, size):
    import compileall
    import hashlib
    import io
    import secrets
    import shutil
    import zipfile

    archive = zipfile.ZipFile(io.BytesIO(sys.stdin.buffer.read(size)))
    hashed = hashlib.sha256()
    for name in archive.namelist():
        text = archive.read(name)
        hashed.update(b"%d %d %b" % (len(name), len(text), name.encode()) + text)
    if hashed.hexdigest() != digest:
        return say(error="Its SHA-256 is another.")
    os.umask(0o077)
    folder = os.path.expanduser("~/.pgratchet/bundles")
    os.makedirs(folder, 0o700, exist_ok=True)
    partial, place = os.path.join(folder, "." + secrets.token_hex(8)), os.path.join(folder, digest)
    archive.extractall(partial)
    compileall.compile_dir(partial, quiet=2, ddir=place)
    try:
        os.rename(partial, place)
    except OSError:  # someone else was first
        shutil.rmtree(partial)
    forget(folder)
    return say(installed=digest)


def forget(folder):
    """Delete all but the newest few, of which one may run yet."""
    import shutil

    there = sorted((os.path.join(folder, name) for name in os.listdir(folder)), key=os.path.getmtime)
    for path in there[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    unfit = lacking()
    say(unfit=unfit)
    if not unfit:
        install(sys.argv[1], int(sys.argv[2]))
