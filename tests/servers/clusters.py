"""Servers of one test's own, made from the bundled PostgreSQL: they can crash, be copied and have a standby."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from pgratchet import embedded
from tests.servers.databases import Database


@dataclass(frozen=True)
class Cluster:
    """A cluster for one test. With a loopback `address`, it also listens for TCP."""

    server: embedded.Server
    address: str = ""

    @property
    def database(self) -> Database:
        """The database `app`, through the Unix socket."""
        return Database({**self.server.parameters(), "dbname": "app"})

    @property
    def by_tcp(self) -> dict[str, str]:
        return {**self.database.parameters, "host": self.address}

    def configure(self, **settings: str) -> None:
        """Append to the settings file. The settings apply from the next start."""
        with (self.server.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self) -> None:
        options = f"-c listen_addresses='{self.address}' -c unix_socket_directories='{self.server.socket_folder}'"
        self._control("start", "-l", str(self.server.log), "-o", f"{options} -p {embedded.PORT}", "-t", "60")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server. `immediate` is a crash without a checkpoint."""
        self._control("stop", "-m", mode)

    def _control(self, action: str, *options: str) -> None:
        embedded.run_checked(self.server, action, "pg_ctl", action, "-D", str(self.server.data), "-w", *options)


class Clusters:
    """Creates clusters below a folder, and removes them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[embedded.Server] = []

    def make(self, name: str, *, address: str = "", **settings: str) -> Cluster:
        """Create and start a cluster with an empty database `app`."""
        cluster = Cluster(self._place(name), address)
        embedded.start(cluster.server, "app")
        if address or settings:
            cluster.stop()
            cluster.configure(**settings)
            cluster.start()
        return cluster

    def copy(self, original: Cluster, name: str) -> Cluster:
        """Copy a stopped cluster. The copy is not started."""
        cluster = Cluster(self._place(name))
        subprocess.run(["cp", "-a", str(original.server.data), str(cluster.server.data)], check=True)
        return cluster

    def standby(self, primary: Cluster, name: str) -> Cluster:
        """Create and start a streaming standby."""
        cluster = Cluster(self._place(name))
        source = ("-h", str(primary.server.socket_folder), "-U", embedded.USER, "-c", "fast", "-R")
        embedded.run_checked(cluster.server, "make", "pg_basebackup", *source, "-D", str(cluster.server.data))
        cluster.start()
        return cluster

    def remove(self) -> None:
        for server in self._made:
            embedded.remove(server)

    def _place(self, name: str) -> embedded.Server:
        server = embedded.locate(self._folder, name, make=True)
        self._made.append(server)
        embedded.make_parents(server.root.parent)
        embedded.make_private_folder(server.root)
        embedded.make_private_folder(server.socket_folder)
        return server
