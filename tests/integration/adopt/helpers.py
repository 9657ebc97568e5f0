"""A database and files that another tool has left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgratchet.adopt import adoption
from pgratchet.adopt.adoption import Adoption, AdoptionOptions
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.backups.snapshot import open_snapshot
from pgratchet.database import connection
from pgratchet.database.history import History
from pgratchet.database.session import Session
from pgratchet.errors import HistoryDisagrees, RatchetError
from pgratchet.migrations import files as migrations
from pgratchet.migrations.plan import make_plan
from pgratchet.operations.schema import schema_dumper
from pgratchet.schema.live import LiveSchema, read_live
from pgratchet.tasks import adopting
from tests.other_tools.handwritten import ONE, SAMPLES, TWO, ToolLeftovers
from tests.servers.databases import Database
from tests.support.targets import target_of

LEDGER = History()


@dataclass
class ToolProject:
    """A database that a tool has migrated, the tool's files, and a folder for the adopted migrations."""

    database: Database
    files: Path
    sql: Path

    def given(self, name: str, rows: str | None = None) -> ToolLeftovers:
        """Create the tables and files of a tool, with its rows or others."""
        sample = SAMPLES[name]
        for path, text in sample.files.items():
            self.write(path, text)
        self.database.run(f"{ONE} {TWO}")
        self.database.run(sample.table)
        self.database.run(sample.rows if rows is None else rows)
        return sample

    def write(self, path: str, text: str) -> None:
        whole = self.files / path
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes(text.encode())

    def look(self, **wishes: Any) -> Adoption:
        return self._run(dry=True, wait=100, wishes=wishes)

    def adopt(self, wait: int = 100, **wishes: Any) -> Adoption:
        return self._run(dry=False, wait=wait, wishes=wishes)

    def _run(self, *, dry: bool, wait: int, wishes: Mapping[str, Any]) -> Adoption:
        options = AdoptionOptions(**{"sql": self.sql, "files": self.files, **wishes})
        with closing(Session(self.database.connect, LEDGER, wait)) as session, connection.translate_errors():
            past = session.open()
            target = target_of(self.database)

            def dump(without: Sequence[str]) -> bytes:
                return schema_dumper(target, session, without)(self.database.name)

            preview = adoption.preview(session, past, options, dump)
            adoption.require_adoptable(preview, past, options.sql)
            if not dry:
                adoption.write(session, preview, options, "run", dump)
        return preview

    def migrate(self) -> list[str]:
        files = migrations.read(self.sql)
        list(applier.migrate(self.database.connect, LEDGER, files, None, MigrateOptions("later")))
        with self.database.connect() as session:
            plan = make_plan(files, LEDGER.read(session))
        return [entry.state for entry in plan.entries]

    def refuses(self, kind: type[RatchetError] = HistoryDisagrees) -> str:
        """Check that adopt is refused and changes neither the server nor the folder. Returns the error."""
        before = self.database.fingerprint()
        with pytest.raises(kind) as caught:
            self.adopt()
        assert self.database.fingerprint() == before
        assert not self.sql.exists()
        assert caught.value.hint
        return str(caught.value)


def live_schema(database: Database) -> LiveSchema:
    target = target_of(database)
    with adopting._session(target) as session, open_snapshot(target.connect) as snapshot:
        session.open()
        like, _ = snapshot.read_database()
        dump = schema_dumper(target, session)
        return read_live(session.connection, like, lambda: dump(database.name), ["ratchet"])
