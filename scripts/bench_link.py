"""A slow link for `make bench`: forwards connections to a server on loopback at a limited rate.

    python3 scripts/bench_link.py HOST:PORT BYTES_PER_SECOND FILE

It listens on a port of loopback, writes `127.0.0.1:PORT` to FILE, and runs until it is killed. What the server sends on
all connections together is limited. It imports nothing of the project, so that it starts at once.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

_PIECE = 1 << 16


class Pace:
    """Delays threads so that all of them together send `rate` bytes a second."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def wait(self, count: int) -> None:
        """Wait until `count` more bytes may be sent."""
        with self._lock:
            begin = max(self._free_at, time.monotonic())
            self._free_at = begin + count / self._rate
        time.sleep(max(0.0, begin - time.monotonic()))


def copy(source: socket.socket, target: socket.socket, pace: Pace | None) -> None:
    """Forward all bytes from one side to the other."""
    try:
        while data := source.recv(_PIECE):
            if pace:
                pace.wait(len(data))
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # one side has closed the connection
        target.close()
        source.close()


def main(arguments: list[str]) -> int:
    """Run the link."""
    server, rate, file = arguments
    host, _, port = server.rpartition(":")
    pace = Pace(int(rate))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with open(f"{file}.new", "w") as written:
            written.write(f"127.0.0.1:{listener.getsockname()[1]}")
        os.rename(f"{file}.new", file)
        while True:
            client, _ = listener.accept()
            upstream = socket.create_connection((host, int(port)))
            threading.Thread(target=copy, args=(client, upstream, None), daemon=True).start()
            threading.Thread(target=copy, args=(upstream, client, pace), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
