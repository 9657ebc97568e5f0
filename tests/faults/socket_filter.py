"""Linux's socket filter, which discards the packets of a socket before TCP acknowledges them (socket(7)).

Some kernels let only a process with CAP_NET_ADMIN attach a filter.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from contextlib import suppress

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_PASS_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)
"""One instruction of the kernel's packet filter: return 0, which keeps no byte of the packet."""


def is_permitted() -> bool:
    """Return whether this process can attach a filter."""
    if sys.platform != "linux":
        return False
    with socket.socket() as probe:
        try:
            drop_everything(probe)
        except OSError:
            return False
    return True


def drop_everything(connection: socket.socket) -> None:
    """Discard each packet that arrives for a TCP socket from now on. A Unix socket is left alone."""
    if connection.family != socket.AF_UNIX:
        program = ctypes.create_string_buffer(_PASS_NOTHING)
        connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


def drop_nothing(connection: socket.socket) -> None:
    """Detach the filter from the socket, which may be closed."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
