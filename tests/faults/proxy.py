"""Faults for the tests: a line to a server that is cut or falls silent at a chosen message, and servers that crash.

The proxy listens on the loopback interface and reads the protocol just far enough to know where a message begins
and ends, so that a fault comes at a moment that is known, and not after a time that was guessed. It speaks plain
TCP: encrypted messages could not be told apart.

A line falls silent in two ways. Frozen, nothing is forwarded, while the kernel goes on to acknowledge what
arrives, as with a stopped process or a stuck middlebox. A black hole acknowledges nothing, as with a cable pulled
out or a firewall that drops: a socket filter throws every packet away before TCP sees it, which takes neither
rights nor a change to the machine's own firewall.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pgratchet import embedded
from pgratchet.apply import applier
from pgratchet.apply.run import MigrateOptions
from pgratchet.database.history import History
from pgratchet.errors import RatchetError
from pgratchet.migrations.files import Migration
from tests.conftest import Database, Ran

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_LOGIN_OK, _LAST_OF_SASL = 0, 12
_PASS_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)
"""One instruction of the kernel's packet filter: return 0, which keeps no byte of the packet."""

COPY_DONE = b"c\0\0\0\4"
"""The client's message behind the last row of a COPY; it holds no text to find it by."""


class Moment(Enum):
    """When, at a message of the client's, the fault comes."""

    BEFORE = "nothing of the message has reached the server"
    HALF = "half of its bytes have"
    SENT = "all of it has, and the server works on it"
    HALF_ANSWERED = "the server has answered, and half of the answer has come back"
    ANSWERED = "the server has answered, and nothing of the answer has come back"


class Fault(Enum):
    CUT = "both sockets are closed"
    FREEZE = "nothing is forwarded, but acknowledged"
    BLACK_HOLE = "nothing is forwarded, and nothing acknowledged"


@dataclass(frozen=True)
class Trap:
    """What happens at a message that contains `text`."""

    text: bytes
    moment: Moment
    fault: Fault
    meanwhile: Callable[[], object]


class Proxy:
    """A line to the server of `upstream`, by libpq parameters, that can break."""

    def __init__(self, upstream: Mapping[str, str]) -> None:
        self.upstream: Mapping[str, str] | None = upstream
        self.sprung = 0
        self.witnessed: object = None
        self._trap: Trap | None = None
        self._before = 0
        self._flows = threading.Event()
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lines: list[_Line] = []
        self._filtered: list[socket.socket] = []
        self._given = upstream
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def database(self) -> Database:
        """The upstream's database, by way of the proxy."""
        port = str(self._listener.getsockname()[1])
        return Database(
            {**self._given, "host": "127.0.0.1", "port": port, "sslmode": "disable", "gssencmode": "disable"}
        )

    @property
    def connections(self) -> int:
        """How many there have been."""
        return len(self._lines)

    def at(
        self,
        text: bytes,
        moment: Moment,
        *,
        nth: int = 1,
        fault: Fault = Fault.CUT,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Set a trap, which springs once, at the nth message of the client's that contains the text.

        What `meanwhile` returns, called just before the fault, is `witnessed`.
        """
        self._trap, self._before = Trap(text, moment, fault, meanwhile), nth - 1

    def take(self, message: bytes) -> Trap | None:
        """The trap, once, if this message springs it."""
        trap = self._trap
        if trap is None or trap.text not in message:
            return None
        if self._before:
            self._before -= 1
            return None
        self._trap = None
        return trap

    def lead_to(self, upstream: Mapping[str, str] | None) -> None:
        """Where later connections lead; None is nowhere: they are closed as soon as they are made."""
        self.upstream = upstream

    def silence(self, fault: Fault) -> None:
        """Every line falls silent, and so does every later connection."""
        self._flows.clear()
        if fault is Fault.BLACK_HOLE:
            lines = [line for line in self._lines if line.open]
            self._filtered = [self._listener, *(each for line in lines for each in line.ends)]
            for each in self._filtered:
                _drop_everything(each)

    def thaw(self) -> None:
        """Let the lines that are left go on."""
        for each in self._filtered:
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        self._filtered = []
        self._flows.set()

    def wait_for_flow(self) -> None:
        self._flows.wait()

    def cut(self) -> None:
        """Close every line."""
        for line in self._lines:
            line.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.thaw()
        self.cut()
        self._thread.join(10)
        for line in self._lines:
            line.join()

    def spring(self, trap: Trap, line: _Line) -> None:
        self.witnessed = trap.meanwhile()
        self.sprung += 1
        if trap.fault is Fault.CUT:
            line.close()
        else:
            self.silence(trap.fault)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                self._lines.append(_Line(self, client, _connect(self.upstream)))
            except OSError:
                client.close()


class _Line:
    """One connection of a client and ours to the server, with a thread for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        for each in (client, server):
            if each.family != socket.AF_UNIX:  # else each message waits for the kernel to hear of the one before
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answering: Trap | None = None
        self.open = True
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._forward, self._answer)]
        for thread in self._threads:
            thread.start()

    @property
    def ends(self) -> tuple[socket.socket, socket.socket]:
        return self._client, self._server

    def close(self) -> None:
        self.open = False
        for each in self.ends:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)
        for each in self.ends:
            each.close()

    def _forward(self) -> None:
        with suppress(OSError):
            for message in _messages(self._client, typed=False):
                self._proxy.wait_for_flow()
                trap = self._proxy.take(message)
                if trap is None:
                    self._server.sendall(message)
                else:
                    self._forward_into(trap, message)
        self.close()

    def _forward_into(self, trap: Trap, message: bytes) -> None:
        if trap.moment in (Moment.ANSWERED, Moment.HALF_ANSWERED):
            self._answering = trap
            self._server.sendall(message)
            return
        share = {Moment.BEFORE: 0, Moment.HALF: len(message) // 2, Moment.SENT: len(message)}[trap.moment]
        self._server.sendall(message[:share])
        self._proxy.spring(trap, self)

    def _answer(self) -> None:
        held = b""
        with suppress(OSError):
            for message in _messages(self._server, typed=True):
                self._proxy.wait_for_flow()
                trap = self._answering
                if trap is None:
                    self._client.sendall(message)
                    continue
                held += message
                if _ends_answer(message):
                    self._answering = None
                    self._client.sendall(held[: len(held) // 2 if trap.moment is Moment.HALF_ANSWERED else 0])
                    self._proxy.spring(trap, self)
        self.close()


def _messages(line: socket.socket, *, typed: bool) -> Iterator[bytes]:
    """Whole messages; the client's first one has no type before its length."""
    reader = line.makefile("rb")
    while len(head := reader.read(5 if typed else 4)) >= 4:
        body = reader.read(int.from_bytes(head[-4:], "big") - 4)
        typed = True
        yield head + body


def _ends_answer(message: bytes) -> bool:
    """Whether the server waits behind it: ReadyForQuery, CopyInResponse, or a question about the password."""
    kind, code = message[:1], int.from_bytes(message[5:9], "big")
    return kind in (b"Z", b"G") or (kind == b"R" and code not in (_LOGIN_OK, _LAST_OF_SASL))


def _connect(upstream: Mapping[str, str] | None) -> socket.socket:
    if upstream is None:
        raise ConnectionRefusedError
    host, port = upstream["host"], upstream["port"]
    if not host.startswith("/"):
        return socket.create_connection((host, int(port)))
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(f"{host}/.s.PGSQL.{port}")
    except OSError:
        line.close()
        raise
    return line


def _drop_everything(line: socket.socket) -> None:
    if line.family != socket.AF_UNIX:
        program = ctypes.create_string_buffer(_PASS_NOTHING)
        line.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


@dataclass(frozen=True)
class Cluster:
    """A server of a test's own, from the wheel; with an `address`, a loopback one, it listens for TCP there too."""

    server: embedded.Server
    address: str = ""

    @property
    def database(self) -> Database:
        """Its database `app`, through its Unix socket."""
        return Database({**self.server.parameters(), "dbname": "app"})

    @property
    def by_tcp(self) -> dict[str, str]:
        return {**self.database.parameters, "host": self.address}

    def configure(self, **settings: str) -> None:
        """Add to its settings file; they hold from the next start."""
        with (self.server.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self) -> None:
        options = f"-c listen_addresses='{self.address}' -c unix_socket_directories='{self.server.socket_folder}'"
        self._control("start", "-l", str(self.server.log), "-o", f"{options} -p {embedded.PORT}", "-t", "60")

    def stop(self, mode: str = "fast") -> None:
        """`immediate` is a crash: no checkpoint, and what was not written by then is not."""
        self._control("stop", "-m", mode)

    def _control(self, action: str, *options: str) -> None:
        embedded._demand(self.server, action, "pg_ctl", action, "-D", str(self.server.data), "-w", *options)


class Clusters:
    """Makes servers below a folder, and removes them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[embedded.Server] = []

    def make(self, name: str, *, address: str = "", **settings: str) -> Cluster:
        """A new cluster with an empty database `app`, running."""
        cluster = Cluster(self._place(name), address)
        embedded.start(cluster.server, "app")
        if address or settings:
            cluster.stop()
            cluster.configure(**settings)
            cluster.start()
        return cluster

    def copy(self, original: Cluster, name: str) -> Cluster:
        """The files of a cluster that is stopped, in another place; not started."""
        cluster = Cluster(self._place(name))
        subprocess.run(["cp", "-a", str(original.server.data), str(cluster.server.data)], check=True)
        return cluster

    def standby(self, primary: Cluster, name: str) -> Cluster:
        """A streaming standby, running."""
        cluster = Cluster(self._place(name))
        source = ("-h", str(primary.server.socket_folder), "-U", embedded.USER, "-c", "fast", "-R")
        embedded._demand(cluster.server, "make", "pg_basebackup", *source, "-D", str(cluster.server.data))
        cluster.start()
        return cluster

    def remove(self) -> None:
        for server in self._made:
            embedded.remove(server)

    def _place(self, name: str) -> embedded.Server:
        server = embedded.server(self._folder, name, make=True)
        self._made.append(server)
        embedded._make_parents(server.root.parent)
        embedded._folder(server.root)
        embedded._folder(server.socket_folder)
        return server


def migrate(database: Database, files: Sequence[Migration], **options: object) -> Ran:
    given = MigrateOptions(**{"run_id": "run", **options})  # type: ignore[arg-type]
    return Ran(list(applier.migrate(database.connect, History(), files, None, given)))


def history(database: Database) -> list[tuple[object, ...]]:
    """The names in the history, and whether each is finished; none where there is no history yet."""
    if database.rows("SELECT to_regclass('ratchet.migrations')") == [(None,)]:
        return []
    return database.rows("SELECT name, executed_at IS NOT NULL FROM ratchet.migrations ORDER BY id")


class Attempt:
    """A run that may fail, for a thread of its own: what it reported by then, and our error; other errors pass."""

    def __init__(self, database: Database, files: Sequence[Migration], **options: object) -> None:
        self._stream = applier.migrate(
            database.connect,
            History(),
            files,
            None,
            MigrateOptions(**{"run_id": "run", **options}),  # type: ignore[arg-type]
        )
        self.ran = Ran([])
        self.error: RatchetError | None = None

    def run(self) -> Attempt:
        try:
            for event in self._stream:
                self.ran.events.append(event)
        except RatchetError as error:
            self.error = error
        return self

    @property
    def applied(self) -> list[str]:
        return self.ran.applied
