"""A proxy that cuts or silences a connection at a chosen message.

The proxy listens on the loopback interface and reads the protocol to find where a message begins and ends. A fault
therefore comes at a known moment, and not after a guessed time. It supports plain TCP only: encrypted messages cannot
be separated.

A connection is silenced in two ways. A frozen connection forwards nothing, while the kernel still acknowledges each
packet, as with a stopped process. A black hole acknowledges nothing, as with an unplugged cable or a firewall that
drops packets: a socket filter discards every packet before TCP sees it, without a change to the firewall of the
machine.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from tests.faults import socket_filter
from tests.servers.databases import Database

_LOGIN_OK, _LAST_OF_SASL = 0, 12

COPY_DONE = b"c\0\0\0\4"
"""The client's message behind the last row of a COPY; it holds no text to find it by."""


class Moment(Enum):
    """When the fault comes, relative to a message of the client."""

    BEFORE = "nothing of the message has reached the server"
    HALF = "half of its bytes have"
    SENT = "all of it has, and the server works on it"
    HALF_ANSWERED = "the server has answered, and half of the answer has come back"
    ANSWERED = "the server has answered, and nothing of the answer has come back"


class ConnectionFault(Enum):
    CUT = "both sockets are closed"
    FREEZE = "nothing is forwarded, but acknowledged"
    BLACK_HOLE = "nothing is forwarded, and nothing acknowledged"


@dataclass(frozen=True)
class Trap:
    """A fault at the message that contains `text`."""

    text: bytes
    moment: Moment
    fault: ConnectionFault
    meanwhile: Callable[[], object]


class Proxy:
    """A proxy to the server of `upstream`, given as libpq parameters."""

    def __init__(self, upstream: Mapping[str, str]) -> None:
        self.upstream: Mapping[str, str] | None = upstream
        self.sprung = 0
        self.witnessed: object = None
        self._trap: Trap | None = None
        self._before = 0
        self._flows = threading.Event()
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lines: list[_ProxiedConnection] = []
        self._filtered: list[socket.socket] = []
        self._given = upstream
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def database(self) -> Database:
        """The database of upstream, with the address of the proxy."""
        port = str(self._listener.getsockname()[1])
        return Database(
            {**self._given, "host": "127.0.0.1", "port": port, "sslmode": "disable", "gssencmode": "disable"}
        )

    @property
    def connections(self) -> int:
        """The number of connections so far."""
        return len(self._lines)

    def at(
        self,
        text: bytes,
        moment: Moment,
        *,
        nth: int = 1,
        fault: ConnectionFault = ConnectionFault.CUT,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Set a trap for the nth client message that contains the text. It springs once.

        `meanwhile` is called just before the fault; its result is kept as `witnessed`.
        """
        self._trap, self._before = Trap(text, moment, fault, meanwhile), nth - 1

    def take(self, message: bytes) -> Trap | None:
        """Return the trap if this message springs it, and remove it."""
        trap = self._trap
        if trap is None or trap.text not in message:
            return None
        if self._before:
            self._before -= 1
            return None
        self._trap = None
        return trap

    def lead_to(self, upstream: Mapping[str, str] | None) -> None:
        """Set the server of later connections. With None they are closed at once."""
        self.upstream = upstream

    def silence(self, fault: ConnectionFault) -> None:
        """Silence every connection, and every later one."""
        self._flows.clear()
        if fault is ConnectionFault.BLACK_HOLE:
            lines = [line for line in self._lines if line.open]
            self._filtered = [self._listener, *(each for line in lines for each in line.ends)]
            for each in self._filtered:
                socket_filter.drop_everything(each)

    def thaw(self) -> None:
        """Let the remaining connections continue."""
        for each in self._filtered:
            socket_filter.drop_nothing(each)
        self._filtered = []
        self._flows.set()

    def wait_for_flow(self) -> None:
        self._flows.wait()

    def cut(self) -> None:
        """Close every connection."""
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

    def spring(self, trap: Trap, line: _ProxiedConnection) -> None:
        self.witnessed = trap.meanwhile()
        self.sprung += 1
        if trap.fault is ConnectionFault.CUT:
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
                self._lines.append(_ProxiedConnection(self, client, _connect(self.upstream)))
            except OSError:
                client.close()


class _ProxiedConnection:
    """One connection of a client and the connection to its server, with a thread for each direction."""

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
        answer = b""
        with suppress(OSError):
            for message in _messages(self._server, typed=True):
                self._proxy.wait_for_flow()
                trap = self._answering
                if trap is None:
                    self._client.sendall(message)
                    continue
                answer += message
                if _ends_answer(message):
                    self._answering = None
                    self._client.sendall(answer[: len(answer) // 2 if trap.moment is Moment.HALF_ANSWERED else 0])
                    self._proxy.spring(trap, self)
        self.close()


def _messages(line: socket.socket, *, typed: bool) -> Iterator[bytes]:
    """Whole messages. The first message of a client has no type before its length."""
    reader = line.makefile("rb")
    while len(head := reader.read(5 if typed else 4)) >= 4:
        body = reader.read(int.from_bytes(head[-4:], "big") - 4)
        typed = True
        yield head + body


def _ends_answer(message: bytes) -> bool:
    """Return whether the server waits after the message: ReadyForQuery, CopyInResponse or an authentication request."""
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
