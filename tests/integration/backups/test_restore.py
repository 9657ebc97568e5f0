"""Restores on real servers: swapped in as the database was, or refused, or broken off with the live one as it is.

Every fault is shown to have come. What a database is like is told by pg_dump itself, its settings and privileges
included, and by all its rows.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pgratchet import embedded, events
from pgratchet.apply import applier, run
from pgratchet.backups import kept_databases, pg_programs, restore, verification
from pgratchet.backups.backup import BackupSource
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.manifest import Contents
from pgratchet.backups.pg_programs import Programs, find_programs
from pgratchet.backups.restore import BackupArchive, RestoreOptions
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.database import connection
from pgratchet.database.history import History
from pgratchet.database.target import program_environment
from pgratchet.errors import BackupFailed, ConfigurationError, LockBusy, OutcomeUnknown, RatchetError, Unreachable
from pgratchet.migrations import files
from tests import ROOT
from tests.faults.proxy import Moment, Proxy
from tests.integration.backups.test_backup import take
from tests.integration.conftest import source_of
from tests.servers.clusters import Cluster, Clusters
from tests.servers.databases import Database, Server
from tests.support.migrations import WriteMigrations, migrate
from tests.support.waiting import until


def site_of(database: Database) -> RestoreServer:
    """Its server, by its own parameters."""
    parameters = database.parameters
    environ = functools.partial(_client_environment, parameters)
    return RestoreServer(
        lambda name: connection.connect({**parameters, "dbname": name}), environ, "postgres", History()
    )


@contextmanager
def _client_environment(parameters: Mapping[str, str]) -> Iterator[dict[str, str]]:
    yield {**program_environment(), **{f"PG{key.upper()}": value for key, value in parameters.items()}}


@dataclass(frozen=True)
class Scene:
    """A live database, a store for its backups, and the way to restore them."""

    database: Database
    kept: DiskStore
    programs: Programs

    @property
    def site(self) -> RestoreServer:
        return site_of(self.database)

    def back_up(self) -> BackupArchive:
        made = take(source_of(self.database), self.kept, self.programs)
        return BackupArchive(made, verification.open_content(made, self.kept, None), self.programs)

    def restore(self, archived: BackupArchive, **wishes: object) -> list[events.Event]:
        given = RestoreOptions(**wishes)  # type: ignore[arg-type]
        return list(restore.restore(self.site, self.database.name, archived, given))

    def named(self, name: str) -> Database:
        return Database({**self.database.parameters, "dbname": name})

    @property
    def postgres(self) -> Database:
        return self.named("postgres")

    def beside(self) -> list[str]:
        """The databases whose names go on where the live one's ends."""
        start = f"starts_with(datname, '{self.database.name[:30]}') AND datname <> '{self.database.name}'"
        return [str(name) for (name,) in self.postgres.rows(f"SELECT datname FROM pg_database WHERE {start}")]

    def oid(self) -> object:
        ((oid,),) = self.postgres.rows("SELECT oid FROM pg_database WHERE datname = %s", self.database.name)
        return oid

    def is_open(self) -> bool:
        found = self.postgres.rows("SELECT datallowconn FROM pg_database WHERE datname = %s", self.database.name)
        return found == [(True,)]

    def likeness(self, name: str | None = None) -> tuple[list[str], dict[str, list[tuple[object, ...]]]]:
        """What pg_dump says of a database and all in it, without its name; and every row."""
        name = name or self.database.name
        command = [self.programs.path("pg_dump"), "--schema-only", "--create", f"--dbname={name}"]
        with self.site.client_environment() as environ:
            text = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
        lines = text.replace(name, "LIVE").splitlines()
        schema = [line for line in lines if line and not line.startswith(("--", "\\restrict", "\\unrestrict"))]
        there = self.named(name)
        tables = there.rows(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n"
            " ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND c.oid >= 16384 ORDER BY 1"
        )
        # What the database itself is like comes as statements in an order of their own.
        return sorted(schema), {str(t): there.rows(f"SELECT x::text FROM {t} AS x ORDER BY 1") for (t,) in tables}


@contextmanager
def untouched(scene: Scene) -> Iterator[None]:
    """The live database is as it was behind the block, takes connections, and has no other one beside it."""
    before, likeness, oid = scene.database.fingerprint(), scene.likeness(), scene.oid()
    yield
    until(lambda: scene.database.fingerprint() == before)
    assert (scene.oid(), scene.beside()) == (oid, [])
    assert scene.likeness() == likeness


@pytest.fixture
def scene(server: Server, migrated: Database, kept: DiskStore, programs: Programs) -> Iterator[Scene]:
    made = Scene(migrated, kept, programs)
    yield made
    for name in made.beside():
        made.postgres.run(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def proxy(migrated: Database) -> Iterator[Proxy]:
    made = Proxy(migrated.parameters)
    yield made
    made.close()


@contextmanager
def roles(database: Database, *names: str, options: str = "LOGIN PASSWORD 'x'") -> Iterator[None]:
    for name in names:
        database.run(f"CREATE ROLE {name} {options}")
    try:
        yield
    finally:
        for name in names:
            database.run(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def test_what_was_broken_is_as_at_the_backup(scene: Scene, write: WriteMigrations, sql_folder: Path) -> None:
    live = scene.database
    archived = scene.back_up()
    before, live_oid = scene.likeness(), scene.oid()
    shutil.copytree(ROOT / "sql", sql_folder, dirs_exist_ok=True)
    migrate(live, write(m900_more="CREATE TABLE more (x int)"))
    live.run("DROP TABLE jobs CASCADE; UPDATE app_state SET key = 'broken ' || key; CREATE VIEW v AS SELECT 1")
    broken = scene.likeness()
    assert broken != before
    looked = restore.preview(scene.site, live.name, archived.manifest)
    assert (looked.exists, looked.lost, looked.obstacles, looked.missing) == (True, ("900_more",), (), ())
    with closing(live.connect()) as idle, closing(live.connect()) as open_one:
        open_one.execute("BEGIN; SELECT count(*) FROM app_state")
        swapped = scene.restore(archived)[-1]
        for session in (idle, open_one):
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
    assert isinstance(swapped, events.Swapped)
    assert swapped.kept is not None
    assert swapped.kept.startswith(f"{live.name}_old_")
    assert scene.beside() == [swapped.kept]
    assert scene.likeness() == before
    assert scene.oid() != live_oid
    assert scene.likeness(swapped.kept) == broken
    with closing(live.connect()) as again:
        applied = History().read(again)
    assert {record.name: record.checksum for record in applied} == archived.manifest.contents.history
    assert migrate(live, write()).applied == ["900_more"]
    assert kept_databases.list_kept_databases(scene.site, live.name) == (swapped.kept,)
    kept_databases.drop_kept_databases(scene.site, live.name, [swapped.kept])
    assert scene.beside() == []


def test_what_belongs_to_the_database_itself_is_as_at_the_backup(scene: Scene) -> None:
    live, name = scene.database, scene.database.name
    owner, reader, other = (f"{name}_{each}" for each in ("owner", "reader", "other"))
    with roles(live, owner, reader, other):
        live.run(f'CREATE SCHEMA "Odd, ""one"""; ALTER DATABASE {name} OWNER TO {owner}')
        live.run(f"""ALTER DATABASE {name} SET search_path TO "$user", 'Odd, "one"', public""")
        live.run(f"ALTER DATABASE {name} SET work_mem = '7MB'; ALTER DATABASE {name} SET app.who TO 'it''s=us, \\x'")
        live.run(f"ALTER ROLE {reader} IN DATABASE {name} SET \"TimeZone\" = 'Europe/Zurich'")
        live.run(f"ALTER ROLE {reader} IN DATABASE {name} SET search_path = ''")
        live.run(f"REVOKE CONNECT, TEMP ON DATABASE {name} FROM PUBLIC")
        live.run(f"GRANT CONNECT ON DATABASE {name} TO {other} WITH GRANT OPTION")
        live.run(f"GRANT CONNECT, CREATE ON DATABASE {name} TO pg_monitor")
        live.run(f"COMMENT ON DATABASE {name} IS 'it''s \"ours\"'; ALTER DATABASE {name} CONNECTION LIMIT 17")
        before, archived = scene.likeness(), scene.back_up()
        told = "\n".join(before[0])
        for each in (
            "ALTER DATABASE LIVE SET search_path TO '$user', 'Odd, \"one\"', 'public'",
            'IN DATABASE LIVE SET "TimeZone"',
            "WITH GRANT OPTION",
            "TO pg_monitor",
            "CONNECTION LIMIT = 17",
            "COMMENT ON DATABASE",
        ):
            assert each in told, "pg_dump tells"
        live.run(f"ALTER DATABASE {name} RESET ALL; ALTER DATABASE {name} SET work_mem = '1MB'")
        live.run(f"ALTER ROLE {reader} IN DATABASE {name} RESET ALL; GRANT ALL ON DATABASE {name} TO PUBLIC")
        live.run(f"COMMENT ON DATABASE {name} IS NULL; ALTER DATABASE {name} CONNECTION LIMIT -1")
        live.run(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")
        assert scene.likeness() != before
        kept = scene.restore(archived)[-1]
        assert scene.likeness() == before
        assert isinstance(kept, events.Swapped)
        scene.postgres.run(f'DROP DATABASE "{kept.kept}"')
        live.run(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")


def test_every_role_that_the_archive_names_is_known_before(scene: Scene) -> None:
    """The bootstrap superuser and the predefined roles are in no list of dependencies."""
    live = scene.database
    owner, setting = f"{live.name}_owner", f"{live.name}_setting"
    with roles(live, owner, setting):
        live.run(f"ALTER DATABASE {live.name} OWNER TO {owner}; GRANT SELECT ON jobs TO pg_monitor")
        live.run(f"ALTER ROLE {setting} IN DATABASE {live.name} SET work_mem = '7MB'")
        ((bootstrap,),) = live.rows("SELECT rolname FROM pg_roles WHERE oid = 10")
        named = scene.back_up().manifest.contents.roles
        assert {owner, setting, bootstrap} <= set(named)
        live.run(f"ALTER DATABASE {live.name} OWNER TO CURRENT_USER")


def test_encoding_and_collation_are_as_at_the_backup(server: Server, kept: DiskStore) -> None:
    name = f"odd_{os.urandom(4).hex()}"
    live = Database({**server.parameters, "dbname": name})
    Database(server.parameters).run(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    scene = Scene(live, kept, find_programs(source_of(live).server_version))
    try:
        live.run("CREATE TABLE t AS SELECT 'é'::text AS x")
        before, archived = scene.likeness(), scene.back_up()
        live.run("DROP TABLE t")
        scene.restore(archived)
        assert scene.likeness() == before
        assert live.rows("SELECT pg_encoding_to_char(encoding), datcollate FROM pg_database WHERE datname = %s", name)
    finally:
        for each in (name, *scene.beside()):
            scene.postgres.run(f"DROP DATABASE {each} WITH (FORCE)")


def test_a_database_of_libc_stays_one_where_the_cluster_has_another_provider(
    clusters: Clusters, kept: DiskStore
) -> None:
    server = clusters._place("builtin")
    options = ("--auth=trust", "--encoding=UTF8", f"--username={embedded.USER}", "--no-locale")
    provider = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    embedded.run_checked(server, "make", "initdb", "-D", str(server.data), *options, *provider)
    embedded.start(server, "postgres")
    live = Cluster(server).database
    Database({**live.parameters, "dbname": "postgres"}).run(
        "CREATE DATABASE app TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'"
    )
    scene = Scene(live, kept, find_programs(source_of(live).server_version))
    providers = "SELECT datname, datlocprovider FROM pg_database WHERE datname IN ('app', 'template0') ORDER BY 1"
    before = live.rows(providers)
    assert before == [("app", "c"), ("template0", "b")]
    scene.restore(scene.back_up())
    assert live.rows(providers) == before


def test_a_backup_under_load_is_of_one_moment(scene: Scene) -> None:
    live, pgbench = scene.database, scene.programs.folder / "pgbench"
    if not pgbench.exists():
        pytest.skip(f"no pgbench in {scene.programs.folder}")
    with scene.site.client_environment() as environ:
        command = [str(pgbench), "--no-vacuum", live.name]
        subprocess.run([*command, "--initialize", "--quiet"], env=environ, check=True, capture_output=True)
        load = subprocess.Popen([*command, "--client=2", "--time=60"], env=environ, stderr=subprocess.DEVNULL)
        try:
            until(lambda: live.rows("SELECT count(*) > 20 FROM pgbench_history") == [(True,)])
            archived = scene.back_up()
            ((later,),) = live.rows("SELECT count(*) FROM pgbench_history")
        finally:
            load.terminate()
            load.wait()
    counted = archived.manifest.contents.tables["public.pgbench_history"]
    assert 20 < counted < int(str(later)), "others wrote meanwhile"
    scene.restore(archived)
    ((accounts, tellers, branches, deltas, rows),) = live.rows(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),"
        " (SELECT sum(bbalance) FROM pgbench_branches), sum(delta), count(*) FROM pgbench_history"
    )
    assert accounts == tellers == branches == deltas
    assert rows == counted
    assert live.rows("SELECT count(*) FROM pg_constraint WHERE conname LIKE 'pgbench%' AND contype = 'p'") == [(3,)]


def test_a_role_that_is_missing_is_named_before_anything_is_done(scene: Scene) -> None:
    role = f"{scene.database.name}_role"
    with roles(scene.database, role):
        scene.database.run(f"GRANT SELECT ON jobs TO {role}")
        archived = scene.back_up()
    missing_one = [scene.programs.path("pg_restore"), "--file=-", str(archived.content)]
    assert role in subprocess.run(missing_one, capture_output=True, text=True, check=True).stdout
    with untouched(scene):
        with pytest.raises(ConfigurationError, match="cannot be restored on this server") as caught:
            scene.restore(archived)
        assert f"The role {role}." in caught.value.detail
        with pytest.raises(BackupFailed, match="pg_restore failed"):
            scene.restore(archived, into=f"{scene.database.name}_into")


def fake_pg_restore(programs: Programs, folder: Path, script: str) -> Programs:
    """The real programs, but for a pg_restore of the test's own: `REAL` in it is the real one."""
    folder.mkdir()
    (folder / "pg_restore").write_text("#!/bin/sh\n" + script.replace("REAL", programs.path("pg_restore")))
    (folder / "pg_restore").chmod(0o755)
    return replace(programs, folder=folder)


@pytest.mark.parametrize(
    "script",
    [
        'REAL "$@"; echo "pg_restore: error: no more" >&2; exit 1',
        'REAL --list "$6" | head -40 > "$0.list"; REAL --use-list="$0.list" "$@"; kill -9 $$',
    ],
    ids=["at its end", "killed half-way"],
)
def test_a_pg_restore_that_fails_leaves_the_live_database_as_it_is(scene: Scene, tmp_path: Path, script: str) -> None:
    archived = scene.back_up()
    failing = replace(archived, programs=fake_pg_restore(scene.programs, tmp_path / "bin", script))
    begun: list[list[str]] = []
    with untouched(scene):
        stream = restore.restore(scene.site, scene.database.name, failing, RestoreOptions())
        with pytest.raises(BackupFailed, match="pg_restore failed"):
            begun.extend(scene.beside() for _ in stream)
        assert begun
        with pytest.raises(BackupFailed, match="pg_restore failed"):
            scene.restore(failing, into=f"{scene.database.name}_into")


def test_an_archive_that_breaks_off_leaves_the_live_database_as_it_is(scene: Scene) -> None:
    scene.database.run("CREATE TABLE bytes AS SELECT sha256(n::text::bytea) FROM generate_series(1, 20000) n")
    archived = scene.back_up()
    assert isinstance(archived.content, Path)
    whole = archived.content.read_bytes()
    archived.content.write_bytes(whole[: len(whole) * 2 // 3])
    with untouched(scene), pytest.raises(BackupFailed, match="pg_restore failed"):
        scene.restore(archived)
    with untouched(scene), pytest.raises(BackupFailed, match="pg_restore failed"):
        scene.restore(replace(archived, content=iter([whole[: len(whole) * 2 // 3]])))
    scene.restore(replace(archived, content=iter([whole])))


def test_a_role_that_may_not_create_databases_is_refused(scene: Scene) -> None:
    role = f"{scene.database.name}_role"
    with roles(scene.database, role):
        scene.database.run(f"ALTER DATABASE {scene.database.name} OWNER TO {role}")
        scene.database.run(f"GRANT USAGE ON SCHEMA ratchet TO {role}; GRANT SELECT ON ratchet.migrations TO {role}")
        archived = scene.back_up()
        login = {"user": role, "password": "x"}
        lesser = replace(scene, database=Database({**scene.database.parameters, **login}))
        with untouched(scene):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                lesser.postgres.run("CREATE DATABASE x")
            with pytest.raises(ConfigurationError, match="cannot be made"):
                lesser.restore(archived)
        scene.database.run(f"ALTER DATABASE {scene.database.name} OWNER TO CURRENT_USER")


def test_what_fails_behind_pg_restore_leaves_nothing_either(scene: Scene) -> None:
    """A comment that no server takes, in the place of a server that fails at just that time."""
    archived = scene.back_up()
    made = archived.manifest
    odd = replace(made, database=replace(made.database, connection_limit=-7))
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        scene.postgres.run(f"ALTER DATABASE {scene.database.name} CONNECTION LIMIT -7")
    refused = "the server refused what the restore needs: invalid connection limit"
    with untouched(scene), pytest.raises(BackupFailed, match=refused):
        scene.restore(replace(archived, manifest=odd))


def until_alone(scene: Scene) -> None:
    """Until no session of a restore is left."""
    until(
        lambda: (
            scene.postgres.rows(
                "SELECT 1 FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
                f" AND (datname LIKE '{scene.database.name}%' OR query LIKE '%{scene.database.name}%')"
            )
            == []
        )
    )


def both_or_none(scene: Scene, live_oid: object) -> bool:
    """Whether the names were swapped: all of it or nothing."""
    old = [name for name in scene.beside() if "_old_" in name]
    restored = [name for name in scene.beside() if "_restore_" in name]
    swapped = scene.oid() != live_oid
    assert (len(old), len(restored)) == ((1, 0) if swapped else (0, 1))
    return swapped


def _in_a_process(parameters: dict[str, str], archived: BackupArchive) -> None:
    database = Database(parameters)
    list(restore.restore(site_of(database), database.name, archived, RestoreOptions()))


@contextmanager
def by_a_process(database: Database, archived: BackupArchive) -> Iterator[multiprocessing.process.BaseProcess]:
    """A restore in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    child = spawn.Process(target=_in_a_process, args=(database.parameters, archived))
    child.start()
    try:
        yield child
        child.join(60)
    finally:
        child.kill()
        child.join()


LOCKED, RENAMED = b"ALLOW_CONNECTIONS false", b"RENAME TO"
AROUND = [
    (LOCKED, Moment.ANSWERED),
    (RENAMED, Moment.BEFORE),
    (RENAMED, Moment.SENT),
    (RENAMED, Moment.ANSWERED),
]


@pytest.mark.parametrize(("text", "moment"), AROUND, ids=lambda x: x.decode() if isinstance(x, bytes) else x.name)
def test_a_restore_that_is_killed_swaps_both_names_or_none(
    scene: Scene, proxy: Proxy, text: bytes, moment: Moment
) -> None:
    archived, live_oid = scene.back_up(), scene.oid()
    before = scene.likeness()
    with ExitStack() as stack:
        proxy.at(text, moment, meanwhile=lambda: child.kill())
        child = stack.enter_context(by_a_process(proxy.database, archived))
    assert (proxy.sprung, child.exitcode) == (1, -9)
    until_alone(scene)
    swapped = both_or_none(scene, live_oid)
    assert swapped or (text, moment) != (RENAMED, Moment.ANSWERED)
    assert not swapped or text == RENAMED
    if scene.is_open():
        assert swapped
    else:
        with pytest.raises(Unreachable) as caught:
            scene.database.connect()
        assert "takes no connections" in caught.value.message
        assert "invoke restore" in caught.value.hint
        assert restore.preview(scene.site, scene.database.name, archived.manifest).exists
    time.sleep(1)  # what is kept has the second in its name
    scene.restore(archived)
    assert scene.is_open()
    assert scene.likeness() == before
    assert kept_databases.list_kept_databases(scene.site, scene.database.name) == tuple(sorted(scene.beside()))


@pytest.mark.parametrize(("text", "moment"), AROUND, ids=lambda x: x.decode() if isinstance(x, bytes) else x.name)
def test_a_line_that_is_cut_at_the_swap_is_asked_about(scene: Scene, proxy: Proxy, text: bytes, moment: Moment) -> None:
    archived, live_oid, before = scene.back_up(), scene.oid(), scene.likeness()
    by_proxy = replace(scene, database=proxy.database)
    proxy.at(text, moment)
    told = None
    try:
        last = by_proxy.restore(archived)[-1]
    except RatchetError as error:
        told = error
    assert proxy.sprung == 1
    swapped = both_or_none(scene, live_oid)
    assert scene.is_open()
    assert scene.likeness() == before
    if (text, moment) == (RENAMED, Moment.ANSWERED):
        assert swapped
    if swapped:
        assert told is None
        assert isinstance(last, events.Swapped)
        assert [last.kept] == scene.beside()
    else:
        assert isinstance(told, BackupFailed)
        assert "The live database is as it was" in told.detail
        assert scene.beside()[0] in told.detail


def test_a_swap_that_goes_on_without_us_is_not_called_undone(scene: Scene, proxy: Proxy) -> None:
    """The server waits some seconds for a session of the restored database, while the line is cut."""
    archived, live_oid = scene.back_up(), scene.oid()
    by_proxy = replace(scene, database=proxy.database)
    holding: list[psycopg.Connection] = []

    def hold() -> None:
        (restored,) = scene.beside()
        holding.append(scene.named(restored).connect())

    def works() -> object:
        until(
            lambda: scene.postgres.rows(
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'BEGIN; ALTER%%' AND state = 'active'"
                " AND pid <> pg_backend_pid()"
            )
        )
        threading.Timer(1.5, holding[0].close).start()
        return True

    proxy.at(RENAMED, Moment.SENT, meanwhile=works)
    told = None
    try:
        for event in restore.restore(by_proxy.site, scene.database.name, archived, RestoreOptions()):
            if isinstance(event, events.Compared):
                hold()
    except BackupFailed as error:
        told = error
    assert proxy.sprung == 1
    time.sleep(2)
    until_alone(scene)
    assert both_or_none(scene, live_oid) == (told is None)
    assert scene.is_open()


def test_a_swap_that_no_one_can_be_asked_about_is_called_unknown(scene: Scene, proxy: Proxy) -> None:
    archived, live_oid = scene.back_up(), scene.oid()
    by_proxy = replace(scene, database=proxy.database)
    proxy.at(RENAMED, Moment.ANSWERED, meanwhile=lambda: proxy.lead_to(None))
    with pytest.raises(OutcomeUnknown, match="whether") as caught:
        by_proxy.restore(archived, wait=1000)
    assert proxy.sprung == 1
    assert scene.database.name in caught.value.message
    assert "invoke restore" in caught.value.hint
    assert both_or_none(scene, live_oid), "it was swapped, which could not be heard of"


@pytest.fixture
def crashing(clusters: Clusters, kept: DiskStore) -> tuple[Cluster, Scene]:
    cluster = clusters.make("crashing")
    database = cluster.database
    list(applier.migrate(database.connect, History(), files.read(ROOT / "sql"), None, run.MigrateOptions("run")))
    return cluster, Scene(database, kept, find_programs(source_of(database).server_version))


def test_a_server_that_crashes_at_the_swap_has_both_names_swapped_or_none(crashing: tuple[Cluster, Scene]) -> None:
    cluster, scene = crashing
    archived, before = scene.back_up(), scene.likeness()
    for moment in (Moment.BEFORE, Moment.SENT, Moment.ANSWERED):
        live_oid = scene.oid()
        proxy = Proxy(scene.database.parameters)
        with closing(proxy):
            proxy.at(RENAMED, moment, meanwhile=lambda: cluster.stop("immediate"))
            said = None
            try:
                said = replace(scene, database=proxy.database).restore(archived, wait=500)[-1]
            except OutcomeUnknown:
                assert not said
            until(lambda: proxy.sprung == 1)  # noqa: B023
            with pytest.raises(Unreachable):
                scene.postgres.connect()
        cluster.start()
        swapped = both_or_none(scene, live_oid)
        assert swapped or (moment is not Moment.ANSWERED and not said)
        assert not swapped or moment is not Moment.BEFORE
        assert scene.is_open() == swapped
        time.sleep(1)  # what is kept has the second in its name
        scene.restore(archived)
        assert scene.likeness() == before
        kept_databases.drop_kept_databases(scene.site, "app", kept_databases.list_kept_databases(scene.site, "app"))
        assert scene.beside() == []


def test_a_server_that_crashes_while_it_is_filled_keeps_the_live_database(crashing: tuple[Cluster, Scene]) -> None:
    cluster, scene = crashing
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
    left = kept_databases.list_kept_databases(scene.site, "app")
    assert list(left) == scene.beside(), "no one could drop it; it has a name that tells"
    scene.restore(archived)
    kept_databases.drop_kept_databases(scene.site, "app", kept_databases.list_kept_databases(scene.site, "app"))
    assert scene.beside() == []


def test_a_line_cut_while_it_is_filled_leaves_nothing(scene: Scene, proxy: Proxy) -> None:
    scene.database.run("CREATE TABLE bytes AS SELECT sha256(n::text::bytea) FROM generate_series(1, 50000) n")
    archived = scene.back_up()
    proxy.at(b"COPY public.bytes", Moment.SENT, meanwhile=proxy.cut)
    with untouched(scene):
        with pytest.raises(BackupFailed, match="pg_restore failed"):
            replace(scene, database=proxy.database).restore(archived)
        assert proxy.sprung == 1


@pytest.fixture
def logical(clusters: Clusters, kept: DiskStore) -> Scene:
    """On a server with logical replication and prepared transactions."""
    database = clusters.make("logical", wal_level="logical", max_prepared_transactions="5").database
    list(applier.migrate(database.connect, History(), files.read(ROOT / "sql"), None, run.MigrateOptions("run")))
    return Scene(database, kept, find_programs(source_of(database).server_version))


def test_slots_and_subscriptions_are_named_and_left_behind_only_when_told(logical: Scene) -> None:
    live = logical.database
    live.run("CREATE TABLE seen (x int)")
    archived = logical.back_up()
    live.run("SELECT pg_create_logical_replication_slot('the_slot', 'pgoutput')")
    live.run("CREATE SUBSCRIPTION the_subscription CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)")
    with untouched(logical):
        with pytest.raises(ConfigurationError, match="what a swap would leave behind") as caught:
            logical.restore(archived)
        assert caught.value.detail.splitlines()[:2] == [
            "The replication slot the_slot.",
            "The subscription the_subscription.",
        ]
        logical.restore(archived, into="app_into")
        logical.postgres.run("DROP DATABASE app_into")
    swapped = logical.restore(archived, leave_behind=True)[-1]
    assert isinstance(swapped, events.Swapped)
    assert swapped.kept is not None
    slots = "SELECT slot_name, database FROM pg_replication_slots"
    assert logical.postgres.rows(slots) == [("the_slot", swapped.kept)]
    assert logical.named(swapped.kept).rows(
        "SELECT subname FROM pg_subscription AS s JOIN pg_database AS d"
        " ON d.oid = subdbid WHERE datname = current_database()"
    ) == [("the_subscription",)]
    with pytest.raises(ConfigurationError, match="cannot be dropped") as caught:
        kept_databases.drop_kept_databases(logical.site, "app", [swapped.kept])
    assert "the replication slot the_slot" in caught.value.detail
    assert "the subscription the_subscription" in caught.value.detail
    assert logical.postgres.rows(slots) == [("the_slot", swapped.kept)]
    old = logical.named(swapped.kept)
    old.run("ALTER SUBSCRIPTION the_subscription SET (slot_name = NONE)")
    old.run("DROP SUBSCRIPTION the_subscription; SELECT pg_drop_replication_slot('the_slot')")
    kept_databases.drop_kept_databases(logical.site, "app", [swapped.kept])


def test_a_slot_that_is_read_is_left_behind_too(logical: Scene, tmp_path: Path) -> None:
    archived = logical.back_up()
    receiving = ["pg_recvlogical", "--dbname=app", "--slot=the_slot", "--file", str(tmp_path / "changes")]
    receiving[0] = str(embedded.programs() / "pg_recvlogical")
    with logical.site.client_environment() as environ:
        make = [*receiving, "--create-slot", "--plugin=pgoutput"]
        options = ["--option=proto_version=1", "--option=publication_names=p", "--no-loop"]
        logical.database.run("CREATE PUBLICATION p FOR ALL TABLES")
        subprocess.run(make, env=environ, check=True, capture_output=True)
        reader = subprocess.Popen([*receiving, "--start", *options], env=environ, stderr=subprocess.DEVNULL)
    try:
        until(lambda: logical.postgres.rows("SELECT active FROM pg_replication_slots") == [(True,)])
        swapped = logical.restore(archived, leave_behind=True)[-1]
        assert isinstance(swapped, events.Swapped)
        assert reader.wait(10) != 0, "it was ended"
        assert logical.postgres.rows("SELECT database FROM pg_replication_slots") == [(swapped.kept,)]
    finally:
        reader.kill()
        reader.wait()


def test_a_prepared_transaction_is_to_be_ended_first(logical: Scene) -> None:
    """A database cannot be renamed while it has one, so that it cannot be left behind either."""
    live = logical.database
    archived = logical.back_up()
    live.run("BEGIN; INSERT INTO app_state SELECT * FROM app_state WHERE false; PREPARE TRANSACTION 'it''s orphaned'")
    with pytest.raises(psycopg.errors.ObjectInUse):
        logical.postgres.run("ALTER DATABASE app RENAME TO other")
    prepared = "SELECT gid, database FROM pg_prepared_xacts"
    for leave_behind in (False, True):
        with untouched(logical):
            with pytest.raises(ConfigurationError) as caught:
                logical.restore(archived, leave_behind=leave_behind)
            assert "The prepared transaction it's orphaned." in caught.value.detail
            assert "PREPARED" in caught.value.hint
            assert logical.postgres.rows(prepared) == [("it's orphaned", "app")]
    live.run("ROLLBACK PREPARED 'it''s orphaned'")
    logical.restore(archived)


def test_a_role_that_is_no_superuser_restores_while_the_server_vacuums(clusters: Clusters, kept: DiskStore) -> None:
    """Only a superuser may end the sessions of autovacuum; the renaming ends them by itself."""
    slow = {"autovacuum_naptime": "1s", "autovacuum_vacuum_cost_delay": "100ms", "autovacuum_vacuum_cost_limit": "1"}
    cluster = clusters.make("vacuuming", **slow)
    admin = cluster.database
    admin.run("CREATE ROLE deploy LOGIN CREATEDB; ALTER DATABASE app OWNER TO deploy")
    live = Database({**admin.parameters, "user": "deploy"})
    live.run("CREATE TABLE t AS SELECT n, repeat('x', 500) AS x FROM generate_series(1, 30000) AS n")
    scene = Scene(live, kept, find_programs(source_of(live).server_version))
    archived = scene.back_up()
    live.run("DELETE FROM t")
    vacuums = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND datname = 'app'"
    until(lambda: admin.rows(vacuums), 30)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        live.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid IS NULL AND datname = 'app'")
    assert isinstance(scene.restore(archived)[-1], events.Swapped)
    assert live.rows("SELECT count(*) FROM t") == [(30000,)]


def test_one_restore_at_a_time(scene: Scene) -> None:
    archived = scene.back_up()
    first = restore.restore(scene.site, scene.database.name, archived, RestoreOptions())
    next(first)
    (under_way,) = scene.beside()
    with pytest.raises(LockBusy, match=r"another restore of .* is under way"):
        scene.restore(archived)
    with pytest.raises(LockBusy, match=r"another restore of .* is under way"):
        kept_databases.drop_kept_databases(
            scene.site, scene.database.name, kept_databases.list_kept_databases(scene.site, scene.database.name)
        )
    assert scene.beside() == [under_way]
    assert isinstance([*first][-1], events.Swapped)


def test_a_restore_waits_for_a_migration_and_a_migration_for_a_restore(
    scene: Scene, write: WriteMigrations, sql_folder: Path
) -> None:
    archived, before = scene.back_up(), scene.likeness()
    shutil.copytree(ROOT / "sql", sql_folder, dirs_exist_ok=True)
    with scene.database.connect() as migrating:
        migrating.execute("SELECT pg_advisory_lock(%s)", (History().lock_key,))
        with untouched(scene), pytest.raises(LockBusy, match="holds the migration lock"):
            scene.restore(archived, wait=200)
    restoring = restore.restore(scene.site, scene.database.name, archived, RestoreOptions())
    next(restoring)
    with pytest.raises(LockBusy, match="holds the migration lock"):
        migrate(scene.database, write(m900_more="CREATE TABLE more ()"), wait=100)
    assert len(scene.beside()) == 1
    restoring.close()
    assert scene.beside() == [], "what is broken off drops what it began"
    assert scene.likeness() == before


def test_a_database_that_is_gone_is_restored_under_its_name(scene: Scene) -> None:
    archived, before = scene.back_up(), scene.likeness()
    scene.postgres.run(f"DROP DATABASE {scene.database.name}")
    looked = restore.preview(scene.site, scene.database.name, archived.manifest)
    assert (looked.exists, looked.lost) == (False, ())
    assert scene.restore(archived)[-1] == events.Swapped(scene.database.name, None)
    assert scene.beside() == []
    assert scene.likeness() == before


def test_a_name_that_is_taken_is_refused_and_that_database_untouched(scene: Scene, server: Server) -> None:
    other = server.create()
    try:
        other.run("CREATE TABLE theirs AS SELECT 1 AS x")
        archived, before = scene.back_up(), other.fingerprint()
        for taken in (other.name, scene.database.name):
            with untouched(scene), pytest.raises(ConfigurationError, match="cannot be made"):
                scene.restore(archived, into=taken)
        assert other.fingerprint() == before
    finally:
        server.drop(other)


def test_the_database_that_is_worked_from_cannot_be_swapped(scene: Scene) -> None:
    archived = scene.back_up()
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        scene.database.run(f"ALTER DATABASE {scene.database.name} RENAME TO x")
    working = replace(scene.site, maintenance=scene.database.name)
    with untouched(scene), pytest.raises(ConfigurationError) as caught:
        list(restore.restore(working, scene.database.name, archived, RestoreOptions()))
    assert "pg_maintenance_dbname" in caught.value.hint


ODD = ['it\'s "odd" \\ $(x) %s a.*(b', " dbname=postgres host=é ü 日本語 ", "é" * 31 + "x"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_restored_and_swapped(scene: Scene, server: Server, name: str) -> None:
    archived, before = scene.back_up(), scene.likeness()
    assert len(name.encode()) <= 63
    odd = replace(scene, database=scene.named(name))
    try:
        assert scene.restore(archived, into=name)[-1] == events.Compared(
            len(archived.manifest.contents.tables), archived.manifest.contents.rows, ()
        )
        odd.database.run("DROP TABLE jobs CASCADE")
        swapped = list(restore.restore(odd.site, name, archived, RestoreOptions()))[-1]
        assert isinstance(swapped, events.Swapped)
        assert kept_databases.list_kept_databases(odd.site, name) == (swapped.kept,)
        kept_databases.drop_kept_databases(odd.site, name, kept_databases.list_kept_databases(odd.site, name))
        assert kept_databases.list_kept_databases(odd.site, name) == ()
        assert odd.database.rows("SELECT count(*) FROM jobs") == [(0,)]
        assert scene.likeness() == before
    finally:
        with closing(connection.connect(server.parameters)) as session:
            session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.mark.parametrize("name", ["", "x" * 64, "é" * 32, "a\0b"])
def test_what_cannot_be_a_name_is_refused(scene: Scene, name: str) -> None:
    archived = scene.back_up()
    with untouched(scene), pytest.raises(ConfigurationError, match="cannot be the name of a database"):
        scene.restore(archived, into=name)


def test_only_what_restores_left_is_dropped(scene: Scene) -> None:
    name = scene.database.name
    others = [f"{name}_old", f"{name}_old_2026", f"{name}_x_old_20260101000000", f"{name}_old_20260101000000x"]
    left = [f"{name}_old_20260101000000", f"{name}_restore_20260101000000"]
    for each in (*others, *left):
        scene.postgres.run(f"CREATE DATABASE {each} TEMPLATE template0")
    found = kept_databases.list_kept_databases(scene.site, name)
    assert list(found) == left
    kept_databases.drop_kept_databases(scene.site, name, found)
    assert sorted(scene.beside()) == sorted(others)


def other_count(held: Contents) -> Contents:
    return replace(held, tables={**held.tables, "public.app_state": 3})


def other_version(held: Contents) -> Contents:
    return replace(held, extensions={**held.extensions, "plpgsql": "0.9"})


def other_history(held: Contents) -> Contents:
    return replace(held, history={**held.history, "002_more": "0" * 64})


def without_table(held: Contents) -> Contents:
    return replace(held, tables={k: v for k, v in held.tables.items() if k != "public.app_state"})


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (other_count, "Table public.app_state: 2 rows, and 3 rows in the backup."),
        (without_table, "Table public.app_state is not in the backup."),
        (other_version, "Extension plpgsql: 1.0, and 0.9 in the backup."),
        (other_history, "The history differs: 002_more."),
    ],
)
def test_what_is_not_as_the_manifest_says_is_not_swapped_in(
    scene: Scene, tamper: Callable[[Contents], Contents], told: str
) -> None:
    archived, live_oid = scene.back_up(), scene.oid()
    other = replace(archived, manifest=replace(archived.manifest, contents=tamper(archived.manifest.contents)))
    with pytest.raises(BackupFailed, match="is not what backup") as caught:
        scene.restore(other)
    assert told in caught.value.detail
    (restored,) = scene.beside()
    assert f'"{restored}"' in caught.value.detail
    assert (scene.oid(), scene.is_open()) == (live_oid, True)
    assert scene.named(restored).rows("SELECT count(*) FROM app_state") == [(2,)]
    time.sleep(1)  # what is restored has the second in its name
    swapped = scene.restore(other, accept=True)[-1]
    assert isinstance(swapped, events.Swapped)
    assert scene.oid() != live_oid


def test_an_invalid_index_is_named(scene: Scene, tmp_path: Path) -> None:
    """The restore is real; another session makes the index INVALID before it is looked at."""
    archived = scene.back_up()
    script = (
        f'REAL "$@" && exec {scene.programs.path("psql") if (scene.programs.folder / "psql").exists() else "psql"}'
        ' --no-psqlrc --quiet "$5" --command="UPDATE pg_index SET indisvalid = false WHERE indexrelid ='
        " (SELECT indexrelid FROM pg_index WHERE indrelid = 'public.jobs'::regclass LIMIT 1)\"\n"
    )
    script = script.replace('"$5"', '"${4#--}"').replace('"${4#--}"', '"$4"')
    spoiled = replace(archived, programs=fake_pg_restore(scene.programs, tmp_path / "bin", script))
    with pytest.raises(BackupFailed, match="is not what backup") as caught:
        scene.restore(spoiled)
    assert "is INVALID." in caught.value.detail
    assert len(scene.beside()) == 1


@pytest.mark.skipif(
    pg_programs.version_of(embedded.programs() / "pg_dump") is None, reason="the wheel does not run here"
)
def test_an_archive_of_a_later_pg_dump_is_refused_for_an_older_server(server: Server, source: BackupSource) -> None:
    written = pg_programs.version_of(embedded.programs() / "pg_dump")
    if source.server_version >= 170000:
        assert find_programs(source.server_version, archive_version=written).version == written
        return
    with pytest.raises(BackupFailed) as caught:
        find_programs(source.server_version, archive_version=written)
    assert "transaction_timeout" in caught.value.detail
    assert "server of version 17 or later" in caught.value.hint
