"""Names tasks as the user has to type them: `invoke migrate`, `invoke db.migrate` or `pgratchet migrate`.

Messages are written with `invoke NAME`. The name is rewritten when a message is printed, because only then is it known
under which program and in which collection the tasks are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from pgratchet.errors import RatchetError

TASKS = (
    *("adopt", "attach", "backup", "backups", "cancel", "ci", "doctor", "down", "drill", "migrate", "new", "render"),
    *("restore", "rollback", "runs", "status", "up", "verify"),
)
_COMMAND = re.compile(rf"\binvoke (?=(?:{'|'.join(TASKS)})\b)")
_prefix: ContextVar[str] = ContextVar("prefix", default="invoke ")


@contextmanager
def called_as(task: str, arguments: Sequence[str]) -> Iterator[None]:
    """Name tasks, inside the block, as this call of a task does. `arguments` are those of the process."""
    token = _prefix.set(f"{_program(arguments)} {_collection(task, arguments)}")
    try:
        yield
    finally:
        _prefix.reset(token)


def _program(arguments: Sequence[str]) -> str:
    name = Path(arguments[0]).name if arguments else ""
    return name if name in ("inv", "pgratchet") else "invoke"


def _collection(task: str, arguments: Sequence[str]) -> str:
    """The collections in front of the task's name, with their dots; empty when the task is at the top."""
    for argument in arguments[1:]:
        collections, dot, name = argument.rpartition(".")
        if dot and name == task and not argument.startswith("-"):
            return f"{collections}."
    return ""


def typed(text: str) -> str:
    """The text with every `invoke NAME` as the user has to type it."""
    return _COMMAND.sub(_prefix.get(), text)


def typed_error(error: RatchetError) -> dict[str, str | int | None]:
    """The JSON of an error, with its commands as the user has to type them."""
    return {key: typed(value) if isinstance(value, str) else value for key, value in error.as_json().items()}
