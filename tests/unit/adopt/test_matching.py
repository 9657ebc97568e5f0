"""What another tool's rows and files mean together, and what each tool's files become."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pgratchet.adopt import baseline
from pgratchet.adopt.matching import match_rows, matched, our_names, state_of
from pgratchet.adopt.tools import (
    ALL,
    alembic,
    dbmate,
    drizzle,
    flyway,
    golang_migrate,
    goose,
    liquibase,
    node_pg_migrate,
    prisma,
    yoyo,
)
from pgratchet.adopt.tools.tool import HistoryTable, ToolMigration, ToolRow, by_dependence, closed, without_frame
from pgratchet.database.history import History
from pgratchet.errors import ConfigurationError
from pgratchet.migrations import files as migrations
from pgratchet.migrations import scripts
from tests.other_tools.handwritten import SAMPLES

SQL = "create table t (a int);\n"
APPLIED, UNDONE, FAILED = ToolRow(("1",)), ToolRow(("1",), "undone"), ToolRow(("1",), "failed")


def file(version: str, **given: Any) -> ToolMigration:
    return ToolMigration(
        **{"name": f"{version}_x", "keys": (version,), "version": version, "title": "x", "up": SQL, **given}
    )


def test_every_tool_is_there_once_and_told_from_the_others() -> None:
    assert {tool.name for tool in ALL} == set(SAMPLES)
    assert len(ALL) == len(SAMPLES)
    same = [tool for tool in ALL if tool.table == "schema_migrations"]
    assert [tool.name for tool in same if tool.columns <= {"version"} and not tool.without & {"version"}] == ["dbmate"]
    both = {"version", "dirty"}
    assert [tool.name for tool in same if tool.columns <= both and not tool.without & both] == ["golang-migrate"]


@pytest.mark.parametrize(
    ("row", "checksums", "late", "state"),
    [
        (None, "", False, "pending"),
        (None, "", True, "skipped"),
        (APPLIED, "", False, "claimed"),
        (APPLIED, "", True, "claimed"),
        (APPLIED, "a", False, "claimed"),
        (ToolRow(("1",), checksum="a"), "", False, "claimed"),
        (ToolRow(("1",), checksum="a"), "ab", True, "verified"),
        (ToolRow(("1",), checksum="c"), "ab", False, "changed"),
        (UNDONE, "", False, "rolled back"),
        (UNDONE, "", True, "skipped"),
        (FAILED, "", False, "failed"),
        (FAILED, "", True, "failed"),
    ],
)
def test_states(row: ToolRow | None, checksums: str, late: bool, state: str) -> None:
    assert state_of(file("1", checksums=frozenset(checksums)), row, late=late) == state


def states(files: Sequence[ToolMigration], rows: Sequence[ToolRow]) -> list[tuple[str | None, str]]:
    items, _ = match_rows("tool", files, rows, {})
    return [(item.ours.name if item.ours else None, item.state) for item in items]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([], ["pending", "pending", "pending"]),
        (["1"], ["claimed", "pending", "pending"]),
        (["1", "2", "3"], ["claimed", "claimed", "claimed"]),
        (["1", "3"], ["claimed", "skipped", "claimed"]),
        (["3"], ["skipped", "skipped", "claimed"]),
        (["1", "9"], ["claimed", "pending", "pending", "no file"]),
    ],
)
def test_files_and_rows_are_matched_one_by_one(rows: list[str], found: list[str]) -> None:
    files = [file("1"), file("2"), file("3")]
    assert [state for _, state in states(files, [ToolRow((key,)) for key in rows])] == found


def test_a_row_takes_the_file_of_its_surest_key_and_a_file_is_taken_once() -> None:
    files = [file("1", keys=("a", "same")), file("2", keys=("b", "same"))]
    assert [state for _, state in states(files, [ToolRow(("b", "same")), ToolRow(("x", "same"))])] == [
        "claimed",
        "claimed",
    ]


def test_a_row_that_was_taken_back_needs_no_file_and_one_that_failed_does_not_hide() -> None:
    assert states([], [UNDONE]) == []
    assert states([], [FAILED]) == [(None, "failed")]


def test_what_has_no_place_in_the_order_follows_what_is_applied() -> None:
    files = [file("1"), file("2"), file("", keys=("r",), loose=True), file("", keys=("s",), loose=True)]
    found = states(files, [ToolRow(("1",)), ToolRow(("r",))])
    assert [name for name, _ in found] == ["0001_x", "0002_x", "0003_x", "0004_x"]
    assert [state for _, state in found] == ["claimed", "claimed", "pending", "pending"]


@pytest.mark.parametrize(
    ("versions", "names"),
    [
        (["1", "2"], ["1_x", "2_x"]),
        (["0000", "0001"], ["0000_x", "0001_x"]),
        (["20240101000000", "20240101000001"], ["20240101000000_x", "20240101000001_x"]),
        (["10", "9"], ["0001_x", "0002_x"]),
        (["1", "01"], ["0001_x", "0002_x"]),
        (["1", ""], ["0001_x", "0002_x"]),
        (["1", "2.1"], ["0001_x", "0002_x"]),
    ],
)
def test_names_keep_versions_that_rise_and_are_counted_otherwise(versions: list[str], names: list[str]) -> None:
    found, notes = our_names([file(version) for version in versions], "tool")
    assert found == names
    assert bool(notes) == (names[0] == "0001_x")


@pytest.mark.parametrize(("title", "name"), [("a b/c", "1_a_b_c"), ("é", "1_migration"), ("x" * 300, "1_" + "x" * 120)])
def test_names_are_ones_that_we_read(title: str, name: str) -> None:
    assert our_names([file("1", title=title)], "tool")[0] == [name]


def text_of(given: ToolMigration, rows: Sequence[ToolRow] = ()) -> str:
    (item,), _ = match_rows("tool", [given], rows, {})
    assert item.ours
    return item.ours.body.decode()


def test_no_transaction_is_declared_and_what_is_no_sql_is_stood_for() -> None:
    assert text_of(file("1", transactional=False)) == f"-- migrate: no-transaction\n{SQL}"
    assert text_of(file("1", up="", obstacle="It is Go.")).startswith("-- Stands for 1_x of tool")
    (item,), _ = match_rows("tool", [file("1", up="")], [], {})
    assert item.ours
    assert scripts.prepare([item.ours])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"up": "", "obstacle": "It is Go, not SQL."}, "It is Go, not SQL."),
        ({"up": "begin; select 1; commit;"}, "BEGIN in a migration"),
        ({"up": "vacuum"}, "VACUUM cannot run inside a transaction"),
        ({"up": "\\i other.sql"}, "psql meta-command"),
        ({"up": "select '"}, "unterminated"),
        ({"up": "select '\0'"}, "NUL"),
    ],
)
def test_what_cannot_run_is_refused_while_pending_and_remarked_once_applied(given: dict[str, str], says: str) -> None:
    (item,), _ = match_rows("tool", [file("1", **given)], [], {})
    assert item.state == "cannot run"
    assert says in " ".join(item.remarks)
    (item,), _ = match_rows("tool", [file("1", **given)], [APPLIED], {})
    assert item.state == "claimed"
    assert says in " ".join(item.remarks)


def test_a_file_that_is_there_is_taken_for_what_is_no_sql(tmp_path: Path) -> None:
    ours = migrations.read(write(tmp_path, **{"1_x.sql": "select 1;"}))
    (item,), _ = match_rows("tool", [file("1", up="", obstacle="It is Go.")], [], {each.name: each for each in ours})
    assert item.state == "pending"
    assert item.ours
    assert item.ours.body == b"select 1;"
    assert item.ours.checksum == ours[0].checksum


def test_a_file_that_only_stands_for_another_does_not_let_it_run(tmp_path: Path) -> None:
    given = file("1", up="", obstacle="It is Go.")
    (applied,), _ = match_rows("tool", [given], [APPLIED], {})
    assert applied.ours
    ours = migrations.read(write(tmp_path, **{"1_x.sql": applied.ours.body.decode()}))
    for rows, state in (([APPLIED], "claimed"), ([UNDONE], "cannot run"), ([], "cannot run")):
        (item,), _ = match_rows("tool", [given], rows, {each.name: each for each in ours})
        assert item.state == state
        assert "It is Go." in item.remarks


def test_a_key_that_files_share_tells_of_none_of_them() -> None:
    files = [file("1", keys=("same",)), file("2", keys=("same",))]
    assert [state for _, state in states(files, [ToolRow(("same",))])] == ["pending", "pending", "no file"]
    assert [state for _, state in states([file("1", keys=("same", "same"))], [ToolRow(("same",))])] == ["claimed"]


def test_elsewhere_all_is_pending_and_says_what_it_was() -> None:
    items, notes = match_rows("tool", [file("1"), file("2")], [APPLIED, ToolRow(("9",))], {}, elsewhere=True)
    assert [(item.state, item.remarks) for item in items] == [
        ("pending", ("There it is claimed.",)),
        ("pending", ("There it was not run.",)),
    ]
    assert notes == ("9 has a row there, and no file.",)


# The pages of the tools.


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return folder


def ups(files: Sequence[ToolMigration]) -> list[tuple[str, str, bool]]:
    return [(each.version, " ".join(each.up.split()), each.transactional) for each in files]


def journal(*entries: tuple[str, int]) -> str:
    import json

    return json.dumps({"entries": [{"idx": i, "tag": tag, "when": w} for i, (tag, w) in enumerate(entries)]})


def test_drizzle_by_its_journal(tmp_path: Path) -> None:
    text = (
        "create table a (i int)\n--> statement-breakpoint\ncreate table b (i int);--> statement-breakpoint\nselect 1;"
    )
    write(
        tmp_path,
        **{
            "meta/_journal.json": journal(("0000_one", 1700000000000), ("0001_two", 1700000001000)),
            "0000_one.sql": text,
            "0001_two.sql": SQL,
            "0002_not_in_it.sql": SQL,
        },
    )
    first, second = drizzle.files(tmp_path)
    assert first.up == "create table a (i int)\n;\ncreate table b (i int);\nselect 1;"
    assert (second.version, second.title) == ("0001", "two")
    digest = hashlib.sha256(text.encode()).hexdigest()
    raw = {"id": 1, "hash": digest, "created_at": 1700000000000}
    (row,) = drizzle.rows([raw], ())
    assert row.moment is None  # created_at is the journal's date
    assert states([first, second], [row]) == [("0000_one", "verified"), ("0001_two", "pending")]
    (row,) = drizzle.rows([{**raw, "created_at": 5}], ())
    assert states([first, second], [row])[0] == ("0000_one", "verified")  # by its hash, where the date was lost
    (row,) = drizzle.rows([{**raw, "hash": "0" * 64}], ())
    assert states([first, second], [row])[0] == ("0000_one", "changed")


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("stored", ["\n", "\r\n"])
def test_drizzle_and_prisma_do_not_mind_a_checkout_with_other_line_ends(
    tmp_path: Path, line_end: str, stored: str
) -> None:
    text = "create table a (i int);\nselect 1;\n"
    write(tmp_path, **{"20240101000000_a/migration.sql": text.replace("\n", line_end)})
    digest = hashlib.sha256(text.replace("\n", stored).encode()).hexdigest()
    for tool in (drizzle, prisma):
        (given,) = tool.files(tmp_path)
        assert digest in given.checksums
        assert "\r" not in given.up


def test_drizzle_of_1_0_by_name_or_by_the_second_of_an_older_row(tmp_path: Path) -> None:
    write(tmp_path, **{"20231114221320_a/migration.sql": SQL, "20231114221321_b/migration.sql": SQL + SQL})
    files = drizzle.files(tmp_path)
    digests = [hashlib.sha256(each.encode()).hexdigest() for each in (SQL, SQL + SQL)]
    old = {"id": 1, "hash": digests[0], "created_at": 1700000000123, "name": None, "applied_at": None}
    new = {
        "id": 2,
        "hash": digests[1],
        "created_at": 9,
        "name": "20231114221321_b",
        "applied_at": "2024-01-01T00:00:00Z",
    }
    rows = drizzle.rows([new, old], ())
    assert [row.moment for row in rows] == [None, "2024-01-01T00:00:00Z"]
    assert [state for _, state in states(files, rows)] == ["verified", "verified"]


@pytest.mark.parametrize(
    ("text", "is_sqlite"),
    [
        ("CREATE TABLE `a` (`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL);", True),
        ("create table a (id integer primary key autoincrement)", True),
        ("PRAGMA foreign_keys=ON;", True),
        ("create table a (t integer default (unixepoch()))", True),
        ("create table a (t text default '`'); -- a ` in a comment", False),
        (SQL, False),
    ],
)
def test_sqlites_own_sql_is_told(text: str, is_sqlite: bool) -> None:
    assert bool(drizzle.of_sqlite(text)) == is_sqlite


def test_a_journal_that_is_none_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, **{"meta/_journal.json": "{}"})
    with pytest.raises(ConfigurationError, match="no journal"):
        drizzle.files(tmp_path)
    write(tmp_path, **{"meta/_journal.json": journal(("0000_one", 1))})
    with pytest.raises(ConfigurationError, match=r"0000_one\.sql is in Drizzle's journal"):
        drizzle.files(tmp_path)


def test_flyways_checksum_is_of_the_lines_and_signed() -> None:
    lines = zlib.crc32(b"create table a (i int);select 1; ")
    expected = lines - (1 << 32) if lines >= 1 << 31 else lines
    for end in ("\n", "\r\n", "\r"):
        for start in ("", "\ufeff"):
            for last in ("", end):
                text = f"{start}create table a (i int);{end}select 1; {last}"
                assert flyway.checksum(text.encode()) == expected
    found = [flyway.checksum(f"select {n};".encode()) for n in range(20)]
    assert min(found) < 0 < max(found)
    assert all(-(1 << 31) <= each < 1 << 31 for each in found)
    assert flyway.checksum(b"select 1;") != flyway.checksum(b"select 1; ")


def flyway_row(rank: int, version: str | None, kind: str = "SQL", **given: Any) -> dict[str, Any]:
    raw = {"installed_rank": rank, "version": version, "description": "x", "type": kind, "checksum": None}
    return {**raw, "success": True, "installed_on": "2024-01-01T00:00:00", "execution_time": 5, **given}


def test_flyways_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "V1__one.sql": SQL,
            "V1_1__two.sql": SQL,
            "sub/V10__ten.sql": "create index concurrently i on t (a);",
            "V2__conf.sql": "select 1;",
            "V2__conf.sql.conf": "executeInTransaction=false\n",
            "V3__placeholder.sql": "select '${x}';",
            "R__view.sql": "create view v as select 1;",
            "U1__undo.sql": "drop table t;",
        },
    )
    files = flyway.files(tmp_path)
    assert [each.name for each in files] == [
        "V1__one",
        "V1_1__two",
        "V2__conf",
        "V3__placeholder",
        "V10__ten",
        "R__view",
    ]
    assert [each.transactional for each in files] == [True, True, False, True, False, True]
    assert files[3].obstacle == "It has the placeholder ${x}."
    assert files[5].loose


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([flyway_row(1, "1")], ["claimed", "pending"]),
        ([flyway_row(1, "1.0"), flyway_row(2, "2")], ["claimed", "claimed"]),
        ([flyway_row(1, "1"), flyway_row(2, "2", success=False)], ["claimed", "failed"]),
        ([flyway_row(1, "1"), flyway_row(2, "2"), flyway_row(3, "2", "UNDO_SQL")], ["claimed", "rolled back"]),
        ([flyway_row(1, "1"), flyway_row(2, "1", "UNDO_SQL"), flyway_row(3, "1")], ["claimed", "pending"]),
        ([flyway_row(1, "1"), flyway_row(2, "2"), flyway_row(3, "2", "DELETE")], ["claimed", "rolled back"]),
        ([flyway_row(1, "1", "BASELINE"), flyway_row(2, "2")], ["failed", "claimed"]),
        ([flyway_row(0, None, "SCHEMA"), flyway_row(1, "1")], ["claimed", "pending"]),
        ([flyway_row(1, "1", checksum=7)], ["changed", "pending"]),
        ([flyway_row(1, "3", "JDBC")], ["pending", "pending", "no file"]),
    ],
)
def test_flyways_rows(tmp_path: Path, rows: list[dict[str, Any]], found: list[str]) -> None:
    write(tmp_path, **{"V1__a.sql": SQL, "V2__b.sql": SQL})
    files = flyway.files(tmp_path)
    assert [state for _, state in states(files, flyway.rows(rows, files))] == found


def test_dbmate(tmp_path: Path) -> None:
    text = "-- a comment\n-- migrate:up transaction:false\nselect 1;\n\n"
    text += "-- migrate:down\nselect 2;\n-- migrate:up\nselect 3;\n"
    write(tmp_path, **{"2_b.sql": text, "1_a.sql": "-- migrate:up\r\nselect 0;\r\n-- migrate:down\r\n", "3_c.sql": SQL})
    assert ups(dbmate.files(tmp_path)) == [("1", "select 0;", True), ("2", "select 1; select 3;", False)]
    assert dbmate.rows([{"version": "1"}], ()) == [ToolRow(("1",))]


def test_golang_migrate(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "000010_b.up.sql": "create index concurrently i on t (a);",
            "000009_a.up.sql": "BEGIN;\nselect 1;\nCOMMIT;\n",
            "000009_a.down.sql": "x",
        },
    )
    files = golang_migrate.files(tmp_path)
    assert ups(files) == [
        ("000009", "select 1;", True),
        ("000010", "create index concurrently i on t (a);", False),
    ]
    for version, dirty, found in (
        (9, False, ["claimed", "pending"]),
        (10, False, ["claimed", "claimed"]),
        (10, True, ["claimed", "failed"]),
        (11, False, ["claimed", "claimed", "no file"]),
        (-1, False, ["pending", "pending"]),
    ):
        rows = golang_migrate.rows([{"version": version, "dirty": dirty}], files)
        assert [state for _, state in states(files, rows)] == found, (version, dirty)
    assert golang_migrate.rows([], files) == []


def test_goose(tmp_path: Path) -> None:
    text = (
        "-- +goose NO TRANSACTION\n-- +goose Up\n-- +goose StatementBegin\nselect 1\n-- +goose StatementEnd\n"
        "select 2;\n-- +goose Down\n-- +goose StatementBegin\nselect 3;\n-- +goose StatementEnd\nselect 4;\n"
    )
    write(
        tmp_path,
        **{
            "00001_a.sql": text,
            "00002_b.go": "package x",
            "00002_b_test.go": "",
            "00003_c.sql": "-- +goose Up\n-- +goose ENVSUB ON\nselect '${X}';\n",
        },
    )
    files = goose.files(tmp_path)
    assert ups(files[:1]) == [("00001", "select 1 ; select 2;", False)]
    assert [each.obstacle for each in files] == [
        "",
        "It is Go, not SQL.",
        "goose fills in environment variables in it.",
    ]
    raw = [
        {"id": at, "version_id": version, "is_applied": applied, "tstamp": "t"}
        for at, (version, applied) in enumerate([(0, True), (1, True), (2, True), (2, False), (1, False), (1, True)])
    ]
    assert [(row.keys, row.outcome) for row in goose.rows(raw, ())] == [(("1",), "applied"), (("2",), "undone")]


def revision(name: str, below: str, extra: str = "") -> str:
    return (
        f'"""{name}"""\nimport sqlalchemy\nrevision: str = "{name}"\ndown_revision = {below}\n{extra}raise SystemExit\n'
    )


def test_alembic_walks_down_from_the_heads_and_runs_nothing(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "zz_first.py": revision("zz", "None"),
            "aa_second.py": revision("aa", "'zz'"),
            "bb_branch.py": revision("bb", "'zz'", "depends_on = 'aa'\n"),
            "cc_merge.py": revision("cc", "('aa', 'bb')"),
            "__init__.py": "",
        },
    )
    files = alembic.files(tmp_path)
    assert [each.keys[0] for each in files] == ["zz", "aa", "bb", "cc"]
    assert [row.keys[0] for row in alembic.rows([{"version_num": "bb"}], files)] == ["zz", "aa", "bb"]
    found = states(files, alembic.rows([{"version_num": "cc"}], files))
    assert found[0] == ("0001_first", "claimed")
    assert [state for _, state in states(files, alembic.rows([{"version_num": "nn"}], files))][-1] == "no file"
    write(tmp_path, **{"dd.py": "this is not"})
    with pytest.raises(ConfigurationError, match="cannot be read as Python"):
        alembic.files(tmp_path)


def test_yoyo(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "20240101_01_abcde-one.sql": "-- depends: 20240101_02_fghij-two\nselect 1;",
            "20240101_02_fghij-two.sql": "-- two\n-- depends: \n\n--transactional: false\nvacuum;",
            "20240101_02_fghij-two.rollback.sql": "x",
            "20240102_01_klmno-three.py": "__depends__ = {'20240101_01_abcde-one'}\n",
            "post-apply.sql": "x",
        },
    )
    files = yoyo.files(tmp_path)
    assert [each.title for each in files] == ["two", "one", "three"]
    assert ups(files[:2]) == [("2024010102", "-- two vacuum;", False), ("2024010101", "select 1;", True)]
    (row,) = yoyo.rows([{"migration_id": "20240101_01_abcde-one", "applied_at_utc": "2024-01-01T00:00:00"}], ())
    assert row.moment == "2024-01-01T00:00:00+00"


def test_node_pg_migrate(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "1700000000001_b.sql": "-- Up Migration\nselect 1;\n-- Down Migration\nselect 2;",
            "20231114221320000_a.sql": "select 0;",
            "1700000000002_c.js": "x",
        },
    )
    files = node_pg_migrate.files(tmp_path)
    assert [each.title for each in files] == ["a", "b", "c"]
    assert [" ".join(each.up.split()) for each in files] == ["select 0;", "select 1;", ""]
    assert our_names(files, "x")[0][0] == "0001_a"  # 17 digits before 13


def prisma_row(name: str, started: str, finished: str | None = "f", rolled: str | None = None) -> dict[str, Any]:
    raw = {"migration_name": name, "started_at": started, "finished_at": finished, "rolled_back_at": rolled}
    return {**raw, "checksum": hashlib.sha256(SQL.encode()).hexdigest()}


@pytest.mark.parametrize(
    ("rows", "state"),
    [
        ([], "pending"),
        ([prisma_row("1_a", "1")], "verified"),
        ([prisma_row("1_a", "1", None)], "failed"),
        ([prisma_row("1_a", "1", None, "r")], "rolled back"),
        ([prisma_row("1_a", "2"), prisma_row("1_a", "1", None, "r")], "verified"),
        ([prisma_row("1_a", "1", None, "r"), prisma_row("1_a", "2", None)], "failed"),
        ([{**prisma_row("1_a", "1"), "checksum": "0"}], "changed"),
    ],
)
def test_prismas_rows(tmp_path: Path, rows: list[dict[str, Any]], state: str) -> None:
    write(tmp_path, **{"1_a/migration.sql": SQL, "migration_lock.toml": ""})
    files = prisma.files(tmp_path)
    assert [found for _, found in states(files, prisma.rows(rows, files))] == [state]


def test_prismas_old_checksums_have_no_leading_zeros(tmp_path: Path) -> None:
    write(tmp_path, **{"1_a/migration.sql": SQL})
    old = "".join(f"{byte:x}" for byte in hashlib.sha256(SQL.encode()).digest())
    assert old in prisma.files(tmp_path)[0].checksums


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("a/001.sql", "a"),
        ("classpath:db/changelog/b/001.sql", "b"),
        ("/b/001.sql", "b"),
        ("001.sql", None),
        ("c/001.sql", None),
        ("xa/001.sql", None),
    ],
)
def test_liquibases_paths_may_begin_elsewhere_but_are_never_guessed(
    tmp_path: Path, place: str, found: str | None
) -> None:
    text = "--liquibase formatted sql\n--changeset nene:1\nselect 1;\n"
    files = liquibase.files(write(tmp_path, **{"a/001.sql": text, "b/001.sql": text}))
    raw = {"id": "1", "author": "nene", "filename": place, "dateexecuted": "d", "orderexecuted": 1, "exectype": "RERAN"}
    pairs, orphans = matched(files, liquibase.rows([raw], ()))
    assert [file.name[0] for file, row in pairs if row] == ([found] if found else [])
    assert bool(orphans) == (found is None)


def test_liquibase(tmp_path: Path) -> None:
    text = (
        "--liquibase formatted sql\n\n--changeset nene:1 runInTransaction:false\nselect 1;\n--rollback drop table t;\n"
        '--changeset "ne ne":"two" dbms:!oracle\n--comment: what\nselect 2;\n/* liquibase rollback\nselect 3;\n*/\n'
        "--\ncomment on table t is 'x';\n--\nrollback;\n"
        "--changeset nene:3 dbms:mysql,h2\nselect 4;\n--changeset nene:4 ignore:true\nselect 5;\n"
        "--changeset nene:5 endDelimiter:/\nselect 6;\n--changeset nene:6\n--preconditions onFail:HALT\nselect 7;\n"
    )
    write(tmp_path, **{"changes/001.sql": text, "plain.sql": SQL})
    one, two, *odd = liquibase.files(tmp_path)
    assert [each.obstacle for each in odd] == ["Its statements end with /.", "It has preconditions."]
    assert two.keys[0] == "two ne ne changes/001.sql"
    assert ups([one, two]) == [
        ("1", "select 1;", False),
        ("", "select 2; -- comment on table t is 'x'; -- rollback;", True),
    ]
    raw = {"id": "1", "author": "nene", "filename": "classpath:db/changes/001.sql", "dateexecuted": "d"}
    for kind, state in (
        ("EXECUTED", "claimed"),
        ("MARK_RAN", "claimed"),
        ("FAILED", "failed"),
        ("SKIPPED", "rolled back"),
    ):
        rows = liquibase.rows([{**raw, "orderexecuted": 1, "exectype": kind}], ())
        assert states([one], rows) == [("1_001_1", state)], kind


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("BEGIN;\nselect 1;\nCOMMIT;\n", "select 1;\n\n"),
        ("-- why\nbegin transaction;select 1;end", "-- why\nselect 1;"),
        ("begin isolation level serializable; select 1; commit;", None),
        ("begin; select 1; commit; select 2;", None),
        ("select 1;", None),
        ("select '", None),
    ],
)
def test_the_transaction_around_a_text_is_taken_off(text: str, left: str | None) -> None:
    assert without_frame(text) == (text if left is None else left)


def test_pieces_are_closed_and_order_is_by_dependence() -> None:
    assert [closed(text) for text in ("a", "a;", "a; -- b", " ", "a;\n")] == ["a\n;", "a;", "a; -- b\n;", "", "a;"]
    assert by_dependence("abc", {"a": "c", "b": "", "c": "b"}) == ["b", "c", "a"]
    assert sorted(by_dependence("ab", {"a": "b", "b": "a"})) == ["a", "b"]
    many = [str(number) for number in range(5_000)]
    assert by_dependence(reversed(many), {one: (str(int(one) - 1),) for one in many}) == many


def test_the_locks_of_the_tools_are_what_they_take() -> None:
    table = HistoryTable("db", "public", "t")
    keys = {tool.name: tool.lock(table) for tool in ALL if tool.lock}
    assert keys["goose"] == 4097083626
    assert keys["golang-migrate"] == zlib.crc32(b"public\0t\0db") * 1486364155 % (1 << 32)
    text = '"public"."t"'
    hashed = sum(ord(c) * 31 ** (len(text) - 1 - i) for i, c in enumerate(text)) % (1 << 32)
    assert keys["flyway"] == int.from_bytes(b"Flyway", "big") + (hashed - (1 << 32) if hashed >= 1 << 31 else hashed)
    assert all(-(1 << 63) <= key < 1 << 63 for key in keys.values())


def test_what_a_dump_says_of_its_session_and_of_our_history_is_no_difference() -> None:
    dumped = rb"""
\restrict abc
SET lock_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);
-- Name: ratchet
CREATE SCHEMA ratchet;
CREATE TABLE public.b ();
CREATE FUNCTION public.a() RETURNS text LANGUAGE sql AS $$
SET x; select ';' $$;
\unrestrict abc
"""
    assert baseline.schema(dumped, History()) == [
        "CREATE FUNCTION public.a() RETURNS text LANGUAGE sql AS $$",
        "SET x; select ';' $$;",
        "CREATE TABLE public.b ();",
    ]
