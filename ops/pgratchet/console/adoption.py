"""Shows adoptions of other tools' histories, and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pgratchet.console import commands
from pgratchet.console.output import say, show_table, write, write_json
from pgratchet.formatting import abbreviate_names, format_count

if TYPE_CHECKING:
    from pgratchet.adopt.adoption import Adoption
    from pgratchet.adopt.matching import AdoptionItem
    from pgratchet.errors import RatchetError


def show_adoption(environment: str, target: str, adoption: Adoption) -> None:
    """Show the preview of an adoption."""
    rows = [
        (item.file.name if item.file else "", item.state, item.original, " ".join(item.remarks))
        for item in adoption.items
    ]
    title = f"{environment}: {target}: {adoption.tool}, from {adoption.origin}"
    show_table(title, ("migration", "state", "was", "remarks"), rows)
    for note in adoption.notes:
        say(note)


def show_adopted(environment: str, target: str, adoption: Adoption) -> None:
    """Show the counts of rows and files written by an adoption."""
    if adoption.is_complete:
        write(f"{environment}: {target}: nothing to adopt")
        return
    rows, files = format_count(len(adoption.rows), "row"), format_count(len(adoption.files), "file")
    written = f"{rows} of the history and {files} written"
    write(f"{environment}: {target}: {written}, {format_count(len(adoption.pending), 'migration')} pending")


def write_adoption_json(
    environment: str, target: str, adoption: Adoption, *, is_written: bool, error: RatchetError | None = None
) -> None:
    """Print the object of `adopt --json`. `adopted` and `files` are empty unless `is_written`."""
    shape = {
        "env": environment,
        "target": target,
        "from": adoption.tool,
        "adopted": [item.file.name for item in adoption.rows if item.file] if is_written else [],
        "files": [file.name for file in adoption.files] if is_written else [],
        "pending": len(adoption.pending),
        "notes": list(adoption.notes),
        "migrations": [_item_json(item) for item in adoption.items],
    }
    write_json(shape | ({"error": commands.typed_error(error)} if error else {}))


def _item_json(item: AdoptionItem) -> dict[str, Any]:
    return {
        "name": item.file.name if item.file else None,
        "status": item.state,
        "was": item.original,
        "checksum": item.file.checksum if item.file else None,
        "remarks": list(item.remarks),
    }


def show_baseline(environment: str, target: str, names: Sequence[str], *, is_written: bool, json: bool) -> None:
    """Show the names of a baseline's files, before or after writing their rows."""
    if json:
        adopted = list(names) if is_written else []
        write_json({"env": environment, "target": target, "from": "baseline", "adopted": adopted, "files": list(names)})
    elif names:
        state = "adopted" if is_written else "to be adopted"
        write(f"{environment}: {target}: {abbreviate_names(names)}: {state} as the baseline")
    else:
        write(f"{environment}: {target}: nothing to adopt")
