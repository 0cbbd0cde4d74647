"""Docker Hub's search and tags: by its recorded answers, scripted ones, and through a proxy under its real names."""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.errors import MalformedImage, NetworkError, NotFound, ProvisionError
from provisioner.image.platform import Platform
from provisioner.image.reference import Reference
from provisioner.registry.hub import Hub, near_names
from provisioner.registry.refusals import NoSuchRepository
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.scripted_hub import (
    ScriptedHub,
    hub_certificate,
    image_on_hub,
    reachable,
    repository_on_hub,
    tag_on_hub,
)
from tests.support.scripted_registry import Broken, ScriptedRegistry, html, json_response
from tests.support.terminal import on_terminal, plain
from tests.support.tools import clean_environment, provision

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
    assert "inflated" in refused(Response(200, b"no gzip", {"Content-Encoding": "gzip"})).message


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
    found = hub(known).near(wrong)
    assert found[:1] == ([near] if near else [])
    assert len(found) <= 3


def test_a_name_is_not_near_itself(known: ScriptedHub) -> None:
    assert "ubuntu" not in hub(known).near("library/ubuntu")


def failing(reference: str, server: ScriptedRegistry) -> str:
    """The hint of an image that isn't found, with near names from `server`."""
    with pytest.raises(NoSuchRepository) as caught, near_names(Reference.parse(reference), lambda: hub(server)):
        raise NoSuchRepository("not found, or private", "check")
    return caught.value.hint


def test_near_names_in_an_error(known: ScriptedHub, registry: ScriptedRegistry) -> None:
    assert failing("ubunut", known).startswith("near names: ubuntu, ")
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
        Hub(registry.url, silence=0.2).near("library/ubunut")
    silent.set()
    assert time.monotonic() - begun < 5


def test_other_errors_are_left_alone(known: ScriptedHub) -> None:
    error = NotFound("no tag", "this one")
    with pytest.raises(NotFound) as caught, near_names(Reference.parse("ubuntu:nowhere"), lambda: hub(known)):
        raise error
    assert (caught.value, caught.value.hint, known.requests) == (error, "this one", [])


# The commands, under Docker Hub's own names


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return hub_certificate(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def secure(certificate: tuple[Path, Path]) -> Iterator[ScriptedHub]:
    """A Docker Hub with an image, in HTTPS."""
    with ScriptedHub(certificate) as served:
        image = builders.small(run={"Cmd": ["bash"]})
        served.push("library/ubuntu", image)
        served.repositories = [
            repository_on_hub("ubuntu", short_description="Ubuntu is a Debian-based Linux operating system."),
            repository_on_hub("user/ubuntu", short_description="\x1b]0;owned\x07\u202e\x9b2J evil " + "漢字" * 40),
            repository_on_hub("empty/ubuntu", short_description=None, star_count=17303, pull_count=9419966493),
        ]
        both = (image_on_hub("linux/amd64", 34157024), image_on_hub("linux/arm64/v8", 33752693))
        names = ["noble", "9", "24.04", "latest", "22.04", "24.04-slim"]
        served.listed["library/ubuntu"] = [tag_on_hub(name, *both) for name in names]
        served.listed["library/ubuntu"].append(tag_on_hub("arm", both[1]))
        yield served


@pytest.fixture
def environment(secure: ScriptedHub, certificate: tuple[Path, Path]) -> Iterator[dict[str, str]]:
    """One in which Docker Hub is the scripted one."""
    with reachable(secure, certificate[0]) as variables:
        yield variables


def test_search_in_a_pipe(environment: dict[str, str]) -> None:
    done = provision("search", "ubuntu", env=clean_environment(**environment))
    assert (done.returncode, done.stdout, done.stderr) == (0, "ubuntu\nuser/ubuntu\nempty/ubuntu\n", "")
    done = provision("search", "--limit=1", "ubuntu", env=clean_environment(**environment))
    assert done.stdout == "ubuntu\n"
    assert "1 of 3" in done.stderr
    done = provision("search", "--limit=1", "--quiet", "ubuntu", env=clean_environment(**environment))
    assert (done.stdout, done.stderr) == ("ubuntu\n", "")


def test_search_as_json(environment: dict[str, str]) -> None:
    done = provision("search", "--json", "ubuntu", env=clean_environment(**environment))
    found = json.loads(done.stdout)
    assert found[2] == {
        "name": "empty/ubuntu", "description": None, "is_official": False, "stars": 17303, "pulls": 9419966493,
    }  # fmt: skip
    assert found[1]["description"].startswith("\x1b]0;owned\x07")
    assert done.stdout.replace("\n", "").isprintable()
    assert done.stdout.isascii()


def test_search_on_a_phone(environment: dict[str, str], tmp_path: Path) -> None:
    status, text = on_terminal("search", "ubuntu", columns=40, cache=tmp_path, **environment)
    lines = plain(text).splitlines()
    assert status == 0
    assert lines[:4] == [
        "ubuntu",
        "  official · 3 stars · 70 pulls",
        "  Ubuntu is a Debian-based Linux",
        "  operating system.",
    ]
    assert lines[-3:] == ["empty/ubuntu", "  17.3k stars · 9.4B pulls", "  no description"]
    assert r"\x1b]0;owned\x07\u202e\x9b2J evil" in "".join(line.strip() for line in lines).replace("Jevil", "J evil")
    assert all(line.isprintable() for line in lines)
    assert "\033[1mubuntu\033[0m" in text


def test_columns_and_no_color(environment: dict[str, str], tmp_path: Path) -> None:
    asked = {**environment, "COLUMNS": "100", "NO_COLOR": "1"}
    _, text = on_terminal("search", "ubuntu", columns=40, cache=tmp_path, **asked)
    lines = text.splitlines()
    assert lines[0] == "NAME                    STARS  PULLS  DESCRIPTION"
    assert lines[3] == "empty/ubuntu            17.3k   9.4B  no description"
    assert len(lines) == 4
    assert lines[2].endswith("…")
    assert text.replace("\n", "").isprintable()


def test_search_finds_nothing(environment: dict[str, str]) -> None:
    done = provision("search", "qqqq", env=clean_environment(**environment))
    assert (done.returncode, done.stdout) == (3, "")
    assert "finds nothing for 'qqqq'" in done.stderr
    assert json.loads(provision("search", "--json", "qqqq", env=clean_environment(**environment)).stdout) == []
    assert provision("search", " ", env=clean_environment(**environment)).returncode == 2


def test_an_encoding_that_cannot_say_it(environment: dict[str, str], tmp_path: Path) -> None:
    asked = {**environment, "PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
    status, text = on_terminal("search", "ubuntu", columns=40, cache=tmp_path, **asked)
    assert status == 0
    assert text.isascii()
    assert "  official, 3 stars, 70 pulls" in text


def test_tags_of_docker_hub(environment: dict[str, str], secure: ScriptedHub) -> None:
    env = clean_environment(**environment)
    done = provision("tags", "--platform=amd64", "ubuntu", env=env)
    assert done.stdout.split() == ["latest", "24.04", "24.04-slim", "22.04", "9", "noble"]
    assert {request.path for request in secure.requests} == {TAGS}
    done = provision("tags", "--platform=arm64", "--limit=3", "docker.io/library/ubuntu:24", env=env)
    assert (done.stdout.split(), done.stderr) == (["24.04", "24.04-slim"], "")
    assert "arm" in provision("tags", "--all", "ubuntu", env=env).stdout.split()
    [found] = json.loads(provision("tags", "--json", "--platform=arm64", "ubuntu:9", env=env).stdout)
    assert found == {
        "name": "9",
        "digest": "sha256:" + "1" * 64,
        "platforms": ["linux/amd64", "linux/arm64/v8"],
        "platform": "linux/arm64/v8",
        "size": 33752693,
        "updated": "2024-10-02T01:50:27.90536Z",
    }


def test_tags_of_docker_hub_on_a_phone(environment: dict[str, str], tmp_path: Path) -> None:
    _, text = on_terminal("tags", "--platform=arm64", "ubuntu:24", columns=40, cache=tmp_path, **environment)
    assert plain(text).splitlines() == [
        "TAG            SIZE  PUSHED",
        "24.04       33.8 MB  2024-10-02",
        "24.04-slim  33.8 MB  2024-10-02",
    ]


def test_where_the_hub_is_out_of_reach_its_registry_is_asked(
    secure: ScriptedHub, certificate: tuple[Path, Path]
) -> None:
    with reachable(secure, certificate[0], ["registry-1.docker.io", "auth.docker.io"]) as variables:
        done = provision("tags", "--platform=amd64", "ubuntu", env=clean_environment(**variables))
    assert (done.returncode, done.stdout) == (0, "latest\n")
    assert "the registry is asked instead" in done.stderr
    assert "hub.docker.com" in done.stderr


@pytest.mark.parametrize("command", ["tags", "inspect"])
def test_a_misspelt_name(environment: dict[str, str], command: str) -> None:
    done = provision(command, "ubunut", env=clean_environment(**environment))
    assert (done.returncode, done.stdout) == (3, "")
    assert "docker.io/library/ubunut is not found, or it is private" in done.stderr
    assert "near names: ubuntu" in done.stderr
    assert "provision login docker.io" in done.stderr


def test_a_command_with_a_typo_is_hinted_at_where_no_image_is_called_so(
    environment: dict[str, str], secure: ScriptedHub, tmp_path: Path
) -> None:
    env = clean_environment(**environment)

    def tried(*words: str) -> tuple[int, str]:
        done = provision(*words, cache=tmp_path / "cache", env=env, cwd=tmp_path)
        return done.returncode, done.stderr.splitlines()[-1]

    assert tried("tgas", "ubuntu") == (
        3,
        "  did you mean: provision tags ubuntu; check the spelling; if it is private: provision login docker.io",
    )
    assert "did you mean" not in tried("install", "tgas", "ubuntu")[1]
    assert "did you mean" not in tried("docker.io/library/tgas", "ubuntu")[1]
    assert os.listdir(tmp_path) == ["cache"]
    (tmp_path / "ubuntu").write_text("in the way")
    assert tried("tgas", "ubuntu")[0] == 8
    secure.push("library/tgas", builders.small())
    assert tried("--platform=amd64", "tgas", "container") == (0, "  start:   ./container/start.sh")


def test_docker_hub_is_out_of_reach() -> None:
    done = provision("search", "ubuntu", env=clean_environment(HTTPS_PROXY="http://127.0.0.1:1"))
    assert (done.returncode, done.stdout) == (5, "")
    assert "hub.docker.com" in done.stderr
