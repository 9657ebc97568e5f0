"""Tasks for those who change pgratchet itself: tests, style, types and benchmarks. They run in a clone."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import join

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

CLONE = Path(__file__).parents[3]


@task(auto_shortflags=False, help={"fast": "only the tests that need no server"})
def test(context: Context, fast: bool = False) -> None:
    """Run the tests."""
    _python(
        context, "pytest", *(["tests/unit"] if fast else ["-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder"])
    )


@task
def lint(context: Context) -> None:
    """Check style, types and the dependencies between packages."""
    _python(context, "ruff", "check", ".")
    _python(context, "ruff", "format", "--check", ".")
    _python(context, "mypy")
    _run(context, str(Path(sys.executable).with_name("lint-imports")), "--no-cache", PYTHONPATH="ops")


@task(
    auto_shortflags=False,
    help={
        "quick": "fewer rounds of smaller cases, about 5 minutes",
        "only": "one case, by its name in the output",
        "chart": "where the chart goes; without it a whole run writes docs/benchmark.svg, and another none",
        "install": "fetch the other tools into .pgratchet/bench, and end",
    },
)
def bench(
    context: Context, quick: bool = False, only: str | None = None, chart: str | None = None, install: bool = False
) -> None:
    """Time it beside psql, bare floors and other tools."""
    flags = ["--quick"] * quick + ["--install"] * install
    flags += [f"--{name}={value}" for name, value in (("only", only), ("chart", chart)) if value]
    _python(context, "tests.bench", *flags)


@task(lint, test)
def check(_: Context) -> None:
    """Run every check of the project itself."""


def add_to(namespace: Collection) -> None:
    """Add these tasks to a clone's collection."""
    for name in ("test", "lint", "bench", "check"):
        namespace.add_task(globals()[name])


def _run(context: Context, *command: str, **environ: str) -> None:
    with context.cd(str(CLONE)):
        result = context.run(join(command), env=environ, pty=sys.stdout.isatty(), warn=True, in_stream=False)
    if result is None or result.exited:
        raise Exit(code=1)


def _python(context: Context, *arguments: str) -> None:
    _run(context, sys.executable, "-m", *arguments)
