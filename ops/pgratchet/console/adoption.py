"""Shows adoptions of other tools' histories, and baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgratchet.console import commands
from pgratchet.console.output import say, show_table, write, write_json
from pgratchet.errors import RatchetError
from pgratchet.formatting import abbreviate_names, format_count

if TYPE_CHECKING:
    from pgratchet.adopt.adoption import Adoption
    from pgratchet.adopt.matching import AdoptionItem
    from pgratchet.adopt.rebuild import Rebuild


@dataclass(slots=True)
class AdoptionReport:
    """Shows an adoption step by step, or prints one object of JSON at its end."""

    environment: str
    target: str
    adoption: Adoption
    json: bool
    rebuild: Rebuild | None = None
    location: str = ""

    def show_preview(self) -> None:
        """Show what would be adopted."""
        if self.json:
            return
        rows = [
            (item.file.name if item.file else "", item.state, item.original, " ".join(item.remarks))
            for item in self.adoption.items
        ]
        title = f"{self._place} ({self.location}): {self.adoption.tool}, from {self.adoption.origin}"
        show_table(title, ("migration", "state", "was", "remarks"), rows)
        for note in self.adoption.notes:
            say(note)

    def show_rebuild(self, rebuild: Rebuild | None) -> None:
        """Say whether the adopted files alone build the schema of the database, and what to do if they do not."""
        self.rebuild = rebuild
        if rebuild is None or self.json:
            return
        first, *detail = _rebuild_lines(rebuild)
        say(f"{self._place}: {first}")
        for line in detail:
            say(f"  {line}")
        if rebuild.outcome in ("refused", "fails", "differs"):
            say(commands.typed(_MEND) + (_OFFLINE if self.adoption.tool == "alembic" else ""))

    @contextmanager
    def shown(self, *, is_written: bool) -> Iterator[None]:
        """Show what the block has adopted, or its error as JSON."""
        try:
            yield
        except RatchetError as error:
            error.printed = self.json
            if self.json:
                write_json(self._as_json(is_written=False) | {"error": commands.typed_error(error)})
            raise
        if self.json:
            write_json(self._as_json(is_written=is_written))
        elif is_written:
            write(f"{self._place}: {self._written()}")

    @property
    def _place(self) -> str:
        return f"{self.environment}: {self.target}"

    def _written(self) -> str:
        """The counts of the rows and files that were written."""
        adoption = self.adoption
        if adoption.is_complete:
            return "nothing to adopt"
        rows = format_count(len(adoption.rows) + len(adoption.mended), "history row")
        files, pending = format_count(len(adoption.files), "file"), format_count(len(adoption.pending), "migration")
        return f"{rows} and {files} written, {pending} pending"

    def _as_json(self, *, is_written: bool) -> dict[str, Any]:
        """The object of `adopt --json`. `adopted` and `files` are empty unless `is_written`."""
        adoption = self.adoption
        rows = (*adoption.rows, *adoption.mended)
        return {
            "env": self.environment,
            "target": self.target,
            "from": adoption.tool,
            "adopted": [item.file.name for item in rows if item.file] if is_written else [],
            "files": [file.name for file in adoption.files] if is_written else [],
            "pending": len(adoption.pending),
            "notes": [*adoption.notes, *_rebuild_lines(self.rebuild)],
            "migrations": [_item_json(item) for item in adoption.items],
        }


def _rebuild_lines(rebuild: Rebuild | None) -> list[str]:
    """The result of the trial and its details, abbreviated; no lines without a trial."""
    if rebuild is None:
        return []
    rest = ["..."] if len(rebuild.detail) > _MOST_LINES else []
    return [_REBUILT[rebuild.outcome], *rebuild.detail[:_MOST_LINES], *rest]


_MOST_LINES = 40
_REBUILT: Mapping[str, str] = {
    "same": "the adopted files alone build the schema of the database (tried on a scratch server)",
    "differs": "the adopted files alone build another schema than that of the database (tried on a scratch server)",
    "fails": "the adopted files alone cannot build an empty database (tried on a scratch server)",
    "refused": "the adopted files alone cannot build an empty database, because some of them cannot run",
    "not tried": "whether the adopted files alone build an empty database was not tried",
}
_MEND = (
    "To build empty databases, run `invoke adopt --write-baseline`: it adopts the live schema as one file. "
    "Or correct the file in the folder of migrations, and run `invoke adopt --mended=NAME`."
)
_OFFLINE = " `alembic upgrade REVISION:REVISION --sql` prints the SQL of a revision."


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
