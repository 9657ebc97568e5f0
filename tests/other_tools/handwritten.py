"""Files and tables of other tools, written by hand from the sources of these tools."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from pgratchet.adopt.tools import flyway

ONE, TWO, THREE = "create table one (a int);\n", "create table two (a int);\n", "create table three (a int);\n"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def journal(*tags: str) -> str:
    """A journal of Drizzle, with one second between its entries."""
    return json.dumps({"entries": [{"idx": at, "tag": tag, "when": 1000 * at + 1000} for at, tag in enumerate(tags)]})


def drizzle(*rows: tuple[str, int]) -> str:
    """Rows of Drizzle, by the text of the file and the date in the journal."""
    values = ", ".join(f"('{sha(text)}', {when})" for text, when in rows)
    return f"INSERT INTO drizzle.__drizzle_migrations (hash, created_at) VALUES {values}"


def goose(*rows: tuple[int, bool]) -> str:
    values = ", ".join(f"({version}, {applied})" for version, applied in rows)
    return f"INSERT INTO goose_db_version (version_id, is_applied) VALUES {values}"


def flyway_rows(*more: tuple[int, str, str], one: str = ONE, two: str = TWO, success: bool = True) -> str:
    """Rows of Flyway for the first two files, and more by rank, version and type."""
    values = [
        f"(1, '1', 'one', 'SQL', 'V1__one.sql', {flyway.checksum(one.encode())}, 'me', '2024-01-02 03:04:05', 7, true)",
        f"(2, '2', 'two', 'SQL', 'V2__two.sql', {flyway.checksum(two.encode())}, 'me', now(), 7, {success})",
        *(f"({rank}, '{version}', 'x', '{kind}', 'x', null, 'me', now(), 0, true)" for rank, version, kind in more),
    ]
    return f"INSERT INTO flyway_schema_history VALUES {', '.join(values)}"


def flyway_repeatables(*runs: tuple[str, str], first: int = 3, kind: str = "SQL") -> str:
    """Rows of Flyway for runs of repeatables, by description and text, from a rank on."""
    values = [
        f"({rank}, NULL, '{description}', '{kind}', 'R__x.sql', {flyway.checksum(text.encode())}, 'me', "
        f"'2024-02-0{rank} 03:04:05', {rank}, true)"
        for rank, (description, text) in enumerate(runs, first)
    ]
    return f"INSERT INTO flyway_schema_history VALUES {', '.join(values)}"


def liquibase(second: str) -> str:
    """Rows of Liquibase for the changesets a and b; `second` is the exectype of b."""
    return f"""
        INSERT INTO databasechangelog (id, author, filename, dateexecuted, orderexecuted, exectype, md5sum) VALUES
            ('a', 'nene', 'db/one.sql', now(), 1, 'EXECUTED', '9:a'),
            ('b', 'nene', 'db/two.sql', now(), 2, '{second}', '9:b')
    """


def prisma(*rows: tuple[str, str, str, str]) -> str:
    """Rows of Prisma: folder, text, and SQL for their end and their rollback."""
    values = ", ".join(
        f"('{at}', '{name}', '{sha(text)}', {ended}, {rolled_back})"
        for at, (name, text, ended, rolled_back) in enumerate(rows)
    )
    columns = "id, migration_name, checksum, finished_at, rolled_back_at"
    return f"INSERT INTO _prisma_migrations ({columns}) VALUES {values}"


@dataclass(frozen=True)
class ToolLeftovers:
    """Three files of a tool, and its table after it has applied the first two."""

    files: dict[str, str]
    table: str
    rows: str
    states: tuple[str, ...] = ("claimed", "claimed", "pending")


PRISMA_ONE = ("20240101000000_one", ONE, "now()", "NULL")
SAMPLES = {
    "alembic": ToolLeftovers(
        {
            "b_one.py": "revision = 'b'\ndown_revision = None\n",
            "a_two.py": "revision: str = 'a'\ndown_revision: str = 'b'\n",
        },
        """CREATE TABLE alembic_version (
            version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))""",
        "INSERT INTO alembic_version VALUES ('a')",
        ("claimed", "claimed"),
    ),
    "dbmate": ToolLeftovers(
        {
            "20240101000000_one.sql": f"-- migrate:up\n{ONE}\n-- migrate:down\ndrop table one;\n",
            "20240102000000_two.sql": f"-- migrate:up\r\n{TWO}\r\n-- migrate:down\r\n",
            "20240103000000_three.sql": f"-- migrate:up\n{THREE}-- migrate:down\n",
        },
        "CREATE TABLE schema_migrations (version varchar(128) PRIMARY KEY)",
        "INSERT INTO schema_migrations VALUES ('20240101000000'), ('20240102000000')",
    ),
    "drizzle": ToolLeftovers(
        {
            "meta/_journal.json": journal("0000_one", "0001_two", "0002_three"),
            "0000_one.sql": ONE,
            "0001_two.sql": TWO,
            "0002_three.sql": THREE,
        },
        """CREATE SCHEMA drizzle;
        CREATE TABLE drizzle.__drizzle_migrations (id SERIAL PRIMARY KEY, hash text NOT NULL, created_at bigint)""",
        drizzle((ONE, 1000), (TWO, 2000)),
        ("verified", "verified", "pending"),
    ),
    "flyway": ToolLeftovers(
        {"V1__one.sql": ONE, "V2__two.sql": TWO.replace("\n", "\r\n"), "V3__three.sql": THREE},
        """CREATE TABLE flyway_schema_history (
            installed_rank INT NOT NULL, version VARCHAR(50), description VARCHAR(200) NOT NULL,
            type VARCHAR(20) NOT NULL, script VARCHAR(1000) NOT NULL, checksum INTEGER,
            installed_by VARCHAR(100) NOT NULL, installed_on TIMESTAMP NOT NULL DEFAULT now(),
            execution_time INTEGER NOT NULL, success BOOLEAN NOT NULL,
            CONSTRAINT flyway_schema_history_pk PRIMARY KEY (installed_rank))""",
        flyway_rows(),
        ("verified", "verified", "pending"),
    ),
    "golang-migrate": ToolLeftovers(
        {f"00000{n}_x.up.sql": text for n, text in enumerate((ONE, f"begin;\n{TWO}commit;\n", THREE), 1)},
        "CREATE TABLE schema_migrations (version bigint not null primary key, dirty boolean not null)",
        "INSERT INTO schema_migrations VALUES (2, false)",
    ),
    "goose": ToolLeftovers(
        {f"0000{n}_x.sql": f"-- +goose Up\n{text}-- +goose Down\n" for n, text in enumerate((ONE, TWO, THREE), 1)},
        """CREATE TABLE goose_db_version (
            id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, version_id bigint NOT NULL,
            is_applied boolean NOT NULL, tstamp timestamp NOT NULL DEFAULT now())""",
        goose((0, True), (1, True), (1, False), (1, True), (2, True)),
    ),
    "liquibase": ToolLeftovers(
        {
            "one.sql": f"--liquibase formatted sql\n--changeset nene:a\n{ONE}--rollback drop table one;\n",
            "two.sql": f"--liquibase formatted sql\n--changeset nene:b\n{TWO}--changeset nene:c\n{THREE}",
        },
        """CREATE TABLE databasechangelog (
            id VARCHAR(255) NOT NULL, author VARCHAR(255) NOT NULL, filename VARCHAR(255) NOT NULL,
            dateexecuted TIMESTAMP WITHOUT TIME ZONE NOT NULL, orderexecuted INTEGER NOT NULL,
            exectype VARCHAR(10) NOT NULL, md5sum VARCHAR(35), description VARCHAR(255), comments VARCHAR(255),
            tag VARCHAR(255), liquibase VARCHAR(20), contexts VARCHAR(255), labels VARCHAR(255),
            deployment_id VARCHAR(10));
        CREATE TABLE databasechangeloglock (
            id INTEGER NOT NULL, locked BOOLEAN NOT NULL, lockgranted TIMESTAMP WITHOUT TIME ZONE,
            lockedby VARCHAR(255), CONSTRAINT databasechangeloglock_pkey PRIMARY KEY (id));
        INSERT INTO databasechangeloglock VALUES (1, false, null, null)""",
        liquibase("MARK_RAN"),
    ),
    "node-pg-migrate": ToolLeftovers(
        {
            "1700000000001_one.js": "exports.up = pgm => {}",
            "1700000000002_two.sql": f"-- Up Migration\n{TWO}-- Down Migration\ndrop table two;\n",
            "1700000000003_three.sql": THREE,
        },
        "CREATE TABLE pgmigrations (id SERIAL PRIMARY KEY, name varchar(255) NOT NULL, run_on timestamp NOT NULL)",
        "INSERT INTO pgmigrations (name, run_on) VALUES ('1700000000001_one', now()), ('1700000000002_two', now())",
    ),
    "prisma": ToolLeftovers(
        {
            "20240101000000_one/migration.sql": ONE,
            "20240102000000_two/migration.sql": TWO.replace("\n", "\r\n"),
            "20240103000000_three/migration.sql": THREE,
        },
        """CREATE TABLE _prisma_migrations (
            id VARCHAR(36) PRIMARY KEY NOT NULL, checksum VARCHAR(64) NOT NULL, finished_at TIMESTAMPTZ,
            migration_name VARCHAR(255) NOT NULL, logs TEXT, rolled_back_at TIMESTAMPTZ,
            started_at TIMESTAMPTZ NOT NULL DEFAULT now(), applied_steps_count INTEGER NOT NULL DEFAULT 0)""",
        prisma(PRISMA_ONE, ("20240102000000_two", TWO, "now()", "NULL")),
        ("verified", "verified", "pending"),
    ),
    "yoyo": ToolLeftovers(
        {"0001.one.sql": ONE, "0002.two.py": "__depends__ = {'0001.one'}\n", "0003.three.sql": THREE},
        """CREATE TABLE _yoyo_migration (
            migration_hash VARCHAR(64), migration_id VARCHAR(255), applied_at_utc TIMESTAMP,
            PRIMARY KEY (migration_hash));
        CREATE TABLE yoyo_lock (locked INT DEFAULT 1, ctime TIMESTAMP, pid INT NOT NULL, PRIMARY KEY (locked))""",
        "INSERT INTO _yoyo_migration VALUES ('a', '0001.one', '2024-01-02 03:04:05'), ('b', '0002.two', now())",
    ),
}
