"""Directives, windows, and files that cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.errors import ConfigurationError
from pgratchet.migrations import directives, scripts
from pgratchet.migrations import files as migrations
from pgratchet.migrations.directives import Directives
from pgratchet.migrations.files import read
from pgratchet.migrations.scripts import prepare_scripts
from tests.unit.migrations.helpers import mistakes, write


def test_directives_are_read_above_the_first_statement(tmp_path: Path) -> None:
    text = (
        "-- about\n--migrate: no-transaction\n-- migrate: lock-timeout=10s\n-- migrate: statement-timeout=0\nselect 1;"
    )
    (script,) = prepare_scripts(read(write(tmp_path, **{"1_a": text})))
    assert script.directives == Directives(transactional=False, lock_timeout=10_000, statement_timeout=0)
    assert (script.statements, script.size, script.windows) == (1, len(text), ())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-- migrate: up\nselect 1", 'unknown directive "up"'),
        ("-- migrate: no-transaction=yes", "unknown directive"),
        ("-- migrate: all=1s", 'unknown directive "all=1s"'),
        ("-- migrate: zeal=1s", 'unknown directive "zeal=1s"'),
        ("-- migrate: lock-timeout", '"" is not a valid duration'),
        ("-- migrate: lock-timeout=soon", '"soon" is not a valid duration'),
        ("-- migrate: lock-timeout=999999999h", "is not a valid duration"),
        ("select 1;\n-- migrate: no-transaction", "a directive below the first statement"),
        ("select\n-- migrate: no-transaction\n1", "a directive below the first statement"),
        ("-- Migrate: no-transction\nselect 1", 'unknown directive "no-transction"'),
        ("-- migrate: no transaction\nselect 1", 'unknown directive "no transaction"'),
        ("-- migrate: no-transaction, please\nselect 1", 'unknown directive "no-transaction, please"'),
        ("-- migrate: lock timeout 10s\nselect 1", 'unknown directive "lock timeout 10s"'),
        ("-- Migrate: lock-timeout = 10s\nselect 1", 'unknown directive "lock-timeout = 10s"'),
        ("-- migrate: phase=expand after=x\nselect 1", '"expand after=x" is not a phase'),
        ("select 1;\n-- Migrate: statement_timeout 0", "a directive below the first statement"),
        ("copy t from stdin with (format csv, encoding 'latin1');\n\\.\n", "COPY with another ENCODING than UTF8"),
        ("copy t (encoding) from stdin encoding 'WIN1252';\n\\.\n", "COPY with another ENCODING than UTF8"),
        ("select 1;\nCOMMIT;", "COMMIT in a migration"),
        ("copy t to stdout", "COPY to the client"),
        ("set standard_conforming_strings = off", "standard_conforming_strings is on in every migration"),
        ("set local standard_conforming_strings to 'off'", "standard_conforming_strings is on in every migration"),
        ("copy t from stdin;\n1", "the rows of COPY ... FROM STDIN have no end"),
        ("\n-- migrate: no-transaction\ncopy t from stdin;\n\\.\n", "FROM STDIN in a file without a transaction"),
        ("\\restrict xyz\nselect 1", "a psql meta-command"),
        ("vacuum t", "VACUUM cannot run inside a transaction"),
        ("-- migrate: no-transaction\ncreate index concurrently on t (a)", "INDEX CONCURRENTLY without a name"),
        ("-- migrate: no-transaction\ncreate unique index concurrently on t (a)", "CONCURRENTLY without a name"),
        ("select 'a", "unterminated quoted string"),
        ("", "1_a.sql:1:1: holds no statement"),
        (" \n;;\n", "holds no statement"),
        ("-- add a column\n/* alter table t */", "holds no statement"),
        ("-- migrate: no-transaction\n-- later", "holds no statement"),
        ("-- migrate: empty\nselect 1", "is declared as empty, and holds statements"),
        ("-- migrate: empty=yes", 'unknown directive "empty=yes"'),
        ("select 1;\n-- migrate: empty", "a directive below the first statement"),
        ("-- migrate: after=v.sql\nselect 1", '"v.sql" names no repeatable migration'),
        ("-- migrate: after\nselect 1", '"" names no repeatable migration'),
        ("-- migrate: after=repeatable/../x.sql\nselect 1", "names no repeatable migration"),
        ("-- migrate: after=repeatable/v\n-- migrate: after=repeatable/v\nselect 1", "is there twice"),
        ("-- migrate: replaces=0001_a\nselect 1", '"0001_a" names no replaced file'),
        (f"-- migrate: phase=expand\n-- migrate: replaces=0001_a sha256:{'0' * 64}\nselect 1", "not among the first"),
    ],
)
def test_a_file_that_cannot_run_is_refused_with_its_location(tmp_path: Path, text: str, reason: str) -> None:
    files = read(write(tmp_path, **{"1_a": text, "2_b": "begin"}))
    with pytest.raises(ConfigurationError, match="2 mistakes") as caught:
        prepare_scripts(files)
    assert reason in mistakes(caught)[0]
    assert mistakes(caught)[1].startswith(f"{tmp_path}/2_b.sql:1:1: BEGIN")
    assert caught.value.location is not None
    assert caught.value.location.migration == "1_a"


@pytest.mark.parametrize(
    "comment",
    [
        "-- Migrate: users into accounts",
        "-- migrate: the old rows are kept",
        "-- MIGRATE: Users",
        "-- Migrate : no more than 1000 rows at once",
        "-- migrate : see the ticket about statement timeouts and locks",
        "-- migrated: a",
        "-- migrate",
        "-- Migrate:",
        "-- Migrate: empty the old table",
    ],
)
def test_an_ordinary_comment_is_no_directive(tmp_path: Path, comment: str) -> None:
    for text in (f"{comment}\nselect 1;", f"select 1;\n{comment}", f"select\n{comment}\n1"):
        (script,) = prepare_scripts(read(write(tmp_path, **{"1_a": text})))
        assert script.directives == Directives()


def test_rows_in_utf8_may_be_declared_as_such(tmp_path: Path) -> None:
    text = "copy t (encoding) from stdin with (encoding 'UTF-8');\né\n\\.\n"
    assert prepare_scripts(read(write(tmp_path, **{"1_a": text})))


def test_every_directive_below_the_first_statement_is_named(tmp_path: Path) -> None:
    files = read(write(tmp_path, **{"1_a": "select 1;\n-- migrate: no-transaction\n-- migrate: lock-timeout=1s\n"}))
    with pytest.raises(ConfigurationError, match="2 mistakes") as caught:
        prepare_scripts(files)
    assert [m.startswith(f"{tmp_path}/1_a.sql:{line}:1: ") for line, m in zip((2, 3), mistakes(caught), strict=True)]


def windows(folder: Path, text: bytes) -> list[scripts.Window]:
    return list(prepare_scripts(read(write(folder, **{"1_a": text})))[0].windows)


def test_windows_hold_whole_statements_and_rows_separately(tmp_path: Path) -> None:
    text = "select 'é';\n-- c\ncopy t from stdin;\n1\n2\n\\.\nselect 'ü'; select 3 ;".encode()
    first, copy, last = pieces = windows(tmp_path, text)
    assert [text[w.start : w.end].decode() for w in pieces] == [
        "select 'é'",
        "copy t from stdin",
        "select 'ü'; select 3",
    ]
    assert first.rows is last.rows is None
    assert copy.rows is not None
    assert text[slice(*copy.rows)] == b"1\n2\n"
    assert len(windows(tmp_path, b"copy t from stdin;\n\\.\n")) == 1


def test_windows_stay_under_the_limit_unless_one_statement_does_not(tmp_path: Path) -> None:
    limit = scripts.SIZE_LIMIT
    small, large = b"select 1;" * 3, b"select '" + b"x" * limit + b"';"
    sizes = [w.end - w.start for w in windows(tmp_path, small + large + small * 20_000)]
    assert sizes[:2] == [len(small) - 1, len(large) - 1]
    assert all(size <= limit for size in sizes[2:])
    assert len(sizes) == 2 + -(-len(small) * 20_000 // limit)
    assert len(windows(tmp_path, large)) == 1
    pair = b"select 1;select '" + b"x" * (limit - 18) + b"'"
    assert [w.end - w.start for w in windows(tmp_path, pair + b";select 1")] == [limit, len(b"select 1")]


def test_a_file_within_the_limit_has_no_windows(tmp_path: Path) -> None:
    limit = scripts.SIZE_LIMIT
    exact = b"select '" + b"x" * (limit - 9) + b"'"
    assert windows(tmp_path, exact + b";") == []
    assert windows(tmp_path, b"-- migrate: empty") == []
    assert windows(tmp_path, b"-- " + b"x" * limit + b"\nselect 1") == []
    assert windows(tmp_path, b"--\n" + exact.replace(b"x", b"", 1)) == []
    assert len(windows(tmp_path, b"--\n" + exact + b"'x'")) == 1
    assert len(windows(tmp_path, exact + b";select 1")) == 2
    assert len(windows(tmp_path, b"select 1;" + exact)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "vacuum",
        "create index concurrently an_index on t (x)",
        "create index concurrently zip on t (x)",
        "create index concurrently if not exists i on t (x)",
    ],
)
def test_statements_outside_a_transaction_are_accepted_with_no_transaction(tmp_path: Path, text: str) -> None:
    assert prepare_scripts(read(write(tmp_path, **{"1_a": f"-- migrate: no-transaction\n{text}"})))


def test_durations_are_parsed_within_the_limits_of_the_server() -> None:
    limit = 2**31 - 1
    assert directives.parse_duration("596h") == 2_145_600_000
    assert directives.parse_duration("999999999") == 999_999_999
    assert directives.parse_duration("2147483s") <= limit
    for text in ("597h", "2147484s", "1d", "-1", "1.5s", " 1s", "", "12345678901"):
        with pytest.raises(migrations.FileMistake):
            directives.parse_duration(text)
    durations = {text: directives.parse_duration(text) for text in ("0", "15", "500ms", "10s", "5min", "1h")}
    assert durations == {"0": 0, "15": 15, "500ms": 500, "10s": 10_000, "5min": 300_000, "1h": 3_600_000}


@pytest.mark.parametrize("second", ["lock-timeout=20s", "lock-timeout=10s", "LOCK-TIMEOUT=1s"])
def test_a_directive_that_is_there_twice_is_a_mistake(second: str) -> None:
    """The last one would win in silence."""
    from pgratchet.migrations.directives import parse_directives

    _, mistakes = parse_directives([(0, "lock-timeout=10s"), (30, second)], 60)
    assert [offset for offset, _ in mistakes] == [30]
