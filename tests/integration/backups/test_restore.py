"""Restores on real servers, swapped in under the name of the database.

Databases are compared by the output of pg_dump, with settings and privileges, and by all rows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pgratchet import embedded, events
from pgratchet.backups import kept_databases, restore
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.kept_databases import KeptRecord
from pgratchet.backups.pg_programs import find_programs
from pgratchet.backups.restore import RestoreOptions
from pgratchet.database import connection
from pgratchet.database.history import History
from pgratchet.errors import ConfigurationError, LockBusy
from tests import ROOT
from tests.integration.backups.helpers import RestorableDatabase, assert_untouched, backup_source_of, temporary_roles
from tests.servers.clusters import Cluster, Clusters
from tests.servers.databases import Database, Server
from tests.support.migrations import WriteMigrations, migrate
from tests.support.waiting import until


def test_a_restore_brings_back_the_state_of_the_backup(
    restorable: RestorableDatabase, write: WriteMigrations, sql_folder: Path
) -> None:
    live = restorable.database
    archived = restorable.back_up()
    before, live_oid = restorable.likeness(), restorable.oid()
    shutil.copytree(ROOT / "sql", sql_folder, dirs_exist_ok=True)
    migrate(live, write(m900_more="CREATE TABLE more (x int)"))
    live.run("DROP TABLE jobs CASCADE; UPDATE app_state SET key = 'broken ' || key; CREATE VIEW v AS SELECT 1")
    broken = restorable.likeness()
    assert broken != before
    looked = restore.preview(restorable.site, live.name, archived.manifest)
    assert (looked.exists, looked.lost, looked.obstacles, looked.missing) == (True, ("900_more",), (), ())
    with closing(live.connect()) as idle, closing(live.connect()) as open_one:
        open_one.execute("BEGIN; SELECT count(*) FROM app_state")
        swapped = restorable.restore(archived)[-1]
        for session in (idle, open_one):
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
    assert isinstance(swapped, events.Swapped)
    assert swapped.old_database is not None
    assert swapped.old_database.startswith(f"{live.name}_old_")
    assert restorable.beside() == [swapped.old_database]
    assert restorable.likeness() == before
    assert restorable.oid() != live_oid
    record = KeptRecord("old", live.name, archived.manifest.backup_id)
    comment = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
    assert restorable.postgres.rows(comment, swapped.old_database) == [(record.as_comment(),)]
    restorable.postgres.run(f'COMMENT ON DATABASE "{swapped.old_database}" IS NULL')
    assert restorable.likeness(swapped.old_database) == broken
    with closing(live.connect()) as again:
        applied = History().read(again)
    assert {record.name: record.checksum for record in applied} == archived.manifest.contents.history
    assert migrate(live, write()).applied == ["900_more"]
    assert kept_databases.list_kept_databases(restorable.site, live.name) == (swapped.old_database,)
    kept_databases.drop_kept_databases(restorable.site, live.name, [swapped.old_database])
    assert restorable.beside() == []


def test_properties_of_the_database_are_restored(restorable: RestorableDatabase) -> None:
    live, name = restorable.database, restorable.database.name
    owner, reader, other = (f"{name}_{each}" for each in ("owner", "reader", "other"))
    with temporary_roles(live, owner, reader, other):
        live.run(f'CREATE SCHEMA "Odd, ""one"""; ALTER DATABASE {name} OWNER TO {owner}')
        live.run(f"""ALTER DATABASE {name} SET search_path TO "$user", 'Odd, "one"', public""")
        live.run(f"ALTER DATABASE {name} SET work_mem = '7MB'; ALTER DATABASE {name} SET app.who TO 'it''s=us, \\x'")
        live.run(f"ALTER ROLE {reader} IN DATABASE {name} SET \"TimeZone\" = 'Europe/Zurich'")
        live.run(f"ALTER ROLE {reader} IN DATABASE {name} SET search_path = ''")
        live.run(f"REVOKE CONNECT, TEMP ON DATABASE {name} FROM PUBLIC")
        live.run(f"GRANT CONNECT ON DATABASE {name} TO {other} WITH GRANT OPTION")
        live.run(f"GRANT CONNECT, CREATE ON DATABASE {name} TO pg_monitor")
        live.run(f"COMMENT ON DATABASE {name} IS 'it''s \"ours\"'; ALTER DATABASE {name} CONNECTION LIMIT 17")
        before, archived = restorable.likeness(), restorable.back_up()
        schema = "\n".join(before[0])
        for each in (
            "ALTER DATABASE LIVE SET search_path TO '$user', 'Odd, \"one\"', 'public'",
            'IN DATABASE LIVE SET "TimeZone"',
            "WITH GRANT OPTION",
            "TO pg_monitor",
            "CONNECTION LIMIT = 17",
            "COMMENT ON DATABASE",
        ):
            assert each in schema, "pg_dump tells"
        live.run(f"ALTER DATABASE {name} RESET ALL; ALTER DATABASE {name} SET work_mem = '1MB'")
        live.run(f"ALTER ROLE {reader} IN DATABASE {name} RESET ALL; GRANT ALL ON DATABASE {name} TO PUBLIC")
        live.run(f"COMMENT ON DATABASE {name} IS NULL; ALTER DATABASE {name} CONNECTION LIMIT -1")
        live.run(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")
        assert restorable.likeness() != before
        swapped = restorable.restore(archived)[-1]
        assert restorable.likeness() == before
        assert isinstance(swapped, events.Swapped)
        restorable.postgres.run(f'DROP DATABASE "{swapped.old_database}"')
        live.run(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")


def test_every_role_of_the_archive_is_in_the_manifest(restorable: RestorableDatabase) -> None:
    """The bootstrap superuser and the predefined roles have no entries in pg_shdepend."""
    live = restorable.database
    owner, setting = f"{live.name}_owner", f"{live.name}_setting"
    with temporary_roles(live, owner, setting):
        live.run(f"ALTER DATABASE {live.name} OWNER TO {owner}; GRANT SELECT ON jobs TO pg_monitor")
        live.run(f"ALTER ROLE {setting} IN DATABASE {live.name} SET work_mem = '7MB'")
        ((bootstrap,),) = live.rows("SELECT rolname FROM pg_roles WHERE oid = 10")
        named = restorable.back_up().manifest.contents.roles
        assert {owner, setting, bootstrap} <= set(named)
        live.run(f"ALTER DATABASE {live.name} OWNER TO CURRENT_USER")


def test_encoding_and_collation_are_restored(server: Server, disk_store: DiskStore) -> None:
    name = f"odd_{os.urandom(4).hex()}"
    live = Database({**server.parameters, "dbname": name})
    Database(server.parameters).run(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    scene = RestorableDatabase(live, disk_store, find_programs(backup_source_of(live).server_version))
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


def test_the_libc_provider_is_kept_on_a_cluster_with_another_provider(
    clusters: Clusters, disk_store: DiskStore
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
    scene = RestorableDatabase(live, disk_store, find_programs(backup_source_of(live).server_version))
    providers = "SELECT datname, datlocprovider FROM pg_database WHERE datname IN ('app', 'template0') ORDER BY 1"
    before = live.rows(providers)
    assert before == [("app", "c"), ("template0", "b")]
    scene.restore(scene.back_up())
    assert live.rows(providers) == before


def test_a_backup_under_load_is_consistent(restorable: RestorableDatabase) -> None:
    live, pgbench = restorable.database, restorable.programs.folder / "pgbench"
    if not pgbench.exists():
        pytest.skip(f"no pgbench in {restorable.programs.folder}")
    with restorable.site.client_environment() as environ:
        command = [str(pgbench), "--no-vacuum", live.name]
        subprocess.run([*command, "--initialize", "--quiet"], env=environ, check=True, capture_output=True)
        load = subprocess.Popen([*command, "--client=2", "--time=60"], env=environ, stderr=subprocess.DEVNULL)
        try:
            until(lambda: live.rows("SELECT count(*) > 20 FROM pgbench_history") == [(True,)])
            archived = restorable.back_up()
            ((later,),) = live.rows("SELECT count(*) FROM pgbench_history")
        finally:
            load.terminate()
            load.wait()
    counted = archived.manifest.contents.tables["public.pgbench_history"]
    assert 20 < counted < int(str(later)), "others wrote meanwhile"
    restorable.restore(archived)
    ((accounts, tellers, branches, deltas, rows),) = live.rows(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),"
        " (SELECT sum(bbalance) FROM pgbench_branches), sum(delta), count(*) FROM pgbench_history"
    )
    assert accounts == tellers == branches == deltas
    assert rows == counted
    assert live.rows("SELECT count(*) FROM pg_constraint WHERE conname LIKE 'pgbench%' AND contype = 'p'") == [(3,)]


def test_slots_and_subscriptions_are_named_and_dropped_only_on_request(
    logical_restorable: RestorableDatabase,
) -> None:
    live = logical_restorable.database
    live.run("CREATE TABLE seen (x int)")
    archived = logical_restorable.back_up()
    live.run("SELECT pg_create_logical_replication_slot('the_slot', 'pgoutput')")
    live.run("CREATE SUBSCRIPTION the_subscription CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)")
    with assert_untouched(logical_restorable):
        with pytest.raises(ConfigurationError, match="objects that cannot follow the swap") as caught:
            logical_restorable.restore(archived)
        assert caught.value.detail.splitlines()[:2] == [
            "The replication slot the_slot.",
            "The subscription the_subscription.",
        ]
        logical_restorable.restore(archived, into="app_into")
        logical_restorable.postgres.run("DROP DATABASE app_into")
    swapped = logical_restorable.restore(archived, leave_behind=True)[-1]
    assert isinstance(swapped, events.Swapped)
    assert swapped.old_database is not None
    slots = "SELECT slot_name, database FROM pg_replication_slots"
    assert logical_restorable.postgres.rows(slots) == [("the_slot", swapped.old_database)]
    assert logical_restorable.named(swapped.old_database).rows(
        "SELECT subname FROM pg_subscription AS s JOIN pg_database AS d"
        " ON d.oid = subdbid WHERE datname = current_database()"
    ) == [("the_subscription",)]
    with pytest.raises(ConfigurationError, match="cannot be dropped") as caught:
        kept_databases.drop_kept_databases(logical_restorable.site, "app", [swapped.old_database])
    assert "the replication slot the_slot" in caught.value.detail
    assert "the subscription the_subscription" in caught.value.detail
    assert logical_restorable.postgres.rows(slots) == [("the_slot", swapped.old_database)]
    old = logical_restorable.named(swapped.old_database)
    old.run("ALTER SUBSCRIPTION the_subscription SET (slot_name = NONE)")
    old.run("DROP SUBSCRIPTION the_subscription; SELECT pg_drop_replication_slot('the_slot')")
    kept_databases.drop_kept_databases(logical_restorable.site, "app", [swapped.old_database])


def test_a_slot_in_use_is_left_behind_too(logical_restorable: RestorableDatabase, tmp_path: Path) -> None:
    archived = logical_restorable.back_up()
    receiving = ["pg_recvlogical", "--dbname=app", "--slot=the_slot", "--file", str(tmp_path / "changes")]
    receiving[0] = str(embedded.programs() / "pg_recvlogical")
    with logical_restorable.site.client_environment() as environ:
        make = [*receiving, "--create-slot", "--plugin=pgoutput"]
        options = ["--option=proto_version=1", "--option=publication_names=p", "--no-loop"]
        logical_restorable.database.run("CREATE PUBLICATION p FOR ALL TABLES")
        subprocess.run(make, env=environ, check=True, capture_output=True)
        reader = subprocess.Popen([*receiving, "--start", *options], env=environ, stderr=subprocess.DEVNULL)
    try:
        until(lambda: logical_restorable.postgres.rows("SELECT active FROM pg_replication_slots") == [(True,)])
        swapped = logical_restorable.restore(archived, leave_behind=True)[-1]
        assert isinstance(swapped, events.Swapped)
        assert reader.wait(10) != 0, "it was ended"
        assert logical_restorable.postgres.rows("SELECT database FROM pg_replication_slots") == [
            (swapped.old_database,)
        ]
    finally:
        reader.kill()
        reader.wait()


def test_a_role_without_superuser_restores_during_a_vacuum(clusters: Clusters, disk_store: DiskStore) -> None:
    """Only a superuser may terminate autovacuum; ALTER DATABASE ... RENAME ends it by itself."""
    slow = {"autovacuum_naptime": "1s", "autovacuum_vacuum_cost_delay": "100ms", "autovacuum_vacuum_cost_limit": "1"}
    cluster = clusters.make("vacuuming", **slow)
    admin = cluster.database
    admin.run("CREATE ROLE deploy LOGIN CREATEDB; ALTER DATABASE app OWNER TO deploy")
    live = Database({**admin.parameters, "user": "deploy"})
    live.run("CREATE TABLE t AS SELECT n, repeat('x', 500) AS x FROM generate_series(1, 30000) AS n")
    scene = RestorableDatabase(live, disk_store, find_programs(backup_source_of(live).server_version))
    archived = scene.back_up()
    live.run("DELETE FROM t")
    vacuums = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND datname = 'app'"
    until(lambda: admin.rows(vacuums), 30)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        live.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid IS NULL AND datname = 'app'")
    assert isinstance(scene.restore(archived)[-1], events.Swapped)
    assert live.rows("SELECT count(*) FROM t") == [(30000,)]


def test_a_second_restore_is_refused(restorable: RestorableDatabase) -> None:
    archived = restorable.back_up()
    first = restore.restore(restorable.site, restorable.database.name, archived, RestoreOptions())
    next(first)
    (under_way,) = restorable.beside()
    with pytest.raises(LockBusy, match=r"another restore of .* is running"):
        restorable.restore(archived)
    with pytest.raises(LockBusy, match=r"another restore of .* is running"):
        kept_databases.drop_kept_databases(
            restorable.site,
            restorable.database.name,
            kept_databases.list_kept_databases(restorable.site, restorable.database.name),
        )
    assert restorable.beside() == [under_way]
    assert isinstance([*first][-1], events.Swapped)


def test_restores_and_migrations_wait_for_each_other(
    restorable: RestorableDatabase, write: WriteMigrations, sql_folder: Path
) -> None:
    archived, before = restorable.back_up(), restorable.likeness()
    shutil.copytree(ROOT / "sql", sql_folder, dirs_exist_ok=True)
    with restorable.database.connect() as migrating:
        migrating.execute("SELECT pg_advisory_lock(%s)", (History().lock_key,))
        with assert_untouched(restorable), pytest.raises(LockBusy, match="holds the migration lock"):
            restorable.restore(archived, wait=200)
    restoring = restore.restore(restorable.site, restorable.database.name, archived, RestoreOptions())
    next(restoring)
    with pytest.raises(LockBusy, match="holds the migration lock"):
        migrate(restorable.database, write(m900_more="CREATE TABLE more ()"), wait=100)
    assert len(restorable.beside()) == 1
    restoring.close()
    assert restorable.beside() == [], "what is broken off drops what it began"
    assert restorable.likeness() == before


def test_a_dropped_database_is_restored_under_its_name(restorable: RestorableDatabase) -> None:
    archived, before = restorable.back_up(), restorable.likeness()
    restorable.postgres.run(f"DROP DATABASE {restorable.database.name}")
    looked = restore.preview(restorable.site, restorable.database.name, archived.manifest)
    assert (looked.exists, looked.lost) == (False, ())
    assert restorable.restore(archived)[-1] == events.Swapped(restorable.database.name, None)
    assert restorable.beside() == []
    assert restorable.likeness() == before


ODD = ['it\'s "odd" \\ $(x) %s a.*(b', " dbname=postgres host=é ü 日本語 ", "é" * 31 + "x"]


@pytest.mark.parametrize("name", ODD)
def test_unusual_names_are_restored_and_swapped(restorable: RestorableDatabase, server: Server, name: str) -> None:
    archived, before = restorable.back_up(), restorable.likeness()
    assert len(name.encode()) <= 63
    odd = replace(restorable, database=restorable.named(name))
    try:
        assert restorable.restore(archived, into=name)[-1] == events.Compared(
            len(archived.manifest.contents.tables),
            archived.manifest.contents.rows,
            (),
            len(archived.manifest.contents.sequences or ()),
        )
        odd.database.run("DROP TABLE jobs CASCADE")
        swapped = list(restore.restore(odd.site, name, archived, RestoreOptions()))[-1]
        assert isinstance(swapped, events.Swapped)
        assert kept_databases.list_kept_databases(odd.site, name) == (swapped.old_database,)
        kept_databases.drop_kept_databases(odd.site, name, kept_databases.list_kept_databases(odd.site, name))
        assert kept_databases.list_kept_databases(odd.site, name) == ()
        assert odd.database.rows("SELECT count(*) FROM jobs") == [(0,)]
        assert restorable.likeness() == before
    finally:
        with closing(connection.connect(server.parameters)) as session:
            session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_only_databases_that_restores_left_are_dropped(restorable: RestorableDatabase) -> None:
    name = restorable.database.name
    others = [f"{name}_old", f"{name}_old_2026", f"{name}_x_old_20260101000000", f"{name}_old_20260101000000x"]
    leftovers = [f"{name}_old_20260101000000", f"{name}_restore_20260101000000"]
    for each in (*others, *leftovers):
        restorable.postgres.run(f"CREATE DATABASE {each} TEMPLATE template0")
    kept_names = kept_databases.list_kept_databases(restorable.site, name)
    assert list(kept_names) == leftovers
    kept_databases.drop_kept_databases(restorable.site, name, kept_names)
    assert sorted(restorable.beside()) == sorted(others)


@pytest.mark.parametrize("length", [40, 41, 44, 50, 63])
def test_kept_databases_of_another_name_that_begins_alike_are_not_dropped(
    restorable: RestorableDatabase, length: int
) -> None:
    stem = restorable.database.name.ljust(length - 1, "x")
    kept = [kept_databases.derive_name(stem + last, "old") for last in "ab"]
    assert len(set(kept)) == 2
    assert all(len(name) <= 63 for name in kept)
    for name in kept:
        restorable.postgres.run(f'CREATE DATABASE "{name}" TEMPLATE template0')
    kept_databases.drop_kept_databases(
        restorable.site, stem + "a", kept_databases.list_kept_databases(restorable.site, stem + "a")
    )
    assert restorable.beside() == [kept[1]]
