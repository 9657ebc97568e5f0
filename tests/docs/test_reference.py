"""The reference of the manual equals the code: tasks, variables, exit codes, directives, events."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import get_args

import pytest

from pgratchet import events, variables
from pgratchet.errors import ERRORS_BY_EXIT_CODE
from pgratchet.migrations.directives import parse_directives
from pgratchet.tasks import development, ns, starting
from pgratchet.tasks.flags import flag_name, placeholder
from pgratchet.tasks.project import DEFAULTS
from tests import ROOT
from tests.docs.pages import Block, all_pages, blocks, page_name

REFERENCE = ROOT / "docs" / "reference"
_ROW = re.compile(r"^\| *`?(?P<name>[^|`]+)`? *\|(?P<rest>.*)\|$")
_WITHOUT_VALUE = frozenset(("", "required"))


def _rows(page: str, heading: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """The first cell of each row of a page's tables, and the other cells; below one heading, if given."""
    section = ""
    for line in (REFERENCE / page).read_text("utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:]
        match = _ROW.match(line)
        if match and not match["name"].startswith("---") and heading in (None, section):
            yield match["name"].strip(), [cell.strip() for cell in match["rest"].split("|")]


@pytest.mark.parametrize("name", sorted(ns.tasks))
def test_each_flag_of_a_task_is_listed(name: str) -> None:
    listed = {cell for cell, _ in _rows("tasks.md", name) if cell.startswith("--")}
    arguments = [(flag_name(str(argument.name)), argument.takes_value) for argument in ns.tasks[name].get_arguments()]
    assert listed == {f"{flag}={placeholder(flag)}" if takes_value else flag for flag, takes_value in arguments}


def test_flags_have_a_value_where_they_take_one() -> None:
    for name, task in ns.tasks.items():
        takes = {f"--{each.name.rstrip('_').replace('_', '-')}": each.takes_value for each in task.get_arguments()}
        for cell, _ in _rows("tasks.md", name):
            flag, has_value, _value = cell.partition("=")
            assert flag not in takes or bool(has_value) == takes[flag], f"{name}: {cell}"


def test_each_task_is_listed() -> None:
    text = (REFERENCE / "tasks.md").read_text("utf-8")
    assert set(re.findall(r"^## (\S+)$", text, re.MULTILINE)) == set(ns.tasks)


def test_each_variable_is_listed_with_its_default() -> None:
    listed = {
        name: cells[0] for name, cells in _rows("variables.md") if "." not in name and name not in ("variable", "key")
    }
    assert listed.keys() == set(variables.names(variables.Variables))
    for name, shown in listed.items():
        default = getattr(variables.Variables, name, "")
        text = str(default).lower() if isinstance(default, bool) else str(default) if default or default == 0 else ""
        assert (shown == text) or (not default and shown in _WITHOUT_VALUE), name


def test_each_key_of_the_configuration_is_listed() -> None:
    listed = {name: cells[0] for name, cells in _rows("variables.md", "Invoke's configuration") if "." in name}
    assert listed == {f"pgratchet.{key}": value for key, value in DEFAULTS.items()}


def test_each_exit_code_is_listed() -> None:
    listed = {int(code) for code, _ in _rows("exit-codes.md") if code.isdigit()}
    assert listed == {0, 1, 3, 129, 143, *ERRORS_BY_EXIT_CODE}


def test_each_directive_is_listed() -> None:
    listed = [name for name, _ in _rows("directives.md") if name != "directive"]
    _, [(_, known)] = parse_directives([(0, "no such directive")], 1)
    examples = known.rpartition("Known are ")[2].rstrip(".").split(", ")
    assert set(listed) == {example.split("=")[0] for example in examples} | {"stand-in", "replaces"}


def test_each_event_is_listed() -> None:
    assert {name for name, _ in _rows("json.md", "Events")} - {"event"} == {
        event.__name__ for event in get_args(events.Event)
    }


def test_each_column_of_the_history_is_listed() -> None:
    queries = (ROOT / "ops" / "pgratchet" / "database" / "history.sql").read_text("utf-8")
    created = queries.split("CREATE TABLE IF NOT EXISTS {table} (")[1].split(");")[0]
    columns = re.findall(r"^    (\w+) ", created, re.MULTILINE)
    assert [name for name, _ in _rows("files.md", "The history table") if name != "column"] == columns


_COMMAND = re.compile(
    r"(?:^|[`$( ])(?:invoke|pgratchet) (?P<rest>(?:--?[\w-]+(?:=\S+)? )*(?!import )[a-z][\w.-]*(?: [^`\n]*)?)"
)
_WRONG_ON_PURPOSE = ("# exits 1", "# exits 2")
_DEVELOPMENT = ("test", "lint", "bench", "check")
_INVOKES_OWN = frozenset(("--list", "--help", "--version", "--print-completion-script", "--complete"))


def _commands() -> Iterator[tuple[str, str, list[str]]]:
    """Each command in the pages, in code: the page with the line, the task, and its flags."""
    for page in all_pages():
        text = page.read_text("utf-8")
        in_code = [(block.line, line) for block in blocks(page) for line in _typed_lines(block)]
        in_code += [(text[: match.start()].count("\n") + 1, match[1]) for match in re.finditer(r"`([^`\n]+)`", text)]
        for number, code in in_code:
            for match in _COMMAND.finditer(code):
                words = [word.rstrip(",;.)'\"") for word in match["rest"].split("  #")[0].split()]
                task, flags = words[0], [word.split("=")[0] for word in words[1:] if word.startswith("--")]
                yield f"{page_name(page)}:{number}", task, flags


def _typed_lines(block: Block) -> list[str]:
    """The lines of a block without the output of commands, and without commands that are wrong on purpose."""
    lines = block.text.splitlines()
    if block.language == "text":  # what a terminal shows
        return []
    if block.language != "console":
        return [line for line in lines if not line.endswith(_WRONG_ON_PURPOSE)]
    return [line for line in lines if line.startswith("$ ") and not line.endswith(_WRONG_ON_PURPOSE)]


def test_each_command_in_the_pages_exists() -> None:
    tasks = {**ns.tasks, "init": starting.init, **{name: getattr(development, name) for name in _DEVELOPMENT}}
    mistakes = []
    for where, task, flags in _commands():
        name = task.rsplit(".", 1)[-1]
        if name not in tasks:
            if not task.startswith("-"):
                mistakes.append(f"{where}: there is no task {task}")
            continue
        known = {flag for argument in tasks[name].get_arguments() for flag in _spellings(argument.name)}
        mistakes += [f"{where}: {task} has no flag {flag}" for flag in flags if flag not in known | _INVOKES_OWN]
    assert not mistakes


def _spellings(name: str) -> set[str]:
    flag = "--" + name.rstrip("_").replace("_", "-")
    return {flag, flag.replace("--", "--no-", 1)}
