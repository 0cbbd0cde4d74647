"""A scripted Docker Hub under its real host names, which a proxy leads to: search, tags, tokens, images."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from scripts.loopback_registry import Response
from tests.support.scripted_registry import Request, ScriptedRegistry, challenge, json_response
from tests.support.tools import need, run

HOSTS = ("hub.docker.com", "registry-1.docker.io", "auth.docker.io")


class ScriptedHub(ScriptedRegistry):
    """Docker Hub's answers, in the form that `hub-samples` has recorded; `repositories` and `listed` are its content.

    Repositories that aren't there get a bare 401, as they do from the real one.
    """

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        super().__init__(certificate)
        self.repositories: list[dict[str, Any]] = []
        self.listed: dict[str, list[dict[str, Any]]] = {}
        self.on("/v2/.*", self._check)
        self.on("/v2/search/repositories/", self._search)
        self.on("/v2/repositories/.+/tags/", self._tags)
        self.on("/token", json_response({"token": "anonymous", "access_token": "anonymous", "expires_in": 300}))

    def _search(self, request: Request) -> Response:
        query = request.query["query"][0]
        return self._page(request, [found for found in self.repositories if query in str(found.get("repo_name"))])

    def _tags(self, request: Request) -> Response:
        name = request.path.removeprefix("/v2/repositories/").removesuffix("/tags/")
        if name not in self.listed:
            return json_response({"message": "object not found", "errinfo": {}}, 404)
        return self._page(request, self.listed[name])

    def _page(self, request: Request, items: Sequence[object]) -> Response:
        number, size = int(request.query["page"][0]), int(request.query["page_size"][0])
        more = number * size < len(items)
        following = f"https://hub.docker.com{request.path}?page={number + 1}" if more else None
        results = items[(number - 1) * size : number * size]
        return json_response({"count": len(items), "next": following, "previous": None, "results": results})

    def _check(self, request: Request) -> Response | None:
        name = request.path.removeprefix("/v2/").partition("/manifests/")[0].partition("/tags/list")[0]
        known = any(name == repository for repository, _ in (*self.manifests, *self.blobs))
        if request.headers.get("Authorization") == "Bearer anonymous" and (known or "/blobs/" in request.path):
            tags = [tag for repository, tag in self.manifests if repository == name and ":" not in tag]
            return json_response({"name": name, "tags": tags}) if request.path.endswith("/tags/list") else None
        return challenge('Bearer realm="https://auth.docker.io/token",service="registry.docker.io"')


class _Tunnel(BaseHTTPRequestHandler):
    """Answers CONNECT, and forwards to the address of the route."""

    server: _Proxy

    def do_CONNECT(self) -> None:
        host = self.path.partition(":")[0]
        target = self.server.routes.get(host)
        if target is None:
            self.send_error(502)
            return
        with socket.create_connection(target) as upstream:
            self.send_response(200)
            self.end_headers()
            pair = {self.connection: upstream, upstream: self.connection}
            with suppress(ConnectionError):
                while True:
                    for readable in select.select(list(pair), [], [], 30)[0]:
                        data = readable.recv(1 << 16)
                        if not data:
                            return
                        pair[readable].sendall(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    routes: Mapping[str, tuple[str, int]]


@contextmanager
def proxy(routes: Mapping[str, tuple[str, int]]) -> Iterator[str]:
    """Run a proxy that connects these hosts to other addresses and refuses all others; yield its URL."""
    server = _Proxy(("127.0.0.1", 0), _Tunnel)
    server.routes = routes
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def hub_certificate(directory: Path) -> tuple[Path, Path]:
    """Create a self-signed certificate for Docker Hub's hosts; return its path and that of its key."""
    need("openssl")
    certificate, key = directory / "hub.pem", directory / "hub.key"
    names = "subjectAltName=" + ",".join(f"DNS:{host}" for host in HOSTS)
    new = ("openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    run(*new, "-subj", "/CN=hub", "-addext", names, "-keyout", key, "-out", certificate)
    return certificate, key


@contextmanager
def reachable(hub: ScriptedHub, certificate: Path, hosts: Sequence[str] = HOSTS) -> Iterator[dict[str, str]]:
    """Yield environment variables with which `hosts`, and no others, lead to `hub`, which has this certificate."""
    host, _, port = hub.host.rpartition(":")
    with proxy({name: (host, int(port)) for name in hosts}) as url:
        yield {"HTTPS_PROXY": url, "REQUESTS_CA_BUNDLE": str(certificate)}


def image_on_hub(platform: str, size: int = 1000, **fields: Any) -> dict[str, Any]:
    """Return the object of one platform in a tag."""
    words = dict(zip(("os", "architecture", "variant"), [*platform.split("/"), None], strict=False))
    return {**words, "size": size, "status": "active", "digest": "sha256:" + "0" * 64, **fields}


def tag_on_hub(name: str, *images: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the object of a tag, as in the recorded answer."""
    digest = "sha256:" + "1" * 64
    return {"name": name, "images": images, "digest": digest, "last_updated": "2024-10-02T01:50:27.90536Z", **fields}


def repository_on_hub(name: str, **fields: Any) -> dict[str, Any]:
    """Return a result of a search, as in the recorded answer."""
    usual = {"short_description": f"About {name}.", "star_count": 3, "pull_count": 70, "is_official": "/" not in name}
    return {"repo_name": name, **usual, "repo_owner": "", "is_automated": False, **fields}
