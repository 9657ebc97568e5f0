"""Files, directives, checksums, and the plan as a truth table."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgratchet.errors import ConfigurationError, HistoryDisagrees, Location
from pgratchet.migrations import files as migrations
from pgratchet.migrations import scripts
from pgratchet.migrations.files import Migration, create, read
from pgratchet.migrations.plan import HistoryRow, Plan, make_plan, require_agreement
from pgratchet.migrations.scripts import Directives, prepare

MOMENT = datetime(2025, 1, 11, 9, 30, tzinfo=timezone.utc)


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.sql").write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def file(name: str, checksum: str = "c") -> Migration:
    return Migration(name, int(name.partition("_")[0]), checksum, f"{name}.sql")


def row(name: str, checksum: str = "c", *, finished: bool = True) -> HistoryRow:
    return HistoryRow(name, checksum, MOMENT if finished else None, 1)


def mistakes(caught: pytest.ExceptionInfo[ConfigurationError]) -> list[str]:
    return caught.value.detail.splitlines()


def test_order_is_by_number_with_the_t_dropped(tmp_path: Path) -> None:
    write(tmp_path, **{"20250111T093000_c": "", "10_b": "", "9_a": "", "20250111093001_d": ""})
    assert [m.name for m in read(tmp_path)] == ["9_a", "10_b", "20250111T093000_c", "20250111093001_d"]


def test_other_files_hidden_files_and_folders_are_no_migrations(tmp_path: Path) -> None:
    write(tmp_path, **{"1_a": "", ".2_b": ""})
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "3_c.sql").mkdir()
    assert [m.name for m in read(tmp_path)] == ["1_a"]


def test_bom_and_line_ends_make_no_other_file(tmp_path: Path) -> None:
    write(tmp_path, **{"1_a": "select 1;\nselect 2;\n", "2_b": b"\xef\xbb\xbfselect 1;\r\nselect 2;\r\n"})
    first, second = read(tmp_path)
    assert first.checksum == second.checksum
    assert second.text() == b"select 1;\nselect 2;\n"


def test_checksum_is_sha256_of_the_text(tmp_path: Path) -> None:
    (one,) = read(write(tmp_path, **{"1_a": "select 1;\n"}))
    # printf 'select 1;\n' | sha256sum
    assert one.checksum == "4a45092ccf992ea92250053a80b931b787924ba61648f420555511b84f10ab6c"


def test_every_bad_file_is_named_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{"foo": "", "1_a": b"--\n\0", "2_b": b"-- caf\xe9\n", "03_c": "", "3_d": "", "4 e": "", "5_f": b"\0"},
    )
    with pytest.raises(ConfigurationError, match="6 mistakes") as caught:
        read(tmp_path)
    told = "\n".join(mistakes(caught))
    assert "foo.sql: the file name" in told
    assert "4 e.sql: the file name" in told
    assert "1_a.sql: a NUL byte at byte 4 (line 2)" in told
    assert "5_f.sql: a NUL byte at byte 1 (line 1)" in told
    assert "2_b.sql: not UTF-8: byte 0xe9 at byte 7 (line 1)" in told
    assert "the same version 3" in told


def test_the_same_moment_with_and_without_the_t_is_the_same_version(tmp_path: Path) -> None:
    write(tmp_path, **{"20250111T093000_a": "", "20250111093000_b": "", "20250111T093001_c": ""})
    with pytest.raises(ConfigurationError, match="1 mistake") as caught:
        read(tmp_path)
    assert caught.value.detail.endswith("the same version 20250111093000.")


@pytest.mark.parametrize("lead", [0, 1, 2, 3])
def test_a_large_text_is_checked_across_its_pieces(tmp_path: Path, lead: int) -> None:
    """It is decoded a piece at a time, and a character may lie across two of them."""
    text = "x" * lead + "😀" * 600_000
    (whole,) = read(write(tmp_path, **{"1_a": text}))
    assert whole.text() == text.encode()
    for at in (migrations._PIECE - 1, migrations._PIECE, 2 * migrations._PIECE + 1):
        bad = "é".encode() + b"x" * (at - 2) + b"\xff" + b"y"
        with pytest.raises(ConfigurationError, match="1 mistake") as caught:
            read(write(tmp_path, **{"1_a": bad}))
        assert f"byte 0xff at byte {at + 1} (line 1)" in caught.value.detail


def test_a_bad_byte_far_behind_a_character_that_lies_across_two_pieces_is_placed(tmp_path: Path) -> None:
    before = b"x" * (migrations._PIECE - 1) + "é".encode() + b"x" * 100_000
    with pytest.raises(ConfigurationError) as caught:
        read(write(tmp_path, **{"1_a": before + b"\xffy"}))
    assert f"byte 0xff at byte {len(before) + 1} (line 1)" in caught.value.detail


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_text_that_ends_within_a_character_is_refused(tmp_path: Path, cut: int) -> None:
    for lead in (0, migrations._PIECE - 2):
        with pytest.raises(ConfigurationError) as caught:
            read(write(tmp_path, **{"1_a": b"x" * lead + "😀".encode()[:cut]}))
        assert f"byte 0xf0 at byte {lead + 1}" in caught.value.detail


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "1_a.sql").symlink_to("nowhere")
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path)
    assert "1_a.sql: not a file that can be read" in caught.value.detail


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no migrations folder"):
        read(tmp_path / "nowhere")


def test_a_file_that_changes_under_the_run_is_refused(tmp_path: Path) -> None:
    (one,) = read(write(tmp_path, **{"1_a": "select 1"}))
    for text in ("select 2", "select 3", "select 1;", ""):
        write(tmp_path, **{"1_a": text})
        with pytest.raises(ConfigurationError, match="was changed while"):
            one.text()
    Path(one.path).unlink()
    with pytest.raises(ConfigurationError, match="was changed while"):
        one.text()


def test_directives_stand_above_the_first_statement(tmp_path: Path) -> None:
    text = (
        "-- about\n--migrate: no-transaction\n-- migrate: lock-timeout=10s\n-- migrate: statement-timeout=0\nselect 1;"
    )
    (script,) = prepare(read(write(tmp_path, **{"1_a": text})))
    assert script.directives == Directives(transactional=False, lock_timeout=10_000, statement_timeout=0)
    assert (script.statements, script.size, script.windows) == (1, len(text), ())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-- migrate: up\nselect 1", 'unknown directive "up"'),
        ("-- migrate: no-transaction=yes", "unknown directive"),
        ("-- migrate: all=1s", 'unknown directive "all=1s"'),
        ("-- migrate: zeal=1s", 'unknown directive "zeal=1s"'),
        ("-- migrate: lock-timeout", '"" is no duration'),
        ("-- migrate: lock-timeout=soon", '"soon" is no duration'),
        ("-- migrate: lock-timeout=999999999h", "is no duration"),
        ("select 1;\n-- migrate: no-transaction", "a directive below the first statement"),
        ("select\n-- migrate: no-transaction\n1", "a directive below the first statement"),
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
    ],
)
def test_what_cannot_run_is_refused_with_its_place(tmp_path: Path, text: str, reason: str) -> None:
    files = read(write(tmp_path, **{"1_a": text, "2_b": "begin"}))
    with pytest.raises(ConfigurationError, match="2 mistakes") as caught:
        prepare(files)
    assert reason in mistakes(caught)[0]
    assert mistakes(caught)[1].startswith("2_b, line 1, column 1: BEGIN")
    assert caught.value.place is not None
    assert caught.value.place.migration == "1_a"


def test_every_directive_below_the_first_statement_is_named(tmp_path: Path) -> None:
    files = read(write(tmp_path, **{"1_a": "select 1;\n-- migrate: no-transaction\n-- migrate: lock-timeout=1s\n"}))
    with pytest.raises(ConfigurationError, match="2 mistakes") as caught:
        prepare(files)
    assert [told[:18] for told in mistakes(caught)] == ["1_a, line 2, colum", "1_a, line 3, colum"]


def windows(folder: Path, text: bytes) -> list[scripts.Window]:
    return list(prepare(read(write(folder, **{"1_a": text})))[0].windows)


def test_windows_hold_whole_statements_and_rows_apart(tmp_path: Path) -> None:
    text = "select 'é';\n-- c\ncopy t from stdin;\n1\n2\n\\.\nselect 'ü'; select 3 ;".encode()
    first, copy, last = found = windows(tmp_path, text)
    assert [text[w.start : w.end].decode() for w in found] == [
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


def test_a_text_that_fits_is_sent_whole(tmp_path: Path) -> None:
    limit = scripts.SIZE_LIMIT
    exact = b"select '" + b"x" * (limit - 9) + b"'"
    assert windows(tmp_path, exact + b";") == []
    assert windows(tmp_path, b"") == []
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
def test_what_cannot_share_a_transaction_is_taken_where_none_is_declared(tmp_path: Path, text: str) -> None:
    assert prepare(read(write(tmp_path, **{"1_a": f"-- migrate: no-transaction\n{text}"})))


@pytest.mark.parametrize(
    ("files", "history", "states", "todo"),
    [
        ([], [], {}, []),
        (["1_a", "2_b"], [], {"1_a": "pending", "2_b": "pending"}, ["1_a", "2_b"]),
        (["1_a", "2_b"], [row("1_a")], {"1_a": "applied", "2_b": "pending"}, ["2_b"]),
        (["1_a"], [row("1_a")], {"1_a": "applied"}, []),
        (["1_a"], [row("1_a", "other")], {"1_a": "changed"}, []),
        (["1_a"], [row("1_a", finished=False)], {"1_a": "unfinished"}, ["1_a"]),
        (["2_b"], [row("1_a"), row("2_b")], {"1_a": "missing", "2_b": "applied"}, []),
        (["1_a", "2_b"], [row("2_b")], {"1_a": "out-of-order", "2_b": "applied"}, ["1_a"]),
        (["2_b"], [row("1_a")], {"1_a": "missing", "2_b": "pending"}, ["2_b"]),
        ([], [row("hand-made")], {"hand-made": "missing"}, []),
        (["0_a", "1_b"], [], {"0_a": "pending", "1_b": "pending"}, ["0_a", "1_b"]),
        (["1_a"], [row("1_a", "b")], {"1_a": "changed"}, []),
        (["1_a"], [row("1_a", "d")], {"1_a": "changed"}, []),
        (["1_a"], [row("1_a", "other", finished=False)], {"1_a": "unfinished"}, ["1_a"]),
    ],
)
def test_plan(files: list[str], history: list[HistoryRow], states: dict[str, str], todo: list[str]) -> None:
    made = make_plan([file(name) for name in files], history)
    assert {entry.name: entry.state for entry in made.entries} == states
    assert [m.name for m in made.todo] == todo


@pytest.mark.parametrize("to", ["2_b", "2_b.sql", "2", "002"])
def test_to_cuts_the_plan_short(to: str) -> None:
    made = make_plan([file("1_a"), file("2_b"), file("3_c")], [row("1_a")], to)
    assert [m.name for m in made.todo] == ["2_b"]
    assert made.names("pending") == ("2_b", "3_c")


def test_to_takes_all_that_is_pending_before_it() -> None:
    files = [file(name) for name in ("1_a", "2_b", "20250111093000_c", "20250111093001_d")]
    made = make_plan(files, [row("1_a")], "20250111T093000")
    assert [m.name for m in made.todo] == ["2_b", "20250111093000_c"]


def test_to_an_applied_one_leaves_nothing_to_do() -> None:
    assert make_plan([file("1_a"), file("2_b")], [row("1_a")], "1_a").todo == ()


def test_to_naming_nothing_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match='"2_bb"') as caught:
        make_plan([file("1_a"), file("2_b")], [], "2_bb")
    assert "2_b" in caught.value.detail


@given(st.lists(st.integers(1, 30), unique=True), st.sets(st.integers(1, 30)))
def test_a_plan_counts_every_name_once_and_never_runs_what_is_applied(versions: list[int], applied: set[int]) -> None:
    files = [file(f"{v}_m") for v in sorted(versions)]
    made = make_plan(files, [row(f"{v}_m") for v in sorted(applied)])
    assert {e.name for e in made.entries} == {f"{v}_m" for v in {*versions, *applied}}
    assert len(made.entries) == len({*versions, *applied})
    assert {m.version for m in made.todo} == set(versions) - applied
    assert bool(made.disagreements()) == (
        applied - set(versions) != set()
        or any(v < max(applied & set(versions), default=0) for v in set(versions) - applied)
    )


def test_disagreements_are_all_named_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, **{"1_a": "select 1;\n", "2_b": "select 2;\n", "4_d": "select 4;\n", "5_gone": "x"})
    files = read(tmp_path)
    by_name = {m.name: m for m in files}
    history = [
        row("1_a", "other"),
        row("3_gone", by_name["5_gone"].checksum[:1] + by_name["5_gone"].checksum[1:]),
        row("4_d", by_name["4_d"].checksum),
    ]
    with pytest.raises(HistoryDisagrees, match="3 migrations") as caught:
        require_agreement(make_plan(files, history), {"1_a": "select 0;\n"})
    detail = caught.value.detail
    assert "1_a: changed since it was applied at 2025-01-11 09:30:00Z." in detail
    assert "-select 0;\n+select 1;" in detail
    assert "2_b: not applied, but the newer 4_d is." in detail
    assert "3_gone: applied, but its file is gone. 5_gone has the same text: it looks renamed." in detail
    assert len(caught.value.hint.splitlines()) == 3
    assert caught.value.place == Location("1_a")


@pytest.mark.parametrize(("gone", "told"), [(1, "about 1 migration"), (2, "about 2 migrations")])
def test_disagreements_are_counted(gone: int, told: str) -> None:
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(make_plan([], [row(f"{number}_gone") for number in range(gone)]), {})
    assert caught.value.message.endswith(told)


def test_a_long_difference_is_cut_and_an_unkept_text_left_out(tmp_path: Path) -> None:
    files = read(write(tmp_path, **{"1_a": "new\n" * 100}))
    made = make_plan(files, [row("1_a", "other")])
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(made, {"1_a": "old\n" * 100})
    assert caught.value.detail.endswith("...")
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(made, {})
    assert "\n" not in caught.value.detail


def test_a_name_without_a_version_comes_first(tmp_path: Path) -> None:
    made = make_plan([file("0_a")], [row("0_a"), row("hand-made")])
    assert [entry.name for entry in made.entries] == ["hand-made", "0_a"]


@pytest.mark.parametrize(("added", "cut"), [(17, False), (18, True)])
def test_a_difference_of_twenty_lines_is_shown_whole(tmp_path: Path, added: int, *, cut: bool) -> None:
    """Three lines of heading, and one for each line that came."""
    files = read(write(tmp_path, **{"1_a": "".join(f"{number}\n" for number in range(added))}))
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(make_plan(files, [row("1_a", "other")]), {"1_a": ""})
    shown = caught.value.detail.splitlines()[1:]
    assert (shown[-1] == "...", len(shown)) == (cut, 21 if cut else 20)


def test_of_several_with_the_same_text_the_first_is_named(tmp_path: Path) -> None:
    files = read(write(tmp_path, **{"2_b": "select 1", "3_c": "select 1"}))
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(make_plan(files, [row("1_a", files[0].checksum)]), {})
    assert "1_a: applied, but its file is gone. 2_b has the same text" in caught.value.detail


@pytest.mark.parametrize("checksum", ["0" * 64, "f" * 64])
def test_a_lost_file_whose_text_is_nowhere_else_is_not_called_renamed(tmp_path: Path, checksum: str) -> None:
    files = read(write(tmp_path, **{"2_b": "select 1"}))
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(make_plan(files, [row("1_a", checksum)]), {})
    assert caught.value.detail == "1_a: applied, but its file is gone."


def test_a_difference_is_shown_with_one_line_around_it(tmp_path: Path) -> None:
    files = read(write(tmp_path, **{"1_a": "1\n2\nnew\n4\n5\n"}))
    with pytest.raises(HistoryDisagrees) as caught:
        require_agreement(make_plan(files, [row("1_a", "other")]), {"1_a": "1\n2\nold\n4\n5\n"})
    assert caught.value.detail.splitlines()[1:] == [
        "--- applied",
        "+++ file",
        "@@ -2,3 +2,3 @@",
        " 2",
        "-old",
        "+new",
        " 4",
    ]


def test_agreement_is_silent() -> None:
    require_agreement(Plan(()), {})


def test_new_names_by_utc_and_never_writes_over(tmp_path: Path) -> None:
    path = create(tmp_path / "new" / "sql", "Add E-Mail, please!", MOMENT)
    assert path.name == "20250111T093000_add_e_mail_please.sql"
    assert [m.name for m in read(path.parent)] == [path.stem]
    with pytest.raises(ConfigurationError, match="this second"):
        create(path.parent, "another", MOMENT)
    assert len(list(path.parent.iterdir())) == 1
    assert create(path.parent, "x" * 100, MOMENT.replace(second=1)).exists()


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\f\n", "\u2028\n"])
def test_what_a_new_file_is_for_stays_a_comment(tmp_path: Path, end: str) -> None:
    path = create(tmp_path, f"add it{end}DROP TABLE users;", MOMENT)
    (script,) = prepare(read(tmp_path))
    assert script.statements == 0
    assert path.read_text().startswith("-- add it DROP TABLE users;\n--")


@pytest.mark.parametrize("name", ["", "!!!", "x" * 101])
def test_new_refuses_what_makes_no_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="makes no file name"):
        create(tmp_path, name, MOMENT)


def test_durations() -> None:
    limit = 2**31 - 1
    assert scripts._milliseconds("596h") == 2_145_600_000
    assert scripts._milliseconds("999999999") == 999_999_999
    assert scripts._milliseconds("2147483s") <= limit
    for text in ("597h", "2147484s", "1d", "-1", "1.5s", " 1s", "", "12345678901"):
        with pytest.raises(migrations._MistakeError):
            scripts._milliseconds(text)
    told = {text: scripts._milliseconds(text) for text in ("0", "15", "500ms", "10s", "5min", "1h")}
    assert told == {"0": 0, "15": 15, "500ms": 500, "10s": 10_000, "5min": 300_000, "1h": 3_600_000}
