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


def show_adoption(environment: str, target: str, found: Adoption) -> None:
    """What a takeover would come to, on stdout."""
    rows = [
        (item.file.name if item.file else "", item.state, item.original, " ".join(item.remarks)) for item in found.items
    ]
    title = f"{environment}: {target}: {found.tool}, from {found.origin}"
    show_table(title, ("migration", "state", "was", "remarks"), rows)
    for note in found.notes:
        say(note)


def show_adopted(environment: str, target: str, found: Adoption) -> None:
    """What it came to, on stdout."""
    if found.is_complete:
        write(f"{environment}: {target}: nothing to adopt")
        return
    written = (
        f"{format_count(len(found.rows), 'row')} of the history and {format_count(len(found.files), 'file')} written"
    )
    write(f"{environment}: {target}: {written}, {format_count(len(found.pending), 'migration')} pending")


def write_adoption_json(
    environment: str, target: str, found: Adoption, *, done: bool, error: RatchetError | None = None
) -> None:
    """Both as one object, on stdout; `adopted` and `files` are what was written."""
    shape = {
        "env": environment,
        "target": target,
        "from": found.tool,
        "adopted": [each.file.name for each in found.rows if each.file] if done else [],
        "files": [each.name for each in found.files] if done else [],
        "pending": len(found.pending),
        "notes": list(found.notes),
        "migrations": [_item(each) for each in found.items],
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
    """What a baseline marks, or has marked once it is `done`, on stdout."""
    if json:
        adopted = list(names) if done else []
        write_json({"env": environment, "target": target, "from": "baseline", "adopted": adopted, "files": list(names)})
    elif names:
        write(
            f"{environment}: {target}: {abbreviate_names(names)}: {'adopted' if done else 'to be adopted'} as the baseline"
        )
    else:
        write(f"{environment}: {target}: nothing to adopt")
