"""A web server with files, which can do what servers do: ranges, ETags, redirects, and breaking off."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


@dataclass
class ServedFile:
    """A file, and how it is served."""

    content: bytes
    etag: str | None = None
    """None for one by the content, empty for none."""
    modified: str = ""
    has_ranges: bool = True
    has_length: bool = True
    breaks: list[int] = field(default_factory=list)
    """After how many bytes each of the next answers breaks off."""
    redirect: str = ""
    statuses: list[int] = field(default_factory=list)
    """With what the next requests are refused."""


class FileServer:
    """Serves `files`, by path, on loopback, also as a proxy for any host.

    `requests` has the path and the headers of each request.
    """

    def __init__(self) -> None:
        self.files: dict[str, ServedFile] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        """Bytes of files that were sent."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.requests.append((self.path, dict(self.headers.items())))
                server._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, path: str, content: bytes, **options: object) -> str:
        """Serve a file, and return its URL."""
        self.files[path] = ServedFile(content, **options)  # type: ignore[arg-type]
        return f"http://{self.host}{path}"

    def paths(self) -> list[str]:
        """Return the paths that were asked for, without those of checksums."""
        return [path for path, _ in self.requests if not path.lower().endswith(("sums", ".sha256"))]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        file = self.files.get(urlsplit(request.path).path)
        if file is None or file.statuses:
            self._head(request, file.statuses.pop(0) if file else 404, {"Content-Length": "0"})
            return
        if file.redirect:
            self._head(request, 302, {"Location": file.redirect, "Content-Length": "0"})
            return
        etag = f'"{hashlib.md5(file.content).hexdigest()}"' if file.etag is None else file.etag
        headers = {"ETag": etag} if etag else {}
        headers |= {"Last-Modified": file.modified} if file.modified else {}
        if etag and request.headers.get("If-None-Match") == etag:
            self._head(request, 304, headers)
            return
        content, status = file.content, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        condition = request.headers.get("If-Range")
        if wanted and file.has_ranges and (condition is None or condition in (etag, file.modified)):
            start = int(wanted[1])
            if start >= len(content):
                self._head(request, 416, {"Content-Length": "0"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content = content[start:]
        if file.has_length:
            headers["Content-Length"] = str(len(content))
        else:
            headers["Connection"] = "close"
        self._head(request, status, headers)
        if file.breaks:
            content = content[: file.breaks.pop(0)]
            request.close_connection = True
        self.sent += len(content)
        request.wfile.write(content)
        if not file.has_length:
            request.close_connection = True

    def _head(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
