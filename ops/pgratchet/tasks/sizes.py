"""Sizes of live tables: written to a file by `doctor`, and compared with new migrations by `ci`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pgratchet.console import impact as report
from pgratchet.console import output, rehearsal
from pgratchet.errors import ConfigurationError
from pgratchet.formatting import format_count
from pgratchet.remote import dispatch
from pgratchet.tasks.project import Project

if TYPE_CHECKING:
    from pgratchet.checks.ci import ScratchServer
    from pgratchet.config.inventory import InventoryTarget
    from pgratchet.migrations.files import Migration
    from pgratchet.rehearsal.impact import Impact
    from pgratchet.rehearsal.records import Shape
    from pgratchet.rehearsal.sizes import Sizes

_OF_BACKUP = "backup"


def write_sizes_of(project: Project, targets: Sequence[InventoryTarget], path: Path) -> None:
    """Write the sizes of a target's tables, and the rates of rehearsals, into a file."""
    from pgratchet.operations.examine import ReadSizes
    from pgratchet.rehearsal.records import read_records
    from pgratchet.rehearsal.sizes import Sizes, measured_rates, write_file

    if len(targets) > 1:
        raise ConfigurationError(
            f"--write-sizes needs a single target, and {len(targets)} were chosen",
            detail="A file has the sizes of one database.",
            hint="Choose one with --limit=NAME.",
        )
    (entry,) = targets
    tables = dispatch.ask(project.connect_settings(entry, start=False), ReadSizes(), project.root)
    origin = f"{entry.environment}: {entry.name} at {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    rates = measured_rates(read_records(project.backup_store(entry)))
    write_file(path, Sizes(tables, rates, origin))
    output.say(f"wrote the sizes of {format_count(len(tables), 'table')} to {path}")


@dataclass(frozen=True, slots=True)
class ImpactRequest:
    """The flags of `ci` about the impact: where the sizes come from, and the files to write."""

    sizes: str
    env: str | None
    markdown: str | None
    sarif: str | None
    code_quality: str | None


def report_impact(
    project: Project,
    request: ImpactRequest,
    scratch: ScratchServer,
    files: Sequence[Migration],
    new: Sequence[str],
    roles: Sequence[str],
    *,
    quiet: bool,
) -> Sequence[Impact]:
    """Trace the new files on the scratch server, and report the impact on the large tables of the live database."""
    from pgratchet.checks.ci import database_with
    from pgratchet.migrations.scripts import prepare_scripts
    from pgratchet.rehearsal.impact import find_impacts, trace_scripts

    sizes, records = _sizes(project, request)
    new_files = [file for file in files if file.name in new]
    earlier = [file for file in files if file.name not in new]
    scripts = prepare_scripts(new_files)
    with database_with(scratch, earlier, new_files, roles) as connect:
        impacts = list(find_impacts(trace_scripts(connect, scripts), scripts, sizes))
    text = report.markdown(impacts, sizes.origin, _rehearsal_of(records, new_files))
    if not quiet:
        for impact in impacts:
            output.write(f"{impact.path}:{impact.line}: {impact.message}")
    _write_all(request, text, impacts, project.environ.get("GITHUB_STEP_SUMMARY"))
    return impacts


def _write_all(request: ImpactRequest, text: str, impacts: Sequence[Impact], summary: str | None) -> None:
    if request.markdown:
        Path(request.markdown).write_text(text, encoding="utf-8")
    if request.sarif:
        Path(request.sarif).write_text(report.sarif(impacts), encoding="utf-8")
    if request.code_quality:
        Path(request.code_quality).write_text(report.code_quality(impacts), encoding="utf-8")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def _sizes(project: Project, request: ImpactRequest) -> tuple[Sizes, Sequence[Shape]]:
    """The sizes of --sizes, and the records of rehearsals beside the backup."""
    from pgratchet.backups.listing import require_manifest
    from pgratchet.rehearsal import sizes
    from pgratchet.rehearsal.records import read_records

    if request.sizes != _OF_BACKUP:
        return sizes.read_file(Path(request.sizes)), ()
    chosen = project.choose_newest_backup(request.env, None)
    records = read_records(chosen.store)
    return sizes.of_manifest(require_manifest(chosen.entry), sizes.measured_rates(records)), records


def _rehearsal_of(records: Sequence[Shape], files: Sequence[Migration]) -> str:
    """The report of the newest rehearsal of exactly these files; empty without one."""
    names = [(file.name, file.checksum) for file in files]
    for record in reversed(records):
        if names and [(each["name"], each["checksum"]) for each in record["migrations"]] == names:
            return rehearsal.markdown(record)
    return ""
