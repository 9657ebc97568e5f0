"""Builds the bundle: the part of the package that runs on a host, as one zip file that Python can execute.

A host needs only Python and libpq, so the bundle also carries psycopg in pure Python. It is named by the SHA-256 of its
content: a host either has exactly this version or receives it.
"""

from __future__ import annotations

import hashlib
import io
import re
import tokenize
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
MODULES = ("__init__", "embedded", "environment", "errors", "events", "formatting", "variables", "version")
FOLDERS = ("apply", "backups", "checks", "database", "migrations", "operations", "rehearsal", "schema")
ONLY_HERE = (
    "backups/bucket_store.py",
    "backups/drill.py",
    "backups/drill_records.py",
    "backups/drill_verdict.py",
    "checks/ci.py",
    "checks/files.py",
    "checks/phases.py",
    "checks/schema_snapshot.py",
    "checks/squashing.py",
    "checks/stored_backups.py",
    "operations/drill.py",
    "rehearsal/budget.py",
    "rehearsal/impact.py",
    "rehearsal/records.py",
    "rehearsal/remedies.py",
    "rehearsal/sizes.py",
    "rehearsal/verdict.py",
    "schema/applied.py",
    "schema/build.py",
    "schema/builder.py",
    "schema/comparison.py",
    "schema/differences.py",
    "schema/drift.py",
    "schema/drift_migration.py",
    "schema/dump_cache.py",
    "schema/dump_text.py",
    "schema/objects.py",
    "schema/privileges.py",
    "schema/schema_file.py",
    "schema/scratch.py",
    "schema/squash.py",
    "schema/squash.sql",
    "schema/table_columns.py",
)
"""Modules in these folders that run on the control machine only."""
OLD_PYTHON, NO_LIBPQ = 94, 95
"""The exit statuses of the bundle on a host with an old Python, and without libpq."""
_MAIN = f"""import sys
if sys.version_info < (3, 10):
    sys.exit({OLD_PYTHON})
try:
    import psycopg
except ImportError as error:
    if "libpq" not in str(error):
        raise
    sys.exit({NO_LIBPQ})
from pgratchet.operations.agent import main
sys.exit(main(sys.argv[1:]))
""".encode()
_TYPING_EXTENSIONS = b"""import typing
LiteralString, Self = str, typing.Any
def TypeVar(name, *bound, default=None, **options):
    return typing.TypeVar(name, *bound, **options)
def dataclass_transform(**options):
    return lambda kind: kind
"""
"""The names of typing_extensions that psycopg and this package import at run time: the whole is a tenth of a bundle."""
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
        strip = without_prose if path.suffix == ".py" else without_sql_comments
        yield f"pgratchet/{path.relative_to(PACKAGE).as_posix()}", strip(path.read_bytes())
    yield "typing_extensions.py", _TYPING_EXTENSIONS
    psycopg = _origin("psycopg").parent
    for path in sorted(psycopg.rglob("*.py")):
        if path.relative_to(psycopg).parts[0] not in _UNUSED_PSYCOPG:
            yield f"psycopg/{path.relative_to(psycopg).as_posix()}", without_prose(path.read_bytes())


def sources() -> list[Path]:
    """The files of this package that go into the bundle."""
    modules = [PACKAGE / f"{name}.py" for name in MODULES]
    folders = [path for name in FOLDERS for path in (PACKAGE / name).rglob("*") if path.suffix in (".py", ".sql")]
    return modules + sorted(path for path in folders if path.relative_to(PACKAGE).as_posix() not in ONLY_HERE)


def without_prose(source: bytes) -> bytes:
    """A module without comments and docstrings, which are a third of it. Every statement keeps its line number.

    Copyright notices stay.
    """
    lines = source.decode().splitlines(keepends=True)
    for token in reversed(list(_prose(source))):
        (first, start), (last, end) = token.start, token.end
        is_body = token.type == tokenize.STRING and start > 0  # a function may consist of its docstring
        remaining = lines[first - 1][:start] + ("0" if is_body else "") + lines[last - 1][end:]
        lines[first - 1 : last] = [remaining, *["\n"] * (last - first)]
    return "".join(lines).encode()


def without_sql_comments(source: bytes) -> bytes:
    """A file of statements without the comments that are not sent to the server either."""
    return re.sub(rb"^--(?! name: ).*", b"", source, flags=re.MULTILINE)


def _prose(source: bytes) -> Iterator[tokenize.TokenInfo]:
    """The comments except copyright notices, and the strings that are statements of their own."""
    begins_statement, layout = (
        True,
        (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING),
    )
    for token, following in pairwise(tokenize.tokenize(io.BytesIO(source).readline)):
        if token.type == tokenize.COMMENT:
            if "Copyright" not in token.string:
                yield token
            continue
        if begins_statement and token.type == tokenize.STRING and following.type == tokenize.NEWLINE:
            yield token
        begins_statement = token.type in layout


def _origin(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name)
    return Path(spec.origin)
