"""A client that writes to one repository of a registry (OCI distribution-spec v1.1, push), without retries."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import requests

from provisioner.errors import NetworkError, NotAllowed, NotFound, ProvisionError
from provisioner.image.digest import Digest
from provisioner.image.manifest import Descriptor
from provisioner.image.stored_blob import StoredBlob
from provisioner.registry.address import Address, check_redirect
from provisioner.registry.auth import Challenge
from provisioner.registry.client import RegistryClient
from provisioner.registry.http import limited_body
from provisioner.registry.refusals import NoSuchRepository, error_reason
from provisioner.registry.retry import TransientError
from provisioner.registry.upload_body import UploadBody
from provisioner.terminal.escaping import printable

_REFUSALS_OF_SIZE = (405, 411, 413, 501)
"""Statuses with which registries, or proxies before them, refuse a large body or a whole blob."""
_NO_UPLOAD = (404, 410)
_ANSWER_LIMIT = 1 << 20


class TooLarge(NetworkError):
    """The registry doesn't accept a request of this size."""


@dataclass(frozen=True)
class Upload:
    """An upload of a blob that the registry has accepted."""

    address: Address
    """The address for its next bytes."""
    offset: int = 0
    """The number of bytes that the registry has."""
    least: int = 0
    """The smallest chunk that it accepts, in bytes (OCI-Chunk-Min-Length); the last chunk may be smaller."""


class PushClient(RegistryClient):
    """Writes to the repository of `reference`. `mounts` is another repository of the registry to mount blobs from."""

    def __init__(self, *args: Any, mounts: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.mounts = mounts

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Return whether the repository has a blob. Raises ProvisionError; NotAllowed if this user may not read it."""
        url = f"{self._url}/blobs/{descriptor.digest}"
        headers = {"Accept": "*/*"}

        def send(authorization: str) -> requests.Response:
            return self._http.get(url, _with(headers, authorization), "HEAD")

        self._connect()
        with self._send_authorized(send) as response:
            if response.status_code in (401, 403) or response.status_code >= 500 or response.status_code == 429:
                raise self._push_refusal(response, f"blob {descriptor.digest.short}")
            size = response.headers.get("Content-Length", "")
            return response.status_code == 200 and size in ("", "0", str(descriptor.size))

    def start(self, digest: Digest) -> Upload | None:
        """Start the upload of a blob. Return None if the registry has mounted it from the repository `mounts`."""
        what = f"upload of the blob {digest.short}"
        if self.mounts:
            query = urlencode({"mount": str(digest), "from": self.mounts})
            try:
                with self._send("POST", f"blobs/uploads/?{query}", (201, 202), what) as response:
                    if response.status_code == 201:
                        return None
                    return self._next(response, 0, what)
            except TransientError:
                raise
            except ProvisionError:  # `mounts` may not be readable, or the registry has no mounts
                self.mounts = ""
        with self._send("POST", "blobs/uploads/", (202,), what) as response:
            return self._next(response, 0, what)

    def put(self, upload: Upload, blob: StoredBlob, progress: Callable[[int], None]) -> None:
        """Send the rest of a blob, and end the upload. Raises TooLarge if the registry refuses the size."""
        digest, count = blob.descriptor.digest, blob.size - upload.offset
        address = upload.address.with_query({"digest": str(digest)})
        what = f"blob {digest.short}"
        body: UploadBody | bytes = UploadBody(blob, upload.offset, count, progress) if count else b""
        headers = {"Content-Type": "application/octet-stream"}
        if upload.offset and count:
            headers["Content-Range"] = f"{upload.offset}-{blob.size - 1}"
        with self._send("PUT", address, (201, 204), what, headers, body) as response:
            announced = response.headers.get("Docker-Content-Digest", str(digest))
            if announced != str(digest):
                raise NetworkError(
                    f"{self._reference.registry} stored the {what} as {printable(announced)[:100]}",
                    "tell the registry's owner",
                )

    def patch(self, upload: Upload, blob: StoredBlob, count: int, progress: Callable[[int], None]) -> Upload:
        """Send the next `count` bytes of a blob, and return the upload for the bytes after them. Raises TooLarge."""
        what, end = f"blob {blob.descriptor.digest.short}", upload.offset + count
        headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{upload.offset}-{end - 1}"}
        body = UploadBody(blob, upload.offset, count, progress)
        with self._send("PATCH", upload.address, (202, 204), what, headers, body) as response:
            following, taken = self._next(response, end, what, upload), _end_of_range(response)
            # Some registries state the end instead of the last byte, and `0-0` may stand for one byte.
            if taken in (None, end, end + 1) or end == 1:
                return following
            raise TransientError(f"{self._reference.registry} has stored only a part of the {what}", "try again")

    def status(self, upload: Upload, size: int) -> Upload | None:
        """Return the state of an upload of `size` bytes at the registry; None if it has to be started again."""
        what = "state of an upload"
        with self._send("GET", upload.address, (204, 202, 200, *_NO_UPLOAD, 400), what) as response:
            limited_body(response, _ANSWER_LIMIT)
            offset = _end_of_range(response)
            if response.status_code not in (204, 202, 200) or offset is None or offset > size:
                return None
            return self._next(response, offset, what, upload)

    def put_manifest(self, tag: str, data: bytes, media_type: str) -> None:
        """Write a manifest to a tag."""
        headers = {"Content-Type": media_type}
        with self._send("PUT", f"manifests/{tag}", (201, 200, 202, 204), "manifest", headers, data):
            pass

    def _send(
        self,
        method: str,
        where: str | Address,
        expected: tuple[int, ...],
        what: str,
        headers: Mapping[str, str] | None = None,
        body: UploadBody | bytes = b"",
    ) -> requests.Response:
        """Return the response to a request to a path of the repository, or to the address of an upload.

        Credentials are sent only to the registry itself. Raises ProvisionError for other statuses than `expected`.
        """
        self._connect()
        address = Address.parse(f"{self._url}/{where}") if isinstance(where, str) else where
        is_own = address.has_origin_of(Address.parse(self._base))

        def send(authorization: str) -> requests.Response:
            return self._http.upload(method, address, _with(headers or {}, authorization if is_own else ""), body)

        response = self._send_authorized(send) if is_own else send("")
        if response.status_code not in expected:
            with response:
                raise self._push_refusal(response, what, is_begun=not isinstance(where, str))
        return response

    def _next(self, response: requests.Response, offset: int, what: str, former: Upload | None = None) -> Upload:
        """Return the upload at the Location of a response, which may be relative."""
        location = response.headers.get("Location", "")
        limited_body(response, _ANSWER_LIMIT)
        least = response.headers.get("OCI-Chunk-Min-Length", "")
        smallest = int(least) if re.fullmatch(r"\d{1,15}", least) else former.least if former else 0
        if not location:
            if former is None:
                raise NetworkError(
                    f"{self._reference.registry} doesn't say where the {what} goes", "tell the registry's owner"
                )
            return Upload(former.address, offset, smallest)
        origin = Address.parse(response.url)
        target = origin.join(location)
        check_redirect(origin, target)
        return Upload(target, offset, smallest)

    def _push_refusal(self, response: requests.Response, what: str, *, is_begun: bool = False) -> ProvisionError:
        """Return the error for a response. `is_begun` says whether the request was to an upload's address."""
        name, registry, status = self._reference.name, self._reference.registry, response.status_code
        if status in _REFUSALS_OF_SIZE:
            hint = "the registry, or a proxy before it, limits the size: ask its owner"
            return TooLarge(f"{registry} doesn't accept the {what}{error_reason(response)}: status {status}", hint)
        if is_begun and (status == 416 or status in _NO_UPLOAD):
            return TransientError(f"{registry} has lost a part of the {what}", "try again")
        if status == 404:
            reason = error_reason(response)
            return NotFound(f"{registry} accepts no push to {name}{reason}", "check the name, or create it there first")
        if status in (401, 403) and not (self._ping_problem and self._ping_problem.explains(response)):
            login = self._login
            who = (printable(login.username) or "this login") if login else "who isn't logged in"
            reason = error_reason(response)
            return NotAllowed(
                f"{registry} doesn't let {who} push to {name}{login.redact(reason) if login else reason}",
                f"check the name; log in: provision login {registry}",
            )
        return self._refusal(response, what, is_part=False)

    @property
    def _url(self) -> str:
        """The address of the repository."""
        self._connect()
        return f"{self._base}{self._reference.repository}"

    @property
    def _scope(self) -> str:
        scope = f"repository:{self._reference.repository}:pull,push"
        return f"{scope} repository:{self.mounts}:pull" if self.mounts else scope

    def _with_scope(self, challenge: Challenge) -> Challenge:
        return replace(challenge, scope=self._scope)

    def _fetch_token(self, challenge: Challenge) -> dict[str, Any]:
        """Return the token server's answer. If it refuses a token for both repositories, ask for the first one
        alone."""
        first, _, other = challenge.scope.partition(" ")
        try:
            return super()._fetch_token(challenge)
        except (NotAllowed, NotFound) as error:
            if other:
                return self._fetch_token(replace(challenge, scope=first))
            if isinstance(error, NoSuchRepository):
                registry = self._reference.registry
                raise NotAllowed(
                    f"{registry} requires a login for pushes to {self._reference.name}",
                    f"log in: provision login {registry}",
                ) from None
            raise


def _with(headers: Mapping[str, str], authorization: str) -> dict[str, str]:
    return {**headers, "Authorization": authorization} if authorization else dict(headers)


def _end_of_range(response: requests.Response) -> int | None:
    """Return the number of bytes in a Range header from 0 on; None for a missing or other header.

    Registries send `0-0` for no bytes and for one byte. It counts as none, so that the byte is sent again.
    """
    match = re.fullmatch(r"(?:bytes=)?0-(\d{1,18})", response.headers.get("Range", ""))
    if match is None:
        return None
    return int(match[1]) + 1 if int(match[1]) else 0
