"""Lists the tags of a repository by `/v2/NAME/tags/list` (OCI distribution-spec v1.1)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from requests.utils import parse_header_links

from provisioner.errors import NetworkError, ProvisionError
from provisioner.image.reference import is_tag
from provisioner.registry.refusals import NoSuchRepository, NoSuchTag

_PAGE_SIZE = 1000
"""The number of tags that are requested in one page. Registries may send fewer, or all at once."""

_MAX_IDLE_PAGES = 10
"""Pages in a row without a new tag, after which the list counts as endless."""

_MAX_TAGS = 1_000_000
"""Lists with more tags count as endless."""

_LIST_SECONDS = 1200.0
"""Lists that take longer count as endless. Each page has its own deadline, too."""

_LINK_LIMIT = 8192
"""The part of a Link header that is read, in characters."""

_ADDRESS = "<[^>]*>"
_SEPARATORS, _PLACEHOLDERS = ";,=", "\x01\x02\x03"
_MASK, _UNMASK = str.maketrans(_SEPARATORS, _PLACEHOLDERS), str.maketrans(_PLACEHOLDERS, _SEPARATORS)


def tag_names(page_of: Callable[[str], tuple[bytes, str]], host: str) -> list[str]:
    """Return all tags in the registry's order, each once. Names that can't be tags are left out.

    `page_of(query)` returns the body and the Link header of one page; errors name `host`. Raises NetworkError for an
    answer that isn't a list of tags, and for an endless list.
    """
    query, asked, idle = f"n={_PAGE_SIZE}", set[str](), 0
    deadline = time.monotonic() + _LIST_SECONDS
    names: dict[str, None] = {}
    while query:
        asked.add(query)
        body, link = page_of(query)
        before = len(names)
        names.update(dict.fromkeys(_parse_page(body, host)))
        idle = 0 if len(names) > before else idle + 1
        query = _next_query(link, host)
        is_late = bool(query) and time.monotonic() > deadline
        if query in asked or idle >= _MAX_IDLE_PAGES or len(names) > _MAX_TAGS or is_late:
            raise NetworkError(f"the list of tags of {host} doesn't end", "tell the registry's owner")
    return [name for name in names if is_tag(name)]


@contextmanager
def tell_missing_repository(page_of: Callable[[str], object]) -> Iterator[None]:
    """Where the block raises NoSuchTag, raise NoSuchRepository if that is what the registry says of the list of tags.

    `page_of(query)` asks for a page of the list.
    """
    try:
        yield
    except NoSuchTag as error:
        try:
            page_of("n=1")
        except NoSuchRepository as missing:
            raise missing from error
        except ProvisionError:  # the error that is shown is that of the tag
            pass
        raise


def _parse_page(body: bytes, host: str) -> list[str]:
    """Return the names in one page. Docker's registry writes `null` for an empty list. Raises NetworkError."""
    try:
        names = json.loads(body)["tags"]
        if names is None:
            return []
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return names
    except (ValueError, RecursionError, KeyError, TypeError):
        pass
    raise NetworkError(f"{host} answers with something else than a list of tags", "check the host and the port")


def _next_query(header: str, host: str) -> str:
    """Return the query of the next page in a Link header (RFC 8288); empty if there is no next page.

    Only the query is used, because behind proxies the rest of the address is often wrong, and because it must not lead
    to another host. Raises NetworkError for a header without any link, and for an invalid query.
    """
    header = header[:_LINK_LIMIT]
    following = [target for target, relations in _links(header) if "next" in relations]
    if not following and (re.search(_ADDRESS, header) or not header):
        return ""
    query = following[0].partition("#")[0].partition("?")[2] if following else ""
    if not re.fullmatch(r"[!-~]+", query):
        raise NetworkError(f"{host} gives a next page that can't be asked for", "tell the registry's owner")
    return query


def _links(header: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the address and the relation types, in lower case, of each link in a Link header."""
    # requests splits at separators inside of addresses and quoted strings too: they are hidden from it. And it leaves
    # parameter names in upper case as they are.
    masked = re.sub(rf'{_ADDRESS}|"[^"]*"', lambda match: match[0].translate(_MASK), header)
    for link in parse_header_links(masked):
        address = link.pop("url").translate(_UNMASK)
        relations = next((value for name, value in link.items() if name.lower() == "rel"), "")
        yield address, relations.lower().split()
