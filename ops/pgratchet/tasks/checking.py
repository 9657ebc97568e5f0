"""The task for checks of migrations before a merge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pgratchet.config import inventory
from pgratchet.console import output
from pgratchet.formatting import format_count
from pgratchet.tasks.combinations import CI
from pgratchet.tasks.project import Project
from pgratchet.tasks.scratch import scratch_server
from pgratchet.tasks.sizes import ImpactRequest, report_impact
from pgratchet.tasks.support import read_migrations, task

if TYPE_CHECKING:
    from pathlib import Path

    from pgratchet.checks.ci import Branches
    from pgratchet.migrations.files import Migration
    from pgratchet.rehearsal.impact import Impact


@task(
    *("sql", "against", "server", "roles", "sizes", "env", "markdown", "sarif", "code_quality", "json"),
    help_texts={
        "env": "the environment whose newest backup has the sizes; default: $OPS_ENV, or dev",
        "markdown": "also write what --sizes finds to this file, for a comment",
    },
    combinations=CI,
)
def ci(
    project: Project,
    sql: str | None = None,
    against: str | None = None,
    server: str | None = None,
    roles: str | None = None,
    sizes: str | None = None,
    env: str | None = None,
    markdown: str | None = None,
    sarif: str | None = None,
    code_quality: str | None = None,
    json: bool = False,
) -> None:
    """Check the migrations before they are merged into main."""
    from pgratchet.checks.ci import require_clean
    from pgratchet.migrations.scripts import prepare_scripts

    folder = project.sql(sql)
    files = read_migrations(project, folder)
    prepare_scripts(files, {file.name for file in files if file.is_repeatable})
    new, mistakes, findings, counts = _compare_and_lint(files, folder, against, quiet=json)
    request = ImpactRequest(sizes, env, markdown, sarif, code_quality) if sizes else None
    require_clean(mistakes if request else [*mistakes, *findings])
    applied, impacts = _try(project, folder, files, new, server, roles, request, findings, quiet=json)
    if json:
        impact = {"impact": [asdict(each) for each in impacts]} if request else {}
        output.write_json(counts | {"applied": applied} | impact)
    else:
        applied_text = format_count(applied, "migration")
        output.write(f"{applied_text} applied on a scratch server; a second run had nothing to do")


def _compare_and_lint(
    files: tuple[Migration, ...], folder: Path, against: str | None, *, quiet: bool
) -> tuple[list[str] | None, list[str], list[str], dict[str, object]]:
    """Compare the files with main and lint the new ones.

    Returns the names of new files, the mistakes in the order, the findings of squawk, and the counts for JSON.
    """
    from pgratchet.checks import ci as checks

    branches = checks.compare_branches(folder, against)
    new, mistakes = _new_files(files, branches, quiet=quiet)
    linted = [file for file in files if new is None or file.name in new]
    findings = checks.lint([file for file in linted if not checks.is_baseline(file, files)])
    if new is None and findings and not quiet:
        output.say(
            f"squawk finds {format_count(len(findings), 'thing')}, counted only: which files are new is not known"
        )
    main = branches.main if branches else None
    counts: dict[str, object] = {"total": len(files), "main": main, "new": new, "findings": len(findings)}
    return new, mistakes, findings if new is not None else [], counts


def _try(
    project: Project,
    folder: Path,
    files: tuple[Migration, ...],
    new: list[str] | None,
    server: str | None,
    roles: str | None,
    request: ImpactRequest | None,
    findings: Sequence[str],
    *,
    quiet: bool,
) -> tuple[int, Sequence[Impact]]:
    """Try the files on a scratch server; returns the number of applied files, and the impact on large tables.

    The impact is reported before the findings of squawk are raised: both are about the same statements.
    """
    from pgratchet.checks import ci as checks
    from pgratchet.checks.phases import check_phases
    from pgratchet.checks.schema_snapshot import check_snapshot

    impacts: Sequence[Impact] = ()
    with scratch_server(project, server) as scratch:
        roles_of_inventory = inventory.all_roles(project.root / project.folders["inventory"])
        needed = (*filter(None, (roles or "").split(",")), *roles_of_inventory)
        applied = checks.apply_twice(scratch, files, needed)
        if request:
            impacts = report_impact(project, request, scratch, files, new or (), needed, quiet=quiet)
            checks.require_clean(findings)
        check_phases(files, new or (), lambda chosen: checks.apply_once(scratch, chosen, needed))
        if note := check_snapshot(folder, scratch.parameters, files, needed):
            output.say(f"note: {note}")
    return applied, impacts


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
