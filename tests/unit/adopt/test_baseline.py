"""Schemas compared for a baseline."""

from __future__ import annotations

from pgratchet.adopt import baseline
from pgratchet.database.history import History


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
