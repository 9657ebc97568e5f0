"""Shows adoptions of other tools' histories, and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pgratchet.console import commands
from pgratchet.console.output import abbreviate, as_json, data, table, talk
from pgratchet.formatting import count_of

if TYPE_CHECKING:
    from pgratchet.adopt.adoption import Adoption
    from pgratchet.adopt.matching import AdoptionItem
    from pgratchet.errors import RatchetError


def show_adoption(environment: str, target: str, adoption: Adoption) -> None:
    """Print the table of an adoption on stdout, and the notes on stderr."""
    rows = [
        (item.file.name if item.file else "", item.state, item.original, " ".join(item.remarks))
        for item in adoption.items
    ]
    title = f"{environment}: {target}: {adoption.tool}, from {adoption.origin}"
    table(title, ("migration", "state", "was", "remarks"), rows)
    for note in adoption.notes:
        talk(note)


def show_adopted(environment: str, target: str, adoption: Adoption) -> None:
    """Print the counts of written rows and files, on stdout."""
    if adoption.is_complete:
        data(f"{environment}: {target}: nothing to adopt")
        return
    rows, files = count_of(len(adoption.rows), "row"), count_of(len(adoption.files), "file")
    pending = count_of(len(adoption.pending), "migration")
    data(f"{environment}: {target}: {rows} of the history and {files} written, {pending} pending")


def show_adoption_as_json(
    environment: str, target: str, adoption: Adoption, *, is_written: bool, error: RatchetError | None = None
) -> None:
    """Print the object of `adopt --json`, on stdout. `adopted` and `files` are empty unless `is_written`."""
    shape = {
        "env": environment,
        "target": target,
        "from": adoption.tool,
        "adopted": [item.file.name for item in adoption.rows if item.file] if is_written else [],
        "files": [file.name for file in adoption.files] if is_written else [],
        "pending": len(adoption.pending),
        "notes": list(adoption.notes),
        "migrations": [_item_as_json(item) for item in adoption.items],
    }
    as_json(shape | ({"error": commands.typed_error(error)} if error else {}))


def _item_as_json(item: AdoptionItem) -> dict[str, Any]:
    return {
        "name": item.file.name if item.file else None,
        "status": item.state,
        "was": item.original,
        "checksum": item.file.checksum if item.file else None,
        "remarks": list(item.remarks),
    }


def show_baseline(environment: str, target: str, names: Sequence[str], *, is_written: bool, json: bool) -> None:
    """Print the names of the files of a baseline, on stdout."""
    if json:
        adopted = list(names) if is_written else []
        as_json({"env": environment, "target": target, "from": "baseline", "adopted": adopted, "files": list(names)})
    elif names:
        state = "adopted" if is_written else "to be adopted"
        data(f"{environment}: {target}: {abbreviate(names)}: {state} as the baseline")
    else:
        data(f"{environment}: {target}: nothing to adopt")
