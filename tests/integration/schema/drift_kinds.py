"""A schema with many kinds of objects, and changes of it: one for each kind and way."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of object. The statements change the base schema; the names are those of the differences.

    `added` and `changed` are pairs of a statement and a name. `dropped` is a statement that removes an object of the
    base, and that object's name. An empty statement leaves the way out.
    """

    kind: str
    added: tuple[str, str] = ("", "")
    dropped: tuple[str, str] = ("", "")
    changed: tuple[str, str] = ("", "")


BASE = """
CREATE SCHEMA old;
CREATE SCHEMA "Ä ""q"".x";
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE old_mood AS ENUM ('a');
CREATE TYPE pair AS (a int, b text);
CREATE TYPE old_pair AS (a int);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN old_positive AS int;
CREATE TYPE span AS RANGE (subtype = float8);
CREATE TYPE old_span AS RANGE (subtype = float8);
CREATE SEQUENCE counter;
CREATE SEQUENCE old_counter;
CREATE FUNCTION one(a int) RETURNS int LANGUAGE sql AS 'SELECT a';
CREATE FUNCTION one(a text) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION old_one(a int) RETURNS int LANGUAGE sql AS 'SELECT a';
CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE PROCEDURE act() LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE old_act() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int);
CREATE AGGREGATE old_total(int) (sfunc = int4pl, stype = int);
CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email varchar(50) NOT NULL,
    status varchar(10) CHECK (status IN ('a', 'b')),
    old_column text,
    n int DEFAULT 3,
    m mood DEFAULT 'ok',
    low text GENERATED ALWAYS AS (lower(email)) STORED,
    team int,
    CONSTRAINT old_check CHECK (n > 0),
    CONSTRAINT range_check CHECK (n BETWEEN 1 AND 9)
);
CREATE TABLE teams (id int PRIMARY KEY, name text UNIQUE, during tsrange);
CREATE TABLE old_table (id int PRIMARY KEY, t text);
CREATE INDEX ON old_table (t);
CREATE TABLE options (a int, b text) WITH (fillfactor = 70);
CREATE UNLOGGED TABLE unlogged (a int);
CREATE TABLE replicated (a int NOT NULL);
CREATE UNIQUE INDEX replicated_a ON replicated (a);
CREATE TABLE parent (a int);
CREATE TABLE child (b int) INHERITS (parent);
CREATE TABLE days (d date, t text) PARTITION BY RANGE (d);
CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE TABLE days_3 (d date, t text);
CREATE INDEX days_t ON days (t);
CREATE INDEX users_email ON users (email) WHERE status IN ('a', 'b');
CREATE INDEX old_index ON users (n);
CREATE VIEW active AS SELECT id, email FROM users WHERE status IN ('a', 'b');
CREATE VIEW old_view AS SELECT 1 AS one;
CREATE MATERIALIZED VIEW counts AS SELECT count(*) AS n FROM users;
CREATE MATERIALIZED VIEW old_counts AS SELECT 1 AS one;
CREATE TRIGGER touch BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touched();
CREATE TRIGGER old_touch BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touched();
CREATE RULE quiet AS ON DELETE TO options DO INSTEAD NOTHING;
CREATE RULE old_quiet AS ON UPDATE TO options DO INSTEAD NOTHING;
CREATE POLICY own ON users USING (email = current_user);
CREATE POLICY old_own ON users USING (true);
ALTER TABLE teams ENABLE ROW LEVEL SECURITY;
ALTER TABLE users ADD CONSTRAINT old_fk FOREIGN KEY (team) REFERENCES teams;
ALTER TABLE users ADD CONSTRAINT team_fk FOREIGN KEY (team) REFERENCES teams ON DELETE CASCADE;
CREATE STATISTICS dependent ON a, b FROM options;
CREATE STATISTICS old_dependent (ndistinct) ON a, b FROM options;
CREATE PUBLICATION published FOR TABLE options;
CREATE PUBLICATION old_published;
CREATE COLLATION plain (provider = libc, locale = 'C');
CREATE COLLATION old_plain (provider = libc, locale = 'C');
CREATE TEXT SEARCH CONFIGURATION old_words (COPY = simple);
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
CREATE SERVER old_far FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE away (a int) SERVER far;
CREATE OPERATOR @#@ (leftarg = int, rightarg = int, function = int4pl);
CREATE OPERATOR CLASS old_class FOR TYPE int USING btree AS OPERATOR 1 <;
CREATE CAST (pair AS old_pair) WITH INOUT;
CREATE EVENT TRIGGER old_events ON ddl_command_end EXECUTE FUNCTION on_ddl();
CREATE EXTENSION hstore;
COMMENT ON TABLE users IS 'people';
COMMENT ON COLUMN users.n IS 'old';
GRANT SELECT ON users TO pg_monitor;
GRANT UPDATE (n) ON users TO pg_monitor;
GRANT USAGE ON SEQUENCE counter TO pg_monitor;
GRANT EXECUTE ON FUNCTION one(int) TO pg_monitor;
ALTER DEFAULT PRIVILEGES IN SCHEMA old GRANT SELECT ON TABLES TO pg_monitor;
"""

KINDS = (
    Kind(
        "partition",
        ("ALTER TABLE days ATTACH PARTITION days_3 FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')", "public.days_3"),
        ("ALTER TABLE days DETACH PARTITION days_2", "public.days_2"),
        (
            (
                "ALTER TABLE days DETACH PARTITION days_1;"
                " ALTER TABLE days ATTACH PARTITION days_1 FOR VALUES FROM ('2026-01-05') TO ('2026-02-01')"
            ),
            "public.days_1",
        ),
    ),
    Kind("schema", ("CREATE SCHEMA new", "new"), ('DROP SCHEMA "Ä ""q"".x"', 'Ä "q".x')),
    Kind(
        "type",
        ("CREATE TYPE new_mood AS ENUM ('x')", "public.new_mood"),
        ("DROP TYPE old_mood", "public.old_mood"),
        ("ALTER TYPE mood ADD VALUE 'great'", "public.mood"),
    ),
    Kind(
        "type",
        ("CREATE TYPE new_span AS RANGE (subtype = int)", "public.new_span"),
        ("DROP TYPE old_span", "public.old_span"),
        ("ALTER TYPE pair ADD ATTRIBUTE c int", "public.pair"),
    ),
    Kind(
        "domain",
        ("CREATE DOMAIN new_positive AS int", "public.new_positive"),
        ("DROP DOMAIN old_positive", "public.old_positive"),
        ("ALTER DOMAIN positive SET NOT NULL", "public.positive"),
    ),
    Kind(
        "sequence",
        ("CREATE SEQUENCE new_counter", "public.new_counter"),
        ("DROP SEQUENCE old_counter", "public.old_counter"),
        ("ALTER SEQUENCE counter INCREMENT 2", "public.counter"),
    ),
    Kind(
        "function",
        ("CREATE FUNCTION one(a bigint) RETURNS int LANGUAGE sql AS 'SELECT 2'", "public.one(bigint)"),
        ("DROP FUNCTION old_one", "public.old_one(integer)"),
        ("CREATE OR REPLACE FUNCTION one(a text) RETURNS int LANGUAGE sql AS 'SELECT 9'", "public.one(text)"),
    ),
    Kind(
        "procedure",
        ("CREATE PROCEDURE new_act() LANGUAGE sql AS 'SELECT 1'", "public.new_act()"),
        ("DROP PROCEDURE old_act", "public.old_act()"),
        ("CREATE OR REPLACE PROCEDURE act() LANGUAGE sql AS 'SELECT 2'", "public.act()"),
    ),
    Kind(
        "aggregate",
        ("CREATE AGGREGATE new_total(int) (sfunc = int4pl, stype = int)", "public.new_total(integer)"),
        ("DROP AGGREGATE old_total(int)", "public.old_total(integer)"),
        (
            "DROP AGGREGATE total(int); CREATE AGGREGATE total(int) (sfunc = int4mul, stype = int)",
            "public.total(integer)",
        ),
    ),
    Kind(
        "table",
        ('CREATE TABLE new_table (id int PRIMARY KEY, "a b" text UNIQUE)', "public.new_table"),
        ("DROP TABLE old_table", "public.old_table"),
        ("ALTER TABLE options SET (fillfactor = 50)", "public.options"),
    ),
    Kind(
        "table",
        (f"CREATE TABLE {'x' * 63} ()", f"public.{'x' * 63}"),
        ("", ""),
        ("ALTER TABLE unlogged SET LOGGED", "public.unlogged"),
    ),
    Kind(
        "table", ("", ""), ("", ""), ("ALTER TABLE child NO INHERIT parent; ALTER TABLE child DROP a", "public.child")
    ),
    Kind(
        "column",
        ("ALTER TABLE users ADD note text", "public.users.note"),
        ("ALTER TABLE users DROP old_column", "public.users.old_column"),
        ("ALTER TABLE users ALTER n DROP DEFAULT", "public.users.n"),
    ),
    Kind(
        "column",
        ("ALTER TABLE days ADD k int", "public.days.k"),
        ("ALTER TABLE days DROP t CASCADE", "public.days.t"),
        ("ALTER TABLE teams ALTER name TYPE varchar(9)", "public.teams.name"),
    ),
    Kind("column", ("", ""), ("", ""), ("ALTER TABLE users ALTER email DROP NOT NULL", "public.users.email")),
    Kind("column", ("", ""), ("", ""), ("ALTER TABLE users ALTER m SET STATISTICS 9", "public.users.m")),
    Kind("column", ("", ""), ("", ""), ("ALTER TABLE users ALTER low DROP EXPRESSION", "public.users.low")),
    Kind(
        "column",
        ("", ""),
        ("", ""),
        ("ALTER TABLE users ALTER old_column SET STORAGE external", "public.users.old_column"),
    ),
    Kind(
        "constraint",
        ("ALTER TABLE users ADD CONSTRAINT new_check CHECK (n < 99)", "public.users.new_check"),
        ("ALTER TABLE users DROP CONSTRAINT old_check", "public.users.old_check"),
        (
            (
                "ALTER TABLE users DROP CONSTRAINT users_status_check;"
                " ALTER TABLE users ADD CONSTRAINT users_status_check CHECK (status IN ('a', 'b', 'c'))"
            ),
            "public.users.users_status_check",
        ),
    ),
    Kind(
        "constraint",
        ("ALTER TABLE options ADD CONSTRAINT options_key UNIQUE (a)", "public.options.options_key"),
        ("ALTER TABLE users DROP CONSTRAINT old_fk", "public.users.old_fk"),
        (
            (
                "ALTER TABLE users DROP CONSTRAINT team_fk;"
                " ALTER TABLE users ADD CONSTRAINT team_fk FOREIGN KEY (team) REFERENCES teams ON DELETE SET NULL"
            ),
            "public.users.team_fk",
        ),
    ),
    Kind(
        "constraint",
        ("ALTER TABLE teams ADD CONSTRAINT apart EXCLUDE USING gist (during WITH &&)", "public.teams.apart"),
        ("ALTER TABLE teams DROP CONSTRAINT teams_name_key", "public.teams.teams_name_key"),
        (
            (
                "ALTER TABLE users DROP CONSTRAINT range_check;"
                " ALTER TABLE users ADD CONSTRAINT range_check CHECK (n BETWEEN 1 AND 9) NOT VALID"
            ),
            "public.users.range_check",
        ),
    ),
    Kind(
        "index",
        ("CREATE UNIQUE INDEX new_index ON users (lower(email))", "public.new_index"),
        ("DROP INDEX old_index", "public.old_index"),
        ("DROP INDEX users_email; CREATE INDEX users_email ON users (email) WHERE status = 'a'", "public.users_email"),
    ),
    Kind(
        "index",
        ("CREATE INDEX days_d ON days (d)", "public.days_d"),
        ("", ""),
        ("DROP INDEX days_t; CREATE INDEX days_t ON days (t DESC)", "public.days_t"),
    ),
    Kind(
        "view",
        ("CREATE VIEW new_view AS SELECT 1 AS one", "public.new_view"),
        ("DROP VIEW old_view", "public.old_view"),
        ("CREATE OR REPLACE VIEW active AS SELECT id, email FROM users WHERE status = 'a'", "public.active"),
    ),
    Kind(
        "materialized view",
        ("CREATE MATERIALIZED VIEW new_counts AS SELECT 1 AS one", "public.new_counts"),
        ("DROP MATERIALIZED VIEW old_counts", "public.old_counts"),
        (
            "DROP MATERIALIZED VIEW counts; CREATE MATERIALIZED VIEW counts AS SELECT count(email) AS n FROM users",
            "public.counts",
        ),
    ),
    Kind(
        "trigger",
        (
            "CREATE TRIGGER new_touch BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION touched()",
            "public.users.new_touch",
        ),
        ("DROP TRIGGER old_touch ON users", "public.users.old_touch"),
        ("ALTER TABLE users DISABLE TRIGGER touch", "public.users.touch"),
    ),
    Kind(
        "rule",
        ("CREATE RULE new_quiet AS ON INSERT TO options DO INSTEAD NOTHING", "public.options.new_quiet"),
        ("DROP RULE old_quiet ON options", "public.options.old_quiet"),
        ("CREATE OR REPLACE RULE quiet AS ON DELETE TO options DO ALSO NOTHING", "public.options.quiet"),
    ),
    Kind(
        "policy",
        ("CREATE POLICY new_own ON users USING (false)", "public.users.new_own"),
        ("DROP POLICY old_own ON users", "public.users.old_own"),
        ("ALTER POLICY own ON users USING (email = session_user)", "public.users.own"),
    ),
    Kind(
        "row-level security",
        ("ALTER TABLE users ENABLE ROW LEVEL SECURITY", "public.users"),
        ("ALTER TABLE teams DISABLE ROW LEVEL SECURITY", "public.teams"),
    ),
    Kind(
        "statistics",
        ("CREATE STATISTICS new_dependent (mcv) ON a, b FROM options", "public.new_dependent"),
        ("DROP STATISTICS old_dependent", "public.old_dependent"),
        ("ALTER STATISTICS dependent SET STATISTICS 5", "public.dependent"),
    ),
    Kind(
        "publication",
        ("CREATE PUBLICATION new_published", "new_published"),
        ("DROP PUBLICATION old_published", "old_published"),
        ("ALTER PUBLICATION published SET (publish = 'insert')", "published"),
    ),
    Kind(
        "table of a publication",
        ("ALTER PUBLICATION published ADD TABLE teams", "public.published teams"),
        ("ALTER PUBLICATION published DROP TABLE options", "public.published options"),
    ),
    Kind(
        "collation",
        ("CREATE COLLATION new_plain (provider = libc, locale = 'POSIX')", "public.new_plain"),
        ("DROP COLLATION old_plain", "public.old_plain"),
        ("DROP COLLATION plain; CREATE COLLATION plain (provider = libc, locale = 'POSIX')", "public.plain"),
    ),
    Kind(
        "text search configuration",
        ("CREATE TEXT SEARCH CONFIGURATION new_words (COPY = simple)", "public.new_words"),
        ("DROP TEXT SEARCH CONFIGURATION old_words", "public.old_words"),
        ("ALTER TEXT SEARCH CONFIGURATION old_words ALTER MAPPING FOR word WITH english_stem", "public.old_words"),
    ),
    Kind(
        "server",
        ("CREATE SERVER new_far FOREIGN DATA WRAPPER nowhere", "new_far"),
        ("DROP SERVER old_far", "old_far"),
        ("ALTER SERVER far VERSION '2'", "far"),
    ),
    Kind(
        "foreign table",
        ("CREATE FOREIGN TABLE new_away (a int) SERVER far", "public.new_away"),
        ("DROP FOREIGN TABLE away", "public.away"),
        ("ALTER FOREIGN TABLE away OPTIONS (ADD x 'y')", "public.away"),
    ),
    Kind(
        "operator",
        ("CREATE OPERATOR @@# (leftarg = int, rightarg = int, function = int4pl)", "public.@@#"),
        ("DROP OPERATOR @#@ (int, int)", "public.@#@"),
    ),
    Kind("operator class", ("", ""), ("DROP OPERATOR FAMILY old_class USING btree CASCADE", "public.old_class")),
    Kind(
        "cast",
        ("CREATE CAST (old_pair AS pair) WITH INOUT", "CAST (public.old_pair AS public.pair)"),
        ("DROP CAST (pair AS old_pair)", "CAST (public.pair AS public.old_pair)"),
    ),
    Kind(
        "event trigger",
        ("CREATE EVENT TRIGGER new_events ON ddl_command_end EXECUTE FUNCTION on_ddl()", "new_events"),
        ("DROP EVENT TRIGGER old_events", "old_events"),
        ("ALTER EVENT TRIGGER old_events DISABLE", "old_events"),
    ),
    Kind("extension", ("CREATE EXTENSION citext", "citext"), ("DROP EXTENSION hstore", "hstore")),
    Kind(
        "comment",
        ("COMMENT ON TABLE teams IS 'groups'", "table public.teams"),
        ("COMMENT ON COLUMN users.n IS NULL", "column public.users.n"),
        ("COMMENT ON TABLE users IS 'persons'", "table public.users"),
    ),
    Kind(
        "privileges",
        ("GRANT INSERT ON teams TO pg_monitor", "table public.teams"),
        ("REVOKE ALL ON SEQUENCE counter FROM pg_monitor", "sequence public.counter"),
        ("GRANT DELETE ON users TO pg_monitor", "table public.users"),
    ),
    Kind(
        "privileges",
        ("GRANT SELECT (name) ON teams TO PUBLIC", "column public.teams.name"),
        ("REVOKE UPDATE (n) ON users FROM pg_monitor", "column public.users.n"),
        ("GRANT INSERT (n) ON users TO pg_monitor", "column public.users.n"),
    ),
    Kind(
        "privileges",
        ("GRANT USAGE ON SCHEMA old TO pg_monitor", "schema old"),
        ("REVOKE EXECUTE ON FUNCTION one(int) FROM pg_monitor", "function public.one(a integer)"),
        ("REVOKE EXECUTE ON FUNCTION one(int) FROM PUBLIC", "function public.one(a integer)"),
    ),
    Kind(
        "default privileges",
        ("ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO pg_monitor", "DEFAULT PRIVILEGES FOR FUNCTIONS"),
        (
            "ALTER DEFAULT PRIVILEGES IN SCHEMA old REVOKE SELECT ON TABLES FROM pg_monitor",
            "old.DEFAULT PRIVILEGES FOR TABLES",
        ),
        (
            "ALTER DEFAULT PRIVILEGES IN SCHEMA old GRANT INSERT ON TABLES TO pg_monitor",
            "old.DEFAULT PRIVILEGES FOR TABLES",
        ),
    ),
)
