"""The task that checks migrations before they are merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgratchet.config import inventory
from pgratchet.console import output
from pgratchet.formatting import format_count
from pgratchet.tasks.project import Project
from pgratchet.tasks.scratch import scratch_server
from pgratchet.tasks.support import read_migrations, task

if TYPE_CHECKING:
    from pgratchet.checks.ci import Branches
    from pgratchet.migrations.files import Migration


@task("sql", "against", "server", "roles", "json")
def ci(
    project: Project,
    sql: str | None = None,
    against: str | None = None,
    server: str | None = None,
    roles: str | None = None,
    json: bool = False,
) -> None:
    """Check the migrations before they are merged into main."""
    from pgratchet.checks import ci as checks
    from pgratchet.checks.phases import check_phases
    from pgratchet.checks.schema_snapshot import check_snapshot
    from pgratchet.migrations.scripts import prepare_scripts

    folder = project.sql(sql)
    files = read_migrations(project, folder)
    prepare_scripts(files, {file.name for file in files if file.is_repeatable})
    branches = checks.compare_branches(folder, against)
    new, mistakes = _new_files(files, branches, quiet=json)
    linted = [file for file in files if new is None or file.name in new]
    findings = checks.lint([file for file in linted if not checks.is_baseline(file, files)])
    if new is None and findings and not json:
        output.say(
            f"squawk finds {format_count(len(findings), 'thing')}, counted only: which files are new is not known"
        )
    checks.require_clean([*mistakes, *(findings if new is not None else ())])
    with scratch_server(project, server) as scratch:
        roles_of_inventory = inventory.all_roles(project.root / project.folders["inventory"])
        needed = (*filter(None, (roles or "").split(",")), *roles_of_inventory)
        applied = checks.apply_twice(scratch, files, needed)
        check_phases(files, new or (), lambda chosen: checks.apply_once(scratch, chosen, needed))
        if note := check_snapshot(folder, scratch.parameters, files, needed):
            output.say(f"note: {note}")
    if json:
        counts = {"total": len(files), "main": branches.main if branches else None, "new": new}
        output.write_json(counts | {"findings": len(findings), "applied": applied})
    else:
        applied_text = format_count(applied, "migration")
        output.write(f"{applied_text} applied on a scratch server; a second run had nothing to do")


def _new_files(
    files: tuple[Migration, ...], branches: Branches | None, *, quiet: bool
) -> tuple[list[str] | None, list[str]]:
    """The names that main does not have, None where main is not known, and the mistakes in the order.

    Repeatables that this branch has changed are among the names.
    """
    from pgratchet.checks.ci import check_order

    if branches is None:
        output.say("not compared with the main branch, which this clone does not have; --against=BRANCH names another")
        return None, []
    versioned = [file for file in files if not file.is_repeatable]
    new, mistakes = check_order(versioned, branches.theirs, branches.base)
    new += [file.name for file in files if file.is_repeatable and branches.is_changed(file)]
    if not quiet:
        output.write(f"{format_count(len(files), 'migration')}, {len(new)} of them new to {branches.main}")
    return new, mistakes
