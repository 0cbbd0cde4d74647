"""The commands that ask Docker Hub, under its own host names, which a proxy leads to a scripted one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import builders
from tests.support.scripted_hub import (
    ScriptedHub,
    hub_certificate,
    image_on_hub,
    reachable,
    repository_on_hub,
    tag_on_hub,
)
from tests.support.terminal import on_terminal, plain
from tests.support.tools import clean_environment, provision

TAGS = "/v2/repositories/library/ubuntu/tags/"


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
    found = json.loads(done.stdout)["repositories"]
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
    assert (
        json.loads(provision("search", "--json", "qqqq", env=clean_environment(**environment)).stdout)["repositories"]
        == []
    )
    provision("search", " ", env=clean_environment(**environment), status=2)


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
    [found] = json.loads(provision("tags", "--json", "--platform=arm64", "ubuntu:9", env=env).stdout)["tags"]
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
    assert "similar names: ubuntu" in done.stderr
    assert "provision login docker.io" in done.stderr


def test_a_command_with_a_typo_is_refused_and_an_image_of_that_name_is_found_by_install(
    environment: dict[str, str], secure: ScriptedHub, tmp_path: Path
) -> None:
    env = clean_environment(**environment)

    def tried(*words: str) -> tuple[int, str]:
        done = provision(*words, cache=tmp_path / "cache", env=env, cwd=tmp_path)
        return done.returncode, done.stderr.splitlines()[-1]

    hint = "  did you mean: provision tags ubuntu; an image of that name: provision install tgas ubuntu"
    assert tried("tgas", "ubuntu") == (2, hint)
    assert os.listdir(tmp_path) == []
    assert tried("install", "tgas", "ubuntu")[0] == 3
    assert "did you mean" not in tried("docker.io/library/tgas", "ubuntu")[1]
    secure.push("library/tgas", builders.small())
    assert tried("install", "--platform=amd64", "tgas", "container") == (0, "  start:   ./container/start.sh")


def test_docker_hub_is_out_of_reach() -> None:
    done = provision("search", "ubuntu", env=clean_environment(HTTPS_PROXY="http://127.0.0.1:1"))
    assert (done.returncode, done.stdout) == (5, "")
    assert "hub.docker.com" in done.stderr
