"""Docker Hub's own interface, beside that of its registry: search, and tags with platforms, sizes and dates."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any
from urllib.parse import quote, urlencode

import requests

from provisioner.errors import MalformedImage, NetworkError, NotFound, ProvisionError, UsageError
from provisioner.image.digest import Digest
from provisioner.image.offers import Offer, Tag
from provisioner.image.platform import Platform
from provisioner.image.reference import DOCKER_HUB, Reference, is_tag
from provisioner.registry.client import NoSuchRepository
from provisioner.registry.http import Http, limited_body, status_text
from provisioner.registry.parallel import in_parallel

HUB = "https://hub.docker.com"

_PAGE, _PAGES = 100, 100
"""The most results that one page has, and the most pages that are asked for."""

_PAGE_LIMIT = 16 << 20
_IMPATIENT = 5.0
"""Seconds that an error may wait for near names."""

_ALIKE = 0.6


@dataclass(frozen=True)
class Repository:
    """One result of a search: its name as `provision` takes it, and what Docker Hub says of it.

    `description` is None where there is none; `pulls` and `stars` are counts.
    """

    name: str
    description: str | None
    is_official: bool
    stars: int
    pulls: int


@dataclass(frozen=True)
class Page:
    """One page of results, which are JSON objects; `count` is that of all pages."""

    results: tuple[dict[str, Any], ...]
    count: int
    is_last: bool


class Hub:
    """Asks Docker Hub at `base`, a URL without a slash at its end. Raises NetworkError, NotFound, MalformedImage."""

    def __init__(
        self, base: str = HUB, *, insecure: bool = False, connections: int = 4, silence: float | None = None
    ) -> None:
        self._base = base
        self._connections = connections
        self._http = Http(insecure=insecure, connections=connections, silence=silence)

    def search(self, query: str, most: int) -> tuple[list[Repository], int]:
        """Up to `most` repositories that suit `query`, in Docker Hub's order, and how many there are in all."""
        found: dict[str, Repository] = {}
        for number in range(1, _PAGES + 1):
            page = self._page("search/repositories/", number, min(most, _PAGE), query=query)
            found.update((repository.name, repository) for repository in map(_repository, page.results) if repository)
            if page.is_last or len(found) >= most:
                break
        return list(found.values())[:most], max(page.count, len(found))

    def tags(self, repository: str) -> tuple[list[Tag], int]:
        """The tags of `namespace/name`, those that were pushed last first, and how many there are in all.

        There may be more than are given: at most 10,000 are.
        """
        path = f"repositories/{quote(repository)}/tags/"
        first = self._page(path, 1, _PAGE)
        last = 1 if first.is_last else min(-(-first.count // _PAGE), _PAGES)
        others = in_parallel(lambda number: self._page(path, number, _PAGE), range(2, last + 1), self._connections)
        tags = {tag.name: tag for page in (first, *others) for tag in map(_tag, page.results) if tag}
        return list(tags.values()), max(first.count, len(tags))

    def near(self, repository: str, most: int = 3) -> list[str]:
        """Names of repositories that look like `namespace/name`, which isn't there; the likeliest first."""
        wanted = repository.removeprefix("library/")
        short = wanted.rpartition("/")[2]
        # Searches find what begins with a word, and of a misspelt one the start is mostly right.
        queries = dict.fromkeys((wanted, short, short[: max(3, len(short) * 2 // 3)]))
        found: dict[str, Repository] = {}
        for query in queries:
            found.update((candidate.name, candidate) for candidate in self.search(query, _PAGE)[0])
        found.pop(wanted, None)

        alike = [(_likeness(candidate, wanted), candidate) for candidate in found.values()]
        alike.sort(key=lambda pair: (-pair[0], -pair[1].pulls))
        return [candidate.name for likeness, candidate in alike if likeness >= _ALIKE][:most]

    def _page(self, path: str, number: int, size: int, **parameters: str) -> Page:
        query = urlencode({"page": number, "page_size": size, **parameters})
        url = f"{self._base}/v2/{path}?{query}"
        with self._http.get(url, {"Accept": "application/json", "Accept-Encoding": "gzip"}) as response:
            body = limited_body(response, _PAGE_LIMIT)
            if response.status_code != 200:
                raise _refusal(response)
            return _parsed(_inflated(body, response.headers.get("Content-Encoding", "")))


@contextmanager
def near_names(reference: Reference, hub: Callable[[], Hub] = lambda: Hub(silence=_IMPATIENT)) -> Iterator[None]:
    """Where the repository of `reference` isn't found, name near ones in the hint, and how to log in.

    Names come from Docker Hub's search, for its own images and where it can be reached.
    """
    try:
        yield
    except NoSuchRepository as error:
        login = f"if it is private: provision login {reference.registry}"
        near: list[str] = []
        if reference.registry == DOCKER_HUB:
            with suppress(ProvisionError):  # what wasn't found matters more
                near = hub().near(reference.repository)
        error.hint = f"near names: {', '.join(near)}; {login}" if near else f"check the spelling; {login}"
        raise


def _likeness(candidate: Repository, wanted: str) -> float:
    """How much a repository's name looks like the one that is wanted, 0 to 1 and a little more for official images."""
    whole = SequenceMatcher(None, wanted, candidate.name).ratio()
    # Of user/name the name counts too: people forget whose it is.
    name = SequenceMatcher(None, wanted.rpartition("/")[2], candidate.name.rpartition("/")[2]).ratio()
    # A search for a misspelt word also finds those who misspelt it: of single words, official ones are likelier.
    return max(whole, name - 0.15) + (0.1 if candidate.is_official and "/" not in wanted else 0)


def _refusal(response: requests.Response) -> ProvisionError:
    """The error that an answer which isn't 200 stands for."""
    if response.status_code == 404:
        return NotFound("Docker Hub has no such repository", "check the spelling")
    if response.status_code == 429:
        wait = response.headers.get("Retry-After", "")
        hint = f"try again in {wait} seconds" if re.fullmatch("[0-9]{1,6}", wait) else "wait a minute and try again"
        return NetworkError("Docker Hub says that there were too many requests", hint)
    return NetworkError(f"Docker Hub answers with {status_text(response)}", "try again later")


def _inflated(body: bytes, encoding: str) -> bytes:
    """The content of a body that may be compressed, whatever its size pretends to be."""
    if encoding.lower() not in ("gzip", "x-gzip"):
        return body
    inflater = zlib.decompressobj(wbits=31)
    try:
        content = inflater.decompress(body, _PAGE_LIMIT)
    except zlib.error as error:
        raise NetworkError(f"Docker Hub's answer can't be inflated: {error}", "try again later") from None
    if not inflater.eof:
        raise MalformedImage(f"Docker Hub's answer has more than {_PAGE_LIMIT >> 20} MiB, or is cut off")
    return content


def _parsed(body: bytes) -> Page:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    results = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(results, list):
        raise NetworkError("Docker Hub answers with something else than a page of results", "try again later")
    objects = tuple(result for result in results if isinstance(result, dict))
    return Page(objects, _number(answer.get("count")), not answer.get("next") or not objects)


def _repository(result: dict[str, Any]) -> Repository | None:
    """A result of a search; None where its name is none that could be pulled."""
    name = _text(result.get("repo_name"))
    try:
        reference = Reference.parse(name)
    except UsageError:
        return None
    if name not in (reference.repository, reference.repository.removeprefix("library/")):
        return None
    return Repository(
        name,
        _text(result.get("short_description")).strip() or None,
        result.get("is_official") is True,
        _number(result.get("star_count")),
        _number(result.get("pull_count")),
    )


def _tag(result: dict[str, Any]) -> Tag | None:
    name, images = _text(result.get("name")), result.get("images")
    if not is_tag(name):
        return None
    offers = [_offer(image) for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    try:
        digest = Digest.parse(_text(result.get("digest")))
    except MalformedImage:
        digest = None
    return Tag(name, digest, tuple(offer for offer in offers if offer), _text(result.get("last_updated")))


def _offer(image: dict[str, Any]) -> Offer | None:
    """What a tag has for a platform; None for attestations, which are for `unknown`."""
    words = [_text(image.get(key)) for key in ("os", "architecture", "variant")]
    if not words[0] or words[1] in ("", "unknown"):
        return None
    return Offer(Platform(*words), size=_number(image.get("size")) or None)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
