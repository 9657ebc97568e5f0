"""What travels between two machines: jobs, events, results and errors, as lines of JSON.

Owns the form, both ways. Refuses to know what the values mean and how lines travel. A value is a dataclass; it is read
back by the types of its fields, so that nothing else than what was meant comes out. Bytes, such as the text of a
migration, do not go into the line: they follow it, as they are, in the order in which they were met.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pgratchet import events
from pgratchet.errors import FAMILY, ConfigurationError, Interrupted, Location, RatchetError, Terminated

_T = TypeVar("_T")
_EVENTS = {kind.__name__: kind for kind in get_args(events.Event)}


class ProtocolError(ConfigurationError):
    """A line that does not hold what it should."""

    def __init__(self, what: str) -> None:
        super().__init__(
            "the other end of the line says what is not understood",
            detail=f"{what}.",
            hint="It is of another version of pgratchet: follow a run with the version that began it.",
        )


def dumps(value: object) -> tuple[str, list[bytes]]:
    """A value as one line of JSON, without its line end, and the bytes that follow it."""
    behind: list[bytes] = []
    return json.dumps(_shape(value, behind), ensure_ascii=True, separators=(",", ":")), behind


def _shape(value: object, behind: list[bytes]) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _shape(getattr(value, each.name), behind) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _shape(each, behind) for key, each in value.items()}
    if isinstance(value, (list, tuple, frozenset)):
        return [_shape(each, behind) for each in value]
    if isinstance(value, bytes):
        behind.append(value)
        return len(value)
    return value.isoformat() if isinstance(value, datetime) else value


def loads(kind: type[_T], shape: object, read: Callable[[int], bytes] | None = None) -> _T:
    """The value of that type in a shape that JSON gave; `read` gives so many of the bytes that followed the line."""
    try:
        return _value(kind, shape, read)  # type: ignore[no-any-return]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ProtocolError(f"{getattr(kind, '__name__', kind)}: {error}") from error


def _value(kind: Any, shape: Any, read: Callable[[int], bytes] | None) -> Any:
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: _value(hints[name], each, read) for name, each in shape.items()})
    origin, given = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (one,) = (each for each in given if each is not type(None))
        return None if shape is None else _value(one, shape, read)
    if origin in (tuple, Sequence):
        return tuple(_value(given[0], each, read) for each in shape)
    if origin in (dict, Mapping):
        return {key: _value(given[1], each, read) for key, each in shape.items()}
    return _plain(kind, shape, read)


def _plain(kind: Any, shape: Any, read: Callable[[int], bytes] | None) -> Any:
    if kind is bytes and read is not None:
        return read(int(shape))
    if kind is datetime:
        return datetime.fromisoformat(shape)
    if kind is type(None) and shape is None:
        return None
    expected = type(get_args(kind)[0]) if get_origin(kind) is Literal else kind
    if not isinstance(shape, expected):
        raise TypeError(f"{shape!r} is no {expected.__name__}")
    return shape


@lru_cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def result(value: object) -> dict[str, object]:
    return {"result": _shape(value, [])}


def event(happened: events.Event) -> dict[str, object]:
    return {"event": type(happened).__name__, "of": _shape(happened, [])}


def event_of(line: Mapping[str, Any]) -> events.Event:
    """The event in a line; NotUnderstood for one that this version does not know."""
    kind = _EVENTS.get(str(line.get("event")))
    if kind is None:
        raise ProtocolError(f"An event {line.get('event')}")
    return loads(kind, line.get("of"))  # type: ignore[no-any-return]


def error(failed: RatchetError) -> dict[str, object]:
    place = _shape(failed.place, []) if failed.place else None
    told = {"message": failed.message, "detail": failed.detail, "hint": failed.hint}
    return {"error": {**told, "code": failed.exit_code, "status": failed.status, "place": place}}


def error_of(shape: Mapping[str, Any]) -> RatchetError:
    """The error in a line, as it was raised on the other machine."""
    detail, hint, place = str(shape["detail"]), str(shape["hint"]), shape.get("place")
    kind = FAMILY.get(shape["code"], RatchetError)
    if kind is Interrupted:
        signal = Terminated() if shape["status"] == Terminated.status else KeyboardInterrupt()
        failed: RatchetError = Interrupted(signal, detail=detail, hint=hint)
    else:
        found = loads(Location, place) if place else None
        failed = kind(str(shape["message"]), detail=detail, hint=hint, place=found)
    failed.status = int(shape["status"])
    return failed
