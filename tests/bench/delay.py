"""A line of 20 ms: a proxy on the loopback that holds back every byte for 10 ms in each direction.

Owns its process. What it holds back is queued, not stopped, so that it bounds no throughput; and a connection
costs a round trip before its first byte, as on a real line, where the client only learns of it then. Threads that
sleep and no event loop: a loop's timers come up to a millisecond late, which is a tenth of what is to be shown.
Run by path, `delay.py HOST PORT SECONDS`: prints the port that it listens on, and ends when its stdin does.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue

ONE_WAY = 0.010
_Held = SimpleQueue[tuple[float, bytes]]


@contextmanager
def line(host: str, port: int) -> Iterator[int]:
    """The port on the loopback that leads, late, to `host` and `port`."""
    command = [sys.executable, "-I", str(Path(__file__)), host, str(port), str(ONE_WAY)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        try:
            yield int(proxy.stdout.readline())
        finally:
            proxy.kill()


def main(host: str, port: int, delay: float) -> None:
    """Take connections until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's goes to all: whoever started us ends us
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_join, args=(client, host, port, delay), daemon=True).start()


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def _join(client: socket.socket, host: str, port: int, delay: float) -> None:
    heard = time.monotonic() + 2 * delay  # when a client this far away would have heard that it is connected
    with suppress(OSError):
        server = socket.create_connection((host, port))
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _carry(client, server, delay, heard)
        _carry(server, client, delay, 0.0)
        return
    client.close()


def _carry(source: socket.socket, target: socket.socket, delay: float, not_before: float) -> None:
    queue: _Held = SimpleQueue()
    threading.Thread(target=_take, args=(source, queue, delay, not_before), daemon=True).start()
    threading.Thread(target=_give, args=(target, queue), daemon=True).start()


def _take(source: socket.socket, queue: _Held, delay: float, not_before: float) -> None:
    data = b"-"
    while data:
        try:
            data = source.recv(1 << 18)
        except OSError:
            data = b""
        queue.put((max(time.monotonic(), not_before) + delay, data))


def _give(target: socket.socket, queue: _Held) -> None:
    """Hand on what is due; an empty piece is the end of this direction."""
    with suppress(OSError):
        while True:
            due, data = queue.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                break
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
