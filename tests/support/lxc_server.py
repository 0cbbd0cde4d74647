"""An LXC image server on loopback, with the layout of the real ones; ScriptedRegistry's `on` makes it misbehave."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from scripts.loopback_registry import Response, byte_range
from tests.support.archives import tar
from tests.support.scripted_registry import ScriptedRegistry

INDEX, IMAGES = "/streams/v1/index.json", "/streams/v1/images.json"


class LxcServer(ScriptedRegistry):
    """Serves simplestreams, and the files of each build that was added."""

    def __init__(self, certificate: tuple[Path, Path] | None = None, prefix: str = "") -> None:
        super().__init__(certificate)
        self.prefix = prefix
        self.files: dict[str, bytes] = {}
        self.products: dict[str, dict[str, Any]] = {}

    @property
    def address(self) -> str:
        """Its address as a user writes it."""
        return f"{self.url}{self.prefix}"

    def add(
        self,
        name: str,
        rootfs: bytes,
        build: str = "20260912_05:24",
        architecture: str = "amd64",
        aliases: str = "",
    ) -> str:
        """Add a build of `distribution/release[/variant]`, and return the path of its root file system."""
        distribution, release, variant = (*name.split("/"), "default")[:3]
        folder = f"images/{distribution}/{release}/{architecture}/{variant}/{build}"
        contents = {
            "incus.tar.xz": lzma.compress(tar(("metadata.yaml", b"architecture: x86_64\n"))),
            "rootfs.squashfs": b"hsqs" + bytes(100),
            "rootfs.tar.xz": rootfs,
            "rootfs.20260901_05:24.vcdiff": b"\xd6\xc3\xc4" + bytes(10),
        }
        items: dict[str, dict[str, Any]] = {}
        for file, data in contents.items():
            self.files[f"{folder}/{file}"] = data
            kind = file.replace("rootfs.tar", "root.tar").replace("rootfs.squashfs", "squashfs")
            kind = "squashfs.vcdiff" if file.endswith("vcdiff") else kind
            hashed = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            items[kind if kind != "squashfs" else "root.squashfs"] = {
                "ftype": kind, "path": f"{folder}/{file}", **hashed,
            }  # fmt: skip
        items["incus.tar.xz"]["combined_rootxz_sha256"] = "0" * 64
        product = self.products.setdefault(
            f"{distribution}:{release}:{architecture}:{variant}",
            {
                "aliases": aliases or f"{distribution}/{release}/{variant}",
                "arch": architecture,
                "os": distribution.capitalize(),
                "release": release,
                "release_title": release,
                "requirements": {},
                "variant": variant,
                "versions": {},
            },
        )
        product["versions"][build] = {"items": items}
        return f"{folder}/rootfs.tar.xz"

    def item(self, path: str) -> dict[str, Any]:
        """Return what the list says of the root file system at `path`."""
        _, distribution, release, architecture, variant, build, _ = path.split("/")
        product = self.products[f"{distribution}:{release}:{architecture}:{variant}"]
        found: dict[str, Any] = product["versions"][build]["items"]["root.tar.xz"]
        return found

    def mirror(self, prefix: str = "/lxc-images", certificate: tuple[Path, Path] | None = None) -> LxcServer:
        """Return another server with the same content, below `prefix`."""
        other = LxcServer(certificate, prefix)
        other.files, other.products = dict(self.files), self.products
        return other

    def respond(self, method: str, path: str, headers: Message) -> Response:
        """Return the response to a GET or HEAD request."""
        name = path.removeprefix(f"{self.prefix}/")
        if f"/{name}" == path.removeprefix(self.prefix) and path.startswith(self.prefix):
            if f"/{name}" == INDEX:
                return self._document({"format": "index:1.0", "index": {"images": self._stream()}}, headers)
            if f"/{name}" == IMAGES:
                return self._document(self._list(), headers)
            if ":" not in name and (data := self.files.get(unquote(name))) is not None:
                return _file(data, headers)
        return Response(404, b"<html>404 Not Found</html>", {"Content-Type": "text/html"})

    def _stream(self) -> dict[str, Any]:
        return {
            "datatype": "image-downloads",
            "path": "streams/v1/images.json",
            "format": "products:1.0",
            "products": sorted(self.products),
        }

    def _list(self) -> dict[str, Any]:
        products = self.products
        return {"content_id": "images", "datatype": "image-downloads", "format": "products:1.0", "products": products}

    def _document(self, value: object, headers: Message) -> Response:
        body = json.dumps(value).encode()
        described = {"Content-Type": "application/json", "ETag": f'"{hashlib.sha256(body).hexdigest()[:16]}"'}
        if headers.get("If-None-Match") == described["ETag"]:
            return Response(304, b"", {"ETag": described["ETag"]})
        if "gzip" in headers.get("Accept-Encoding", ""):
            return Response(200, gzip.compress(body), {**described, "Content-Encoding": "gzip"})
        return Response(200, body, described)


def _file(data: bytes, headers: Message) -> Response:
    described = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
    first_and_last = headers.get("Range", "").removeprefix("bytes=").split("-")
    if len(first_and_last) != 2:
        return Response(200, data, described)
    first, last = byte_range(first_and_last[0], first_and_last[1], len(data))
    if first > last:
        return Response(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    described["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    return Response(206, data[first : last + 1], described)


def rootfs(*entries: Any) -> bytes:
    """Return a small root file system as `rootfs.tar.xz`, with further entries."""
    files = (("./etc/os-release", b"ID=tiny\n"), ("./etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"))
    return lzma.compress(tar(*files, ("./bin/sh", io.BytesIO(b"#!").read()), *entries))
