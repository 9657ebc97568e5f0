"""Fixtures of the tests of backups."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pgratchet.apply import applier, run
from pgratchet.backups.backup import BackupSource
from pgratchet.backups.disk_store import DiskStore
from pgratchet.backups.pg_programs import Programs, find_programs
from pgratchet.backups.restore_server import RestoreServer
from pgratchet.database.history import History
from pgratchet.migrations import files
from pgratchet.operations.restore import restore_server
from tests import ROOT
from tests.faults.byte_proxy import ByteLimitProxy
from tests.faults.proxy import Proxy
from tests.integration.backups.helpers import Owned, RestorableDatabase, backup_source_of, temporary_roles
from tests.requirements import require
from tests.servers.clusters import Clusters
from tests.servers.databases import Database, Server
from tests.servers.object_store import S3Server
from tests.support.targets import target_of


@pytest.fixture
def backup_source(migrated: Database) -> BackupSource:
    return backup_source_of(migrated)


@pytest.fixture
def programs(backup_source: BackupSource) -> Programs:
    return find_programs(backup_source.server_version)


@pytest.fixture
def disk_store(tmp_path: Path) -> DiskStore:
    return DiskStore(tmp_path / "backups" / "env" / "target")


@pytest.fixture
def scratch_server(migrated: Database) -> RestoreServer:
    return restore_server(target_of(migrated))


@pytest.fixture
def restorable(
    server: Server, migrated: Database, disk_store: DiskStore, programs: Programs
) -> Iterator[RestorableDatabase]:
    restorable = RestorableDatabase(migrated, disk_store, programs)
    yield restorable
    for name in restorable.beside():
        restorable.postgres.run(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def proxy(migrated: Database) -> Iterator[Proxy]:
    proxy = Proxy(migrated.parameters)
    yield proxy
    proxy.close()


@pytest.fixture
def logical_restorable(clusters: Clusters, disk_store: DiskStore) -> RestorableDatabase:
    """A database on a server with logical replication and prepared transactions."""
    database = clusters.make("logical", wal_level="logical", max_prepared_transactions="5").database
    list(applier.migrate(database.connect, History(), files.read(ROOT / "sql"), None, run.MigrateOptions("run")))
    return RestorableDatabase(database, disk_store, find_programs(backup_source_of(database).server_version))


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    require("moto")
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    with closing(client):
        client.create_bucket(Bucket="bucket")
        yield S3Server(f"http://{host}:{port}", client)
    server.stop()


@pytest.fixture
def s3(s3_server: S3Server) -> Iterator[S3Server]:
    yield s3_server
    for key in s3_server.names():
        s3_server.client.delete_object(Bucket="bucket", Key=key)


@pytest.fixture
def byte_proxy(s3: S3Server) -> Iterator[ByteLimitProxy]:
    byte_proxy = ByteLimitProxy(s3.endpoint)
    yield byte_proxy
    byte_proxy.close()


@pytest.fixture
def owned(database: Database, disk_store: DiskStore) -> Iterator[Owned]:
    role, other = f"{database.name}_own", f"{database.name}_other"
    programs = find_programs(backup_source_of(database).server_version)
    privileged = RestorableDatabase(database, disk_store, programs)
    with temporary_roles(database, role, other):
        database.run(f"ALTER ROLE {role} CREATEDB; ALTER DATABASE {database.name} OWNER TO {role}")
        own = replace(privileged, database=Database({**database.parameters, "user": role, "password": "x"}))
        own.database.run("CREATE TABLE notes AS SELECT generate_series(1, 10) AS id")
        try:
            yield Owned(own, privileged, other)
        finally:
            for name in privileged.beside():
                privileged.postgres.run(f'DROP DATABASE "{name}" WITH (FORCE)')
            privileged.postgres.run(f"ALTER DATABASE {database.name} OWNER TO CURRENT_USER")
