"""Tasks for those who change pgratchet itself: tests, style, types and benchmarks. They run in a clone."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

CLONE = Path(__file__).parents[3]


@task(help={"fast": "only the tests that need no server"})
def test(context: Context, fast: bool = False) -> None:
    """Run the tests."""
    _run(context, "pytest tests/unit" if fast else "pytest -n 2 --dist loadgroup --no-loadscope-reorder")


@task
def lint(context: Context) -> None:
    """Check style, types and the dependencies between packages."""
    _run(context, "ruff check .")
    _run(context, "ruff format --check .")
    _run(context, "mypy")
    _run(context, "importlinter.cli lint-imports --no-cache")


@task(
    help={
        "quick": "fewer rounds of smaller cases, about 5 minutes",
        "only": "one case, by its name in the output",
        "chart": "where the chart goes; without it a whole run writes docs/benchmark.svg, and another none",
        "install": "fetch the other tools into .pgratchet/bench, and end",
    }
)
def bench(
    context: Context, quick: bool = False, only: str | None = None, chart: str | None = None, install: bool = False
) -> None:
    """Time it beside psql, bare floors and other tools."""
    flags = ["--quick"] * quick + ["--install"] * install
    flags += [f"--{name}={quote(value)}" for name, value in (("only", only), ("chart", chart)) if value]
    _run(context, " ".join(("tests.bench", *flags)))


@task(lint, test)
def check(_: Context) -> None:
    """Run every check of the project itself."""


def add_to(namespace: Collection) -> None:
    """Add these tasks to a clone's collection."""
    for name in ("test", "lint", "bench", "check"):
        namespace.add_task(globals()[name])


def _run(context: Context, command: str) -> None:
    with context.cd(str(CLONE)):
        result = context.run(f"{sys.executable} -m {command}", pty=sys.stdout.isatty(), warn=True, in_stream=False)
    if result is None or result.exited:
        raise Exit(code=1)
