"""`invoke doctor` names functions that a restore cannot run, and no others."""

from __future__ import annotations

from contextlib import closing

import pytest

from pgratchet.checks.findings import Finding
from pgratchet.checks.restorability import check_functions_of_restores
from tests.servers.databases import Database

SETUP = """
CREATE TABLE lookup (a int); CREATE SCHEMA lib; CREATE TYPE mood AS ENUM ('good');
CREATE FUNCTION lib.normal(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)';
CREATE FUNCTION normal(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)';
CREATE TABLE t (a int, b text);
"""
FAULTS = {
    "index, sql": "CREATE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE sql SET search_path = public AS 'SELECT"
    " normal($1)'; CREATE INDEX ON t (f(b)); ALTER FUNCTION f RESET search_path",
    "index, plpgsql": "CREATE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN normal($1);"
    " END'; CREATE INDEX ON t (f(b))",
    "check, plpgsql": "CREATE FUNCTION f(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN EXISTS (SELECT 1 FROM"
    " lookup AS l WHERE l.a = $1); END'; ALTER TABLE t ADD CHECK (f(a))",
    "check of a domain": "CREATE FUNCTION f(int) RETURNS bool LANGUAGE sql AS 'SELECT count(*) = 0 FROM lookup';"
    " CREATE DOMAIN d AS int CHECK (f(VALUE))",
    "type": "CREATE FUNCTION f(text) RETURNS bool LANGUAGE plpgsql AS 'DECLARE m mood; BEGIN m := $1; RETURN true;"
    " END'; ALTER TABLE t ADD CHECK (f(b))",
    "cast": "CREATE FUNCTION f(text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN $1::mood IS NOT NULL; END';"
    " ALTER TABLE t ADD CHECK (f(b))",
    "generated column": "CREATE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN normal($1);"
    " END'; ALTER TABLE t ADD g text GENERATED ALWAYS AS (f(b)) STORED",
    "view of a view": "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql SET search_path = public AS 'BEGIN RETURN"
    " (SELECT count(*) FROM lookup); END'; CREATE VIEW v AS SELECT f(); CREATE MATERIALIZED VIEW m AS SELECT * FROM v;"
    " ALTER FUNCTION f RESET search_path",
    "operator": "CREATE FUNCTION f(text, int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN normal($1) = $1; END';"
    " CREATE OPERATOR ~! (FUNCTION = f, LEFTARG = text, RIGHTARG = int); ALTER TABLE t ADD CHECK (b ~! a)",
}
HARMLESS = """
CREATE FUNCTION with_path(text) RETURNS text IMMUTABLE LANGUAGE sql SET search_path = public AS 'SELECT normal($1)';
CREATE FUNCTION qualified(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
    'BEGIN RETURN (SELECT public.normal($1) FROM public.lookup AS l JOIN lib.t ON true); END';
CREATE TABLE created (a int); CREATE TABLE total (a int);
CREATE FUNCTION date_part(a text, b int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION keyword(timestamp) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
DECLARE lookup int := 1; total int; created timestamp := $1;
BEGIN -- normal(x) FROM lookup
    WITH mood AS (SELECT 1 AS a), t (a) AS (SELECT 2) SELECT a INTO total FROM mood;
    IF total IS DISTINCT FROM lookup THEN RAISE NOTICE 'normal(x) FROM lookup'; END IF;
    RETURN extract(year FROM created) + date_part('year', created) + coalesce(total, 0)::int + greatest(lookup, 1);
END $$;
CREATE FUNCTION not_used(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN normal($1) FROM lookup; END';
CREATE FUNCTION by_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM normal(NEW.b); RETURN NEW; END';
CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION by_trigger();
CREATE FUNCTION plain(text, VARIADIC text[]) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1';
CREATE EXTENSION citext; CREATE EXTENSION hstore;
CREATE TABLE u (id int GENERATED ALWAYS AS IDENTITY, at timestamp, e citext CHECK (e ~ '@'), h hstore,
    n text GENERATED ALWAYS AS (with_path('x')) STORED, CHECK (keyword(at) > 0), CHECK (not_used IS NULL),
    not_used text DEFAULT not_used('x'), EXCLUDE USING gist (box(point(id, id), point(id, id)) WITH &&));
CREATE INDEX ON u (with_path(n)); CREATE INDEX ON u (keyword(at)); CREATE INDEX ON u (plain(n, n));
CREATE INDEX ON u USING gin (h); CREATE VIEW v AS SELECT not_used('x');
CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM u;
"""


def findings_of(database: Database) -> list[Finding]:
    before = database.fingerprint()
    with closing(database.connect()) as connection:
        path = connection.execute("SHOW search_path").fetchone()
        findings = list(check_functions_of_restores(connection))
        assert connection.execute("SHOW search_path").fetchone() == path
    assert database.fingerprint() == before
    return findings


@pytest.mark.every_major
def test_each_use_is_found_and_its_remedy_helps(database: Database) -> None:
    database.run(SETUP)
    for use, statements in FAULTS.items():
        database.run(statements)
        (finding,) = findings_of(database)
        assert finding.severity == "warning", use
        assert finding.what.startswith("public.f("), use
        assert "needs a search_path" in finding.what
        assert finding.remedy.startswith("ALTER FUNCTION public.f("), use
        assert finding.remedy.endswith(' SET search_path = "public", pg_temp;'), use
        database.run(finding.remedy)
        assert findings_of(database) == [], use
        database.run("DROP FUNCTION f CASCADE; DROP DOMAIN IF EXISTS d")


@pytest.mark.every_major
def test_ordinary_databases_have_no_findings(database: Database, migrated: Database) -> None:
    assert findings_of(migrated) == []
    database.run(SETUP + HARMLESS)
    assert findings_of(database) == []


def test_the_schemas_of_the_names_are_in_the_remedy(database: Database) -> None:
    database.run(SETUP)
    database.run(
        'CREATE SCHEMA "Other"; CREATE FUNCTION "Other".only_here(text) RETURNS text LANGUAGE sql AS \'SELECT $1\';'
        " CREATE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN only_here($1); END';"
        " CREATE INDEX ON t (f(b))"
    )
    (finding,) = findings_of(database)
    assert finding.remedy == 'ALTER FUNCTION public.f(text) SET search_path = "Other", pg_temp;'
    assert "only_here" in finding.what
    assert "the index public.t_f_idx" in finding.what
