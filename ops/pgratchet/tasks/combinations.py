"""Which flags of a task can be given together. A flag that would have no effect beside another one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pgratchet.errors import ConfigurationError
from pgratchet.tasks.flags import flag_name


class Mode(NamedTuple):
    """The work that a flag chooses, as a sentence, and the flags that have an effect then."""

    does: str
    with_flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Combinations:
    """The flags of a task that choose what it does, by parameter, and those that need one of others.

    `others` are further flags that no mode goes with, unless it names them. Flags that are not named here, such as
    --env and --json, go with all.
    """

    modes: Mapping[str, Mode]
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    def require(self, flags: Mapping[str, object]) -> None:
        """Raise ConfigurationError for the first two flags that do not go together, or one that lacks another."""
        present = [name for name, value in flags.items() if value not in (None, False)]
        for name in present:
            needed = self.needs.get(name, ())
            if needed and not set(needed) & set(present):
                raise _lacks(name, needed)
        compared = {*self.modes, *self.needs, *self.others}
        for name in (each for each in self.modes if each in present):
            mode = self.modes[name]
            for other in present:
                if other in compared - {name, *mode.with_flags}:
                    raise _exclude(name, other, mode)


def _lacks(name: str, needed: tuple[str, ...]) -> ConfigurationError:
    flags = " or ".join(flag_name(each) for each in needed)
    return ConfigurationError(
        f"{flag_name(name)} needs {flags}",
        detail="It has no effect alone.",
        hint=f"Add {flags}, or leave out {flag_name(name)}.",
    )


def _exclude(name: str, other: str, mode: Mode) -> ConfigurationError:
    return ConfigurationError(
        f"{flag_name(name)} and {flag_name(other)} cannot be given together",
        detail=f"{flag_name(name)} {mode.does}.",
        hint="Leave out one of them.",
    )


RESTORE = Combinations(
    {
        "salvage": Mode(
            "restores what it can into a new database, and leaves the live database and those that were kept alone",
            ("backup", "into"),
        ),
        "export_lost": Mode(
            "writes the rows that an earlier restore lost, and changes no database",
            ("backup", "show_lost", "old", "max_size"),  # `backup` has an error of its own there
        ),
        "show_lost": Mode("only reads, and changes no database", ("backup", "old", "export_lost", "max_size")),
        "into": Mode(
            "restores beside the live database, which stays as it is", ("backup", "salvage", "accept_differences")
        ),
        "continue_": Mode(
            "gives a database that was restored earlier the live name",
            ("backup", "leave_behind", "accept_differences", "drop_old"),
        ),
    },
    {
        "max_size": ("export_lost",),
        "old": ("show_lost", "export_lost"),
        "leave_behind": ("backup", "continue_"),
        "accept_differences": ("backup", "continue_"),
    },
    ("drop_old",),
)

ADOPT = Combinations(
    {"baseline": Mode("adopts a database that has no other tool's history", ())},
    others=("from_", "table", "files", "history", "exclude", "include", "mended", "write_baseline"),
)

REHEARSE = Combinations({"fresh": Mode("takes a new backup and rehearses on that", ())}, others=("backup",))

CI = Combinations(
    modes={},
    needs=dict.fromkeys(("env", "markdown", "sarif", "code_quality"), ("sizes",)),
)
"""The flags of `ci`."""
