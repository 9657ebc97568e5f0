"""Shows what an adoption would write, and what it wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pgratchet.console.output import say, show_table, write, write_json
from pgratchet.errors import RatchetError
from pgratchet.formatting import abbreviate_names, format_count

if TYPE_CHECKING:
    from pgratchet.adopt.adoption import Adoption
    from pgratchet.adopt.matching import AdoptionItem


def show_adoption(environment: str, target: str, adoption: Adoption) -> None:
    """Show what an adoption would write."""
    rows = [
        (item.file.name if item.file else "", item.state, item.original, " ".join(item.remarks))
        for item in adoption.items
    ]
    title = f"{environment}: {target}: {adoption.tool}, from {adoption.origin}"
    show_table(title, ("migration", "state", "was", "remarks"), rows)
    for note in adoption.notes:
        say(note)


def show_adopted(environment: str, target: str, adoption: Adoption) -> None:
    """Show what an adoption has written."""
    if adoption.is_complete:
        write(f"{environment}: {target}: nothing to adopt")
        return
    rows, files = format_count(len(adoption.rows), "row"), format_count(len(adoption.files), "file")
    written = f"{rows} of the history and {files} written"
    write(f"{environment}: {target}: {written}, {format_count(len(adoption.pending), 'migration')} pending")


def write_adoption_json(
    environment: str, target: str, adoption: Adoption, *, done: bool, error: RatchetError | None = None
) -> None:
    """Print an adoption as JSON. `adopted` and `files` are the names that were written."""
    shape = {
        "env": environment,
        "target": target,
        "from": adoption.tool,
        "adopted": [each.file.name for each in adoption.rows if each.file] if done else [],
        "files": [each.name for each in adoption.files] if done else [],
        "pending": len(adoption.pending),
        "notes": list(adoption.notes),
        "migrations": [_item(each) for each in adoption.items],
    }
    write_json(shape | ({"error": error.as_json()} if error else {}))


def _item(item: AdoptionItem) -> dict[str, Any]:
    return {
        "name": item.file.name if item.file else None,
        "status": item.state,
        "was": item.original,
        "checksum": item.file.checksum if item.file else None,
        "remarks": list(item.remarks),
    }


def show_baseline(environment: str, target: str, names: Sequence[str], *, done: bool, json: bool) -> None:
    """Show the files that a baseline marks, or has marked when it is `done`."""
    if json:
        adopted = list(names) if done else []
        write_json({"env": environment, "target": target, "from": "baseline", "adopted": adopted, "files": list(names)})
    elif names:
        state = "adopted" if done else "to be adopted"
        write(f"{environment}: {target}: {abbreviate_names(names)}: {state} as the baseline")
    else:
        write(f"{environment}: {target}: nothing to adopt")
