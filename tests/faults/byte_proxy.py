"""A proxy that cuts a connection after so many bytes."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass
class ByteLimitProxy:
    """A proxy that cuts its connections after some bytes up or down, and refuses new ones until it is repaired."""

    upstream: str
    up: float = float("inf")
    down: float = float("inf")
    carried: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    delay: float = 0.0
    deleted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.broken = False
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def mend(self) -> None:
        self.up = self.down = float("inf")
        self.broken = False

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()
        self._thread.join(10)

    def _cut(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.broken:
                client.close()
                continue
            host, port = self.upstream.removeprefix("http://").split(":")
            server = socket.create_connection((host, int(port)))
            self._sockets += [client, server]
            for way, source, sink in (("up", client, server), ("down", server, client)):
                threading.Thread(target=self._carry, args=(way, source, sink), daemon=True).start()

    def _carry(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError), source:
            while chunk := source.recv(1 << 16):
                self.carried[way] += len(chunk)
                self.deleted += re.findall(r"<Key>(.+?)</Key>", chunk.decode(errors="replace")) if way == "up" else []
                if self.carried[way] > getattr(self, way):
                    self.broken = True
                    self._cut()
                    return
                if way == "down" and self.delay:
                    threading.Event().wait(self.delay)
                sink.sendall(chunk)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
