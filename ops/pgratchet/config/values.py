"""Describes the values of variables in words: what a type accepts, what was found, and how to write it instead.

A value that may be a secret is not shown.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args, get_origin

from pgratchet.formatting import suggest
from pgratchet.variables import Ports, Range

_SECRET = re.compile(r":[^/@\s]*@|(password|secret|token)\S*[=:]", re.IGNORECASE)
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")
_MILLISECONDS = {
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1000),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60_000),
    **dict.fromkeys(("h", "hour", "hours"), 3_600_000),
    **dict.fromkeys(("d", "day", "days"), 86_400_000),
    **dict.fromkeys(("w", "week", "weeks"), 604_800_000),
}
_BYTES = {"b": 1, "byte": 1, "bytes": 1} | {
    name: base**power
    for power, letter in enumerate("kmgt", 1)
    for name, base in ((letter, 1000), (f"{letter}b", 1000), (f"{letter}i", 1024), (f"{letter}ib", 1024))
}
_UNITS: dict[str, tuple[dict[str, int], int]] = {
    "milliseconds": (_MILLISECONDS, 1),
    "seconds": (_MILLISECONDS, 1000),
    "days": (_MILLISECONDS, 86_400_000),
    "bytes": (_BYTES, 1),
}
"""How texts with a unit are converted: the sizes of the text's units, and the size of the variable's own unit."""


def explain(name: str, kind: Any, value: object, *, hidden: bool) -> str:
    """A sentence about a value that a variable's type does not accept."""
    text = "" if hidden or get_origin(kind) is tuple else shown(value)
    if (number := _converted(kind, value)) is not None and text:
        return f"{name}: {text}: write {get_args(kind)[1].unit}, {number}."
    return f"{name}: expected {_expected(kind)}{f', not {text}' if text else ''}.{_advice(kind, value, text)}"


def shown(value: object) -> str:
    """A value as it may be written in YAML; empty for what may be a secret, an empty text, a list or a mapping."""
    if value is None:
        return "an empty value"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        short = value if len(value) <= 60 else f"{value[:60]}..."
        return "" if not value or _SECRET.search(value) or not value.isprintable() else f'"{short}"'
    return str(value) if isinstance(value, int | float) else ""


def _converted(kind: Any, value: object) -> int | None:
    """The number of a text with a unit, such as 30s, in the unit of the variable, if the variable can have it."""
    limit = get_args(kind)[1] if get_origin(kind) is Annotated else None
    amount = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if not amount or not isinstance(limit, Range) or limit.unit not in _UNITS:
        return None
    sizes, own = _UNITS[limit.unit]
    if (size := sizes.get(amount[2].lower())) is None:
        return None
    number = float(amount[1]) * size / own
    return int(number) if number.is_integer() and limit.least <= number <= limit.most else None


def _expected(kind: Any) -> str:
    """The values of a type, in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        return "a list of texts that are not empty"
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin is Annotated and isinstance(arguments[1], Range):
        limit = arguments[1]
        return f"a whole number{f' of {limit.unit}' if limit.unit else ''} from {limit.least} to {limit.most}"
    if origin is Annotated and isinstance(arguments[1], Ports):
        return "a port from 1 to 65535, or one port for each host, separated by commas"
    if origin is Annotated:
        return "a text that is not empty"
    return {bool: "true or false", str: "a text"}.get(kind, "a mapping of names to texts")


def _advice(kind: Any, value: object, text: str) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, str):
        return " Write it as a list: [first, second]."
    if origin is Literal and text:
        return suggest(str(value).replace("_", "-"), arguments)
    holds_text = kind is str or (origin is Annotated and arguments[0] is str and not isinstance(arguments[1], Ports))
    if holds_text and value is not None and not isinstance(value, str | list | dict):
        return " Put the value in quotes."
    return ""
