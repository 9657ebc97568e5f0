"""Files that are not YAML: the line, the column, and what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.config.yaml_files import Findings, Place, read_mapping

TEMPLATE = 'Put a template in quotes: "{{ ... }}".'
TAB = "a tab. YAML is indented with spaces only."
INI = "an INI file. Write it in YAML, where a name and its value are as in pg_host: db.example.com."


def mistakes(path: Path, content: str | bytes) -> list[str]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    findings = Findings()
    read_mapping(path, findings)
    return [mistake.removeprefix(str(path)) for mistake in findings.mistakes]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("all:\n\thosts:\n", f":2:1: {TAB}"),
        ("all:\r\n\thosts:\r\n", f":2:1: {TAB}"),
        ("a:\n  b: 1\n\tc: 2\n", f":3:1: {TAB}"),
        ("a:\n    b:\n    \tc: 1\n", f":3:5: {TAB}"),
        ("a:\n  pg_user: {{ env('X') }}\n", f":2:12: {TEMPLATE}"),
        ("a: {{ env('X') }}.example\nb: 1\n", f":1:4: {TEMPLATE}"),
        ("a: {{ env('X', 'y') }}\n", f":1:4: {TEMPLATE}"),
        ("a:\n  - {{ x }}\n", f":2:5: {TEMPLATE}"),
        ("a: {b: {{ x }}}\n", f":1:8: {TEMPLATE}"),
        ("a: {% if x %}b{% endif %}\n", ':1:4: Put a template in quotes: "{% ... %}".'),
        ("[all]\ndb1 pg_host=x\n", f":1:1: {INI}"),
        ("; hosts\n\n[all:vars]\n", f":3:1: {INI}"),
        ("pg_host=db", ": expected a mapping of names to values. Write NAME: VALUE in place of NAME=VALUE."),
        ("a: @b\n", ":1:4: a value cannot begin with @ without quotes. Put the value in quotes."),
        ("a: %b\n", ":1:4: a value cannot begin with % without quotes. Put the value in quotes."),
        ("a: b: c\n", ":1:5: a second colon in a line. Put the value in quotes."),
        ("a: 1\n b: 2\n", ":2:3: the indentation does not fit the line above."),
        (
            "a:\n  b: 'x\n",
            ":3:1: the file ends inside a text or a list that begins in line 2. Close its quote or bracket.",
        ),
        ("a: [1,\nb: 2", ":3:1: the brackets that open in line 1 are not closed, or a comma is missing."),
        ("a: *b\n", ":1:4: not YAML: found undefined alias."),
        ("a: 1\nb: 2024-13-45\n", ':2: "2024-13-45" cannot be read. Put the value in quotes.'),
        ("a: 1\nb: some longer text '\x01'\n", ":2: the control character U+0001, which YAML does not accept."),
        ("a: 1\nb: é\n".encode("latin-1"), ":2: a character that is not in UTF-8. Save the file as UTF-8."),
        ("a: 1\n".encode("utf-16"), ": the file is UTF-16. Save it as UTF-8."),
        ("a: 1\n".encode("utf-16-be"), ": the file is UTF-16. Save it as UTF-8."),
        ("a: 1\n".encode("utf-32"), ": the file is UTF-32. Save it as UTF-8."),
    ],
)
def test_what_is_not_yaml_is_explained_at_its_position(tmp_path: Path, text: str | bytes, mistake: str) -> None:
    assert mistakes(tmp_path / "x.yml", text) == [mistake]


@pytest.mark.parametrize("text", ["\ufeffa: 1\n", "a: 1\r\nb: 2\r\n", "a: x\t# y\n", "", "# only a comment\n"])
def test_other_texts_are_read(tmp_path: Path, text: str) -> None:
    assert mistakes(tmp_path / "x.yml", text) == []


@pytest.mark.parametrize(
    ("text", "keys", "line"),
    [
        ("all:\n  hosts:\n    db:\n      pg_host: x\n", ("all", "hosts", "db", "pg_host"), 4),
        ("a: {b: {c: 1}}\n", ("a", "b", "c"), 1),
        ("a: 1\na: 2\n", ("a",), 2),
        ("x: &x\n  b: 1\na:\n  <<: *x\n", ("a", "b"), 2),
        ("x: &x\n  b: 1\ny: &y\n  c: 1\na:\n  <<: [*x, *y]\n  d: 1\n", ("a", "c"), 4),
        ("x: &x\n  b: 1\na:\n  <<: *x\n  b: 2\n", ("a", "b"), 5),
        ('{"all":\n {"hosts":\n  {"db": 1}}}\n', ("all", "hosts", "db"), 3),
        ("a:\n  b: 1\n", ("a", "missing"), 1),
        ("a: [\n", ("a",), None),
        ("- a\n", ("a",), None),
    ],
)
def test_a_place_has_the_line_of_its_last_key(
    tmp_path: Path, text: str, keys: tuple[str, ...], line: int | None
) -> None:
    path = tmp_path / "x.yml"
    path.write_text(text)
    assert Place(path, keys).position == (f"{path}:{line}" if line else str(path))
    path.unlink()
    assert Place(path, keys).position == str(path)
