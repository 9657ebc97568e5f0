"""Comparing the schema of a test's database with that of a file, on the server of the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pgratchet.adopt.conversion import converted_file
from pgratchet.backups.pg_programs import dump_schema, find_programs
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.database.history import History
from pgratchet.operations.base import Machine
from pgratchet.operations.schema import ReadSchema
from pgratchet.schema.builder import SchemaBuilder
from pgratchet.schema.drift import SchemaComparison
from pgratchet.schema.dump_cache import DumpCache
from pgratchet.schema.live import LiveSchema
from pgratchet.schema.scratch import Scratch
from tests.servers.databases import Database
from tests.support.targets import target_of


@contextmanager
def scratch_like(database: Database, live: LiveSchema) -> Iterator[Scratch]:
    """Scratch databases on the server of the test."""
    target = target_of(database)
    history = History()
    server = RestoreServer(target.connect_to, target.client_environment, "postgres", history)
    with closing(target.connect()) as connection:
        programs = find_programs(connection.info.server_version)

    def dump(name: str) -> bytes:
        with target.client_environment() as environ:
            return dump_schema(programs, environ, name, '"ratchet"."migrations"', *live.unreadable, privileges=True)

    yield Scratch(server, dump, live.database, live.search_path)


@contextmanager
def comparing(database: Database, cache_folder: Path, text: str) -> Iterator[SchemaComparison]:
    live = ReadSchema().run(target_of(database), Machine(cache_folder))
    version = str(database.rows("SHOW server_version")[0][0])
    builder = SchemaBuilder(lambda: scratch_like(database, live), DumpCache(cache_folder, [version]))
    with builder:
        yield SchemaComparison(builder, live, [converted_file("1_base", text.encode())])
