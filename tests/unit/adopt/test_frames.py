"""Taking BEGIN and COMMIT out of other tools' SQL."""

from __future__ import annotations

import pytest

from pgratchet.adopt.frames import remove_frames


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("BEGIN;\nselect 1;\nCOMMIT;\n", "select 1;\n"),
        ("-- why\nbegin transaction;select 1;end", "-- why\nselect 1;"),
        ("begin isolation level serializable; select 1; commit work;", "select 1; "),
        ("create table a ();\nBEGIN;\nselect 1;\nCOMMIT;\nselect 2;\n", "create table a ();\nselect 1;\nselect 2;\n"),
        ("start transaction;\nselect 1;\nend transaction;\nbegin;\nselect 2;\ncommit;\n", "select 1;\nselect 2;\n"),
        ("select 1;\ncommit;\nselect 2;\n", "select 1;\nselect 2;\n"),
        ("begin;\nset transaction isolation level repeatable read;\nselect 1;\ncommit;\n", "select 1;\n"),
        ("BEGIN;\nselect 1;\n", "select 1;\n"),
    ],
)
def test_begin_and_commit_are_removed_wherever_they_stand(text: str, rest: str) -> None:
    result = remove_frames(text, transactional=True)
    assert (result.text, result.transactional, result.removed) == (rest, True, True)
    assert result.has_mode == ("isolation" in text)


@pytest.mark.parametrize(
    "text",
    [
        "select 1;",
        "select '",
        "begin; select 1; rollback;",
        "begin; select 1; commit and chain; select 2; commit;",
        "begin; select 1; prepare transaction 'a';",
        "do $$ begin perform 1; end $$;",
        "create function f() returns int language sql begin atomic; select 1; end;",
        "-- begin;\nselect 'commit;';",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    result = remove_frames(text, transactional=True)
    assert (result.text, result.transactional, result.removed) == (text, True, False)


@pytest.mark.parametrize(
    ("text", "declared", "transactional"),
    [
        ("begin; alter type t add value 'a'; commit; update x set t = 'a';", True, False),
        ("alter type t add value if not exists 'a'; commit; select 'a'::t;", True, False),
        ("begin; select 'a'::t; alter type t add value 'a'; commit;", True, True),
        ("begin; create type u as enum ('a'); commit; begin; drop type t; commit;", True, True),
        ("begin; select 1; select 2; commit;", False, True),
        ("begin; select 1; commit; vacuum;", False, False),
        ("begin; vacuum; commit;", False, False),
        ("select 1; commit; create index concurrently i on t (a);", True, False),
        ("commit; set lock_timeout = 0; drop index concurrently i;", True, False),
    ],
)
def test_a_file_is_one_transaction_unless_a_commit_matters(text: str, declared: bool, transactional: bool) -> None:
    assert remove_frames(text, transactional=declared).transactional == transactional
