"""The task that adopts another tool's history, or an existing database without a history."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.console import output
from pgratchet.console.adoption import show_adopted, show_adoption, show_baseline, write_adoption_json
from pgratchet.errors import ConfigurationError, RatchetError
from pgratchet.tasks.project import Project
from pgratchet.tasks.support import consent, task

if TYPE_CHECKING:
    from pgratchet.adopt.adoption import AdoptionOptions
    from pgratchet.config.settings import RenderedTarget
    from pgratchet.database.session import Session


@task("env", "sql", "from_", "files", "history", "baseline", "dry_run", "yes", "limit", "json")
def adopt(
    project: Project,
    env: str | None = None,
    sql: str | None = None,
    from_: str | None = None,
    files: str | None = None,
    history: str | None = None,
    baseline: str | None = None,
    dry_run: bool = False,
    yes: bool = False,
    limit: str | None = None,
    json: bool = False,
) -> None:
    """Adopt another tool's history, or a database without one."""
    from pgratchet.adopt.adoption import AdoptionOptions

    folder = project.sql(sql)
    options = AdoptionOptions(folder, from_, Path(files) if files else None, Path(history) if history else None)
    for entry in project.targets(env, limit):
        target = project.connect_settings(entry, start=not dry_run)
        with _session(target) as session:
            if baseline is not None:
                names = _mark_baseline(target, session, folder, baseline, yes=yes, dry_run=dry_run)
                show_baseline(target.environment, target.target, names, is_written=not dry_run, json=json)
            else:
                _adopt_history(target, session, options, yes=yes, dry_run=dry_run, json=json)


@contextmanager
def _session(target: RenderedTarget) -> Iterator[Session]:
    """A session that may take the migration lock; ConfigurationError when the server is only reached by its host."""
    from pgratchet.database.connection import translate_errors
    from pgratchet.database.session import Session

    variables = target.variables
    if variables.reach == "ssh":
        raise ConfigurationError(
            f"{target.environment}: {target.target} is reached by ssh, and a history is taken over from here",
            detail="The other tool's files are on this machine, and the server is not reached from it.",
            hint="Set reach: tunnel for this target while its history is taken over.",
        )
    session = Session(
        target.connect,
        target.history,
        variables.migration_timeout,
        variables.lock_timeout,
        variables.pg_system_identifier,
    )
    with translate_errors(), closing(session):
        yield session


def _adopt_history(
    target: RenderedTarget, session: Session, options: AdoptionOptions, *, yes: bool, dry_run: bool, json: bool
) -> None:
    """Show what would be adopted, ask for consent and write it."""
    from pgratchet.adopt import adoption

    history = session.open()
    preview = adoption.preview(session, history, options)
    name = (target.environment, target.target)
    if not json:
        show_adoption(*name, preview)
    try:
        adoption.require_adoptable(preview, history, options.sql)
        if not dry_run:
            if not preview.is_complete and target.variables.confirm:
                consent(target.environment, yes)
            adoption.write(session, preview, options, os.urandom(6).hex())
    except RatchetError as error:
        error.printed = json
        if json:
            write_adoption_json(*name, preview, is_written=False, error=error)
        raise
    if json:
        write_adoption_json(*name, preview, is_written=not dry_run)
    elif not dry_run:
        show_adopted(*name, preview)


def _mark_baseline(
    target: RenderedTarget, session: Session, sql: Path, name: str, *, yes: bool, dry_run: bool
) -> tuple[str, ...]:
    """Mark the files up to that name as applied when the database has what they make; returns their names."""
    from pgratchet.adopt import baseline
    from pgratchet.migrations.files import read
    from pgratchet.operations.restore import restore_server
    from pgratchet.operations.schema import schema_dumper

    files = read(sql)
    selected = baseline.select(session.open(), files, name)
    if selected:
        dump = schema_dumper(target, session)
        differences = baseline.differences(restore_server(target), target.connection["dbname"], dump, files, name)
        baseline.require_equal(differences, yes=yes)
        output.say(
            "\n".join(["in spite of the differences:", *differences]) if differences else "the schemas are the same"
        )
    if not dry_run:
        if selected and target.variables.confirm:
            consent(target.environment, yes)
        baseline.mark(session, files, name, os.urandom(6).hex())
    return tuple(file.name for file in selected)
