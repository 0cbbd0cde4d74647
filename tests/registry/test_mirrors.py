"""A registry and its mirrors: who is asked for what, who is passed over, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.errors import MalformedImage, NetworkError, NotFound, UsageError
from provisioner.image.digest import Digest
from provisioner.image.manifest import Descriptor
from provisioner.image.reference import Reference
from provisioner.registry.mirrors import Mirrors, locate_mirror
from scripts.loopback_registry import Response
from tests.support import builders, realimages
from tests.support.docker_registry import run_docker_registry
from tests.support.scripted_registry import (
    Broken,
    Request,
    ScriptedRegistry,
    Time,
    TokenServer,
    challenge,
    html,
    mirrored,
)
from tests.support.tools import clean_environment, need, provision
from tests.support.waiting import wait_until

IMAGE = builders.small()
BLOB = builders.incompressible(400_000)
TAG, BLOBS = "/v2/x/manifests/latest", "/v2/x/blobs/.*"


class Bench:
    """A registry, a mirror with the same, and what is said."""

    def __init__(self, origin: ScriptedRegistry, mirror: ScriptedRegistry) -> None:
        self.origin, self.mirror, self.said = origin, mirror, list[str]()
        self.time = Time()
        self.registry = self.mirrored(mirror.host)

    def mirrored(self, *mirrors: str) -> Mirrors:
        reference = Reference.parse(f"{self.origin.host}/x")
        return mirrored(reference, *mirrors, say=self.said.append, time=self.time)

    def blob(self, start: int = 0) -> bytes:
        return b"".join(self.registry.blob(DESCRIBED, start))


DESCRIBED = Descriptor("application/octet-stream", Digest.of(BLOB), len(BLOB))


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ScriptedRegistry() as origin, ScriptedRegistry() as mirror:
        for registry in (origin, mirror):
            registry.push("x", IMAGE)
            registry.add_blob("x", BLOB)
        yield Bench(origin, mirror)


# Where things come from


def test_tags_come_from_the_registry_and_blobs_from_the_mirror(bench: Bench) -> None:
    assert bench.registry.manifest("latest").data == IMAGE.manifest
    assert bench.blob() == BLOB
    assert (len(bench.origin.asked(TAG)), len(bench.mirror.asked(TAG))) == (1, 0)
    assert (len(bench.origin.asked(BLOBS)), len(bench.mirror.asked(BLOBS))) == (0, 1)
    assert bench.said == []


def test_manifests_with_a_digest_come_from_the_mirror(bench: Bench) -> None:
    digest = Digest.of(IMAGE.manifest)
    for selector in (str(digest), Descriptor("x", digest, len(IMAGE.manifest))):
        assert bench.registry.manifest(selector).data == IMAGE.manifest
    assert bench.origin.requests == []


def test_what_a_tag_names_is_asked_in_the_same_order(bench: Bench) -> None:
    assert bench.registry.resolve("latest").digest == Digest.of(IMAGE.manifest)
    assert bench.mirror.requests == []
    bench.origin.on("/v2/", Response(503))
    bench.registry = bench.mirrored(bench.mirror.host)
    assert bench.registry.resolve("latest").digest == Digest.of(IMAGE.manifest)
    assert bench.said[-1] == f"tag 'latest' comes from the mirror {bench.mirror.host}"


@pytest.mark.parametrize("answer", [Response(500), Response(429), html(), Broken(0, reset=True), Response(404)])
def test_a_tag_comes_from_the_mirror_when_the_registry_cant_be_reached(bench: Bench, answer: Response) -> None:
    bench.origin.on("/v2/.*", answer)
    assert bench.registry.manifest("latest").data == IMAGE.manifest
    assert bench.said[-1] == f"tag 'latest' comes from the mirror {bench.mirror.host}"
    assert bench.time.slept == []


def test_what_the_registry_says_of_a_tag_is_final(bench: Bench) -> None:
    for answer, error in (
        (Response(404), NotFound),
        (Response(403), NotFound),
        (Response(200, b"[]"), MalformedImage),
    ):
        bench.origin.on(TAG, answer)
        with pytest.raises(error, match=f"^{bench.origin.host}/x"):
            bench.registry.manifest("latest")
    assert bench.mirror.requests == []


def test_a_registry_that_is_down_is_not_waited_for_again_and_again(bench: Bench) -> None:
    bench.origin.on("/v2/.*", Broken(0, reset=True))
    bench.registry.manifest("latest")
    asked = len(bench.origin.requests)
    bench.mirror.on(BLOBS, Broken(200, BLOB, sent=300_000), times=1)
    assert bench.blob() == BLOB
    assert len(bench.origin.requests) == asked
    assert bench.said[-1].endswith("; trying again")


def test_a_registry_with_no_help_is_asked_for_a_bounded_time(bench: Bench) -> None:
    bench.origin.on("/v2/", Response(503))
    bench.mirror.on("/v2/.*", Response(404))
    with pytest.raises(NetworkError, match=f"^{bench.origin.host} answers with 503"):
        bench.registry.manifest("latest")
    assert bench.time.slept == [0.5, 1.0]


def test_the_registrys_token_is_for_the_registry(bench: Bench) -> None:
    TokenServer(bench.origin)
    bench.registry.manifest("latest")
    assert bench.blob() == BLOB
    assert "Authorization" in bench.origin.asked(TAG)[0].headers
    assert bench.mirror.requests
    assert not [request for request in bench.mirror.requests if "Authorization" in request.headers]


# Blobs from several places


def test_a_blob_goes_on_elsewhere(bench: Bench) -> None:
    bench.mirror.on(BLOBS, Broken(200, BLOB, sent=300_000))
    assert bench.blob() == BLOB
    (request,) = bench.origin.asked(BLOBS)
    assert 300_000 - 2**18 <= int(request.headers["Range"].removeprefix("bytes=").removesuffix("-")) <= 300_000
    (line,) = bench.said
    assert line.startswith(f"{bench.mirror.host} broke off: ")
    assert line.endswith(f"; trying {bench.origin.host}")
    assert bench.time.slept == []


def test_a_mirror_that_broke_off_once_is_asked_for_the_next_blob(bench: Bench) -> None:
    bench.mirror.on(BLOBS, Broken(200, BLOB, sent=300_000), times=1)
    bench.blob()
    assert bench.blob() == BLOB
    assert len(bench.origin.asked(BLOBS)) == 1


def test_a_mirror_that_is_down_costs_one_try(bench: Bench) -> None:
    bench.registry = bench.mirrored("127.0.0.1:1", bench.mirror.host)
    assert bench.blob() == BLOB
    assert bench.blob() == BLOB
    assert bench.said == [f"127.0.0.1:1 can't be reached: Connection refused; trying {bench.mirror.host}"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Response(404), "is incomplete: the registry has no blob"),
        (Response(403), "refuses the blob"),
        (challenge('Basic realm="r"'), "refuses the blob"),
        (Response(200, b"<html>"), "has 6 bytes, 400000 were announced"),
        (Response(200, BLOB[:-1]), "has 399999 bytes, 400000 were announced"),
        (Response(418), "answers with 418"),
        (Response(429, b"", {"Retry-After": "3600"}), "too many requests"),
        (Broken(200, BLOB + b"x", sent=400_001, announced=False), "has more than the 400000 bytes"),
    ],
)
def test_a_mirror_that_refuses_is_left_out(bench: Bench, answer: Response, why: str) -> None:
    bench.mirror.on(BLOBS, answer)
    assert bench.blob() == BLOB
    assert bench.blob() == BLOB
    assert len(bench.mirror.asked(BLOBS)) == 1
    (line,) = bench.said
    assert line.startswith(f"the mirror {bench.mirror.host} is not asked any more: ")
    assert why in line


def test_who_gave_something_wrong_is_left_out(bench: Bench) -> None:
    bench.mirror.on(BLOBS, Response(200, bytes(len(BLOB))))
    assert bench.blob() != BLOB
    assert bench.registry.report_corrupt(DESCRIBED)
    assert bench.blob() == BLOB
    what = f"blob {DESCRIBED.digest.short} is not what its digest says"
    assert bench.said == [f"the mirror {bench.mirror.host} is not asked any more: {what}"]


def test_the_registry_may_be_wrong_once(bench: Bench) -> None:
    bench.registry = bench.mirrored()
    for again in (True, False):
        bench.blob()
        assert bench.registry.report_corrupt(DESCRIBED) is again


def test_a_server_that_wants_to_be_left_alone(bench: Bench) -> None:
    bench.registry = bench.mirrored()
    bench.origin.on(BLOBS, Response(503, b"", {"Retry-After": "20"}), times=2)
    assert bench.blob() == BLOB
    assert bench.time.slept == [20.5, 21.0]
    assert bench.said[0].endswith("; trying again in 20 s")


def test_an_hour_is_not_waited_for(bench: Bench) -> None:
    bench.registry = bench.mirrored()
    bench.origin.on(BLOBS, Response(429, b"", {"Retry-After": "3600"}))
    with pytest.raises(NetworkError, match="too many requests") as caught:
        bench.blob()
    assert caught.value.hint.startswith("try again in 1 hour, at ")
    assert bench.time.slept == []


def test_each_piece_that_comes_is_progress(bench: Bench) -> None:
    """A link that never lasts for long brings the blob all the same, without longer and longer pauses."""

    def cut(request: Request) -> Response:
        real = bench.origin.respond("GET", request.path, request.headers)
        return Broken(real.status, real.body, real.headers, sent=70_000)

    bench.registry = bench.mirrored()
    bench.origin.on(BLOBS, cut)
    assert bench.blob() == BLOB
    assert bench.time.slept == [0.5] * 5


def test_a_reader_may_stop_at_a_failure(bench: Bench) -> None:
    bench.registry = bench.mirrored()
    bench.origin.on(BLOBS, Response(503))
    assert next(bench.registry.blob(DESCRIBED)) == b""
    assert bench.time.slept == []


# What a mirror is called


@pytest.mark.parametrize(
    ("text", "where", "plain"),
    [
        ("mirror.example", "mirror.example/library/x:1", False),
        ("https://mirror.example/", "mirror.example/library/x:1", False),
        ("http://192.168.1.2:5000", "192.168.1.2:5000/library/x:1", True),
        ("nas:5000/docker/hub", "nas:5000/docker/hub/library/x:1", False),
        ("nas", "nas:443/library/x:1", False),
        ("http://nas", "nas:80/library/x:1", True),
        ("localhost", "localhost/library/x:1", False),
        ("[::1]:5000", "[::1]:5000/library/x:1", False),
    ],
)
def test_where_a_mirror_is(text: str, where: str, plain: bool) -> None:
    reference, is_plain = locate_mirror(text, Reference.parse("x:1"))
    assert (str(reference), is_plain) == (where, plain)


@pytest.mark.parametrize(
    "text", ["", "http://", "ftp://x.example", "x.example:99999", "a b", "x.example/Upper", "x.example//y", "\x1b[31m"]
)
def test_what_is_no_mirror(text: str) -> None:
    with pytest.raises(UsageError, match="is not a mirror: ") as caught:
        locate_mirror(text, Reference.parse("x"))
    assert caught.value.message.isprintable()
    assert "mirror.example" in caught.value.hint


def test_a_password_in_a_mirror_is_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        locate_mirror("https://me:secret@mirror.example", Reference.parse("x"))
    assert "secret" not in caught.value.message + caught.value.hint


# The command line


def test_mirrors_of_the_command_line_come_before_those_of_the_environment(bench: Bench, place: Path) -> None:
    env = {**clean_environment(), "PROVISION_MIRRORS": f"{bench.mirror.host}, 127.0.0.1:4"}
    reference = "127.0.0.1:2/x"
    done = provision("--platform=linux/amd64", "--mirror=127.0.0.1:3", reference, place / "d", env=env, status=0)
    assert done.stderr.splitlines()[1:4] == [
        "127.0.0.1:2 can't be reached: Connection refused; trying 127.0.0.1:3",
        f"127.0.0.1:3 can't be reached: Connection refused; trying {bench.mirror.host}",
        f"tag 'latest' comes from the mirror {bench.mirror.host}",
    ]
    done = provision("--platform=linux/amd64", "--mirror=a b", reference, place / "e", env=env, status=2)
    assert "'a b' is not a mirror" in done.stderr


def test_a_pull_through_cache_on_the_lan(place: Path, image_cache: Path, tmp_path: Path) -> None:
    """Many machines share one download: once the cache has it, layers come without the registry that is proxied."""
    need("docker-registry", "skopeo")
    for name in ("origin", "proxy"):
        (tmp_path / name).mkdir()
    with run_docker_registry(tmp_path / "origin", tmp_path / "origin/storage") as upstream:
        upstream.push(realimages.layout("application", image_cache), "user/app:1")
        proxy = f"proxy: {{remoteurl: 'http://{upstream.host}'}}\n"
        with run_docker_registry(tmp_path / "proxy", tmp_path / "proxy/storage", more=proxy) as cache:
            at = "storage/docker/registry/v2"
            provision(f"--mirror={cache.host}", f"{upstream.host}/user/app:1", place / "first", status=0)
            layers = [
                path.name for path in (tmp_path / "origin" / at / "repositories/user/app/_layers/sha256").iterdir()
            ]
            for hexadecimal in layers:  # the cache stores them when it has sent them
                stored = tmp_path / "proxy" / at / "repositories/user/app/_layers/sha256" / hexadecimal / "link"
                wait_until(stored.exists)
                (tmp_path / "origin" / at / "blobs/sha256" / hexadecimal[:2] / hexadecimal / "data").unlink()
            done = provision(f"--mirror={cache.host}", f"{upstream.host}/user/app:1", place / "second", status=0)
            assert "mirror" not in done.stderr
