"""Migration files: names, order, checksums, and new files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgratchet.errors import ConfigurationError
from pgratchet.migrations import files as migrations
from pgratchet.migrations.directives import Directives
from pgratchet.migrations.files import create, read
from pgratchet.migrations.scripts import prepare_scripts
from tests.unit.migrations.helpers import MOMENT, mistakes, write


def test_files_are_ordered_by_number_without_the_t(tmp_path: Path) -> None:
    write(tmp_path, **{"20250111T093000_c": "", "10_b": "", "9_a": "", "20250111093001_d": ""})
    assert [m.name for m in read(tmp_path)] == ["9_a", "10_b", "20250111T093000_c", "20250111093001_d"]


def test_documents_and_hidden_files_are_not_migrations(tmp_path: Path) -> None:
    write(tmp_path, **{"1_a": "", ".2_b": ""})
    (tmp_path / "README.md").write_text("x")
    assert [m.name for m in read(tmp_path)] == ["1_a"]


def test_byte_order_mark_and_line_ends_do_not_change_the_checksum(tmp_path: Path) -> None:
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
    detail = "\n".join(mistakes(caught))
    assert "foo.sql: not the file name of a migration" in detail
    assert "4 e.sql: not the file name of a migration" in detail
    assert "1_a.sql: a NUL byte at byte 4 (line 2)" in detail
    assert "5_f.sql: a NUL byte at byte 1 (line 1)" in detail
    assert "2_b.sql: not UTF-8: byte 0xe9 at byte 7 (line 1)" in detail
    assert "the same version 3" in detail


def test_a_timestamp_with_and_without_the_t_is_the_same_version(tmp_path: Path) -> None:
    write(tmp_path, **{"20250111T093000_a": "", "20250111093000_b": "", "20250111T093001_c": ""})
    with pytest.raises(ConfigurationError, match="1 mistake") as caught:
        read(tmp_path)
    assert caught.value.detail.endswith("the same version 20250111093000.")


@pytest.mark.parametrize("lead", [0, 1, 2, 3])
def test_a_character_across_two_pieces_of_a_large_file_is_accepted(tmp_path: Path, lead: int) -> None:
    """A large file is decoded in pieces."""
    text = "x" * lead + "😀" * 600_000
    (whole,) = read(write(tmp_path, **{"1_a": text}))
    assert whole.text() == text.encode()
    for at in (migrations._CHUNK - 1, migrations._CHUNK, 2 * migrations._CHUNK + 1):
        bad = "é".encode() + b"x" * (at - 2) + b"\xff" + b"y"
        with pytest.raises(ConfigurationError, match="1 mistake") as caught:
            read(write(tmp_path, **{"1_a": bad}))
        assert f"byte 0xff at byte {at + 1} (line 1)" in caught.value.detail


def test_an_invalid_byte_after_a_character_across_two_pieces_is_located(tmp_path: Path) -> None:
    before = b"x" * (migrations._CHUNK - 1) + "é".encode() + b"x" * 100_000
    with pytest.raises(ConfigurationError) as caught:
        read(write(tmp_path, **{"1_a": before + b"\xffy"}))
    assert f"byte 0xff at byte {len(before) + 1} (line 1)" in caught.value.detail


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_file_that_ends_within_a_character_is_refused(tmp_path: Path, cut: int) -> None:
    for lead in (0, migrations._CHUNK - 2):
        with pytest.raises(ConfigurationError) as caught:
            read(write(tmp_path, **{"1_a": b"x" * lead + "😀".encode()[:cut]}))
        assert f"byte 0xf0 at byte {lead + 1}" in caught.value.detail


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "1_a.sql").symlink_to("nowhere")
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path)
    assert "1_a.sql: not a regular file" in caught.value.detail


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no migrations folder"):
        read(tmp_path / "nowhere")


def test_a_file_that_changes_during_a_run_is_refused(tmp_path: Path) -> None:
    (one,) = read(write(tmp_path, **{"1_a": "select 1"}))
    for text in ("select 2", "select 3", "select 1;", ""):
        write(tmp_path, **{"1_a": text})
        with pytest.raises(ConfigurationError, match="was changed during"):
            one.text()
    Path(one.path).unlink()
    with pytest.raises(ConfigurationError, match="was changed during"):
        one.text()


def test_new_names_files_by_utc_and_never_overwrites(tmp_path: Path) -> None:
    path = create(tmp_path / "new" / "sql", "Add E-Mail, please!", MOMENT)
    assert path.name == "20250111T093000_add_e_mail_please.sql"
    assert [m.name for m in read(path.parent)] == [path.stem]
    others = [create(path.parent, name, MOMENT) for name in ("another", "Add E-Mail, please!")]
    assert [other.name for other in others] == ["20250111T093001_another.sql", "20250111T093002_add_e_mail_please.sql"]
    assert len(read(path.parent)) == 3
    assert create(path.parent, "x" * 100, MOMENT).exists()


@pytest.mark.parametrize(
    "name", ["001_users.down", "20250111T093000_a.DOWN", "1_a.undo", "1_a.rollback", "U1__a", "u1.2__a b"]
)
def test_a_down_migration_of_another_tool_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(write(tmp_path, **{name: "drop table users"}))
    assert f"{name}.sql: a down migration" in caught.value.detail
    (tmp_path / f"{name}.sql").rename(tmp_path / "002_take_down.sql")
    assert [migration.name for migration in read(tmp_path)] == ["002_take_down"]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\f\n", "\u2028\n"])
def test_the_description_of_a_new_file_stays_a_comment(tmp_path: Path, end: str) -> None:
    path = create(tmp_path, f"add it{end}DROP TABLE users;", MOMENT)
    with pytest.raises(ConfigurationError) as caught:
        prepare_scripts(read(tmp_path))
    assert "holds no statement" in caught.value.detail
    with path.open("a") as file:
        file.write("select 1;\n")
    (script,) = prepare_scripts(read(tmp_path))
    assert (script.statements, script.directives) == (1, Directives())
    assert path.read_text().startswith("-- add it DROP TABLE users;\n--")


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("", '"" gives no file name', "letters a to z or digits"),
        ("!!!", '"!!!" gives no file name', "letters a to z or digits"),
        ("日本語", '"日本語" gives no file name', "letters a to z or digits"),
        ("x" * 300, "the description is too long for a file name: it has 300 characters", "in a few words"),
        ("x" * 101, "the description is too long for a file name: it has 101 characters", "in a few words"),
    ],
)
def test_new_refuses_a_description_without_a_usable_name(tmp_path: Path, name: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        create(tmp_path / "sql", name, MOMENT)
    assert caught.value.message == message
    assert hint in caught.value.hint
    assert not (tmp_path / "sql").exists()


def test_new_takes_the_name_out_of_a_path(tmp_path: Path) -> None:
    path = create(tmp_path, "sql/005_foo.sql", MOMENT)
    assert path.name == "20250111T093000_foo.sql"
    assert path.read_text().startswith("-- foo\n")


@pytest.mark.parametrize("text", ["select 1;\n", "-- Größe der Tabelle, 表\nselect 'x';\n", "s"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_a_file_in_utf16_or_utf32_is_named_as_such(tmp_path: Path, text: str, encoding: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(write(tmp_path, **{"1_a": text.encode(encoding)}))
    assert f"1_a.sql: the file is {encoding[:6].upper()}. Save it as UTF-8." in caught.value.detail


def test_a_stray_nul_byte_is_located(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(write(tmp_path, **{"1_a": b"select 1;\nselect '\0';\n"}))
    assert "a NUL byte at byte 19 (line 2)" in caught.value.detail
