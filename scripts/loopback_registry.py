"""A read-only registry on loopback that serves images from memory, as the OCI distribution-spec says."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


def sha256(data: bytes) -> str:
    """Return the digest of `data` as registries write it: `sha256:` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Response:
    """An HTTP response. The Content-Length is added; HEAD gets no body."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Self:
        """Return a response with an error code, in the JSON document of the distribution-spec."""
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        return cls(status, body, {"Content-Type": "application/json", **(headers or {})})


class Handler(BaseHTTPRequestHandler):
    """Passes each request to its registry, and sends the response on a persistent connection."""

    protocol_version = "HTTP/1.1"
    # Headers and body are two writes: Nagle's algorithm would hold back the second one.
    disable_nagle_algorithm = True

    def __init__(self, registry: LoopbackRegistry, *args: Any) -> None:
        self.registry = registry
        super().__init__(*args)

    def handle(self) -> None:
        """Serve a connection until the client closes or resets it."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """Answer GET and HEAD."""
        self.send(self.registry.respond(self.command, self.path.partition("?")[0], self.headers))

    do_HEAD = do_GET

    def send(self, response: Response) -> None:
        """Send the response; without its body to HEAD."""
        self.send_response(response.status)
        for key, value in response.headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.send_body(response.body)

    def send_body(self, body: bytes) -> None:
        """Send the body of a response."""
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing, in place of a line per request on standard error."""


class _Server(ThreadingHTTPServer):
    # As many connections may wait to be accepted: who finds no room tries again after a second.
    request_queue_size = 128


class LoopbackRegistry:
    """Serves repositories at `host` (`127.0.0.1:PORT`) while its context lasts.

    A subclass may override `respond`, or misbehave below HTTP with its own `handler`.
    """

    handler = Handler

    def __init__(self, port: int = 0) -> None:
        # Manifests: (name, tag or digest) to (media type, document). Blobs: (name, digest) to content.
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.blobs: dict[tuple[str, str], bytes] = {}
        self._server = _Server(("127.0.0.1", port), partial(self.handler, self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.host = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add_blob(self, name: str, data: bytes) -> str:
        """Add a blob to the repository `name` and return its digest."""
        digest = sha256(data)
        self.blobs[name, digest] = data
        return digest

    def add_manifest(self, name: str, document: bytes, media_type: str = OCI_MANIFEST, tag: str | None = None) -> str:
        """Add a manifest or an index to the repository `name`, with a tag if given, and return its digest."""
        digest = sha256(document)
        for reference in filter(None, (digest, tag)):
            self.manifests[name, reference] = media_type, document
        return digest

    def respond(self, method: str, path: str, headers: Message) -> Response:
        """Return the response to a GET or HEAD request for `path`, a path without query."""
        if path == "/v2/":
            return Response(200, b"{}", {"Content-Type": "application/json"})
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", path)
        if match is None:
            return Response.error(404, "UNSUPPORTED", f"no such endpoint: {path}")
        name, kind, reference = match.groups()
        if not any(name == repository for repository, _ in (*self.manifests, *self.blobs)):
            return Response.error(404, "NAME_UNKNOWN", f"no repository {name}")
        return self._manifest(name, reference) if kind == "manifests" else self._blob(name, reference, headers)

    def _manifest(self, name: str, reference: str) -> Response:
        if (found := self.manifests.get((name, reference))) is None:
            return Response.error(404, "MANIFEST_UNKNOWN", f"no manifest {reference} in {name}")
        media_type, document = found
        return Response(200, document, {"Content-Type": media_type, "Docker-Content-Digest": sha256(document)})

    def _blob(self, name: str, digest: str, headers: Message) -> Response:
        if (data := self.blobs.get((name, digest))) is None:
            return Response.error(404, "BLOB_UNKNOWN", f"no blob {digest} in {name}")
        described = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "Accept-Ranges": "bytes",
        }
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("Range", ""))
        if match is None or not any(match.groups()):
            return Response(200, data, described)
        size = len(data)
        first, last = byte_range(match[1], match[2], size)
        if first > last:
            content_range = {"Content-Range": f"bytes */{size}"}
            return Response.error(416, "RANGE_INVALID", f"the blob has {size} bytes", content_range)
        described["Content-Range"] = f"bytes {first}-{last}/{size}"
        return Response(206, data[first : last + 1], described)


def byte_range(first: str, last: str, size: int) -> tuple[int, int]:
    """Return the first and last position of the range `bytes=first-last` (RFC 9110, 14.1.2), one of which may be empty.

    Both are inclusive. Where nothing can be served, the first is greater than the last.
    """
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1
