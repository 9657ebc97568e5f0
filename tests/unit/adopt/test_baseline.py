"""Comparing schemas for a baseline."""

from __future__ import annotations

from pgratchet.adopt import baseline
from pgratchet.database.history import History


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
    assert baseline.schema(dumped, History()) == [
        "CREATE FUNCTION public.a() RETURNS text LANGUAGE sql AS $$",
        "SET x; select ';' $$;",
        "CREATE TABLE public.b ();",
    ]
