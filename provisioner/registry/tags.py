"""The tags of a repository, on any registry that speaks `/tags/list` (OCI distribution-spec v1.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from provisioner.errors import NetworkError
from provisioner.image.reference import is_tag

_PAGE = 1000
"""Tags to ask for at a time; registries may give fewer, or all there are."""

_IDLE_PAGES = 10
_MOST = 1_000_000
"""How many pages in a row may bring nothing new, and how many tags are believed."""

_LINK = re.compile(r"<([^>]*)>((?:\s*;\s*[^\s;,=]+\s*=\s*(?:\"[^\"]*\"|[^\s;,\"]+))*)")
_IS_NEXT = re.compile(r";\s*rel\s*=\s*\"?(?:[^\";]*\s)?next(?![^\s\";])", re.IGNORECASE)


def tag_names(page_of: Callable[[str], tuple[bytes, str]], host: str) -> list[str]:
    """All tags, in the registry's order, each once. What can't be a tag is left out.

    `page_of(query)` gives the body and the Link header of one page. Raises NetworkError for a list that isn't one, or
    doesn't end.
    """
    query, asked, idle = f"n={_PAGE}", set[str](), 0
    names: dict[str, None] = {}
    while query:
        asked.add(query)
        body, link = page_of(query)
        before = len(names)
        names.update(dict.fromkeys(_parsed(body, host)))
        idle = 0 if len(names) > before else idle + 1
        query = _next_query(link, host)
        if query in asked or idle >= _IDLE_PAGES or len(names) > _MOST:
            raise NetworkError(f"the list of tags of {host} doesn't end", "tell the registry's owner")
    return [name for name in names if is_tag(name)]


def _parsed(body: bytes, host: str) -> list[str]:
    """The names in one page; `null` stands for none, as Docker's registry writes it."""
    try:
        names = json.loads(body)["tags"]
        if names is None:
            return []
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return names
    except (ValueError, RecursionError, KeyError, TypeError):
        pass
    raise NetworkError(f"{host} answers with something else than a list of tags", "check the host and the port")


def _next_query(link: str, host: str) -> str:
    """The query of the next page in a Link header (RFC 8288); nothing where there is no next page.

    The rest of the address is not believed: behind proxies it is often wrong, and it must not lead elsewhere.
    """
    links = _LINK.findall(link[:8192])
    following = [target for target, parameters in links if _IS_NEXT.search(parameters)]
    if not following and (links or not link):
        return ""
    query = following[0].partition("#")[0].partition("?")[2] if following else ""
    if not re.fullmatch(r"[!-~]+", query):
        raise NetworkError(f"{host} gives a next page that can't be asked for", "tell the registry's owner")
    return query
