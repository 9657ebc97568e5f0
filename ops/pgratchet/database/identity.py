"""The environment and target whose settings lead to a database, and their names in the inventory."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class OtherNames:
    """The names of the inventory's other environments, and of the other targets of the target's own environment."""

    environments: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """The environment and target whose settings lead to a database.

    `accepted` are other environments whose databases this one may use as its own.
    """

    environment: str
    target: str
    others: OtherNames = field(default_factory=OtherNames)
    accepted: tuple[str, ...] = ()
