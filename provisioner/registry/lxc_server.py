"""LXC image servers: the list of images in simplestreams, and the files, from a server and its mirrors."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import requests

from provisioner.errors import MalformedImage, NetworkError, NotFound, ProvisionError
from provisioner.image.manifest import Descriptor
from provisioner.image.server_address import ADDRESS_HINT, ServerAddress
from provisioner.image.simplestreams import DOCUMENT_LIMIT, INDEX_PATH, Products, parse_list_paths
from provisioner.registry.endpoints import Endpoint, Endpoints
from provisioner.registry.http import Http, inflate, limited_body, status_text
from provisioner.registry.ranges import chunks_from, range_header
from provisioner.registry.retry import Timing, TransientError, retry_after

_TRANSIENT = (408, 429, 500, 502, 503, 504)
_WHEN_MISSING = "list the images that exist: provision tags lxc:NAME"


TRY_MIRRORS = "which mirrors answer here: provision mirrors"
"""The hint if a server that has mirrors can't be reached."""
LIST_SECONDS = 120.0
"""The time limit for a list, which may be a megabyte, in seconds."""


class Missing(NotFound):
    """The server doesn't have a file that it lists, or has removed it."""


@dataclass(frozen=True)
class KnownList:
    """A list of a server as it was when it was downloaded."""

    data: bytes
    etag: str
    """The ETag of this version (RFC 9110, 8.8.3)."""


class KnownLists(Protocol):
    """A store of lists, by URL."""

    def find(self, url: str) -> KnownList | None:
        """Return the stored list of a URL, or None."""

    def save(self, url: str, known: KnownList) -> None:
        """Store the list of a URL."""

    def delete(self, url: str) -> None:
        """Delete the stored list of a URL."""


class LxcServer:
    """A client for one server, without retries. Thread-safe.

    `insecure` allows certificates that can't be verified, and the list of images in plain HTTP. `seconds` is the time
    limit for a list. A list in `known` is downloaded again only if it has changed. Methods raise NotFound, NetworkError
    and MalformedImage.
    """

    def __init__(
        self,
        address: ServerAddress,
        *,
        insecure: bool = False,
        connections: int = 4,
        seconds: float = LIST_SECONDS,
        known: KnownLists | None = None,
    ) -> None:
        self.address = address
        # An attacker could send a forged list with the ETag of the real one, which later runs would use.
        self._known = None if insecure else known
        self._insecure = insecure
        self._http = Http(insecure=insecure, connections=connections, seconds=seconds, registry=address.host)

    def products(self) -> Products:
        """Return all products that the server lists."""
        if not self.address.is_private and not self._insecure:
            what = f"the list of images of {self.address.host} comes in plain HTTP, so that anybody on the way can"
            raise NetworkError(f"{what} change it, with the hashes in it", "name https://…, or allow it: --insecure")
        paths = [INDEX_PATH]
        try:
            paths += parse_list_paths(self._document(INDEX_PATH))
            return Products.from_json([self._document(path) for path in paths[1:]])
        except MalformedImage:
            self._delete_known(paths)
            raise

    def ping(self) -> None:
        """Request the index, which is small."""
        try:
            parse_list_paths(self._document(INDEX_PATH))
        except MalformedImage:
            self._delete_known([INDEX_PATH])
            raise

    def _delete_known(self, paths: Sequence[str]) -> None:
        """Delete damaged lists from the store: the server would say forever that they have not changed."""
        if self._known:
            for path in paths:
                self._known.delete(self._url(path))

    def file(self, path: str, descriptor: Descriptor, start: int) -> Generator[bytes, None, None]:
        """Yield the bytes of a file from `start` on as they arrive. They are not verified, and no more than its
        size."""
        what = f"{path.rpartition('/')[2]} of {self.address.host}"

        def get(at: int) -> AbstractContextManager[requests.Response]:
            return self._get(path, range_header(at), is_blob=True)

        return chunks_from(get, start, descriptor.size, self._http, what)

    def _document(self, path: str) -> bytes:
        """Return a JSON document, decompressed if the server compresses it.

        Raises NetworkError if it is not JSON, such as the web page of a captive portal.
        """
        url = self._url(path)
        known = self._known.find(url) if self._known else None
        headers = {"Accept-Encoding": "gzip"} | ({"If-None-Match": known.etag} if known else {})
        with self._get(path, headers) as response:
            if known and response.status_code == 304:
                return known.data
            data = inflate(limited_body(response, DOCUMENT_LIMIT), response, DOCUMENT_LIMIT)
            etag = response.headers.get("ETag", "")
        if data.lstrip()[:1] != b"{":
            raise NetworkError(
                f"{self.address.host} is not an LXC image server: its {path} is not a JSON object", ADDRESS_HINT
            )
        if self._known and re.fullmatch(r'(W/)?"[\x21\x23-\x7e]{1,200}"', etag):
            self._known.save(url, KnownList(data, etag))
        return data

    def _url(self, path: str) -> str:
        return f"{self.address.url}/{'/'.join(quote(word, safe='') for word in path.split('/'))}"

    @contextmanager
    def _get(self, path: str, headers: dict[str, str], *, is_blob: bool = False) -> Iterator[requests.Response]:
        """Yield the response for a path, with the status 200, for a range also 206 or 416, for an ETag also 304."""
        usual = (200, 206, 416) if "Range" in headers else (200, 304) if "If-None-Match" in headers else (200,)
        with self._http.get(self._url(path), headers, is_blob=is_blob) as response:
            if response.status_code not in usual:
                raise self._refusal(response, path)
            yield response

    def _refusal(self, response: requests.Response, path: str) -> ProvisionError:
        """Return the error for a response with another status."""
        host, status = self.address.host, response.status_code
        if status in (404, 410) and path != INDEX_PATH:
            return Missing(f"{host} has no {path}", _WHEN_MISSING)
        what = f"{host} answers with {status_text(response)} for {path}"
        if status in _TRANSIENT:
            return TransientError(what, after=retry_after(response.headers))
        return NetworkError(
            what, f"is it one? {ADDRESS_HINT}" if status == 404 else "try again later, or name a mirror"
        )


class LxcImages:
    """An LXC image server with mirrors of it. Thread-safe.

    The list of images comes from the server itself, and from a mirror only if the server can't be reached. Files come
    from the first endpoint that has them, mirrors first. `say` is called with one line for each retry and each change
    of endpoint.
    """

    def __init__(
        self,
        origin: LxcServer,
        mirrors: Sequence[LxcServer],
        say: Callable[[str], None] = lambda line: None,
        timing: Timing | None = None,
    ) -> None:
        self.host = origin.address.host
        others = [Endpoint(mirror, mirror.address.host, is_origin=False) for mirror in mirrors]
        self._endpoints = Endpoints(Endpoint(origin, self.host, is_origin=True), others, say, timing)
        self.listed_by = ""
        """The host that has sent the list of images, after `products()`."""
        self._products: Products | None = None

    def products(self) -> Products:
        """Return all listed products. The list is downloaded once."""
        if self._products is None:
            trusted = "; it is trusted then: the hashes are its own"
            try:
                self._products, self.listed_by = self._endpoints.ask(
                    lambda server: (server.products(), server.address.host), "the list of LXC images", trusted
                )
            except NetworkError as error:
                error.hint = f"{error.hint}; {TRY_MIRRORS}"
                raise
        return self._products

    def blob(self, path: str, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield the bytes of a file from `start` on, not verified, from as many servers as needed.

        An empty chunk follows each failure, so that the reader can stop there.
        """
        return self._endpoints.blob(descriptor, start, lambda server, at: server.file(path, descriptor, at))

    def report_corrupt(self, descriptor: Descriptor) -> bool:
        """Exclude the mirrors that sent parts of a corrupt file, and return whether to try again (see Endpoints)."""
        return self._endpoints.report_corrupt(descriptor)
