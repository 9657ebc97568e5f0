"""The task that replaces migrations by one that builds the same database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.console import output
from pgratchet.errors import ConfigurationError
from pgratchet.formatting import abbreviate_names, format_count
from pgratchet.migrations import squashed
from pgratchet.tasks.project import Project
from pgratchet.tasks.scratch import scratch_server
from pgratchet.tasks.support import read_migrations, task

if TYPE_CHECKING:
    from pgratchet.migrations.files import Migration

_TITLE = "squash"


@task("to", "rows", "sql", "server", "dry_run", "json")
def squash(
    project: Project,
    to: str | None = None,
    rows: str | None = None,
    sql: str | None = None,
    server: str | None = None,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Replace migrations by one that makes the same schema."""
    from pgratchet.checks.squashing import require_committed, require_squashable
    from pgratchet.config import inventory
    from pgratchet.schema import squash as squashing

    if not to:
        raise ConfigurationError(
            "squash needs the last file to replace",
            detail="Nothing was written.",
            hint="Write `invoke squash --to=NAME`. `invoke status` lists the names.",
        )
    folder = project.sql(sql)
    files = _files_up_to(read_migrations(project, folder), to)
    require_squashable(files)
    if not dry_run:
        require_committed(folder, files)
    roles = inventory.all_roles(project.root / project.folders["inventory"])
    with scratch_server(project, server) as scratch:
        counts = squashing.count_rows(scratch.parameters, files, roles)
        without = _tables_without_rows(counts, rows)
        result = squashing.squash(scratch.parameters, files, _name(files), without, roles)
    path = folder / f"{result.file.name}.sql"
    if not dry_run:
        _write(path, result.file.text(), files)
    if json:
        replaced = [file.name for file in files]
        output.write_json({"path": str(path), "replaced": replaced, "rows": dict(result.rows), "written": not dry_run})
        return
    verb = "would replace" if dry_run else "replaces"
    output.write(f"{path} {verb} {format_count(len(files), 'migration')}: {abbreviate_names([f.name for f in files])}")
    output.write("it makes the same schema, and the same rows in " + format_count(len(result.rows), "table"))


def _files_up_to(files: Sequence[Migration], to: str) -> tuple[Migration, ...]:
    """The versioned files up to one; ConfigurationError when there are fewer than two."""
    from pgratchet.migrations.plan import make_plan

    chosen = make_plan([file for file in files if not file.is_repeatable], (), to).todo
    if len(chosen) < 2:
        raise ConfigurationError(
            f"only {format_count(len(chosen), 'migration')} would be squashed",
            detail="Two files or more can become one. Nothing was written.",
            hint="Give a later migration with --to=NAME.",
        )
    return chosen


def _name(files: Sequence[Migration]) -> str:
    """The version of the last file with a title, which no file has that is replaced now or was replaced before."""
    version = files[-1].name.partition("_")[0]
    used = {*(file.name for file in files), *squashed.names(files)}
    titles = (_TITLE if number == 1 else f"{_TITLE}_{number}" for number in count(1))
    return next(name for title in titles if (name := f"{version}_{title}") not in used)


def _tables_without_rows(counts: Mapping[str, int], rows: str | None) -> tuple[str, ...]:
    """The tables whose rows are left out, by the value of --rows."""
    if rows is None and counts:
        lines = "\n".join(f"{table}: {format_count(count, 'row')}" for table, count in counts.items())
        raise ConfigurationError(
            f"the migrations insert rows into {format_count(len(counts), 'table')}",
            detail=f"{lines}\nNothing was written.",
            hint="Give --rows=all to keep them in the new file, --rows=none, or --rows=TABLE,TABLE for some tables.",
        )
    if rows in (None, "all"):
        return ()
    chosen = set() if rows == "none" else {name.strip() for name in str(rows).split(",") if name.strip()}
    names = {table: {table, table.partition(".")[2]} for table in counts}
    if unknown := sorted(name for name in chosen if not any(name in each for each in names.values())):
        raise ConfigurationError(
            f"no migration inserts rows into {', '.join(unknown)}",
            detail=f"Tables with rows: {', '.join(counts) or 'none'}. Nothing was written.",
            hint="Give --rows=all, --rows=none, or names from this list.",
        )
    return tuple(table for table, spellings in names.items() if not spellings & chosen)


def _write(path: Path, text: bytes, files: Sequence[Migration]) -> None:
    """Write the new file whole before the old ones are deleted: Git has these."""
    draft = path.with_suffix(".partial")
    draft.write_bytes(text)
    draft.replace(path)
    for file in files:
        if Path(file.path) != path:
            Path(file.path).unlink()
