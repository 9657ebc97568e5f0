"""Installs a bundle on a host. It is sent as text and run by the host's Python, before anything of ours is there.

The syntax is that of old Pythons, which must be able to say that they are too old. The arguments are the SHA-256 and
the size of the bundle, which follows on standard input. It is unpacked, so that Python caches its byte code, under a
temporary name, and renamed when it is complete.
"""

import json
import os
import sys

# mypy: allow-untyped-defs, allow-untyped-calls

KEPT = 5
"""Bundles that a host keeps."""


def say(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def lacking():
    """Name the missing part of the host in a sentence; empty when nothing is missing."""
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
        return say(error="Its SHA-256 is not the expected one.")
    os.umask(0o077)
    folder = os.path.expanduser("~/.pgratchet/bundles")
    os.makedirs(folder, 0o700, exist_ok=True)
    partial, final = os.path.join(folder, "." + secrets.token_hex(8)), os.path.join(folder, digest)
    try:
        archive.extractall(partial)
        compileall.compile_dir(partial, quiet=2, ddir=final)
        os.rename(partial, final)
    except OSError:
        if not os.path.exists(final):  # otherwise another run installed it first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    forget(folder)
    return say(installed=digest)


def forget(folder):
    """Delete all bundles except the newest few, which runs may still use."""
    import shutil

    bundles = sorted((os.path.join(folder, name) for name in os.listdir(folder)), key=os.path.getmtime)
    for path in bundles[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    unfit = lacking()
    say(unfit=unfit)
    if not unfit:
        try:
            install(sys.argv[1], int(sys.argv[2]))
        except OSError as error:
            say(unwritable="%s: %s" % (error.strerror, error.filename or "~/.pgratchet"))
