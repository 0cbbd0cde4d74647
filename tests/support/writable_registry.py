"""A registry on loopback that takes images (OCI distribution-spec, push), and fails in any step as a test wants it."""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

from scripts.loopback_registry import Response, sha256
from tests.support.scripted_registry import Request, ScriptedHandler, ScriptedRegistry


@dataclass
class Fault:
    """What happens to the next requests of a kind."""

    method: str
    pattern: str
    """Of the path, which has to match it as a whole."""
    answer: Response | None
    """The response; with None the connection is reset."""
    times: int
    keep: int
    """How many bytes of the body are taken first."""
    is_after: bool
    """Whether the request does its work before."""


class WritableHandler(ScriptedHandler):
    """Takes uploads."""

    registry: WritableRegistry

    def do_POST(self) -> None:
        self._handle()

    do_PUT = do_PATCH = do_POST

    def do_GET(self) -> None:
        if self._fails_before():
            return
        if "/blobs/uploads/" in self.path:
            self._handle()
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if not self._fails_before():
            super().do_GET()

    def _fails_before(self) -> bool:
        fault = self.registry.fault(self.command, urlsplit(self.path).path)
        if fault:
            self._fail(fault)
        return fault is not None

    def _handle(self) -> None:
        url, length = urlsplit(self.path), int(self.headers.get("Content-Length", "0"))
        request = Request(self.command, url.path, parse_qs(url.query), self.headers)
        self.registry.requests.append(request)
        fault = self.registry.fault(self.command, url.path)
        body = self.rfile.read(min(length, fault.keep) if fault and fault.keep >= 0 else length)
        if not fault and len(body) < length:  # the client has ended
            self.close_connection = True
            return
        if fault and fault.keep > 0:
            self.registry.uploads[url.path.rpartition("/")[2]] += body
        if fault and not fault.is_after:
            self._fail(fault)
            return
        response = self.registry.write(request, body)
        if fault:
            self._fail(fault)
        else:
            self.send(response)

    def _fail(self, fault: Fault) -> None:
        if fault.answer:
            self.send(fault.answer)
            return
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())


class WritableRegistry(ScriptedRegistry):
    """Serves what it was given, and what was pushed to it."""

    handler = WritableHandler

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        super().__init__(certificate)
        self.uploads: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.largest = 1 << 60
        """The most bytes of a body; larger ones get a 413."""
        self.least = 0
        """OCI-Chunk-Min-Length."""
        self.check: Callable[[Request], Response | None] = lambda request: None
        """Returns a refusal of a request."""

    def fail(
        self,
        method: str,
        pattern: str,
        answer: Response | None,
        times: int = 1,
        *,
        keep: int = -1,
        is_after: bool = False,
    ) -> Self:
        """Let the next requests fail: with `keep`, after that many bytes of the body; or after their work."""
        self.faults.append(Fault(method, pattern, answer, times, keep, is_after))
        return self

    def fault(self, method: str, path: str) -> Fault | None:
        """Return the fault of a request, which is counted."""
        for fault in self.faults:
            if fault.times and fault.method == method and re.fullmatch(fault.pattern, path):
                fault.times -= 1
                return fault
        return None

    def methods(self, pattern: str = ".*") -> list[str]:
        """Return the methods of the requests so far whose path matches."""
        return [request.method for request in self.asked(pattern)]

    def write(self, request: Request, body: bytes) -> Response:
        """Return the response to a request that writes, or that asks for the state of an upload."""
        if refusal := self.check(request):
            return refusal
        if len(body) > self.largest:
            return Response.error(413, "SIZE_INVALID", "too large")
        if match := re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", request.path):
            return self._write_manifest(match[1], match[2], request.headers, body)
        match = re.fullmatch(r"/v2/(.+)/blobs/uploads/([^/]*)", request.path)
        if match is None:
            return Response.error(404, "UNSUPPORTED", "no such endpoint")
        name, upload = match.groups()
        if request.method == "POST":
            return self._begin(name, request)
        if upload not in self.uploads:
            return Response.error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload")
        if request.method != "GET" and (refusal := self._append(upload, request.headers, body)):
            return refusal
        if request.method == "PUT":
            return self._complete(name, upload, request.query["digest"][0])
        return self._state(name, upload, 204 if request.method == "GET" else 202)

    def _begin(self, name: str, request: Request) -> Response:
        mount, source = request.query.get("mount", [""])[0], request.query.get("from", [""])[0]
        if data := self.blobs.get((source, mount)):
            self.blobs[name, mount] = data
            return Response(201, b"", {"Location": f"/v2/{name}/blobs/{mount}"})
        upload = f"u{len(self.uploads)}"
        self.uploads[upload] = b""
        return self._state(name, upload, 202)

    def _append(self, upload: str, headers: Message, body: bytes) -> Response | None:
        start = re.match(r"(\d+)-(\d+)$", headers.get("Content-Range", ""))
        have = len(self.uploads[upload])
        if start and (int(start[1]) != have or int(start[2]) - int(start[1]) + 1 != len(body)):
            return Response.error(416, "RANGE_INVALID", "out of order")
        self.uploads[upload] += body
        return None

    def _complete(self, name: str, upload: str, digest: str) -> Response:
        data = self.uploads.pop(upload)
        if sha256(data) != digest:
            return Response.error(400, "DIGEST_INVALID", "other content")
        self.blobs[name, digest] = data
        return Response(201, b"", {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})

    def _state(self, name: str, upload: str, status: int) -> Response:
        have = len(self.uploads[upload])
        headers = {"Location": f"/v2/{name}/blobs/uploads/{upload}?state=a%2Fb", "Range": f"0-{max(0, have - 1)}"}
        if self.least:
            headers["OCI-Chunk-Min-Length"] = str(self.least)
        return Response(status, b"", headers)

    def _write_manifest(self, name: str, tag: str, headers: Message, body: bytes) -> Response:
        digest = self.add_manifest(name, body, headers.get("Content-Type", ""), tag)
        return Response(201, b"", {"Docker-Content-Digest": digest})
