"""A schema with an object of every kind, and statements of each kind on it."""

from __future__ import annotations

from pgratchet.adopt.conversion import converted_file
from pgratchet.migrations.scripts import prepare_scripts
from pgratchet.rehearsal.report import StatementReport
from pgratchet.rehearsal.trace import Trace
from tests.servers.databases import Database

SCHEMA = """
CREATE TYPE mood AS ENUM ('ok', 'bad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE SEQUENCE numbers;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE FUNCTION twice(a int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT a * 2';
CREATE TABLE parent (id int PRIMARY KEY, name text, code varchar(10) UNIQUE);
CREATE TABLE t (id int PRIMARY KEY, parent_id int REFERENCES parent, n int, label varchar(20),
    feeling mood DEFAULT 'ok', at timestamp, note text, amount numeric(10, 2), CONSTRAINT n_small CHECK (n < 1000000));
CREATE TABLE other (id int PRIMARY KEY, t_id int);
CREATE TABLE child () INHERITS (other);
CREATE INDEX t_n ON t (n);
CREATE UNIQUE INDEX t_label ON t (label);
CREATE TABLE parts (id int, day int NOT NULL) PARTITION BY RANGE (day);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
CREATE TABLE halves (id int) PARTITION BY RANGE (id);
CREATE TABLE halves_1 PARTITION OF halves FOR VALUES FROM (0) TO (10);
CREATE TABLE loose (id int, day int NOT NULL);
CREATE TABLE even (id int, day int NOT NULL, CONSTRAINT bounds CHECK (day >= 30 AND day < 40));
CREATE VIEW v AS SELECT id, n FROM t;
CREATE MATERIALIZED VIEW m AS SELECT n, count(*) AS count FROM t GROUP BY n;
CREATE UNIQUE INDEX m_n ON m (n);
CREATE TRIGGER touched BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
CREATE POLICY everyone ON t USING (true);
CREATE STATISTICS t_stats ON n, label FROM t;
CREATE RULE nothing AS ON DELETE TO other DO ALSO NOTHING;
INSERT INTO parent SELECT g, 'p' || g, 'c' || g FROM generate_series(1, 100) AS g;
INSERT INTO t SELECT g, g % 100 + 1, g, 'l' || g, 'ok', now(), 'x', 1 FROM generate_series(1, 2000) AS g;
INSERT INTO other SELECT g, g FROM generate_series(1, 500) AS g;
INSERT INTO parts SELECT g, g % 30 FROM generate_series(1, 300) AS g;
INSERT INTO loose SELECT g, 40 + g % 10 FROM generate_series(1, 100) AS g;
REFRESH MATERIALIZED VIEW m;
ALTER TABLE other ADD CONSTRAINT later FOREIGN KEY (t_id) REFERENCES t NOT VALID;
ALTER TABLE other ADD CONSTRAINT few CHECK (id < 100000) NOT VALID;
"""

KINDS = (
    "ALTER TABLE t ADD COLUMN a int",
    "ALTER TABLE t ADD COLUMN a int DEFAULT 1",
    "ALTER TABLE t ADD COLUMN a timestamptz NOT NULL DEFAULT now()",
    "ALTER TABLE t ADD COLUMN a timestamptz DEFAULT clock_timestamp()",
    "ALTER TABLE t ADD COLUMN a int GENERATED ALWAYS AS (n * 2) STORED",
    "ALTER TABLE t ADD COLUMN a int GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE t ADD COLUMN a serial",
    "ALTER TABLE t ADD COLUMN a positive",
    "ALTER TABLE t ADD COLUMN a int REFERENCES parent",
    "ALTER TABLE t ADD COLUMN a int UNIQUE",
    "ALTER TABLE t ADD COLUMN a int CHECK (a > 0)",
    "ALTER TABLE t DROP COLUMN note",
    "ALTER TABLE t RENAME COLUMN note TO remark",
    "ALTER TABLE t RENAME TO t2",
    "ALTER TABLE t SET SCHEMA pg_catalog",
    "ALTER TABLE loose ALTER COLUMN id TYPE bigint",
    "ALTER TABLE t ALTER COLUMN label TYPE varchar(40)",
    "ALTER TABLE t ALTER COLUMN label TYPE varchar(10)",
    "ALTER TABLE t ALTER COLUMN label TYPE text",
    "ALTER TABLE t ALTER COLUMN note TYPE varchar(100)",
    "ALTER TABLE t ALTER COLUMN feeling DROP DEFAULT, ALTER COLUMN feeling TYPE text",
    "ALTER TABLE t ALTER COLUMN amount TYPE numeric(12, 2)",
    "ALTER TABLE t ALTER COLUMN amount TYPE numeric(12, 4)",
    "ALTER TABLE t ALTER COLUMN at TYPE timestamptz",
    "ALTER TABLE t ALTER COLUMN n SET DEFAULT 7",
    "ALTER TABLE t ALTER COLUMN n SET NOT NULL",
    "ALTER TABLE loose ALTER COLUMN day DROP NOT NULL",
    "ALTER TABLE t ALTER COLUMN n SET STATISTICS 500",
    "ALTER TABLE t ALTER COLUMN note SET STORAGE EXTERNAL",
    "ALTER TABLE t ALTER COLUMN n SET (n_distinct = 5)",
    "ALTER TABLE t ADD CHECK (n > 0)",
    "ALTER TABLE t ADD CONSTRAINT c CHECK (n > 0) NOT VALID",
    "ALTER TABLE t VALIDATE CONSTRAINT n_small",
    "ALTER TABLE other VALIDATE CONSTRAINT few",
    "ALTER TABLE other VALIDATE CONSTRAINT later",
    "ALTER TABLE t DROP CONSTRAINT n_small",
    "ALTER TABLE t DROP CONSTRAINT t_parent_id_fkey",
    "ALTER TABLE loose ADD FOREIGN KEY (id) REFERENCES t",
    "ALTER TABLE loose ADD FOREIGN KEY (id) REFERENCES t NOT VALID",
    "ALTER TABLE loose ADD PRIMARY KEY (id)",
    "ALTER TABLE t ADD UNIQUE (n)",
    "ALTER TABLE t ADD CONSTRAINT u UNIQUE USING INDEX t_label",
    "ALTER TABLE t ADD EXCLUDE USING btree (n WITH =)",
    "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE t FORCE ROW LEVEL SECURITY",
    "ALTER TABLE t DISABLE TRIGGER touched",
    "ALTER TABLE t ENABLE TRIGGER ALL",
    "ALTER TABLE t SET (fillfactor = 70)",
    "ALTER TABLE t SET (autovacuum_enabled = false)",
    "ALTER TABLE loose SET UNLOGGED",
    "ALTER TABLE t REPLICA IDENTITY FULL",
    "ALTER TABLE t CLUSTER ON t_n",
    "ALTER TABLE t OWNER TO CURRENT_USER",
    "ALTER TABLE child NO INHERIT other",
    "ALTER TABLE parts ATTACH PARTITION loose FOR VALUES FROM (40) TO (50)",
    "ALTER TABLE parts ATTACH PARTITION even FOR VALUES FROM (30) TO (40)",
    "ALTER TABLE parts DETACH PARTITION parts_1",
    "ALTER TABLE parts ADD COLUMN a int",
    "ALTER TABLE t ALTER COLUMN n DROP EXPRESSION IF EXISTS",
    "ALTER INDEX t_n RENAME TO t_n2",
    "ALTER INDEX t_n SET (fillfactor = 70)",
    "ALTER SEQUENCE numbers RESTART WITH 5",
    "ALTER SEQUENCE numbers INCREMENT BY 2",
    "ALTER TYPE mood ADD VALUE 'great'",
    "ALTER TYPE mood RENAME VALUE 'bad' TO 'sad'",
    "ALTER VIEW v RENAME COLUMN n TO number",
    "ALTER MATERIALIZED VIEW m RENAME TO m2",
    "ALTER POLICY everyone ON t USING (id > 0)",
    "ALTER TRIGGER touched ON t RENAME TO touched2",
    "ALTER DOMAIN positive ADD CHECK (VALUE < 1000)",
    "CLUSTER t USING t_n",
    "COMMENT ON TABLE t IS 'a table'",
    "COMMENT ON COLUMN t.n IS 'a number'",
    "CREATE INDEX ON t (at)",
    "CREATE UNIQUE INDEX ON t (id, n)",
    "CREATE INDEX ON t (twice(n)) WHERE n > 5",
    "CREATE INDEX ON parts (id)",
    "CREATE TABLE made (id int)",
    "CREATE TABLE made (id int REFERENCES t)",
    "CREATE TABLE made (LIKE t INCLUDING ALL)",
    "CREATE TABLE made () INHERITS (other)",
    "CREATE TABLE made PARTITION OF parts FOR VALUES FROM (50) TO (60)",
    "CREATE TABLE made AS SELECT * FROM t",
    "CREATE VIEW v2 AS SELECT * FROM t",
    "CREATE OR REPLACE VIEW v AS SELECT id, n, label FROM t",
    "CREATE MATERIALIZED VIEW m2 AS SELECT id FROM t",
    "CREATE TRIGGER made AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION touch()",
    "CREATE OR REPLACE FUNCTION twice(a int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 2 * a'",
    "CREATE POLICY made ON t USING (id > 0)",
    "CREATE RULE made AS ON INSERT TO t DO ALSO NOTHING",
    "CREATE STATISTICS made ON id, n FROM t",
    "CREATE SEQUENCE made OWNED BY t.n",
    "DELETE FROM loose WHERE id < 10",
    "DROP INDEX t_n",
    "DROP TABLE child",
    "DROP TABLE other CASCADE",
    "DROP TABLE parts_2",
    "DROP TABLE t CASCADE",
    "DROP VIEW v",
    "DROP MATERIALIZED VIEW m",
    "DROP TRIGGER touched ON t",
    "DROP POLICY everyone ON t",
    "DROP RULE nothing ON other",
    "DROP STATISTICS t_stats",
    "DROP SEQUENCE numbers",
    "DROP TYPE mood CASCADE",
    "GRANT SELECT ON t TO PUBLIC",
    "REVOKE ALL ON t FROM PUBLIC",
    "INSERT INTO t (id, parent_id, n) VALUES (5000, 1, 1)",
    "INSERT INTO t (id, n) SELECT id + 5000, 1 FROM other",
    "INSERT INTO parent VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
    "LOCK TABLE t IN SHARE MODE",
    "MERGE INTO parent USING other ON parent.id = other.id WHEN MATCHED THEN UPDATE SET name = 'merged'",
    "REFRESH MATERIALIZED VIEW m",
    "REFRESH MATERIALIZED VIEW CONCURRENTLY m",
    "REINDEX INDEX t_n",
    "REINDEX TABLE t",
    "SELECT nextval('numbers')",
    "SELECT count(*) FROM t",
    "SELECT * FROM t WHERE id = 5 FOR UPDATE",
    "TRUNCATE loose",
    "TRUNCATE t CASCADE",
    "UPDATE t SET n = n + 1",
    "UPDATE parts SET day = day + 1 WHERE day < 5",
    "DO $$ BEGIN UPDATE parent SET name = 'x' WHERE id = 1; END $$",
)
"""Statements that run in a transaction."""

ALONE = {
    "CREATE INDEX CONCURRENTLY made ON t (at)": {("public.t", "SHARE UPDATE EXCLUSIVE")},
    "CREATE UNIQUE INDEX CONCURRENTLY made ON t (id, n)": {("public.t", "SHARE UPDATE EXCLUSIVE")},
    "DROP INDEX CONCURRENTLY t_n": {("public.t", "SHARE UPDATE EXCLUSIVE")},
    "REINDEX INDEX CONCURRENTLY t_n": {("public.t", "SHARE UPDATE EXCLUSIVE")},
    "REINDEX TABLE CONCURRENTLY t": {("public.t", "SHARE UPDATE EXCLUSIVE")},
    "ALTER TABLE halves DETACH PARTITION halves_1 CONCURRENTLY": {("public.halves", "SHARE UPDATE EXCLUSIVE")},
    "VACUUM t": {("public.t", "SHARE UPDATE EXCLUSIVE")},
    "VACUUM FULL t": {("public.t", "ACCESS EXCLUSIVE")},
}
"""Statements that run alone, with the locks that PostgreSQL's documentation tells of."""


def trace(database: Database, sql: str, *, alone: bool = False) -> StatementReport:
    text = f"-- migrate: no-transaction\n{sql};" if alone else f"{sql};"
    traced = Trace(database.connect, prepare_scripts([converted_file("1_a", text.encode())]))
    for _ in traced.run():
        pass
    (report,) = traced.statements
    return report
