"""The task that adopts another tool's history, or an existing database without a history."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.console import output
from pgratchet.console.adoption import AdoptionReport, show_baseline
from pgratchet.errors import ConfigurationError, RatchetError
from pgratchet.tasks.combinations import ADOPT
from pgratchet.tasks.project import Project
from pgratchet.tasks.support import consent, task

if TYPE_CHECKING:
    from pgratchet.adopt.adoption import Adoption, AdoptionOptions
    from pgratchet.adopt.conversion import ConvertedFile
    from pgratchet.adopt.rebuild import Rebuild
    from pgratchet.config.settings import RenderedTarget
    from pgratchet.database.session import Session
    from pgratchet.migrations.files import Migration
    from pgratchet.schema.live import LiveSchema

OpenScratch = Callable[[], "RenderedTarget | None"]
"""Returns the target whose server is for trials, or None for the bundled server."""


@task(
    *("env", "sql", "from_", "table", "files", "history", "exclude", "include", "mended", "write_baseline", "baseline"),
    *("dry_run", "yes", "limit", "json"),
    optional=("exclude",),
    combinations=ADOPT,
)
def adopt(
    project: Project,
    env: str | None = None,
    sql: str | None = None,
    from_: str | None = None,
    table: str | None = None,
    files: str | None = None,
    history: str | None = None,
    exclude: str | bool | None = None,
    include: str | None = None,
    mended: str | None = None,
    write_baseline: bool = False,
    baseline: str | None = None,
    dry_run: bool = False,
    yes: bool = False,
    limit: str | None = None,
    json: bool = False,
) -> None:
    """Adopt another tool's history, or a database without one."""
    from pgratchet.adopt.adoption import AdoptionOptions
    from pgratchet.adopt.matching import Choice

    folder = project.sql(sql)
    choice = Choice(_names(include), _names("*" if exclude is True else exclude), _names(mended))
    options = AdoptionOptions(folder, from_, _path(files), _path(history), table, choice, write_baseline)
    for entry in project.targets(env, limit):
        target = project.connect_settings(entry, start=not dry_run)
        with _session(target) as session:
            if baseline is not None:
                scratch_of = partial(project.drill_target, target.variables)
                names = _mark_baseline(target, session, folder, baseline, scratch_of, yes=yes, dry_run=dry_run)
                show_baseline(target.environment, target.target, names, is_written=not dry_run, json=json)
            else:
                scratch = project.drill_target(target.variables)
                _adopt_history(target, session, options, scratch, yes=yes, dry_run=dry_run, json=json)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _names(text: str | bool | None) -> tuple[str, ...]:
    """The names or patterns in a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if isinstance(text, str) else ()


@contextmanager
def _session(target: RenderedTarget) -> Iterator[Session]:
    """A session that may take the migration lock; ConfigurationError when the server is only reached by its host."""
    from pgratchet.database.connection import translate_errors
    from pgratchet.database.session import Session

    variables = target.variables
    if variables.reach == "ssh":
        raise ConfigurationError(
            f"{target.environment}: {target.target} is reached by ssh, and adopt connects from this machine",
            detail="The other tool's files are on this machine, which does not connect to the server itself.",
            hint="Set reach: tunnel for this target while you adopt its history.",
        )
    session = Session(
        target.connect,
        target.history,
        variables.migration_timeout,
        variables.lock_timeout,
        variables.pg_system_identifier,
        target.identity,
    )
    with translate_errors(), closing(session):
        yield session


def _adopt_history(
    target: RenderedTarget,
    session: Session,
    options: AdoptionOptions,
    scratch: RenderedTarget | None,
    *,
    yes: bool,
    dry_run: bool,
    json: bool,
) -> None:
    """Show what would be adopted, try to rebuild the database from the files, ask for consent and write it."""
    from pgratchet.adopt import adoption

    history = session.open()
    dump = _live_dump(target, session)
    preview = adoption.preview(session, history, options, dump)
    report = AdoptionReport(target.environment, target.target, preview, json=json, location=target.location)
    report.show_preview()
    with report.shown(is_written=not dry_run):
        adoption.require_adoptable(preview, history, options.sql)
        report.show_rebuild(_try_rebuild(target, session, preview, dump, scratch))
        if not dry_run:
            if not preview.is_complete and target.variables.confirm:
                consent(target.environment, yes)
            adoption.write(session, preview, options, os.urandom(6).hex(), dump)


def _live_dump(target: RenderedTarget, session: Session) -> Callable[[Sequence[str]], bytes]:
    """A function that dumps the live schema without some tables."""
    from pgratchet.operations.schema import schema_dumper

    def dump(without: Sequence[str]) -> bytes:
        return schema_dumper(target, session, without)(target.connection["dbname"])

    return dump


def _try_rebuild(
    target: RenderedTarget,
    session: Session,
    preview: Adoption,
    dump: Callable[[Sequence[str]], bytes],
    scratch: RenderedTarget | None,
) -> Rebuild | None:
    """Build a database from the adopted files on a scratch server; None where no file is adopted."""
    from pgratchet.adopt import rebuild

    files = preview.adopted_files
    if not files:
        return None
    try:
        left_out = [preview.schema] if preview.schema not in ("", "public") else []
        live = _live_schema(target, session, lambda: dump(preview.tables), left_out)
    except RatchetError as error:
        return rebuild.not_tried(error)
    return rebuild.try_rebuild(live, files, preview.tables, scratch)


def _mark_baseline(
    target: RenderedTarget, session: Session, sql: Path, name: str, scratch: OpenScratch, *, yes: bool, dry_run: bool
) -> tuple[str, ...]:
    """Mark the files up to that name as applied when the database has what they make; returns their names.

    The name of a file that does not exist yet, such as 001, stands for the schema of the database, which is written.
    """
    from pgratchet.adopt import adoption, baseline, live_schema
    from pgratchet.migrations.files import read

    history, files = session.open(), read(sql) if sql.is_dir() else ()
    written = None
    if not history and live_schema.is_new(name, files):
        written = _new_baseline(target, session, name)
        files, name = (written, *files), written.name
    selected = baseline.select(history, files, name)
    if selected:
        differences = _baseline_differences(target, session, files, name, scratch)
        baseline.require_equal(differences, yes=yes)
        output.say(
            "\n".join(["adopted despite the differences:", *differences]) if differences else "the schemas are the same"
        )
    if not dry_run:
        if selected and target.variables.confirm:
            consent(target.environment, yes)
        if written:
            adoption.write_file(sql, written)
            output.say(f"wrote {sql / written.name}.sql")
        baseline.mark(session, files, name, os.urandom(6).hex())
    return tuple(file.name for file in selected)


def _new_baseline(target: RenderedTarget, session: Session, name: str) -> ConvertedFile:
    """The schema of the live database as a file, without our history and with the privileges of other roles."""
    from pgratchet.adopt import live_schema
    from pgratchet.operations.schema import schema_dumper
    from pgratchet.schema.privileges import roles

    database, history = target.connection["dbname"], target.history
    dump = schema_dumper(target, session, privileges=True)(database)
    file = live_schema.new_baseline(name, dump, database, history.schema, session.server.user)
    missing = [role for role in roles(file.body) if role not in target.variables.roles]
    if missing:
        names = ", ".join([*target.variables.roles, *missing])
        output.say(f"the schema needs roles: set roles: [{names}] in inventory/group_vars/all.yml")
    return file


def _baseline_differences(
    target: RenderedTarget, session: Session, files: Sequence[Migration], name: str, scratch: OpenScratch
) -> list[str]:
    """The differences between files and database, found on the same server or on one where databases can be made."""
    from pgratchet.adopt import baseline, rebuild
    from pgratchet.migrations.scripts import files_up_to
    from pgratchet.operations.restore import restore_server
    from pgratchet.operations.schema import schema_dumper

    dump = schema_dumper(target, session)
    try:
        return baseline.differences(restore_server(target), target.connection["dbname"], dump, files, name)
    except ConfigurationError as error:
        if not baseline.may_not_create(error):
            raise
    output.say("this role may not create databases here: the schemas are compared on another server")
    todo = files_up_to(files, name)
    live = _live_schema(target, session, lambda: dump(target.connection["dbname"]))
    return baseline.differences_elsewhere(rebuild.try_rebuild(live, todo, (), scratch()))


def _live_schema(
    target: RenderedTarget, session: Session, dump: Callable[[], bytes], left_out: Sequence[str] = ()
) -> LiveSchema:
    """Read what a scratch server needs of the live database. `left_out` are schemas that hold only histories."""
    from pgratchet.backups.snapshot import open_snapshot
    from pgratchet.database.connection import translate_errors
    from pgratchet.schema.live import read_live

    with translate_errors(), open_snapshot(target.connect) as snapshot:
        like, _ = snapshot.read_database()
        return read_live(session.connection, like, dump, [session.history.schema, *left_out])
