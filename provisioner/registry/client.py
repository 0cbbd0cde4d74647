"""A client for one registry (OCI distribution-spec v1.1): manifests, configs and blobs over HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass

import requests

from provisioner.errors import MalformedImage, NetworkError, NotAllowed, NotFound, ProvisionError, error_context
from provisioner.image.digest import Digest, verify
from provisioner.image.manifest import (
    CONFIG_TYPES,
    DOCKER_SCHEMA1,
    DOCUMENT_LIMIT,
    INDEX_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    media_type_of,
)
from provisioner.registry.address import Address
from provisioner.registry.http import limited_body
from provisioner.registry.limits import RateLimit
from provisioner.registry.ping import is_web_page
from provisioner.registry.ranges import chunks_from, range_header
from provisioner.registry.refusals import Incomplete
from provisioner.registry.retry import TransientError
from provisioner.registry.session import RepositorySession
from provisioner.registry.token_server import may_get_password

TAGS_LIMIT = 32 << 20
"""The largest page of a list of tags that is read, in bytes."""

_ACCEPT = ", ".join(MANIFEST_TYPES + INDEX_TYPES + DOCKER_SCHEMA1)


@dataclass(frozen=True)
class Document:
    """An index or a manifest, verified."""

    data: bytes
    """The bytes as they were served."""
    media_type: str
    """The media type that the document itself states, else the registry's."""
    digest: Digest
    """The digest of `data`."""


class RegistryClient(RepositorySession):
    """Reads from the registry of `reference`, without retries. Thread-safe.

    The arguments are those of RepositorySession. All methods raise NotFound, NotAllowed, NetworkError and
    MalformedImage.
    """

    limit: RateLimit | None = None
    """The rate limit in the last answer that had one; None if none had."""

    def manifest(self, selector: str | Descriptor) -> Document:
        """Return the index or manifest of a tag or a digest. The size of a Descriptor is checked as well.

        If the registry doesn't have a manifest with this digest, it is looked for among the blobs (as containerd does),
        and by the tag of the reference, if it has one.
        """
        expected = selector if isinstance(selector, Descriptor) else None
        name = str(expected.digest if expected else selector)
        try:
            return self._document(f"manifests/{name}", name, expected)
        except (Incomplete, NotFound):
            if ":" not in name:
                raise
            tag = self._reference.tag if str(self._reference.digest) == name else ""
            for path in (f"blobs/{name}", *([f"manifests/{tag}"] if tag else [])):
                with suppress(ProvisionError):
                    return self._document(path, name, expected)
            raise

    def _document(self, path: str, name: str, expected: Descriptor | None) -> Document:
        """Return the document at `path` with the tag or digest `name`, verified by `expected` if that isn't None."""
        what = f"manifest {name}" if ":" in name else f"tag {name!r}"
        with (
            self._get(path, what, is_part=expected is not None, accept=_ACCEPT) as response,
            error_context(f"{self._reference.name}: {what}"),
        ):
            data = limited_body(response, DOCUMENT_LIMIT)
            announced = response.headers.get("Docker-Content-Digest", "")
            digest = Digest.parse(name) if ":" in name else Digest.parse(announced) if announced else Digest.of(data)
            verify(data, digest, expected.size if expected else None, "the registry's answer")
            return Document(data, media_type_of(data, response.headers.get("Content-Type", "")), digest)

    def resolve(self, selector: str) -> Descriptor:
        """Return the descriptor of a tag or a digest, by a HEAD request if the registry's headers suffice.

        If it refuses HEAD, or the headers are implausible, the document is requested.
        """
        what = f"manifest {selector}" if ":" in selector else f"tag {selector!r}"
        headers: Mapping[str, str] = {}
        try:
            with self._get(f"manifests/{selector}", what, is_part=False, accept=_ACCEPT, method="HEAD") as response:
                limited_body(response, 0)  # it is empty; after reading it, the connection can be used again
                headers = response.headers
        except TransientError:
            raise
        except (NotFound, NotAllowed, NetworkError, MalformedImage):
            pass  # registries refuse HEAD in many ways; the answer to GET decides
        # Some registries leave out Docker-Content-Digest and have the digest as the ETag.
        announced = headers.get("Docker-Content-Digest") or ("" if ":" in selector else headers.get("ETag", ""))
        size, media_type = headers.get("Content-Length", ""), headers.get("Content-Type", "")
        with suppress(MalformedImage):
            digest = Digest.parse(announced.strip('"') or selector)
            is_right = re.fullmatch("0*[1-9][0-9]{0,6}", size) and not media_type.startswith("text/html")
            if is_right and str(digest) == (selector if ":" in selector else str(digest)):
                return Descriptor(media_type, digest, int(size))
        document = self.manifest(selector)
        return Descriptor(document.media_type, document.digest, len(document.data))

    def check_login(self) -> bool:
        """Check the credentials with the registry. Return False if it asks for none; raise NotAllowed if it refuses
        them."""
        self._connect()
        if self._ping_problem:
            raise self._ping_problem.error()
        if self._challenge is None:
            return False
        if self._challenge.scheme == "bearer" and not may_get_password(self._challenge, Address.parse(self._base)):
            raise NotAllowed(
                f"{self._reference.registry} speaks plain http and has its token server on another host, which gets no"
                " password",
                "ask the registry's owner for https",
            )
        with self._http.get(self._base, _headers("*/*", self._authorization())) as response:
            if response.status_code != 200:
                raise self._refusal(response, "ping", is_part=False)
        return True

    def tags_page(self, query: str) -> tuple[bytes, str]:
        """Return one page of the list of tags for `query`, not yet parsed, and its Link header (may be empty)."""
        with self._get(f"tags/list?{query}", "tags", is_part=False) as response:
            return limited_body(response, TAGS_LIMIT), response.headers.get("Link", "")

    def blob(self, descriptor: Descriptor, start: int = 0) -> Generator[bytes, None, None]:
        """Yield the bytes of a blob from `start` on as they arrive. They are not verified, and no more than its size.

        If the registry ignores the range or sends another one, the whole blob is downloaded and its first part skipped.
        A config has the time limit of a document; other blobs may take any time.
        """
        path, what = f"blobs/{descriptor.digest}", f"blob {descriptor.digest.short}"
        is_blob = descriptor.media_type not in CONFIG_TYPES or descriptor.size > DOCUMENT_LIMIT

        def get(at: int) -> AbstractContextManager[requests.Response]:
            return self._get(path, what, is_part=True, start=at, is_blob=is_blob)

        return chunks_from(get, start, descriptor.size, self._http, f"{what} from {self._reference.registry}")

    @contextmanager
    def _get(
        self,
        path: str,
        what: str,
        *,
        is_part: bool,
        accept: str = "*/*",
        method: str = "GET",
        start: int = 0,
        is_blob: bool = False,
    ) -> Iterator[requests.Response]:
        """Yield the response for `path` of the repository, with the status 200, or with `start` also 206 or 416.

        `what` and `is_part` are as in `refusal`, `is_blob` is as in Http. With `start`, the bytes from there on are
        requested. Raises ProvisionError for other statuses.
        """
        self._connect()
        url = f"{self._base}{self._reference.repository}/{path}"

        def send(authorization: str) -> requests.Response:
            return self._http.get(url, _headers(accept, authorization, start), method, is_blob=is_blob)

        with self._send_authorized(send) as response:
            if response.status_code not in ((200, 206, 416) if start else (200,)):
                raise self._refusal(response, what, is_part=is_part)
            if self._ping_problem and not is_blob and is_web_page(response):
                raise self._ping_problem.error()
            if "ratelimit-limit" in response.headers:
                self.limit = RateLimit.from_headers(response.headers, time.time())
            yield response


def _headers(accept: str, authorization: str, start: int = 0) -> dict[str, str]:
    headers = {"Accept": accept}
    if authorization:
        headers["Authorization"] = authorization
    return headers | range_header(start)
