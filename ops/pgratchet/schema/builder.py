"""Builds the schema of migration files on a scratch server, which starts when it is first needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field

import psycopg

from pgratchet.errors import ConfigurationError, MigrationFailed, StoppedPartWay
from pgratchet.migrations.files import Migration
from pgratchet.schema.build import build, create_roles
from pgratchet.schema.dump_cache import DumpCache
from pgratchet.schema.dump_text import without_meta_commands
from pgratchet.schema.live import append_versions, read_extensions
from pgratchet.schema.scratch import Scratch, restore_accepted

OpenScratch = Callable[[], AbstractContextManager[Scratch]]


_OTHER_SERVER = (
    "If the scratch server lacks something, set drill_environment in the inventory to an environment whose server has "
    "it. If a role is missing, add it to `roles`. Nothing was changed."
)


@contextmanager
def _explaining_failure() -> Iterator[None]:
    """Say that a migration failed on the scratch server, where an error of a run names the target and a backup."""
    try:
        yield
    except (MigrationFailed, StoppedPartWay) as error:
        raise ConfigurationError(
            "the schema of the migrations cannot be built on a scratch server",
            detail=f"{error.message}.",
            hint=_OTHER_SERVER,
            location=error.location,
        ) from error


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A dump that was restored and dumped again. `refused` are statements that the server does not accept."""

    dump: bytes
    refused: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class SchemaBuilder:
    """Builds schemas, and restores dumps, on a scratch server with these roles. Use as a context manager.

    Results are kept in `cache`, so a second call with the same files or dump needs no server.
    """

    open_scratch: OpenScratch
    cache: DumpCache
    roles: Sequence[str] = ()
    _stack: ExitStack = field(default_factory=ExitStack)
    _scratch: Scratch | None = None

    def __enter__(self) -> SchemaBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def build(self, files: Sequence[Migration]) -> bytes:
        """The dump of a database that has run the files, with the versions of its extensions.

        Raises ConfigurationError when a file fails there.
        """
        key = [f"{file.name} {file.checksum}" for file in files]
        return self.cache.get_or_make(["files", *self.roles, *key], lambda: self._build(files))

    def _build(self, files: Sequence[Migration]) -> bytes:
        scratch = self._started()
        with closing(scratch.server.open_session(scratch.server.maintenance)) as connection:
            create_roles(connection, self.roles, files)
        with scratch.database("files") as name:
            with _explaining_failure():
                build(scratch, name, files, "schema")
            with closing(scratch.server.open_session(name)) as connection:
                versions = read_extensions(connection)
            return append_versions(without_meta_commands(scratch.dump(name)), versions)

    def round_trip(self, dump: bytes) -> RoundTrip:
        """Restore a dump and dump it again, as far as the server accepts the dump."""
        dump = without_meta_commands(dump)
        key = ["copy", *self.roles, hashlib.sha256(dump).hexdigest()]
        text = self.cache.get_or_make(key, lambda: self._round_trip(dump))
        content = json.loads(text)
        return RoundTrip(content["dump"].encode(), tuple((sql, reason) for sql, reason in content["refused"]))

    def _round_trip(self, dump: bytes) -> bytes:
        scratch = self._started()
        with closing(scratch.server.open_session(scratch.server.maintenance)) as connection:
            create_roles(connection, self.roles, ())
        copy, refused = scratch.partial_round_trip(dump)
        pairs = [(each.statement.decode(), each.reason) for each in refused]
        return json.dumps({"dump": without_meta_commands(copy).decode(), "refused": pairs}).encode()

    def run(self, script: bytes, on: bytes) -> tuple[bytes, str]:
        """Run a script in a database with the schema `on`; returns the dump afterwards, and the server's error."""
        scratch = self._started()
        with scratch.database("script") as name:
            with closing(scratch.server.open_session(name)) as connection:
                restore_accepted(connection, on)
                connection.execute("RESET search_path")
                try:
                    connection.execute(script)
                except psycopg.Error as error:
                    return b"", error.diag.message_primary or str(error)
                versions = read_extensions(connection)
            return append_versions(scratch.dump(name), versions), ""

    def _started(self) -> Scratch:
        if self._scratch is None:
            self._scratch = self._stack.enter_context(self.open_scratch())
        return self._scratch
