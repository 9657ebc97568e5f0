"""The bundle: what runs on a host, as one file that needs nothing there but Python and libpq.

Owns what goes in: the rooms of the applier, the history and the backups, and psycopg in pure Python. It is addressed by
its content, so that a host has it or has it not; what has changed here by a byte is another one.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_ROOMS = (
    *("__init__", "access", "applier", "archive", "backup", "batch", "blockers", "connection", "contents", "doctor"),
    *("encryption", "errors", "events", "evidence", "history", "host", "jobs", "manifest", "migrations", "queries"),
    *("restore", "session", "statements", "steps", "store", "wire", "wiring", "words"),
)
_MAIN = b"""import sys
from ops.host import main
sys.exit(main(sys.argv[1:]))
"""


def digest() -> str:
    """What a bundle made now is called: the SHA-256, in hex, of all that is in it."""
    hashed = hashlib.sha256()
    for name, content in _files():
        hashed.update(b"%d %d %b" % (len(name), len(content), name.encode()))
        hashed.update(content)
    return hashed.hexdigest()


def build() -> bytes:
    """The bundle, a zip file that Python can run."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _files():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def _files() -> Iterator[tuple[str, bytes]]:
    yield "__main__.py", _MAIN
    here = Path(__file__).parent
    for path in [*(here / f"{name}.py" for name in _ROOMS), *sorted(here.glob("*.sql"))]:
        yield f"ops/{path.name}", path.read_bytes()
    yield "typing_extensions.py", Path(_origin("typing_extensions")).read_bytes()
    folder = Path(_origin("psycopg")).parent
    for path in sorted(folder.rglob("*.py")):
        if path.relative_to(folder).parts[0] not in _UNUSED:
            yield f"psycopg/{path.relative_to(folder).as_posix()}", path.read_bytes()


_UNUSED = ("crdb", "_asyncio_templates")
"""Parts of psycopg that nothing here reaches."""


def _origin(name: str) -> str:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return spec.origin
