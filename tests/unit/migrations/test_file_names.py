"""Names of migration files: what is wrong with others, and names made of descriptions."""

from __future__ import annotations

import time
import unicodedata

import pytest

from pgratchet.migrations.file_names import FILE_NAME, describe_fault, description_of, make_slug, right_name


@pytest.mark.parametrize(
    ("name", "fault", "better"),
    [
        ("005_foo bar.sql", "it has a space", "005_foo_bar.sql"),
        ("005_Füß.sql", "it has the character ü (U+00FC)", "005_Fuss.sql"),
        (unicodedata.normalize("NFD", "005_ü.sql"), "it has the character ü (U+00FC)", "005_u.sql"),
        ("005_a–b.sql", "it has the character – (U+2013)", "005_a_b.sql"),
        ("005_a(1).sql", "it has the character (", "005_a_1.sql"),
        ("005_a\nb.sql", "it has a line end", "005_a_b.sql"),
        ("005_a\x07.sql", "it has the character (U+0007)", "005_a.sql"),
        ("005-foo.sql", "a hyphen follows the version, and not an underscore", "005_foo.sql"),
        ("005-2fa.sql", "a hyphen follows the version, and not an underscore", "005_2fa.sql"),
        ("005foo.sql", "the letter f follows the version, and not an underscore", "005_foo.sql"),
        ("005 foo.sql", "a space follows the version, and not an underscore", "005_foo.sql"),
        ("005_foo.SQL", "it ends in .SQL and not in .sql", "005_foo.sql"),
        ("005_foo.sql ", "a space follows .sql", "005_foo.sql"),
        (" 005_foo.sql", "a space is in front of the version", "005_foo.sql"),
        ("V5__foo.sql", "V is in front of the version", "5_foo.sql"),
        ("2025-01-11_foo.sql", "the version 2025-01-11 is neither a number nor a time", "20250111_foo.sql"),
        ("20250111T093000Z_a.sql", "the version 20250111T093000Z is neither", "20250111T093000_a.sql"),
        ("20250111t093000_a.sql", "the version 20250111t093000 is neither", "20250111T093000_a.sql"),
        ("005_2fa login.sql", "it has a space", "005_2fa_login.sql"),
        (f"1_{'x' * 200}.sql", "it has more than 180 characters behind the version", f"1_{'x' * 180}.sql"),
    ],
)
def test_a_wrong_name_is_explained_with_a_right_one(name: str, fault: str, better: str) -> None:
    said = describe_fault(name)
    assert said.startswith(f"not the file name of a migration: {fault}")
    assert f" Rename it to {better}." in said
    assert FILE_NAME.fullmatch(better)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("foo.sql", "it does not begin with a version"),
        ("005.sql", "no name follows the version"),
        ("005_.sql", "no name follows the version"),
        ("1.2_foo.sql", "the version 1.2 is neither a number nor a time"),
        ("005_日本.sql", "it has the character 日 (U+65E5)"),
        (f"{'5' * 41}_a.sql", "the version 5555"),
    ],
)
def test_a_name_without_a_right_form_is_explained_with_the_form(name: str, fault: str) -> None:
    said = describe_fault(name)
    assert said.startswith(f"not the file name of a migration: {fault}")
    assert "Name it <version>_<name>.sql, such as " in said
    assert right_name(name) is None


def test_files_of_flyway_can_be_moved_in() -> None:
    assert "`invoke adopt --from=flyway`" in describe_fault("V5__foo.sql")
    assert "flyway" not in describe_fault("005-foo.sql")


@pytest.mark.parametrize(
    "name", ["1-" * 120 + "x.sql", "1" * 250, "1T1" * 80 + "!.sql"], ids=["dates", "digits", "times"]
)
def test_the_longest_names_are_judged_fast(name: str) -> None:
    started = time.monotonic()
    assert describe_fault(name)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    ("description", "slug"),
    [
        ("Add E-Mail, please!", "add_e_mail_please"),
        ("Größe ändern", "grosse_andern"),
        ("Łódź, Tromsø, Ægir, Þór", "lodz_tromso_aegir_thor"),
        ("naïve cafe\u0301 ﬁx", "naive_cafe_fix"),
        ("表 users", "users"),
        ("日本語", ""),
        ("!!!", ""),
        ("foo.sql", "foo"),
        ("sql/005_foo.sql", "foo"),
        ("sql\\V5__foo bar.SQL", "foo_bar"),
        ("20250111T093000_add_email.sql", "add_email"),
        ("005.sql", "005"),
        ("split a/b", "split_a_b"),
    ],
)
def test_a_description_becomes_a_part_of_a_name(description: str, slug: str) -> None:
    assert make_slug(description) == slug


def test_a_description_in_words_stays_as_it_is() -> None:
    assert description_of(" Größe ändern ") == "Größe ändern"
    assert description_of("sql/005_foo.sql") == "foo"
