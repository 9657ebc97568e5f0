"""Reads a command line before Invoke does, and explains the first word that is wrong in it.

Invoke's own messages name a word that it does not know, and not what is wrong with it. Some mistakes it takes in
silence: a word behind `--`, a misspelled `-jsn`, a second task behind the name of `new`. Words are read here as by
invoke.parser.Parser, with its descriptions of tasks and flags. The program `pgratchet` calls this; `invoke` itself has
no hook for it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext

from pgratchet.errors import ConfigurationError
from pgratchet.tasks.flags import flag_name, needs_value, placeholder
from pgratchet.tasks.suggestions import FindValues, flag_for, similar, similar_flag, similar_task

_JSON = re.compile(r"--json(=.*)?|-[a-z]?j[a-z]*", re.DOTALL)
_LONG_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
"""Characters that word processors write for one or two hyphens."""
_SWITCH_VALUE = re.compile(r"true|false|yes|no|on|off|\d+", re.IGNORECASE)
_OFF = ("false", "no", "off", "0")


def wants_json(words: Sequence[str]) -> bool:
    """Return whether the words of a command line ask for JSON, even if they cannot be read."""
    end = words.index("--") if "--" in words else len(words)
    return any(_JSON.fullmatch(word) for word in words[:end])


def asks_for_help(words: Sequence[str], tasks: Mapping[str, ParserContext]) -> str | None:
    """Return the task whose flags a command line asks for with --help."""
    if {"--help", "-h"}.isdisjoint(words):
        return None
    if words[0] in ("--help", "-h"):
        return next((word for word in words[1:2] if word in tasks), None)
    return next((word for word in words if word in tasks), None)


def unreadable(message: str) -> ConfigurationError:
    """The error of a command line that only Invoke finds wrong, from its message."""
    return ConfigurationError("the command line cannot be read", detail=message, hint=_look_up(None))


def check(
    words: Sequence[str], program: ParserContext, tasks: Mapping[str, ParserContext], find_values: FindValues
) -> None:
    """Raise ConfigurationError for the first word that is wrong in a command line.

    `program` describes the flags in front of the tasks.
    """
    end = words.index("--") if "--" in words else len(words)
    line = _CommandLine(list(words[:end]), program, tasks, find_values)
    line.read()
    if behind := words[end + 1 :]:
        line.refuse_rest(behind)
    line.require_name()


@dataclass
class _CommandLine:
    """Reads the words, of which `at` is the next one. `values` are those of the flags of the current task.

    `last_switch` and `last_value` are the flag that was read last, without a value or with one.
    """

    words: Sequence[str]
    program: ParserContext
    tasks: Mapping[str, ParserContext]
    find_values: FindValues
    at: int = 0
    values: dict[str, str] = field(default_factory=dict)
    last_switch: str = ""
    last_value: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        self.context = self.program
        self.start = 0

    @property
    def task(self) -> str | None:
        return self.context.name

    def read(self) -> None:
        while self.at < len(self.words):
            word = self.words[self.at]
            self.at += 1
            if word.startswith("-"):
                self._read_flag(word)
                continue
            missing = self._missing()
            if missing:
                self.values[str(missing[0].name)] = word
            elif word in self.tasks and not self.context.positional_args:
                self.context, self.values, self.start = self.tasks[word], {}, self.at
            else:
                raise self._stray(word)
            self.last_switch, self.last_value = "", None

    def require_name(self) -> None:
        """Raise the error of a task that lacks its argument."""
        if missing := self._missing():
            raise ConfigurationError(
                f"{self.task} needs a {missing[0].name}",
                detail="The command line has none.",
                hint='Write it behind the task, such as `invoke new "create users"`.',
            )

    def refuse_rest(self, words: Sequence[str]) -> None:
        """Raise the error of words behind `--`, which Invoke would leave out."""
        hint = 'Leave out "--" and what is behind it.'
        if self.context.positional_args:
            hint = f"Write {self._quoted(words)}."
        owner = f"{self.task} takes" if self.task else "pgratchet takes"
        raise ConfigurationError(
            f'{owner} no argument "{words[0]}"', detail='Words behind "--" are not read.', hint=hint
        )

    def _missing(self) -> list[Argument]:
        return [argument for argument in self.context.positional_args if argument.name not in self.values]

    def _read_flag(self, word: str) -> None:
        _, equals, value = word.partition("=")
        for flag, argument, attached in self._flags_in(word):
            self.last_switch, self.last_value = "" if argument.takes_value else flag, None
            if not argument.takes_value:
                if equals:
                    raise _needless_value(flag, value)
                continue
            key = str(argument.name)
            text = attached or (value if equals else self._next_value(flag, argument))
            if key in self.values:
                raise _given_twice(_long(flag, argument), self.values[key], text)
            if key == "help" and text and text not in self.tasks:
                raise self._unknown_task(text)
            self.values[key] = text
            self.last_value = (_long(flag, argument), text)

    def _flags_in(self, word: str) -> Iterator[tuple[str, Argument, str]]:
        """The flags of a word, with the value that is attached to a letter: one flag, or several letters as in -jd."""
        name, known = word.partition("=")[0], self.context.flags
        if name in known:
            yield name, known[name], ""
            return
        letters = [f"-{letter}" for letter in name[1:]]
        if name.startswith("--") or len(letters) < 2 or name != word or similar_flag(name, known):
            raise self._unknown_flag(word)
        if letters[0] in known and known[letters[0]].takes_value:
            yield letters[0], known[letters[0]], name[2:]
            return
        with_value = [letter for letter in letters if letter not in known or known[letter].takes_value]
        if letters[-1] not in known or with_value not in ([], letters[-1:]):
            raise self._unknown_flag(word)
        yield from ((letter, known[letter], "") for letter in letters)

    def _next_value(self, flag: str, argument: Argument) -> str:
        """The next word as the value of a flag."""
        word = self.words[self.at] if self.at < len(self.words) else None
        is_flag = word is not None and (word.startswith("--") or word.partition("=")[0] in self.context.flags)
        if argument.optional and (word is None or word.startswith("-") or (word in self.tasks and self.task)):
            return ""
        if word is None or is_flag:
            raise needs_value(_long(flag, argument))
        self.at += 1
        return word

    def _unknown_flag(self, word: str) -> ConfigurationError:
        name = word.partition("=")[0]
        if self.task is None:
            return self._unknown_program_flag(name)
        detail, hint = self._about_flag(name, word)
        return ConfigurationError(f"{self.task} has no flag {name}", detail=detail, hint=hint or _look_up(self.task))

    def _about_flag(self, name: str, word: str) -> tuple[str, str]:
        """The sentences about a flag that the task does not have, and what to do, if it is not to look flags up."""
        flags = self.context.flags
        if name in ("--yes", "-yes", "-y") and "--yes" not in flags:
            return f"{self.task} asks nothing, so it needs no --yes.", f"Leave {name} out."
        if near := similar_flag(name, flags):
            return f"Did you mean {near}{word[len(name) :] if flags[near].takes_value else ''}?", ""
        if name in self.program.flags:
            example = f"{name} {placeholder('--config')} {self.task}" if name in ("-f", "--config") else word
            detail = f"{name} is a flag of the program itself, which stands in front of the tasks."
            return detail, f"Write `pgratchet {example}`."
        return f"Its flags are {_long_flags(flags)}.", ""

    def _unknown_program_flag(self, name: str) -> ConfigurationError:
        if any(name in context.flags for context in self.tasks.values()):
            return ConfigurationError(
                f"there is no flag {name} in front of a task", detail="Tasks have it.", hint=self._moved_hint()
            )
        flags = [flag for context in self.tasks.values() for flag in context.flags]
        near = similar_flag(name, self.program.flags) or similar_flag(name, flags)
        detail = f"Did you mean {near}?" if near else f"The program's own flags are {_long_flags(self.program.flags)}."
        return ConfigurationError(f"there is no flag {name}", detail=detail, hint=_look_up(None))

    def _moved_hint(self) -> str:
        """The hint to put the flag that was read last, and what follows it, behind the task."""
        words = self.words[self.at - 1 :]
        count = next((index for index, word in enumerate(words) if word in self.tasks), None)
        if count is None:
            return f"Put it behind a task: `pgratchet TASK {shlex.quote(words[0])}`."
        moved = [words[count], *words[:count], *words[count + 1 :]]
        return f"Put it behind the task: `invoke {shlex.join(moved)}`."

    def _stray(self, word: str) -> ConfigurationError:
        """The error of a word that is neither a task nor the value of a flag."""
        if self.task is None:
            return self._unknown_task(word)
        if self.last_switch and _SWITCH_VALUE.fullmatch(word):
            return _needless_value(self.last_switch, word)
        hint = _look_up(self.task)
        if self.context.positional_args:
            detail, hint = "It takes one argument, the name.", f"Put the name in quotes: {self._quoted()}."
        elif guess := self._meant(word):
            detail = f"Did you mean {guess}?"
        else:
            detail = f"{self.last_switch} takes no value." if self.last_switch else "It takes flags only."
        return ConfigurationError(f'{self.task} takes no argument "{word}"', detail=detail, hint=hint)

    def _meant(self, word: str) -> str | None:
        """The probable meaning of a word behind a task: a flag with its value, or another task."""
        flags = self.context.flags
        if not word:
            return None
        if f"--{word}" in flags and not flags[f"--{word}"].takes_value:
            return f"--{word}"
        if word.startswith(tuple(_LONG_DASHES)):
            name, equals, value = word.lstrip(_LONG_DASHES + "-").partition("=")
            near = similar_flag(name, flags)
            return f"{near}{equals}{value}" if near else None
        free = [flag for flag, argument in flags.items() if argument.name not in self.values]
        return flag_for(word, free, self.find_values) or self._longer_value(word) or self._second_task(word)

    def _longer_value(self, word: str) -> str | None:
        """The flag in front of the word, with the word as a part of its value."""
        flag, value = self.last_value or ("", "")
        kind = placeholder(flag)
        if kind in ("TEXT", "REASON"):
            further = takewhile(lambda each: not each.startswith("-"), self.words[self.at :])
            return f"{flag}={shlex.quote(' '.join([value, word, *further]))}"
        is_list = kind in ("NAMES", "PATTERN") and not similar(word, self.tasks)
        return f"{flag}={value},{word}" if is_list else None

    def _second_task(self, word: str) -> str | None:
        if word.lower() == "help":
            return "--help"
        near = similar(word, self.tasks)
        return f"{near}, as a second task" if near else None

    def _unknown_task(self, word: str) -> ConfigurationError:
        detail, hint = self._about_task(word)
        return ConfigurationError(f'there is no task "{word}"', detail=detail, hint=hint or _look_up(None))

    def _about_task(self, word: str) -> tuple[str, str]:
        """The sentences about a task that does not exist, and what to do, if it is not to look tasks up."""
        further = [each for each in self.words[self.at :] if each in self.tasks]
        near = similar_task(word, self.tasks)
        if near and near.startswith("--"):
            command = shlex.join([near, *(further[:1] if near == "--help" else [])])
            return f"Did you mean {near}?", f"Write `pgratchet {command}`."
        if near:
            return f"Did you mean {near}?", ""
        if word in self.find_values("--env"):
            task = further[0] if further else "status"
            return f'"{word}" is an environment.', f"Write the task first: `invoke {task} --env={shlex.quote(word)}`."
        return f"The tasks are {', '.join(sorted(self.tasks))}.", ""

    def _quoted(self, behind: Sequence[str] = ()) -> str:
        """The command with its name and all further words as one argument, in front of the flags."""
        end = len(self.words) if behind else self.at - 1
        words, further = list(self.words[self.start : end]), [*self.words[end:], *behind]
        names = [self.values[name] for name in ("name",) if self.values.get(name) in words]
        for name in names:
            words.remove(name)
        name = " ".join([*names, *(word for word in further if not word.startswith("-"))])
        flags = [*words, *(word for word in further if word.startswith("-"))]
        quoted = shlex.quote(name) if re.search(r'["$`\\!]', name) else f'"{name}"'
        return f"`invoke {' '.join([str(self.task), quoted, *map(shlex.quote, flags)])}`"


def _long(flag: str, argument: Argument) -> str:
    """The long form of a flag, with dashes."""
    return next((flag_name(name) for name in argument.names if len(name) > 1), flag)


def _long_flags(flags: Iterable[str]) -> str:
    return ", ".join(flag for flag in flags if flag.startswith("--"))


def _needless_value(flag: str, value: str) -> ConfigurationError:
    is_off = value.lower() in _OFF
    return ConfigurationError(
        f"{flag} takes no value", detail=f'It has "{value}".', hint=f"Leave {flag} out." if is_off else f"Write {flag}."
    )


def _given_twice(flag: str, first: str, second: str) -> ConfigurationError:
    return ConfigurationError(
        f"{flag} is given twice", detail=f'With "{first}" and with "{second}".', hint="Leave out one of them."
    )


def _look_up(task: str | None) -> str:
    return f"List its flags with `pgratchet --help {task}`." if task else "List the tasks with `pgratchet --list`."
