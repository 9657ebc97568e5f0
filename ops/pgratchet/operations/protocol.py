"""Encodes requests, events, results and errors as lines of JSON, and decodes them on the other machine.

Values are dataclasses and are decoded by the types of their fields, so a line cannot produce a value of another type.
Bytes of a request, such as the text of a migration, are not part of the line. They follow it unencoded, in the order of
the fields. Bytes of a result are in the line, in base64.
"""

from __future__ import annotations

import base64
import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pgratchet import events
from pgratchet.database.target import ReceivedTarget, TargetStorage
from pgratchet.errors import ERRORS_BY_EXIT_CODE, ConfigurationError, Interrupted, Location, RatchetError, Terminated
from pgratchet.variables import Group, as_dict

_T = TypeVar("_T")
_EVENTS = {kind.__name__: kind for kind in get_args(events.Event)}


class ProtocolError(ConfigurationError):
    """A message that this version of the protocol does not have."""

    def __init__(self, what: str) -> None:
        super().__init__(
            "a message from the other machine cannot be read",
            detail=f"{what}. It was written by another version of pgratchet.",
            hint="Follow a run with the version of pgratchet that started it.",
        )


def _shape(value: object, attachments: list[bytes] | None) -> object:
    if isinstance(value, Group):
        return {name: _shape(each, attachments) for name, each in as_dict(value).items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _shape(getattr(value, each.name), attachments) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _shape(each, attachments) for key, each in value.items()}
    if isinstance(value, (list, tuple, frozenset)):
        return [_shape(each, attachments) for each in value]
    if isinstance(value, bytes):
        if attachments is None:
            return base64.b64encode(value).decode()
        attachments.append(value)
        return len(value)
    return value.isoformat() if isinstance(value, datetime) else value


def loads(kind: type[_T], shape: object, read: Callable[[int], bytes] | None = None) -> _T:
    """The value of a type from decoded JSON; `read` returns that many of the bytes that follow the line."""
    try:
        return _value(kind, shape, read)  # type: ignore[no-any-return]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ProtocolError(f"{getattr(kind, '__name__', kind)}: {error}") from error


def _value(kind: Any, shape: Any, read: Callable[[int], bytes] | None) -> Any:
    if isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, Group)):
        hints = _hints(cast(Any, kind))
        return kind(**{name: _value(hints[name], each, read) for name, each in shape.items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (one,) = (each for each in arguments if each is not type(None))
        return None if shape is None else _value(one, shape, read)
    if origin in (tuple, Sequence):
        return tuple(_value(arguments[0], each, read) for each in shape)
    if origin in (dict, Mapping):
        return {key: _value(arguments[1], each, read) for key, each in shape.items()}
    return _plain(kind, shape, read)


def _plain(kind: Any, shape: Any, read: Callable[[int], bytes] | None) -> Any:
    if kind is bytes:
        return base64.b64decode(shape) if read is None else read(int(shape))
    if kind is datetime:
        return datetime.fromisoformat(shape)
    if kind is type(None) and shape is None:
        return None
    if kind is float and type(shape) is int:
        return float(shape)
    expected = type(get_args(kind)[0]) if get_origin(kind) is Literal else kind
    if not isinstance(shape, expected):
        raise TypeError(f"{shape!r} is no {expected.__name__}")
    return shape


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run on a host: its id, its task, the migrations it is to apply, and what became of it."""

    run_id: str
    task: str
    names: tuple[str, ...] = ()
    env: str = ""
    target: str = ""
    started: str = ""
    state: str = ""
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """An operation for a host. `run` describes a run that outlives its connection.

    `silence` is the number of seconds after which a silent connection is given up. With `hands_over` the backups of the
    run are kept on the machine that sends the request.
    """

    operation: object
    target: TargetStorage
    silence: int
    run: RunInfo | None = None
    hands_over: bool = False


def encode_request(request: Request) -> bytes:
    """The request as it is sent: the length of a line, a space, the line, and the bytes that belong to its values."""
    attachments: list[bytes] = []
    shape = {
        "operation": type(request.operation).__name__,
        "arguments": _shape(request.operation, attachments),
        "connects": isinstance(request.target, ReceivedTarget),
        "target": _shape(request.target, []),
        "silence": request.silence,
        "run": _shape(request.run, []),
        "hands_over": request.hands_over,
    }
    text = json.dumps(shape, separators=(",", ":")).encode()
    return b"".join([b"%d " % len(text), text, *attachments])


def decode_request(line: bytes, read: Callable[[int], bytes], operations: Mapping[str, type]) -> Request:
    """The request in a line; `read` returns that many of the bytes that follow the line."""
    shape = json.loads(line)
    target = loads(ReceivedTarget if shape["connects"] else TargetStorage, shape["target"])
    operation: object = loads(operations[shape["operation"]], shape["arguments"], read)
    run = loads(RunInfo, shape["run"]) if shape["run"] else None
    return Request(operation, target, int(shape["silence"]), run, bool(shape["hands_over"]))


def result(value: object) -> dict[str, object]:
    return {"result": _shape(value, None)}


def event(happened: events.Event) -> dict[str, object]:
    return {"event": type(happened).__name__, "of": _shape(happened, [])}


def event_of(line: Mapping[str, Any]) -> events.Event:
    """The event in a line; ProtocolError for an event that this version does not know."""
    kind = _EVENTS.get(str(line.get("event")))
    if kind is None:
        raise ProtocolError(f"Unknown event {line.get('event')}")
    return loads(kind, line.get("of"))  # type: ignore[no-any-return]


def error(failed: RatchetError) -> dict[str, object]:
    place = _shape(failed.location, []) if failed.location else None
    parts = {"message": failed.message, "detail": failed.detail, "hint": failed.hint}
    return {"error": {**parts, "code": failed.exit_code, "status": failed.status, "place": place}}


def error_of(shape: Mapping[str, Any]) -> RatchetError:
    """The error in a line, as it was raised on the other machine."""
    detail, hint, place = str(shape["detail"]), str(shape["hint"]), shape.get("place")
    kind = ERRORS_BY_EXIT_CODE.get(shape["code"], RatchetError)
    if kind is Interrupted:
        signal = Terminated() if shape["status"] == Terminated.status else KeyboardInterrupt()
        failed: RatchetError = Interrupted(signal, detail=detail, hint=hint)
    else:
        location = loads(Location, place) if place else None
        failed = kind(str(shape["message"]), detail=detail, hint=hint, location=location)
    failed.status = int(shape["status"])
    return failed
