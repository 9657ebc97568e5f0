-- One kind of object for each name. Each is made in a database of its own, or with others in one.

-- name: enum
CREATE TYPE mood AS ENUM ('sad', 'it''s');
CREATE TABLE moods (m mood DEFAULT 'sad');
INSERT INTO moods VALUES ('it''s');

-- name: domain
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE counts (n positive);
INSERT INTO counts VALUES (1);

-- name: composite_type
CREATE TYPE pair AS (a int, b text);
CREATE TABLE pairs (p pair);
INSERT INTO pairs VALUES ((1, 'x'));

-- name: range_type
CREATE TYPE span AS RANGE (subtype = float8);
CREATE TABLE spans (s span);
INSERT INTO spans VALUES ('[1.5,2)');

-- name: identity
CREATE TABLE ids (id int GENERATED ALWAYS AS IDENTITY (START 7), t text);
INSERT INTO ids (t) VALUES ('a');

-- name: unused_sequence
CREATE SEQUENCE unused START 5;
CREATE SEQUENCE down INCREMENT -3 MAXVALUE 100 MINVALUE -100 START 9 CYCLE;
SELECT nextval('down');

-- name: generated_column
CREATE TABLE sums (a int, b int GENERATED ALWAYS AS (a + 1) STORED);
INSERT INTO sums VALUES (1);

-- name: partitions
CREATE TABLE days (d date) PARTITION BY RANGE (d);
CREATE TABLE d1 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE rest PARTITION OF days DEFAULT;
INSERT INTO days VALUES ('2026-01-02'), ('2027-01-01');

-- name: partitions_of_partitions
CREATE TABLE parts (a int, b text) PARTITION BY LIST (a);
CREATE TABLE p1 PARTITION OF parts FOR VALUES IN (1) PARTITION BY HASH (b);
CREATE TABLE p1_0 PARTITION OF p1 FOR VALUES WITH (MODULUS 1, REMAINDER 0);
INSERT INTO parts VALUES (1, 'x');

-- name: inheritance
CREATE TABLE animals (name text);
CREATE TABLE cats (lives int) INHERITS (animals);
INSERT INTO cats VALUES ('tom', 9);
INSERT INTO animals VALUES ('any');

-- name: view
CREATE TABLE seen (a int);
CREATE VIEW views WITH (security_barrier) AS SELECT a FROM seen WHERE a > 1 WITH CHECK OPTION;

-- name: materialized_view
CREATE TABLE base (a int);
INSERT INTO base VALUES (1);
CREATE MATERIALIZED VIEW filled AS SELECT a FROM base;
CREATE UNIQUE INDEX ON filled (a);
CREATE MATERIALIZED VIEW unfilled AS SELECT a FROM base WITH NO DATA;

-- name: indexes
CREATE TABLE indexed (a int, b text);
CREATE INDEX ON indexed (lower(b)) WHERE a > 0;
CREATE UNIQUE INDEX ON indexed (a) INCLUDE (b);
CREATE INDEX ON indexed USING hash (b);

-- name: exclusion
CREATE TABLE circles (c circle, EXCLUDE USING gist (c WITH &&));
INSERT INTO circles VALUES ('<(0,0),1>');

-- name: circular_foreign_keys
CREATE TABLE left_side (id int PRIMARY KEY, r int);
CREATE TABLE right_side (id int PRIMARY KEY, l int REFERENCES left_side DEFERRABLE INITIALLY DEFERRED);
INSERT INTO left_side VALUES (1, 1);
INSERT INTO right_side VALUES (1, 1);
ALTER TABLE left_side ADD FOREIGN KEY (r) REFERENCES right_side;

-- name: triggers
CREATE TABLE watched (a int);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER t1 AFTER INSERT ON watched EXECUTE FUNCTION note();
CREATE TRIGGER t2 AFTER DELETE ON watched EXECUTE FUNCTION note();
ALTER TABLE watched DISABLE TRIGGER t1;
ALTER TABLE watched ENABLE ALWAYS TRIGGER t2;

-- name: event_trigger
CREATE FUNCTION on_event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER events ON ddl_command_end EXECUTE FUNCTION on_event();
ALTER EVENT TRIGGER events DISABLE;

-- name: functions
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT $1 * 2';
CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int);

-- name: operator
CREATE FUNCTION near(int, int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT abs($1 - $2) < 2';
CREATE OPERATOR ~~~ (LEFTARG = int, RIGHTARG = int, FUNCTION = near, COMMUTATOR = ~~~);

-- name: cast
CREATE TYPE shade AS ENUM ('a');
CREATE FUNCTION to_int(shade) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE CAST (shade AS int) WITH FUNCTION to_int(shade) AS ASSIGNMENT;

-- name: collation
CREATE COLLATION plain FROM "C";
CREATE TABLE sorted (t text COLLATE plain);
INSERT INTO sorted VALUES ('é');

-- name: text_search
CREATE TEXT SEARCH DICTIONARY ours (TEMPLATE = simple);
CREATE TEXT SEARCH CONFIGURATION ours (COPY = simple);
ALTER TEXT SEARCH CONFIGURATION ours ALTER MAPPING FOR word WITH ours;
CREATE TABLE texts (v tsvector DEFAULT to_tsvector('ours', 'a cat'));
INSERT INTO texts DEFAULT VALUES;

-- name: row_security
CREATE TABLE secret (owner name, t text);
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secret USING (owner = current_user);
INSERT INTO secret VALUES ('x', 'y');

-- name: grants
CREATE TABLE granted (a int, b int);
GRANT SELECT ON granted TO pg_monitor WITH GRANT OPTION;
GRANT UPDATE (a) ON granted TO PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;

-- name: default_privileges
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- name: large_objects
SELECT lo_from_bytea(4711, '\x00ff');
COMMENT ON LARGE OBJECT 4711 IS 'it''s';
GRANT SELECT ON LARGE OBJECT 4711 TO pg_monitor;

-- name: publication
CREATE TABLE published (a int PRIMARY KEY);
CREATE PUBLICATION inserts FOR TABLE published WITH (publish = 'insert');

-- name: foreign_server
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
CREATE USER MAPPING FOR CURRENT_USER SERVER far;
CREATE FOREIGN TABLE away (a int) SERVER far;

-- name: extended_statistics
CREATE TABLE measured (a int, b int);
CREATE STATISTICS ab ON a, b FROM measured;
ALTER TABLE measured ALTER a SET STATISTICS 500;

-- name: unlogged
CREATE UNLOGGED TABLE scratch (a int);
INSERT INTO scratch VALUES (1);

-- name: storage
CREATE TABLE stored (t text) WITH (fillfactor = 50, autovacuum_enabled = off);
ALTER TABLE stored ALTER t SET STORAGE EXTERNAL;
INSERT INTO stored VALUES (repeat('long', 5000));

-- name: comments
CREATE TABLE said (a int);
COMMENT ON TABLE said IS 'a''b"c';
COMMENT ON COLUMN said.a IS E'two\nlines';
COMMENT ON SCHEMA public IS 'ours';

-- name: names
CREATE SCHEMA "Ä ""q"" ;--";
CREATE TABLE "Ä ""q"" ;--"."таблица.x" ("select" int, "a'b" text);
INSERT INTO "Ä ""q"" ;--"."таблица.x" VALUES (1, 'x');

-- name: rule
CREATE TABLE ruled (a int);
CREATE RULE quiet AS ON DELETE TO ruled DO INSTEAD NOTHING;

-- name: typed_table
CREATE TYPE shape AS (a int, b text);
CREATE TABLE typed OF shape (PRIMARY KEY (a));
INSERT INTO typed VALUES (1, 'x');

-- name: no_columns
CREATE TABLE none ();
INSERT INTO none DEFAULT VALUES;
CREATE TABLE dropped (a int, b int);
INSERT INTO dropped VALUES (1, 2);
ALTER TABLE dropped DROP COLUMN a;

-- name: constraints_not_validated
CREATE TABLE checked (a int);
INSERT INTO checked VALUES (-1);
ALTER TABLE checked ADD CHECK (a > 0) NOT VALID;

-- name: values
CREATE TABLE odd (f float8[], n numeric, b bytea, j jsonb, t timestamptz, i interval, s text);
INSERT INTO odd VALUES ('{NaN,Infinity,-0}', 'NaN', '\x00', '{"a": null}', 'infinity', '1 mon -1 day', E'\t\n\\.\\N');

-- name: replica_identity
CREATE TABLE copied (a int NOT NULL);
CREATE UNIQUE INDEX copied_a ON copied (a);
ALTER TABLE copied REPLICA IDENTITY USING INDEX copied_a;
ALTER TABLE copied CLUSTER ON copied_a;

-- name: text_search_and_trusted_language
CREATE FUNCTION d(int) RETURNS int LANGUAGE plpgsql SECURITY DEFINER SET search_path = 'a b', pg_temp AS 'BEGIN RETURN $1; END';
DO 'BEGIN END';
