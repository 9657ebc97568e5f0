"""Names tasks as the user has to type them: `invoke migrate`, `invoke db.migrate` or `pgratchet migrate`.

Messages are written with `invoke NAME`. The name is rewritten when a message is printed, because only then is it known
under which program and in which collection the tasks are.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from pgratchet.errors import RatchetError

TASKS = (
    *("adopt", "attach", "backup", "backups", "cancel", "ci", "doctor", "down", "drift", "drill", "migrate", "new"),
    *("rehearse", "render", "restore", "rollback", "runs", "snapshot", "squash", "status", "up", "verify"),
)
_COMMAND = re.compile(rf"\binvoke (?P<task>{'|'.join(TASKS)})\b(?=(?P<rest>[^`\n]*))")
_WITHOUT_ENVIRONMENT = ("new", "ci", "snapshot", "squash")
_prefix: ContextVar[str] = ContextVar("prefix", default="invoke ")
_environment: ContextVar[str | None] = ContextVar("environment", default=None)


@contextmanager
def called_as(task: str, arguments: Sequence[str], environment: str | None = None) -> Iterator[None]:
    """Name tasks, inside the block, as this call of a task does.

    `arguments` are those of the process. `environment` is the value of --env, which the named tasks repeat.
    """
    token = _prefix.set(f"{_program(arguments)} {_collection(task, arguments)}")
    environment_token = _environment.set(environment)
    try:
        yield
    finally:
        _environment.reset(environment_token)
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


def prefix() -> str:
    """The text in front of the name of each task: the program, a space, and the collections."""
    return _prefix.get()


def typed(text: str) -> str:
    """The text with every `invoke NAME` as the user has to type it."""
    return _COMMAND.sub(_typed_command, text)


def _typed_command(match: re.Match[str]) -> str:
    task, rest, environment = match["task"], match["rest"], _environment.get()
    needs_environment = environment and task not in _WITHOUT_ENVIRONMENT and "--env" not in rest
    flag = f" --env={shlex.quote(environment)}" if environment and needs_environment else ""
    return f"{_prefix.get()}{task}{flag}"


def typed_error(error: RatchetError) -> dict[str, str | int | None]:
    """The JSON of an error, with its commands as the user has to type them."""
    return {key: typed(value) if isinstance(value, str) else value for key, value in error.as_json().items()}
