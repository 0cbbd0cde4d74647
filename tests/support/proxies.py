"""Proxies on loopback that lead every name to one server: HTTP, with and without CONNECT, and SOCKS 5."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import TracebackType
from typing import Any, Self


class Proxy:
    """A proxy at `host` while its context lasts, for HTTP and SOCKS clients; `asked` lists their requests."""

    def __init__(self, target: str) -> None:
        name, _, port = target.rpartition(":")
        self.target = (name, int(port))
        self.asked: list[str] = []
        self._server = _Server(("127.0.0.1", 0), lambda *args: _Handler(self, *args))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.host = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


class _Handler(StreamRequestHandler):
    rbufsize = 0

    def __init__(self, proxy: Proxy, *args: Any) -> None:
        self._proxy = proxy
        super().__init__(*args)

    def handle(self) -> None:
        with suppress(OSError, EOFError):
            if self.connection.recv(1, socket.MSG_PEEK) == b"\x05":
                self._socks()
            else:
                self._http()

    def _read(self, count: int) -> bytes:
        """Return so many bytes. EOFError where the client hangs up before."""
        data = b""
        while len(data) < count:
            if not (more := self.rfile.read(count - len(data))):
                raise EOFError
            data += more
        return data

    def _socks(self) -> None:
        """Serve a SOCKS 5 client without passwords (RFC 1928)."""
        _, count = self._read(2)
        self._read(count)
        self.wfile.write(b"\x05\x00")
        *_, kind = self._read(4)
        host = self._read(self._read(1)[0]).decode() if kind == 3 else socket.inet_ntoa(self._read(4))
        (port,) = struct.unpack(">H", self._read(2))
        self._proxy.asked.append(f"socks {host}:{port}")
        self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
        self._tunnel(b"")

    def _http(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._read(1)
        method, target, rest = head.split(b" ", 2)
        self._proxy.asked.append(f"{method.decode()} {target.decode()}")
        if method == b"CONNECT":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            self._tunnel(b"")
        else:
            self._tunnel(method + b" /" + target.split(b"/", 3)[3] + b" " + rest)

    def _tunnel(self, first: bytes) -> None:
        with socket.create_connection(self._proxy.target) as target:
            target.sendall(first)
            back = threading.Thread(target=_copy, args=(target, self.connection), daemon=True)
            back.start()
            _copy(self.connection, target)
            back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
