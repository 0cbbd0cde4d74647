"""Lists of tags: page after page, and from registries that don't behave."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from provisioner.cli import main
from provisioner.errors import MalformedImage, NetworkError, NotFound
from provisioner.image.reference import Reference
from provisioner.registry import tags
from provisioner.registry.client import TAGS_LIMIT, RegistryClient
from provisioner.registry.tags import tag_names
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.docker_registry import DockerRegistry
from tests.support.scripted_registry import Request, ScriptedRegistry, TokenServer, html, json_response, tag_pages

LIST = "/v2/user/x/tags/list"


def names_in(registry: ScriptedRegistry) -> list[str]:
    reference = Reference.parse(f"{registry.host}/user/x")
    return tag_names(RegistryClient(reference).tags_page, reference.registry)


@pytest.mark.parametrize("words", [["inspect"], ["inspect", "--raw"], ["tags"], ["install"]], ids=" ".join)
def test_a_repository_that_is_not_there(
    words: list[str], docker_registry: DockerRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a tag, docker-registry says that the manifest is unknown, whether there is a repository or not."""
    name = f"{docker_registry.host}/user/nothing"
    directory = [str(tmp_path / "new")] if words == ["install"] else []
    assert main([*words, name, *directory]) == 3
    assert f"provision: {name} is not found (repository name not known to registry)\n" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_registry_without_lists_of_tags(registry: ScriptedRegistry) -> None:
    registry.push("user/x", builders.small(), tag="other")
    client = RegistryClient(Reference.parse(f"{registry.host}/user/x"))
    registry.on(LIST, Response(404))
    with pytest.raises(NotFound, match="has no tag 'latest'"), tags.tell_missing_repository(client.tags_page):
        client.manifest("latest")


# Pages


@pytest.mark.parametrize(
    "link",
    [
        '</v2/user/x/tags/list?n={n}&last={last}>; rel="next"',
        "<http://registry.invalid:5000/elsewhere?n={n}&last={last}>; rel=next",
        '<https://[::1?last={last}>;rel="next"',
        '<?last={last}#there>; title="a, b; c"; REL="prev next"',
        '</first>; rel="first", <?last={last}>; rel="next"',
    ],
)
def test_all_pages_are_read_and_no_link_leads_elsewhere(registry: ScriptedRegistry, link: str) -> None:
    names = [f"1.{number}" for number in range(95)]
    registry.on(LIST, tag_pages(names, 10, link))
    assert names_in(registry) == names
    assert len(registry.asked(LIST)) == 10


def test_a_token_goes_with_every_page(registry: ScriptedRegistry) -> None:
    names = [f"1.{number}" for number in range(50)]
    served = tag_pages(names, 10)
    server = TokenServer(registry, uses=2)
    registry.on(LIST, lambda request: server.check(request) or served(request))
    assert names_in(registry) == names
    assert server.issued > 1


def test_a_hundred_thousand_tags(registry: ScriptedRegistry) -> None:
    names = [f"{number >> 8}.{number & 255}" for number in range(100_000)]
    places = {name: place for place, name in enumerate(names)}

    class Fast(list[str]):
        def index(self, name: str) -> int:  # type: ignore[override]
            return places[name]

    registry.on(LIST, tag_pages(Fast(names), 1000))
    begun = time.monotonic()
    assert names_in(registry) == names
    assert time.monotonic() - begun < 30
    assert registry.asked(LIST)[0].query == {"n": ["1000"]}


def test_a_registry_that_gives_all_at_once(registry: ScriptedRegistry) -> None:
    names = [f"1.{number}" for number in range(100_000)]
    registry.on(LIST, json_response({"tags": names}))
    assert names_in(registry) == names


@pytest.mark.parametrize("tags", [[], None])
def test_a_repository_without_tags(registry: ScriptedRegistry, tags: list[str] | None) -> None:
    registry.on(LIST, json_response({"name": "user/x", "tags": tags}))
    assert names_in(registry) == []


def test_what_cannot_be_a_tag_is_left_out(registry: ScriptedRegistry) -> None:
    registry.on(LIST, json_response({"tags": ["1.0", "\x1b[2Jevil", "", "a b", "-x", "2.0", "x" * 129, "é", "2.0\n"]}))
    assert names_in(registry) == ["1.0", "2.0"]


# Registries that don't behave


@pytest.mark.parametrize(
    "link",
    [
        '<?n=1000>; rel="next"',
        '<?last=a>; rel="next"',
    ],
)
def test_links_in_a_circle(registry: ScriptedRegistry, link: str) -> None:
    registry.on(LIST, Response(200, b'{"tags": ["a"]}', {"Link": link}))
    with pytest.raises(NetworkError, match="doesn't end"):
        names_in(registry)
    assert len(registry.asked(LIST)) <= 2


def test_links_that_always_lead_on(registry: ScriptedRegistry) -> None:
    def answer(request: Request) -> Response:
        return Response(200, b'{"tags": ["a"]}', {"Link": f'<?last={len(registry.requests)}>; rel="next"'})

    registry.on(LIST, answer)
    with pytest.raises(NetworkError, match="doesn't end"):
        names_in(registry)
    assert len(registry.asked(LIST)) < 20


def test_a_new_tag_in_each_page_for_ever(registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: Request) -> Response:
        number = len(registry.requests)
        return Response(200, b'{"tags": ["a%d"]}' % number, {"Link": f'<?last=a{number}>; rel="next"'})

    monkeypatch.setattr(tags, "_LIST_SECONDS", 0.2)
    registry.on(LIST, answer)
    with pytest.raises(NetworkError, match="doesn't end"):
        names_in(registry)


@pytest.mark.parametrize(
    "link", ["nonsense", '</v2/>; rel="next"', '<?>; rel="next"', '<?a b>; rel="next"', '<?é>; rel="next"', "<?a"]
)
def test_links_that_lead_nowhere(registry: ScriptedRegistry, link: str) -> None:
    registry.on(LIST, Response(200, b'{"tags": ["a"]}', {"Link": link}))
    with pytest.raises(NetworkError, match="next page"):
        names_in(registry)


def test_links_to_anything_but_the_next_page(registry: ScriptedRegistry) -> None:
    registry.on(LIST, Response(200, b'{"tags": ["a"]}', {"Link": '<?last=a>; rel="prev", <?x>; rel=nextish; x="next"'}))
    assert names_in(registry) == ["a"]


@pytest.mark.parametrize(
    "body",
    [
        "", "null", "[]", "7", '"tags"', "{}", '{"tags": {}}', '{"tags": "1.0"}', '{"tags": [1]}',
        '{"tags": ["a", null]}', '{"tags": ""}', '{"tags": false}',
        '{"tags": [', "[" * 100_000, '{"tags": ' + "9" * 10_000 + "}", "\xff",
    ],
)  # fmt: skip
def test_lists_that_are_none(registry: ScriptedRegistry, body: str) -> None:
    registry.on(LIST, Response(200, body.encode("latin-1"), {"Content-Type": "application/json"}))
    with pytest.raises(NetworkError, match="list of tags"):
        names_in(registry)


def test_a_web_page(registry: ScriptedRegistry) -> None:
    registry.on(LIST, html())
    with pytest.raises(NetworkError, match="list of tags"):
        names_in(registry)


def test_a_page_that_is_too_large(registry: ScriptedRegistry) -> None:
    registry.on(LIST, Response(200, b" " * (TAGS_LIMIT + 1)))
    with pytest.raises(MalformedImage, match="more than 32 MiB"):
        names_in(registry)


def test_no_such_repository(registry: ScriptedRegistry) -> None:
    with pytest.raises(NotFound, match="has no tags"):
        names_in(registry)


@pytest.mark.parametrize(
    ("link", "query"),
    [
        ("<?a=1;b=2,c>; rel=next", "a=1;b=2,c"),
        ('</x>; title=", <?no>; rel=prev", <?yes>; title="a=b"; Rel="NEXT last"', "yes"),
        ('<?no>; rel="last"; title="rel=next"', None),
    ],
)
def test_separators_in_addresses_and_quoted_strings(link: str, query: str | None) -> None:
    asked: list[str] = []

    def page_of(query: str) -> tuple[bytes, str]:
        asked.append(query)
        return b'{"tags": ["a"]}', link if len(asked) == 1 else ""

    assert tag_names(page_of, "r.example") == ["a"]
    assert asked[1:] == ([query] if query else [])
