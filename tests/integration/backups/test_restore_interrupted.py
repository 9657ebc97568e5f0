"""Restores that are killed, cut off or lose their server: both names are swapped, or neither."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import psycopg
import pytest

from pgratchet import events
from pgratchet.apply import applier, run
from pgratchet.backups import kept_databases, restore
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.loading import BackupArchive
from pgratchet.backups.pg_programs import find_programs
from pgratchet.backups.restore import RestoreOptions
from pgratchet.backups.restore_server import drop_database
from pgratchet.database.history import History
from pgratchet.errors import BackupFailed, Interrupted, OutcomeUnknown, RatchetError, Unreachable
from pgratchet.migrations import files
from tests import ROOT
from tests.faults.proxy import Moment, Proxy
from tests.integration.backups.helpers import (
    RestorableDatabase,
    assert_untouched,
    backup_source_of,
    is_swapped,
    restore_server_of,
    wait_until_restore_ended,
)
from tests.servers.clusters import Cluster, Clusters
from tests.servers.databases import Database
from tests.support.waiting import until

LIMITED, RENAMED = b"SET statement_timeout = 2000", b"RENAME TO"


def _in_a_process(parameters: dict[str, str], archived: BackupArchive) -> None:
    database = Database(parameters)
    list(restore.restore(restore_server_of(database), database.name, archived, RestoreOptions()))


@contextmanager
def by_a_process(database: Database, archived: BackupArchive) -> Iterator[multiprocessing.process.BaseProcess]:
    """A restore in its own process."""
    spawn = multiprocessing.get_context("spawn")
    child = spawn.Process(target=_in_a_process, args=(database.parameters, archived))
    child.start()
    try:
        yield child
        child.join(60)
    finally:
        child.kill()
        child.join()


AROUND = [
    (LIMITED, Moment.ANSWERED),
    (RENAMED, Moment.BEFORE),
    (RENAMED, Moment.SENT),
    (RENAMED, Moment.ANSWERED),
]


@pytest.mark.parametrize(("text", "moment"), AROUND, ids=lambda x: x.decode() if isinstance(x, bytes) else x.name)
def test_a_killed_restore_swaps_both_names_or_neither(
    restorable: RestorableDatabase, proxy: Proxy, text: bytes, moment: Moment
) -> None:
    archived, live_oid = restorable.back_up(), restorable.oid()
    before = restorable.likeness()
    with ExitStack() as stack:
        proxy.at(text, moment, meanwhile=lambda: child.kill())
        child = stack.enter_context(by_a_process(proxy.database, archived))
    assert (proxy.sprung, child.exitcode) == (1, -9)
    wait_until_restore_ended(restorable)
    swapped = is_swapped(restorable, live_oid)
    assert swapped or (text, moment) != (RENAMED, Moment.ANSWERED)
    assert not swapped or text == RENAMED
    assert restorable.is_open(), "the live database accepts connections at every moment"
    restorable.database.connect().close()
    time.sleep(1)  # what is kept has the second in its name
    restorable.restore(archived)
    assert restorable.is_open()
    assert restorable.likeness() == before
    assert kept_databases.list_kept_databases(restorable.site, restorable.database.name) == tuple(
        sorted(restorable.beside())
    )


@pytest.mark.parametrize(("text", "moment"), AROUND, ids=lambda x: x.decode() if isinstance(x, bytes) else x.name)
def test_a_connection_lost_at_the_swap_is_resolved(
    restorable: RestorableDatabase, proxy: Proxy, text: bytes, moment: Moment
) -> None:
    archived, live_oid, before = restorable.back_up(), restorable.oid(), restorable.likeness()
    by_proxy = replace(restorable, database=proxy.database)
    proxy.at(text, moment)
    last_event = None
    try:
        last = by_proxy.restore(archived)[-1]
    except RatchetError as error:
        last_event = error
    assert proxy.sprung == 1
    swapped = is_swapped(restorable, live_oid)
    assert restorable.is_open()
    assert restorable.likeness() == before
    if (text, moment) == (RENAMED, Moment.ANSWERED):
        assert swapped
    if swapped:
        assert last_event is None
        assert isinstance(last, events.Swapped)
        assert [last.old_database] == restorable.beside()
    else:
        assert isinstance(last_event, BackupFailed)
        assert "The live database was not changed" in last_event.detail
        assert restorable.beside()[0] in last_event.detail


def test_a_swap_that_continues_after_the_loss_is_not_called_undone(
    restorable: RestorableDatabase, proxy: Proxy
) -> None:
    """The server waits some seconds for a session of the restored database, while the connection is cut."""
    archived, live_oid = restorable.back_up(), restorable.oid()
    by_proxy = replace(restorable, database=proxy.database)
    holding: list[psycopg.Connection] = []

    def hold() -> None:
        (restored,) = restorable.beside()
        holding.append(restorable.named(restored).connect())

    def works() -> object:
        until(
            lambda: restorable.postgres.rows(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'BEGIN; ALTER%%' AND state = 'active'"
                " AND pid <> pg_backend_pid()"
            )
        )
        threading.Timer(1.5, holding[0].close).start()
        return True

    proxy.at(RENAMED, Moment.SENT, meanwhile=works)
    last_event = None
    try:
        for event in restore.restore(by_proxy.site, restorable.database.name, archived, RestoreOptions()):
            if isinstance(event, events.Compared):
                hold()
    except BackupFailed as error:
        last_event = error
    assert proxy.sprung == 1
    time.sleep(2)
    wait_until_restore_ended(restorable)
    assert is_swapped(restorable, live_oid) == (last_event is None)
    assert restorable.is_open()


def test_a_swap_is_unknown_while_the_server_is_unreachable(restorable: RestorableDatabase, proxy: Proxy) -> None:
    archived, live_oid = restorable.back_up(), restorable.oid()
    by_proxy = replace(restorable, database=proxy.database)
    proxy.at(RENAMED, Moment.ANSWERED, meanwhile=lambda: proxy.lead_to(None))
    with pytest.raises(OutcomeUnknown, match="whether") as caught:
        by_proxy.restore(archived, wait=1000)
    assert proxy.sprung == 1
    assert restorable.database.name in caught.value.message
    assert "invoke restore" in caught.value.hint
    assert is_swapped(restorable, live_oid), "it was swapped, which could not be heard of"


@pytest.fixture
def cluster_and_restorable(clusters: Clusters, disk_store: DiskStore) -> tuple[Cluster, RestorableDatabase]:
    cluster = clusters.make("crashing")
    database = cluster.database
    list(applier.migrate(database.connect, History(), files.read(ROOT / "sql"), None, run.MigrateOptions("run")))
    return cluster, RestorableDatabase(database, disk_store, find_programs(backup_source_of(database).server_version))


def test_a_server_crash_at_the_swap_swaps_both_names_or_neither(
    cluster_and_restorable: tuple[Cluster, RestorableDatabase],
) -> None:
    cluster, scene = cluster_and_restorable
    archived, before = scene.back_up(), scene.likeness()
    for moment in (Moment.BEFORE, Moment.SENT, Moment.ANSWERED):
        live_oid = scene.oid()
        proxy = Proxy(scene.database.parameters)
        with closing(proxy):
            proxy.at(RENAMED, moment, meanwhile=lambda: cluster.stop("immediate"))
            last_event = None
            try:
                last_event = replace(scene, database=proxy.database).restore(archived, wait=500)[-1]
            except OutcomeUnknown:
                assert not last_event
            until(lambda: proxy.sprung == 1)  # noqa: B023
            with pytest.raises(Unreachable):
                scene.postgres.connect()
        cluster.start()
        swapped = is_swapped(scene, live_oid)
        assert swapped or (moment is not Moment.ANSWERED and not last_event)
        assert not swapped or moment is not Moment.BEFORE
        assert scene.is_open()
        time.sleep(1)  # what is kept has the second in its name
        scene.restore(archived)
        assert scene.likeness() == before
        kept_databases.drop_kept_databases(scene.site, "app", kept_databases.list_kept_databases(scene.site, "app"))
        assert scene.beside() == []


def test_a_server_crash_during_the_restore_keeps_the_live_database(
    cluster_and_restorable: tuple[Cluster, RestorableDatabase],
) -> None:
    cluster, scene = cluster_and_restorable
    scene.database.run("CREATE TABLE bytes AS SELECT sha256(n::text::bytea) FROM generate_series(1, 50000) n")
    archived, before, live_oid = scene.back_up(), scene.likeness(), scene.oid()
    proxy = Proxy(scene.database.parameters)
    with closing(proxy):
        proxy.at(b"COPY public.bytes", Moment.SENT, meanwhile=lambda: cluster.stop("immediate"))
        with pytest.raises(RatchetError) as caught:
            replace(scene, database=proxy.database).restore(archived)
        until(lambda: proxy.sprung == 1)
    assert caught.value.exit_code in (9, 10)
    cluster.start()
    assert (scene.oid(), scene.is_open(), scene.likeness()) == (live_oid, True, before)
    kept_names = kept_databases.list_kept_databases(scene.site, "app")
    assert list(kept_names) == scene.beside(), "no one could drop it; it has a name that tells"
    scene.restore(archived)
    kept_databases.drop_kept_databases(scene.site, "app", kept_databases.list_kept_databases(scene.site, "app"))
    assert scene.beside() == []


def test_a_connection_lost_during_the_restore_leaves_nothing(restorable: RestorableDatabase, proxy: Proxy) -> None:
    restorable.database.run("CREATE TABLE bytes AS SELECT sha256(n::text::bytea) FROM generate_series(1, 50000) n")
    archived = restorable.back_up()
    proxy.at(b"COPY public.bytes", Moment.SENT, meanwhile=proxy.cut)
    with assert_untouched(restorable):
        with pytest.raises(BackupFailed, match="pg_restore failed"):
            replace(restorable, database=proxy.database).restore(archived)
        assert proxy.sprung == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("exists", [True, False], ids=["live database", "no live database"])
def test_a_restore_stopped_at_its_last_event_before_the_swap_leaves_nothing(
    restorable: RestorableDatabase, stop: type[BaseException], exists: bool
) -> None:
    archived = restorable.back_up()
    if not exists:
        restorable.postgres.run(f'DROP DATABASE "{restorable.database.name}" WITH (FORCE)')
    stream = restore.restore(restorable.site, restorable.database.name, archived, RestoreOptions())
    assert any(isinstance(event, events.Compared) for event in iter(stream.__next__, None))
    with pytest.raises(stop):
        stream.throw(stop())
    assert restorable.beside() == []
    found = restorable.postgres.rows("SELECT FROM pg_database WHERE datname = %s", restorable.database.name)
    assert len(found) == exists


def test_a_signal_during_the_swap_swaps_or_drops(restorable: RestorableDatabase) -> None:
    """A session of the restored database holds the swap up until after the signal."""
    archived, live_oid = restorable.back_up(), restorable.oid()
    stream = restore.restore(restorable.site, restorable.database.name, archived, RestoreOptions())
    assert any(isinstance(event, events.Compared) for event in iter(stream.__next__, None))
    with closing(restorable.named(restorable.beside()[0]).connect()):
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(Interrupted, match="interrupted") as caught:
            next(stream)
    assert "was dropped" in caught.value.detail
    assert (restorable.oid(), restorable.beside(), restorable.is_open()) == (live_oid, [], True)


def test_a_signal_while_the_copy_is_dropped_leaves_no_copy(database: Database) -> None:
    """The first signal ends the restore, and a second one may come while its database is dropped."""
    server = restore_server_of(database)
    name = f"{database.name}_restore_20000101000000"
    with closing(server.open_session(server.maintenance)) as maintenance:
        maintenance.execute(f'CREATE DATABASE "{name}"'.encode())
        interrupted = InterruptedOnce(maintenance)
        with pytest.raises(KeyboardInterrupt):
            drop_database(server, interrupted, name)  # type: ignore[arg-type]
        assert interrupted.count == 1
        query = "SELECT count(*) FROM pg_database WHERE datname = %s"
        assert maintenance.execute(query, (name,)).fetchall() == [(0,)]


class InterruptedOnce:
    """A connection whose first statement is interrupted."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self.closed = False
        self.count = 0

    def execute(self, *arguments: object) -> object:
        if not self.count:
            self.count = 1
            raise KeyboardInterrupt
        return self.connection.execute(*arguments)  # type: ignore[call-overload]
