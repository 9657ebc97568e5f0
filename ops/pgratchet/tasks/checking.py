"""The task that checks migrations before they are merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgratchet.console import output
from pgratchet.formatting import count_of
from pgratchet.tasks.project import Project
from pgratchet.tasks.support import task

if TYPE_CHECKING:
    from pgratchet.checks.ci import Branches
    from pgratchet.migrations.files import Migration


@task("sql", "against", "roles")
def ci(project: Project, sql: str | None = None, against: str | None = None, roles: str = "") -> None:
    """Check the migrations before they are merged into main."""
    from pgratchet import embedded
    from pgratchet.checks import ci as checks
    from pgratchet.migrations.files import read
    from pgratchet.migrations.scripts import prepare

    folder = project.sql(sql)
    files = read(folder)
    prepare(files)
    new, mistakes = _new_files(files, checks.compare_branches(folder, against))
    findings = checks.lint([file for file in files if new is None or file.name in new])
    if new is None and findings:
        output.talk(f"squawk finds {count_of(len(findings), 'thing')}, counted only: which files are new is not known")
    checks.require_clean([*mistakes, *(findings if new is not None else ())])
    with embedded.scratch() as server:
        applied = checks.apply_twice(server.parameters(), files, filter(None, roles.split(",")))
    output.data(f"{count_of(applied, 'migration')} applied on a scratch server; a second run had nothing to do")


def _new_files(files: tuple[Migration, ...], branches: Branches | None) -> tuple[list[str] | None, list[str]]:
    """The names that main does not have, None where main is not known, and the mistakes in the order."""
    from pgratchet.checks.ci import check_order

    if branches is None:
        output.talk("not compared with main: there is none in this clone; --against=BRANCH names it")
        return None, []
    new, mistakes = check_order(files, branches.theirs, branches.base)
    output.data(f"{count_of(len(files), 'migration')}, {len(new)} of them new to {branches.main}")
    return new, mistakes
