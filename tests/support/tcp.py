"""Connections on this machine, by /proc/net/tcp: what the other side has yet to read."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path


def wait_for_reader(connection: socket.socket, size: int) -> None:
    """Wait until the other side of an IPv4 connection has less than `size` bytes to read, or is gone."""
    while unread_by_peer(connection) >= size:
        time.sleep(0.002)


def unread_by_peer(connection: socket.socket) -> int:
    """Return how many bytes have been sent to a process of this machine that it hasn't read; 0 where it has ended."""
    try:
        own, others = _written(connection.getsockname()), _written(connection.getpeername())
    except OSError:
        return 0
    queued = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues = line.split()[:5]
        to_send, to_read = (int(number, 16) for number in queues.split(":"))
        if (local, remote) == (others, own):
            queued += to_read
        elif (local, remote) == (own, others):
            queued += to_send
    return queued


def _written(address: tuple[str, int]) -> str:
    """Return an address as the kernel writes it."""
    host, port = address
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
