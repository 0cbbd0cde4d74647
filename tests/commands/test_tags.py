"""`provision tags`: against the real docker-registry, and against scripted ones that fail."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import requests

from provisioner.image.manifest import OCI_INDEX
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.docker_registry import DockerRegistry
from tests.support.scripted_registry import ScriptedRegistry, json_response, tag_pages
from tests.support.terminal import on_terminal, plain
from tests.support.tools import provision

LIST = "/v2/user/x/tags/list"
MANIFESTS = "/v2/user/x/manifests/.*"
AMD, ARM = builders.small(), builders.small(on="linux/arm64/v8")
BOTH = builders.index([("linux/amd64", AMD), ("linux/arm64/v8", ARM), ("unknown/unknown", ARM)])
ARM_SIZE = sum(len(layer.blob) for layer in ARM.layers)


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    """A registry with the manifests and blobs of `user/x`. Each test adds tags and their list."""
    for image in (AMD, ARM):
        registry.push("user/x", image, tag=None)
    return registry


def push(host: str, name: str, image: builders.Image) -> None:
    """Put the blobs of an image into a real registry."""
    for blob in image.blobs:
        begun = requests.post(f"http://{host}/v2/{name}/blobs/uploads/", timeout=30)
        where = begun.headers["Location"]
        requests.put(where, params={"digest": builders.digest_of(blob)}, data=blob, timeout=30).raise_for_status()


def put(host: str, name: str, tag: str, document: bytes, media_type: str) -> None:
    """Put a manifest or an index into a real registry."""
    headers = {"Content-Type": media_type}
    requests.put(
        f"http://{host}/v2/{name}/manifests/{tag}", data=document, headers=headers, timeout=30
    ).raise_for_status()


@pytest.fixture(scope="module")
def many(docker_registry: DockerRegistry) -> str:
    """A repository of 300 tags: 1.0 to 1.199 for two platforms, 2.0 to 2.99 for arm64 alone."""
    name, both = "user/many", builders.index([("linux/amd64", AMD), ("linux/arm64/v8", ARM)])
    for image in (AMD, ARM):
        push(docker_registry.host, name, image)
        put(docker_registry.host, name, builders.digest_of(image.manifest), image.manifest, image.media_type)
    for number in range(200):
        put(docker_registry.host, name, f"1.{number}", both, OCI_INDEX)
    for number in range(100):
        put(docker_registry.host, name, f"2.{number}", ARM.manifest, ARM.media_type)
    return f"{docker_registry.host}/{name}"


def test_a_real_registry_newest_first_for_one_platform(many: str, tmp_path: Path) -> None:
    done = provision("tags", "--platform=amd64", many, cache=tmp_path, status=0)
    assert done.stdout.split("\n") == [*(f"1.{number}" for number in range(199, 174, -1)), ""]
    assert "25 tags for linux/amd64, of 300 in all" in done.stderr
    done = provision("tags", "--platform=arm64", "--limit=3", "--quiet", many, cache=tmp_path)
    assert (done.stdout, done.stderr) == ("2.99\n2.98\n2.97\n", "")


def test_all_tags_of_a_real_registry(many: str, tmp_path: Path) -> None:
    done = provision("tags", "--all", many, cache=tmp_path)
    newest = [f"2.{number}" for number in range(99, -1, -1)] + [f"1.{number}" for number in range(199, -1, -1)]
    assert (done.stdout.split(), done.stderr) == (newest, "")
    assert list(tmp_path.iterdir()) == []


def test_tags_that_begin_so(many: str, tmp_path: Path) -> None:
    done = provision("tags", "--platform=amd64", f"{many}:1.19", cache=tmp_path)
    assert done.stdout.split() == [*(f"1.{number}" for number in range(199, 189, -1)), "1.19"]
    done = provision("tags", f"{many}:latest", cache=tmp_path, status=3)
    assert "no tags that begin with 'latest'" in done.stderr


def test_json_of_a_real_registry(many: str, tmp_path: Path) -> None:
    done = provision("tags", "--json", "--limit=1", "--platform=linux/arm64", f"{many}:1.", cache=tmp_path)
    digest = builders.digest_of(builders.index([("linux/amd64", AMD), ("linux/arm64/v8", ARM)]))
    assert json.loads(done.stdout)["tags"] == [
        {
            "name": "1.199",
            "digest": digest,
            "platforms": ["linux/amd64", "linux/arm64/v8"],
            "platform": "linux/arm64/v8",
            "size": ARM_SIZE,
            "updated": None,
        }
    ]


@pytest.mark.parametrize("columns", [40, 20, 100])
def test_a_table_on_a_terminal(many: str, tmp_path: Path, columns: int) -> None:
    status, text = on_terminal("tags", "--platform=arm64", "--limit=2", many, columns=columns, cache=tmp_path)
    lines = plain(text).splitlines()
    assert status == 0
    assert all(len(line) <= columns for line in lines)
    assert lines[0].split()[:2] == ["TAG", "SIZE"]
    assert lines[1].split()[:3] == ["2.99", str(ARM_SIZE), "B"]
    assert (builders.digest_of(ARM.manifest)[7:19] in text) == (columns > 20)


def test_nothing_for_the_platform(many: str, tmp_path: Path) -> None:
    done = provision("tags", "--platform=s390x", f"{many}:2.9", cache=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "has 11 tags, but none for" in done.stderr
    assert "--all" in done.stderr


def test_tags_that_name_no_image(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.on(LIST, json_response({"tags": ["chart", "gone"]}))
    chart = builders.small(manifest={"config": builders.descriptor(b"{}", "application/vnd.cncf.helm.config.v1+json")})
    registry.push("user/x", chart, "chart")
    done = provision("tags", f"{registry.host}/user/x", cache=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(
        "2 tags name no image; chart: this is not a container image but 'application/vnd.cncf.helm"
    )


def test_an_unknown_repository(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    done = provision("tags", f"{docker_registry.host}/user/nowhere", cache=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "user/nowhere is not found" in done.stderr


def test_a_digest_has_no_tags(tmp_path: Path) -> None:
    provision("tags", "localhost/x@sha256:" + "0" * 64, cache=tmp_path, status=2)


def test_a_second_listing_downloads_nothing(registry: ScriptedRegistry, tmp_path: Path) -> None:
    names = [f"1.{number}" for number in range(40)]
    for name in names:
        registry.add_manifest("user/x", BOTH, OCI_INDEX, name)
    registry.on(LIST, tag_pages(names, 15))

    def methods() -> tuple[int, int]:
        registry.requests.clear()
        done = provision("tags", "--platform=arm64", "--json", "--limit=30", f"{registry.host}/user/x", cache=tmp_path)
        assert len(json.loads(done.stdout)["tags"]) == 30, done.stderr
        asked = [request.method for request in registry.asked(MANIFESTS)]
        return asked.count("HEAD"), asked.count("GET")

    heads, gets = methods()
    # One index and one manifest, whatever number of tags they have.
    assert gets == 2
    assert 30 <= heads <= 40
    assert methods()[1] == 0


def test_a_registry_that_fails_for_a_moment(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.on(LIST, json_response({"tags": ["1.0"]}))
    registry.add_manifest("user/x", BOTH, OCI_INDEX, "1.0")
    for path in (LIST, MANIFESTS):
        registry.on(path, Response(503), times=1)
    done = provision("tags", "--platform=amd64", f"{registry.host}/user/x", cache=tmp_path)
    assert (done.returncode, done.stdout) == (0, "1.0\n"), done.stderr
    assert done.stderr.count("503") == 2


def test_tags_of_a_mirror_where_the_registry_is_away(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.on(LIST, json_response({"tags": ["1.0", "1.1"]}))
    for tag in ("1.0", "1.1"):
        registry.add_manifest("user/x", BOTH, OCI_INDEX, tag)
    words = ("tags", "--platform=amd64", "localhost:1/user/x", f"--mirror={registry.host}")
    done = provision(*words, cache=tmp_path)
    assert (done.returncode, done.stdout) == (0, "1.1\n1.0\n"), done.stderr
    assert done.stderr.splitlines()[-1] == f"the list of tags comes from the mirror {registry.host}"
    assert provision(*words, "--quiet", cache=tmp_path).stderr == ""


def test_hostile_names_reach_no_terminal(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.on(LIST, json_response({"tags": ["\x1b]0;owned\x07", "1.0", "\x9b2J"]}))
    registry.add_manifest("user/x", BOTH, OCI_INDEX, "1.0")
    _, text = on_terminal(
        "tags", "--platform=amd64", f"{registry.host}/user/x", columns=40, cache=tmp_path, NO_COLOR="1"
    )
    assert [line.split()[0] for line in text.splitlines()] == ["TAG", "1.0"]
    assert text.replace("\n", "").isprintable()


def test_a_closed_pipe_ends_it_silently(many: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        done = provision("tags", "--all", many, cache=tmp_path, stdout=gone)
    assert (done.returncode, done.stderr) == (141, "")
