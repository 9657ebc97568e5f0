"""Builds the bundle: the part of the package that runs on a host, as one zip file that Python can execute.

A host needs only Python and libpq, so the bundle also carries psycopg in pure Python. It is named by the SHA-256 of its
content: a host either has exactly this version or receives it.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
MODULES = ("__init__", "embedded", "environment", "errors", "events", "formatting", "variables", "version")
FOLDERS = ("apply", "backups", "checks", "database", "migrations", "operations")
ONLY_HERE = ("checks/ci.py", "operations/drill.py", "operations/schema.py")
"""Modules in these folders that run on the control machine only."""
NO_LIBPQ = 95
"""The exit status of the bundle on a host without libpq."""
_MAIN = f"""import sys
try:
    import psycopg
except ImportError as error:
    if "libpq" not in str(error):
        raise
    sys.exit({NO_LIBPQ})
from pgratchet.operations.agent import main
sys.exit(main(sys.argv[1:]))
""".encode()
_UNUSED_PSYCOPG = ("crdb", "_asyncio_templates")


def digest() -> str:
    """The name of the bundle: the SHA-256, in hex, of everything in it."""
    hashed = hashlib.sha256()
    for name, content in _files():
        hashed.update(b"%d %d %b" % (len(name), len(content), name.encode()))
        hashed.update(content)
    return hashed.hexdigest()


def build() -> bytes:
    """The zip file's content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _files():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def _files() -> Iterator[tuple[str, bytes]]:
    yield "__main__.py", _MAIN
    for path in sources():
        yield f"pgratchet/{path.relative_to(PACKAGE).as_posix()}", path.read_bytes()
    yield "typing_extensions.py", _origin("typing_extensions").read_bytes()
    psycopg = _origin("psycopg").parent
    for path in sorted(psycopg.rglob("*.py")):
        if path.relative_to(psycopg).parts[0] not in _UNUSED_PSYCOPG:
            yield f"psycopg/{path.relative_to(psycopg).as_posix()}", path.read_bytes()


def sources() -> list[Path]:
    """The files of this package that go into the bundle."""
    modules = [PACKAGE / f"{name}.py" for name in MODULES]
    folders = [path for name in FOLDERS for path in (PACKAGE / name).rglob("*") if path.suffix in (".py", ".sql")]
    return modules + sorted(path for path in folders if path.relative_to(PACKAGE).as_posix() not in ONLY_HERE)


def _origin(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name)
    return Path(spec.origin)
