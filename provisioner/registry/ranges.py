"""The bytes of a file from an offset on, whether its server sends a range or the whole file."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager

import requests

from provisioner.errors import MalformedImage
from provisioner.registry.http import Http, body_chunks
from provisioner.registry.retry import TransientError

GetFrom = Callable[[int], AbstractContextManager[requests.Response]]
"""Returns the response to a request for the bytes from an offset on: 200; for offsets other than 0 also 206 and 416."""


def range_header(start: int) -> dict[str, str]:
    """Return the header that requests the bytes from `start` on; no header if that is 0."""
    return {"Range": f"bytes={start}-"} if start else {}


def chunks_from(get: GetFrom, start: int, size: int, http: Http, what: str) -> Generator[bytes, None, None]:
    """Yield the bytes from `start` on of content with `size` bytes. They are not verified, and no more than that.

    If the server ignores the range or sends another one, the whole content is downloaded and its first part skipped.
    `what` names it in errors. Raises MalformedImage if it is larger than `size`, TransientError if it is smaller.
    """
    if start:
        with get(start) as response:
            if response.status_code == 206 and _is_range(response, start, size):
                yield from _content(response, start, start, size, http, what)
                return
            if response.status_code == 200:
                yield from _content(response, 0, start, size, http, what)
                return
    with get(0) as response:
        yield from _content(response, 0, start, size, http, what)


def _content(response: requests.Response, at: int, start: int, size: int, http: Http, what: str) -> Iterator[bytes]:
    """Yield the bytes from `start` on, from a body that begins at byte `at`."""
    length = response.headers.get("Content-Length", "")
    if response.status_code == 200 and re.fullmatch(r"[0-9]{1,19}", length) and int(length) != size:
        raise MalformedImage(f"{what} has {int(length)} bytes, {size} were announced")
    for chunk in body_chunks(response):
        if at + len(chunk) > size:
            raise MalformedImage(f"{what} has more than the {size} bytes that were announced")
        if at + len(chunk) > start:
            yield chunk[max(0, start - at) :]
        at += len(chunk)
        if at == size:  # trailers may follow
            http.limit_rest(response)
    if at < size:
        raise TransientError(f"{what} broke off: it ends after {at} of {size} bytes", "try again")


def _is_range(response: requests.Response, start: int, size: int) -> bool:
    """Return whether the body of a 206 begins at `start` of content with `size` bytes (RFC 9110, 14.4)."""
    content_range = re.fullmatch(
        r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", response.headers.get("Content-Range", "")
    )
    if content_range is None:
        return False
    first, last, total = content_range.groups()
    return int(first) == start <= int(last) < size and total in ("*", str(size))
