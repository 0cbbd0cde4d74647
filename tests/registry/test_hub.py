"""Docker Hub's search and tags: by its recorded answers and scripted ones."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.errors import MalformedImage, NetworkError, NotFound, ProvisionError
from provisioner.image.platform import Platform
from provisioner.image.reference import Reference
from provisioner.registry.hub import Hub, suggest_similar_names
from provisioner.registry.refusals import NoSuchRepository
from scripts.loopback_registry import Response
from tests.support.scripted_hub import (
    ScriptedHub,
    image_on_hub,
    repository_on_hub,
    tag_on_hub,
)
from tests.support.scripted_registry import Broken, ScriptedRegistry, html, json_response

DATA = Path(__file__).parent.parent / "data"
SEARCH, TAGS = "/v2/search/repositories/", "/v2/repositories/library/ubuntu/tags/"
ARM = Platform("linux", "arm64", "v8")


@pytest.fixture
def full() -> Iterator[ScriptedHub]:
    """A Docker Hub with content, in plain HTTP."""
    with ScriptedHub() as served:
        yield served


def hub(server: ScriptedRegistry) -> Hub:
    return Hub(server.url)


def results(*found: Any, **fields: Any) -> Response:
    return json_response({"count": len(found), "next": None, "results": found, **fields})


# Recorded answers


def test_the_recorded_search(registry: ScriptedRegistry) -> None:
    registry.on(SEARCH, Response(200, (DATA / "hub-search.json").read_bytes()))
    [ubuntu], count = hub(registry).search("ubuntu linux", 1)
    assert (ubuntu.name, ubuntu.is_official, ubuntu.stars, ubuntu.pulls) == ("ubuntu", True, 17303, 9419966493)
    assert ubuntu.description == "Ubuntu is a Debian-based Linux operating system based on free software."
    assert count == 10_000
    assert registry.requests[0].query == {"page": ["1"], "page_size": ["1"], "query": ["ubuntu linux"]}


def test_the_recorded_tags(registry: ScriptedRegistry) -> None:
    recorded = json.loads((DATA / "hub-tags.json").read_bytes())
    registry.on(TAGS, json_response(recorded | {"next": None}))
    [devel], count = hub(registry).tags("library/ubuntu")
    assert (devel.name, devel.updated, count) == ("devel", "2024-10-02T01:50:27.90536Z", 644)
    assert str(devel.digest) == recorded["results"][0]["digest"]
    assert [str(offer.platform) for offer in devel.offers] == [
        "linux/amd64", "linux/arm/v7", "linux/arm64/v8", "linux/ppc64le", "linux/riscv64", "linux/s390x",
    ]  # fmt: skip
    best = devel.offer(ARM)
    assert best
    assert best.size == 33752693


# Pages


def test_search_stops_where_it_has_enough(full: ScriptedHub) -> None:
    full.repositories = [repository_on_hub(f"user/img{number}") for number in range(450)]
    found, count = hub(full).search("img", 250)
    assert [repository.name for repository in found] == [f"user/img{number}" for number in range(250)]
    assert count == 450
    assert len(full.requests) == 3
    assert len(hub(full).search("img", 10_000)[0]) == 450


def test_all_pages_of_tags(full: ScriptedHub) -> None:
    full.listed["user/x"] = [tag_on_hub(f"1.{number}", image_on_hub("linux/amd64")) for number in range(730)]
    found, count = hub(full).tags("user/x")
    assert [tag.name for tag in found] == [f"1.{number}" for number in range(730)]
    assert count == 730
    assert len(full.requests) == 8


def test_pages_without_end(registry: ScriptedRegistry) -> None:
    endless = results(tag_on_hub("1.0"), repository_on_hub("a"), count=10**12, next="https://hub.docker.com/more")
    registry.on(".*", endless)
    client = Hub(registry.url, max_pages=7)
    [tag], count = client.tags("library/ubuntu")
    assert (tag.name, count, len(registry.requests)) == ("1.0", 10**12, 7)
    assert len(client.search("a", 50)[0]) == 1
    assert len(registry.requests) == 14


def test_the_next_page_is_not_where_the_answer_says(registry: ScriptedRegistry) -> None:
    first = results(*(repository_on_hub(f"a/{n}") for n in range(100)), count=101, next="http://registry.invalid/steal")
    registry.on(SEARCH, results(repository_on_hub("a/100"), count=101)).on(SEARCH, first, times=1)
    assert len(hub(registry).search("a", 200)[0]) == 101


def test_compressed_answers(registry: ScriptedRegistry) -> None:
    body = gzip.compress(json.dumps({"count": 1, "results": [repository_on_hub("a")]}).encode())
    registry.on(SEARCH, Response(200, body, {"Content-Encoding": "gzip"}))
    assert hub(registry).search("a", 9)[0][0].name == "a"
    assert registry.requests[0].headers["Accept-Encoding"] == "gzip"


# Answers that aren't as they should be


@pytest.mark.parametrize(
    "body",
    [
        "", "null", "[]", "{}", '{"results": {}}', '{"results": null}', "[" * 100_000, '{"count": ' + "9" * 9999 + "}",
        "\xff",
    ],
)  # fmt: skip
def test_answers_that_are_no_pages(registry: ScriptedRegistry, body: str) -> None:
    registry.on(".*", Response(200, body.encode("latin-1")))
    for ask in (lambda: hub(registry).search("a", 1), lambda: hub(registry).tags("a/b")):
        with pytest.raises(NetworkError, match="something else than a page of results"):
            ask()


def test_a_web_page(registry: ScriptedRegistry) -> None:
    registry.on(SEARCH, html())
    with pytest.raises(NetworkError, match="something else"):
        hub(registry).search("a", 1)


def test_fields_of_wrong_types(registry: ScriptedRegistry) -> None:
    wrong: list[Any] = [None, 7, "text", [], {}, True, -1, 1.5]
    fields = ("repo_name", "short_description", "star_count", "pull_count", "is_official")
    odd = [{**repository_on_hub("fine"), field: value} for field in fields for value in wrong]
    registry.on(SEARCH, results(*odd, *wrong, count="many"))
    assert [repository.name for repository in hub(registry).search("a", 100)[0]] == ["text", "fine"]
    of_tags = ("name", "images", "digest", "last_updated")
    image = [
        {**image_on_hub("linux/amd64"), field: value}
        for field in ("os", "architecture", "variant", "size")
        for value in wrong
    ]
    odd = [{**tag_on_hub("fine", image_on_hub("linux/amd64")), field: value} for field in of_tags for value in wrong]
    registry.on(TAGS, results(*odd, tag_on_hub("images", *image), *wrong, count=None))
    names = [tag.name for tag in hub(registry).tags("library/ubuntu")[0]]
    assert names == ["text", "fine", "images"]


def test_no_description_is_none(registry: ScriptedRegistry) -> None:
    empty: list[Any] = [None, "", "  \n"]
    found = [repository_on_hub(f"a/{number}", short_description=value) for number, value in enumerate(empty)]
    without = repository_on_hub("b")
    del without["short_description"]
    registry.on(SEARCH, results(*found, without))
    assert [repository.description for repository in hub(registry).search("a", 9)[0]] == [None] * 4


def test_names_that_cannot_be_pulled_are_left_out(registry: ScriptedRegistry) -> None:
    names = [
        "\x1b[2J",
        "a b",
        "UPPER",
        "evil.example/x",
        "",
        "x:tag",
        "docker.io/library/x",
        "../x",
        "ubuntu",
        "library/a",
    ]
    registry.on(SEARCH, results(*map(repository_on_hub, names)))
    assert [repository.name for repository in hub(registry).search("a", 100)[0]] == ["ubuntu", "library/a"]


def test_attestations_are_no_platforms(full: ScriptedHub) -> None:
    full.listed["user/x"] = [tag_on_hub("1", image_on_hub("unknown/unknown"), image_on_hub("linux/arm64/v8"))]
    [tag], _ = hub(full).tags("user/x")
    assert [str(offer.platform) for offer in tag.offers] == ["linux/arm64/v8"]


def test_refusals(registry: ScriptedRegistry) -> None:
    def refused(answer: Response) -> ProvisionError:
        registry.on(SEARCH, answer, times=1)
        with pytest.raises(ProvisionError) as caught:
            hub(registry).search("a", 1)
        assert caught.value.hint
        return caught.value

    assert isinstance(refused(json_response({"message": "object not found"}, 404)), NotFound)
    assert refused(Response(429, b"", {"Retry-After": "17"})).hint == "try again in 17 seconds"
    assert "minute" in refused(Response(429, b"", {"Retry-After": "\x1b[2J"})).hint
    assert "503" in refused(Response(503)).message
    assert "can't decompress" in refused(Response(200, b"no gzip", {"Content-Encoding": "gzip"})).message


def test_bombs(registry: ScriptedRegistry) -> None:
    registry.on(SEARCH, Response(200, gzip.compress(bytes(64 << 20)), {"Content-Encoding": "gzip"}), times=1)
    with pytest.raises(MalformedImage, match="more than 16 MiB"):
        hub(registry).search("a", 1)
    registry.on(SEARCH, Response(200, bytes(17 << 20)))
    with pytest.raises(MalformedImage, match="more than 16 MiB"):
        hub(registry).search("a", 1)


# Near names


@pytest.fixture
def known(full: ScriptedHub) -> ScriptedHub:
    """A Docker Hub that has these."""
    pulls = {
        "ubuntu": 9,
        "user/ubunut": 0,
        "user/ubuntu": 5,
        "kubuntu/x": 1,
        "nginx": 9,
        "bitnami/nginx": 8,
        "alpine": 9,
    }
    full.repositories = [repository_on_hub(name, pull_count=count) for name, count in pulls.items()]
    return full


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("library/ubunut", "ubuntu"),
        ("library/ubunt", "ubuntu"),
        ("library/ngnix", None),
        ("library/nginxx", "nginx"),
        ("bitname/nginx", "bitnami/nginx"),
        ("library/qqqqqqqq", None),
    ],
)
def test_near_names(known: ScriptedHub, wrong: str, near: str | None) -> None:
    found = hub(known).similar_names(wrong)
    assert found[:1] == ([near] if near else [])
    assert len(found) <= 3


def test_a_name_is_not_near_itself(known: ScriptedHub) -> None:
    assert "ubuntu" not in hub(known).similar_names("library/ubuntu")


def failing(reference: str, server: ScriptedRegistry) -> str:
    """The hint of an image that isn't found, with similar names from `server`."""
    with (
        pytest.raises(NoSuchRepository) as caught,
        suggest_similar_names(Reference.parse(reference), lambda: hub(server)),
    ):
        raise NoSuchRepository("not found, or private", "check")
    return caught.value.hint


def test_near_names_in_an_error(known: ScriptedHub, registry: ScriptedRegistry) -> None:
    assert failing("ubunut", known).startswith("similar names: ubuntu, ")
    assert failing("ubunut", known).endswith("if it is private: provision login docker.io")
    nothing = "check the spelling; if it is private: provision login "
    assert failing("qqqqqqqq", known) == nothing + "docker.io"
    asked = len(known.requests)
    assert failing("ghcr.io/ubunut/x", known) == nothing + "ghcr.io"
    assert len(known.requests) == asked
    registry.on(SEARCH, Response(503))
    assert failing("ubunut", registry) == nothing + "docker.io"


def test_near_names_are_not_waited_for_long(registry: ScriptedRegistry) -> None:
    silent = threading.Event()
    registry.on(SEARCH, Broken(200, bytes(100), wait=silent))
    begun = time.monotonic()
    with pytest.raises(NetworkError, match="in time"):
        Hub(registry.url, seconds=0.2).similar_names("library/ubunut")
    silent.set()
    assert time.monotonic() - begun < 25


def test_other_errors_are_left_alone(known: ScriptedHub) -> None:
    error = NotFound("no tag", "this one")
    with (
        pytest.raises(NotFound) as caught,
        suggest_similar_names(Reference.parse("ubuntu:nowhere"), lambda: hub(known)),
    ):
        raise error
    assert (caught.value, caught.value.hint, known.requests) == (error, "this one", [])
