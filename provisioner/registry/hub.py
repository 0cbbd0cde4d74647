"""Docker Hub's own API, next to that of its registry: search, and tags with platforms, sizes and dates."""

from __future__ import annotations

import re
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
from provisioner.registry.http import Http, inflate, limited_body, parse_json, status_text
from provisioner.registry.parallel import in_parallel
from provisioner.registry.refusals import NoSuchRepository

HUB = "https://hub.docker.com"

PAGE_SIZE = 100
"""The most results in one page."""

MAX_PAGES = 100
"""The most pages that are requested."""

_PAGE_LIMIT = 16 << 20
"""The largest page that is read, in bytes."""

_SUGGESTION_SECONDS = 5.0
"""The time limit for finding similar names for an error."""

_MIN_SIMILARITY = 0.6
"""Names that are less similar than this are not suggested."""


@dataclass(frozen=True)
class Repository:
    """One result of a search."""

    name: str
    """The name as `provision` takes it."""
    description: str | None
    """A short description, or None."""
    is_official: bool
    """Whether it is one of Docker's official images."""
    stars: int
    """The number of users that have given it a star."""
    pulls: int
    """The number of pulls."""


@dataclass(frozen=True)
class Page:
    """One page of results."""

    results: tuple[dict[str, Any], ...]
    """JSON objects."""
    count: int
    """The number of results on all pages."""
    is_last: bool
    """Whether no page follows."""


class Hub:
    """A client for Docker Hub at `base`, a URL without a slash at its end.

    `insecure`, `connections` and `seconds` are those of Http; at most `max_pages` pages are asked for. All methods
    raise NetworkError, NotFound and MalformedImage.
    """

    def __init__(
        self,
        base: str = HUB,
        *,
        insecure: bool = False,
        connections: int = 4,
        seconds: float | None = None,
        max_pages: int = MAX_PAGES,
    ) -> None:
        self._base = base
        self._max_pages = max_pages
        self._connections = connections
        self._http = Http(insecure=insecure, connections=connections, seconds=seconds)

    def search(self, query: str, most: int) -> tuple[list[Repository], int]:
        """Return up to `most` repositories that match `query`, in Docker Hub's order, and the number of all matches."""
        found: dict[str, Repository] = {}
        for number in range(1, self._max_pages + 1):
            page = self._page("search/repositories/", number, min(most, PAGE_SIZE), query=query)
            found.update((repository.name, repository) for repository in map(_repository, page.results) if repository)
            if page.is_last or len(found) >= most:
                break
        return list(found.values())[:most], max(page.count, len(found))

    def tags(self, repository: str) -> tuple[list[Tag], int]:
        """Return the tags of `namespace/name`, the last pushed first, and the number of all its tags.

        At most 10,000 tags are returned.
        """
        path = f"repositories/{quote(repository)}/tags/"
        first = self._page(path, 1, PAGE_SIZE)
        last = 1 if first.is_last else min(-(-first.count // PAGE_SIZE), self._max_pages)
        others = in_parallel(lambda number: self._page(path, number, PAGE_SIZE), range(2, last + 1), self._connections)
        tags = {tag.name: tag for page in (first, *others) for tag in map(_tag, page.results) if tag}
        return list(tags.values()), max(first.count, len(tags))

    def similar_names(self, repository: str, most: int = 3) -> list[str]:
        """Return up to `most` names similar to `namespace/name`, which doesn't exist; the most similar first."""
        missing = repository.removeprefix("library/")
        short = missing.rpartition("/")[2]
        # Searches find names that begin with a word, and a misspelt word mostly begins right.
        queries = dict.fromkeys((missing, short, short[: max(3, len(short) * 2 // 3)]))
        found: dict[str, Repository] = {}
        for query in queries:
            found.update((candidate.name, candidate) for candidate in self.search(query, PAGE_SIZE)[0])
        found.pop(missing, None)

        similar = [(_similarity(candidate, missing), candidate) for candidate in found.values()]
        similar.sort(key=lambda pair: (-pair[0], -pair[1].pulls))
        return [candidate.name for similarity, candidate in similar if similarity >= _MIN_SIMILARITY][:most]

    def _page(self, path: str, number: int, size: int, **parameters: str) -> Page:
        """Return page `number`, counted from 1, of `size` results."""
        query = urlencode({"page": number, "page_size": size, **parameters})
        url = f"{self._base}/v2/{path}?{query}"
        with self._http.get(url, {"Accept": "application/json", "Accept-Encoding": "gzip"}) as response:
            body = limited_body(response, _PAGE_LIMIT)
            if response.status_code != 200:
                raise _refusal(response)
            return _parse_page(inflate(body, response, _PAGE_LIMIT))


@contextmanager
def suggest_similar_names(
    reference: Reference, hub: Callable[[], Hub] = lambda: Hub(seconds=_SUGGESTION_SECONDS)
) -> Iterator[None]:
    """If the block raises NoSuchRepository for `reference`, set its hint to similar names and how to log in.

    The names come from Docker Hub's search, only for its own images and if it can be reached.
    """
    try:
        yield
    except NoSuchRepository as error:
        login = f"if it is private: provision login {reference.registry}"
        near: list[str] = []
        if reference.registry == DOCKER_HUB:
            with suppress(ProvisionError):  # the error about the image is the one to show
                near = hub().similar_names(reference.repository)
        error.hint = f"similar names: {', '.join(near)}; {login}" if near else f"check the spelling; {login}"
        raise


def _similarity(candidate: Repository, name: str) -> float:
    """Return how similar a repository's name is to `name`: 0 to 1, and up to 1.1 for official images."""
    whole = SequenceMatcher(None, name, candidate.name).ratio()
    # The last part counts on its own too, since users forget whose image it is.
    last = SequenceMatcher(None, name.rpartition("/")[2], candidate.name.rpartition("/")[2]).ratio()
    # A search for a misspelt word also finds images with the same misspelling. A name without a slash probably means an
    # official image.
    return max(whole, last - 0.15) + (0.1 if candidate.is_official and "/" not in name else 0)


def _refusal(response: requests.Response) -> ProvisionError:
    """Return the error for a response whose status isn't 200."""
    if response.status_code == 404:
        return NotFound("Docker Hub has no such repository", "check the spelling")
    if response.status_code == 429:
        wait = response.headers.get("Retry-After", "")
        hint = f"try again in {wait} seconds" if re.fullmatch("[0-9]{1,6}", wait) else "wait a minute and try again"
        return NetworkError("Docker Hub says that there were too many requests", hint)
    return NetworkError(f"Docker Hub answers with {status_text(response)}", "try again later")


def _parse_page(body: bytes) -> Page:
    """Return the page in a body. Raises NetworkError if it isn't one."""
    answer = parse_json(body)
    results = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(results, list):
        raise NetworkError("Docker Hub answers with something else than a page of results", "try again later")
    objects = tuple(result for result in results if isinstance(result, dict))
    return Page(objects, _number(answer.get("count")), not answer.get("next") or not objects)


def _repository(result: dict[str, Any]) -> Repository | None:
    """Return a result of a search; None if its name isn't a valid repository."""
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
    """Return a tag; None if its name is invalid."""
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
    """Return a tag's image for one platform; None for attestations, whose architecture is `unknown`."""
    words = [_text(image.get(key)) for key in ("os", "architecture", "variant")]
    if not words[0] or words[1] in ("", "unknown"):
        return None
    return Offer(Platform(*words), size=_number(image.get("size")) or None)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
