"""Comparing schemas for a baseline."""

from __future__ import annotations

from typing import cast

import pytest

from pgratchet.schema import comparison, dump_text
from pgratchet.schema.scratch import Scratch


def test_session_settings_and_history_table_in_a_dump_are_not_differences() -> None:
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
    assert dump_text.lines(dumped, ("ratchet",)) == [
        "CREATE FUNCTION public.a() RETURNS text LANGUAGE sql AS $$",
        "SET x; select ';' $$;",
        "CREATE TABLE public.b ();",
    ]


def test_the_private_option_of_a_column_is_not_a_difference() -> None:
    dumped = (
        b"CREATE TABLE public.a (b integer);\nALTER TABLE ONLY public.a ALTER COLUMN b SET (pg_attver=1);\n"
        b"ALTER TABLE ONLY public.a ALTER COLUMN \"c d\" SET (pg_attver='2');\n"
        b"ALTER TABLE ONLY public.a ALTER COLUMN b SET (pg_attver=1, n_distinct=-0.5);\n"
    )
    assert dump_text.lines(dumped) == [
        "ALTER TABLE ONLY public.a ALTER COLUMN b SET (n_distinct=-0.5);",
        "CREATE TABLE public.a (b integer);",
    ]


NOT_NULL = """\
-- Dumped from database version {version}
CREATE TABLE public.members (
    id integer{id} NOT NULL,
    "a b" text DEFAULT 'x'::text{text} NOT NULL
);
CREATE DOMAIN public.name AS text{domain} NOT NULL;
"""
NAMED = {
    "id": " CONSTRAINT people_id_not_null",
    "text": ' CONSTRAINT "people_a b_not_null1"',
    "domain": " CONSTRAINT title_not_null",
}
UNNAMED = {"id": "", "text": "", "domain": ""}


def differing(files: dict[str, str], database: dict[str, str]) -> bool:
    """Whether two dumps differ, without a server for their round trip."""
    dumps = [NOT_NULL.format(**values).encode() for values in (files, database)]
    try:
        return bool(comparison.differences(cast(Scratch, None), dumps[0], dumps[1], ()))
    except AttributeError:  # the first comparison did not find them equal
        return True


@pytest.mark.parametrize("version", ["15.20", "18.6"])
def test_automatic_names_of_not_null_constraints_are_not_differences(version: str) -> None:
    assert not differing({**NAMED, "version": "18.6"}, {**UNNAMED, "version": version})


def test_given_names_of_not_null_constraints_differ_between_servers_that_store_them() -> None:
    given = {**NAMED, "text": " CONSTRAINT required", "version": "18.6"}
    assert differing(given, {**UNNAMED, "version": "18.6"})
    assert not differing(given, {**UNNAMED, "version": "17.9 (Debian 17.9-1)"})
    assert not differing({**UNNAMED, "version": "14.1"}, given)
    assert differing({**UNNAMED, "version": "18.6"}, {**UNNAMED, "text": " CHECK (true)", "version": "15.20"})
