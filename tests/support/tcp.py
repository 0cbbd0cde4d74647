"""TCP on this machine: free ports, and what the other side of a connection has yet to read, by /proc/net/tcp."""

from __future__ import annotations

import random
import socket
import sys
import time
from pathlib import Path


def free_port() -> int:
    """Return a free loopback port, below those that Linux gives to clients meanwhile."""
    with socket.socket() as probe:
        for port in random.sample(range(20_000, 30_000), 1000):
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no port is free")


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
