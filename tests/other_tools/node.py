"""Tools from npm."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.other_tools import histories
from tests.other_tools.sample import SampleMigration
from tests.other_tools.tool import OtherTool, npm, put, run
from tests.servers.databases import Database

_PG = "pg@8.23.1"


class _Drizzle(OtherTool):
    """Drizzle's own migrator, as an application calls it: one transaction for all pending files."""

    name = "drizzle"
    programs = ("node", "npm")
    files = "drizzle"
    checksum = "hash"
    concurrent = False

    def fetch(self, home: Path) -> None:
        npm(home, f"drizzle-orm@{self.version}", _PG)
        put(home / "migrate.mjs", _DRIZZLE_RUN)

    def migrate(self, project: Path, database: Database) -> None:
        run(("node", str(self.home() / "migrate.mjs"), self.files), project, {"DATABASE_URL": database.url})


class Drizzle(_Drizzle):
    version = "0.45.4"
    history = histories.DRIZZLE

    def write(self, project: Path, steps: Sequence[SampleMigration]) -> None:
        folder = project / self.files
        entries = []
        for step in steps:
            tag = f"{step.number - 1:04d}_{step.name}"
            put(folder / f"{tag}.sql", _broken(step))
            when = 1_704_067_200_000 + step.number * 60_123
            entries.append({"idx": step.number - 1, "version": "7", "when": when, "tag": tag, "breakpoints": True})
        journal = {"version": "7", "dialect": "postgresql", "entries": entries}
        put(folder / "meta" / "_journal.json", json.dumps(journal, indent=2))


class Drizzle1(_Drizzle):
    version = "1.0.0-rc.5"
    history = histories.DRIZZLE_1

    def write(self, project: Path, steps: Sequence[SampleMigration]) -> None:
        for step in steps:
            put(project / self.files / f"{step.moment}_{step.name}" / "migration.sql", _broken(step))


class Dbmate(OtherTool):
    """The program in the npm package, without its wrapper."""

    name = "dbmate"
    version = "2.36.0"
    programs = ("npm",)
    files = "db/migrations"
    history = histories.DBMATE

    def fetch(self, home: Path) -> None:
        npm(home, f"dbmate@{self.version}")

    def write(self, project: Path, steps: Sequence[SampleMigration]) -> None:
        for step in steps:
            mark = "" if step.transactional else " transaction:false"
            text = f"-- migrate:up{mark}\n{step.text}\n-- migrate:down{mark}\n"
            put(project / self.files / f"{step.moment}_{step.name}.sql", text)

    def migrate(self, project: Path, database: Database) -> None:
        machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        package = self.home() / "node_modules" / "@dbmate" / f"{sys.platform}-{machine}"
        options = ("--env-file", "/dev/null", "--no-dump-schema", "--migrations-dir", self.files)
        run((str(package / "bin" / "dbmate"), *options, "migrate"), project, {"DATABASE_URL": database.url})


class NodePgMigrate(OtherTool):
    """Its SQL files cannot run outside a transaction; only its JavaScript files can."""

    name = "node-pg-migrate"
    version = "9.0.0"
    programs = ("node", "npm")
    concurrent = False
    history = histories.NODE_PG_MIGRATE

    def fetch(self, home: Path) -> None:
        npm(home, f"node-pg-migrate@{self.version}", _PG)

    def write(self, project: Path, steps: Sequence[SampleMigration]) -> None:
        for step in steps:
            # Thirteen digits: milliseconds since 1970. Seventeen would be read as a date.
            name = f"{1_704_067_200_000 + step.number}_{step.name.replace('_', '-')}.sql"
            put(project / self.files / name, f"-- Up Migration\n\n{step.text}\n-- Down Migration\n")

    def migrate(self, project: Path, database: Database) -> None:
        program = self.home() / "node_modules" / "node-pg-migrate" / "bin" / "node-pg-migrate.js"
        called = ("node", str(program), "up", "--migrations-dir", self.files)
        run(called, project, {"DATABASE_URL": database.url})


class Prisma(OtherTool):
    """The last version whose command runs its schema engine as WebAssembly. Other versions download an engine.

    It still looks for downloaded engines, so their paths are set; they are not run. The driver is of the next version,
    because its own driver cannot read the type `name`. A file is sent as a whole, as the downloaded engine does; the
    driver would split it at semicolons.
    """

    name = "prisma"
    version = "6.19.3"
    programs = ("node", "npm")
    files = "prisma/migrations"
    checksum = "checksum"
    history = histories.PRISMA

    def fetch(self, home: Path) -> None:
        npm(home, f"prisma@{self.version}", "@prisma/adapter-pg@7.10.0")

    def write(self, project: Path, steps: Sequence[SampleMigration]) -> None:
        put(project / "prisma" / "schema.prisma", _PRISMA_SCHEMA)
        put(project / "prisma.config.mjs", _PRISMA_CONFIG)
        put(project / self.files / "migration_lock.toml", 'provider = "postgresql"\n')
        for step in steps:
            put(project / self.files / f"{step.moment}_{step.name}" / "migration.sql", step.text)
        modules = project / "node_modules"
        if not modules.exists():
            modules.symlink_to(self.home() / "node_modules")  # its settings import what a project has installed

    def migrate(self, project: Path, database: Database) -> None:
        unused = ("PRISMA_QUERY_ENGINE_LIBRARY", "PRISMA_SCHEMA_ENGINE_BINARY")
        extra = dict.fromkeys(unused, sys.executable) | {"DATABASE_URL": database.url, "CHECKPOINT_DISABLE": "1"}
        run(("node", "node_modules/prisma/build/index.js", "migrate", "deploy"), project, extra)


def _broken(step: SampleMigration) -> str:
    return ";\n--> statement-breakpoint\n".join(step.statements) + ";"


_DRIZZLE_RUN = """\
import { drizzle } from "drizzle-orm/node-postgres";
import { migrate } from "drizzle-orm/node-postgres/migrator";
import pg from "pg";

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
await migrate(drizzle({ client: pool }), { migrationsFolder: process.argv[2] });
await pool.end();
"""
_PRISMA_SCHEMA = """\
datasource db {
  provider = "postgresql"
  url = env("DATABASE_URL")
}
"""
_PRISMA_CONFIG = """\
import { PrismaPg } from "@prisma/adapter-pg";

// The timer of a lock that was had long ago would keep the process for ten seconds.
const timeout = globalThis.setTimeout;
globalThis.setTimeout = (...given) => timeout(...given).unref();

class Whole extends PrismaPg {
  async connect() {
    const connection = await super.connect();
    const failed = (error) => connection.onError(error);
    connection.executeScript = (text) => connection.underlyingDriver().query(text).then(() => undefined, failed);
    return connection;
  }
}

export default {
  schema: "prisma/schema.prisma",
  experimental: { adapter: true },
  engine: "js",
  adapter: async () => new Whole({ connectionString: process.env.DATABASE_URL, allowExitOnIdle: true }),
};
"""
