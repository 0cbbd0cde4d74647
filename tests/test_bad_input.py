"""Bad input from registries, as a user of the command line meets it.

Each case ends in one clear line, one hint and the right exit status, and leaves nothing behind.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioner import cli
from provisioner.image.digest import Digest
from provisioner.registry import retry
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.archives import special, tar
from tests.support.builders import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Image
from tests.support.leftovers import staging_below
from tests.support.scripted_registry import (
    Broken,
    ScriptedRegistry,
    TokenServer,
    certificate_for,
    challenge,
    html,
)
from tests.support.scripted_registry import json_response as answer
from tests.support.tools import provision_command
from tests.support.waiting import wait_until

SMALL = builders.small()
MANIFESTS, BLOBS = "/v2/x/manifests/.*", "/v2/x/blobs/.*"
TAG, LAYER = "/v2/x/manifests/latest", f"/v2/x/blobs/{builders.digest_of(SMALL.layers[1].blob)}"


@dataclass(frozen=True)
class Bench:
    """A registry, a directory to provision in, a cache, and the command line run in this process."""

    registry: ScriptedRegistry
    place: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def directory(self) -> Path:
        return self.place / "parent" / "container"

    def provision(self, *options: str, reference: str = "") -> tuple[int, str]:
        """Run `provision` on the image `x`, or on `reference`. Return the exit status and standard error."""
        status = cli.main(
            [*options, "--platform=linux/amd64", reference or f"{self.registry.host}/x", str(self.directory)]
        )
        out, err = self.capsys.readouterr()
        assert out == ""
        return status, err

    def refuse(self, status: int, why: str, *options: str, reference: str = "") -> None:
        """Run it and assert that it fails with this status and message, and leaves nothing behind."""
        got, said = self.provision(*options, reference=reference)
        assert "Traceback" not in said
        *steps, message, hint = said.splitlines()
        assert message.startswith("provision: ")
        assert why in message
        assert got == status, said
        assert hint.startswith("  ")
        assert hint.strip()
        assert not [step for step in steps if step.startswith((" ", "provision: "))], said
        assert all(line.isprintable() for line in said.splitlines())
        self.assert_nothing_left()

    def assert_nothing_left(self) -> None:
        """Assert that there is no directory, staging or new parent, and that the cache holds only intact files."""
        assert [path.name for path in self.place.iterdir() if path.name != "cache"] == []
        for path in (self.place / "cache").rglob("*"):
            if path.is_file() and path.parent.name != "tags":
                assert path.parent.name == "partial" or Digest.of(path.read_bytes()).hex == path.name


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("PROVISION_CACHE_DIR", str(tmp_path / "place" / "cache"))
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.01)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "place").mkdir()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with ScriptedRegistry() as registry:
        registry.push("x", SMALL)
        yield Bench(registry, tmp_path / "place", capsys)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_image_is_good_before_anything_is_broken(bench: Bench) -> None:
    status, said = bench.provision()
    assert status == 0, said
    assert (bench.directory / "rootfs/etc/motd").read_text() == "hello\n"
    assert staging_below(bench.place) == []


# The image, the registry


def test_unknown_image(bench: Bench) -> None:
    bench.refuse(3, "/y is not found (no repository y)", reference=f"{bench.registry.host}/y")


def test_unknown_tag(bench: Bench) -> None:
    bench.refuse(3, "/x has no tag '9.9' (no manifest 9.9 in x)", reference=f"{bench.registry.host}/x:9.9")


def test_unknown_digest(bench: Bench) -> None:
    digest = builders.digest_of(b"")
    bench.refuse(3, f"/x has no manifest {digest}", reference=f"{bench.registry.host}/x@{digest}")


def test_unknown_platform(bench: Bench) -> None:
    index = builders.index([("linux/arm64", SMALL), ("linux/arm/v7", SMALL)])
    bench.registry.add_manifest("x", index, builders.OCI_INDEX, "latest")
    bench.refuse(3, "nothing for linux/amd64; it has linux/arm64, linux/arm/v7")


def test_no_reference(bench: Bench) -> None:
    bench.refuse(2, "'Ubuntu' is not an image reference: 'Ubuntu' has capital letters", reference="Ubuntu")


def test_private_or_unknown(bench: Bench) -> None:
    TokenServer(bench.registry, uses=0)
    bench.refuse(3, "/x is not found, or it is private")


def test_credentials_are_wanted(bench: Bench) -> None:
    bench.registry.on("/v2/.*", challenge('Basic realm="r"'))
    bench.refuse(4, "wants a user name and a password")


@pytest.mark.parametrize(
    ("path", "response", "status", "why"),
    [
        ("/v2/.*", html(), 5, "is not a registry: it answers with a web page"),
        ("/v2/.*", Response(404), 5, "is not a registry: it answers with 404 Not Found"),
        ("/v2/.*", Response(403), 4, "refuses access"),
        ("/v2/", Response(503), 5, "answers with 503 Service Unavailable"),
        ("/v2/", Response(429), 5, "too many requests"),
        (TAG, Response(429), 5, "too many requests"),
        (TAG, Response(500), 5, "answers with 500 Internal Server Error for the tag 'latest'"),
        (TAG, Response(403), 3, "is not found, or it is private"),
        (TAG, Response(302, b"", {"Location": TAG}), 5, "redirects more than 5 times"),
        (TAG, Response(302, b"", {"Location": "http://["}), 5, "an address that can't be used"),
        (TAG, Broken(200, SMALL.manifest, sent=9), 5, "broke off"),
        (LAYER, Response(500), 5, "layer 2 of 2: "),
        (LAYER, Response(429), 5, "too many requests"),
        (LAYER, Response(302, b"", {"Location": "http://127.0.0.1:1/"}), 5, "Connection refused"),
        (LAYER, Response(404), 6, "is incomplete: the registry has no blob"),
        (BLOBS, Response(404), 6, "is incomplete: the registry has no blob"),
    ],
)
def test_answers_of_the_registry(bench: Bench, path: str, response: Response, status: int, why: str) -> None:
    bench.registry.on(path, response)
    bench.refuse(status, why)


def test_registry_down(bench: Bench) -> None:
    bench.refuse(5, "127.0.0.1:1 can't be reached: Connection refused", reference="127.0.0.1:1/x")


def test_registry_without_an_address(bench: Bench) -> None:
    bench.refuse(5, "registry.invalid can't be reached", reference="registry.invalid/x")


def test_something_else_listens_there(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(9999)
                        connection.sendall(b"220 mail.example ESMTP\r\n")

        threading.Thread(target=greet, daemon=True).start()
        host = f"127.0.0.1:{server.getsockname()[1]}"
        bench.refuse(5, f"{host} can't be reached", reference=f"{host}/x")
        server.shutdown(socket.SHUT_RDWR)


def test_wrong_certificate(bench: Bench, tmp_path: Path) -> None:
    with ScriptedRegistry(certificate_for("127.0.0.1", tmp_path)) as registry:
        registry.push("x", SMALL)
        bench.refuse(5, "certificate that can't be verified", reference=f"{registry.host}/x")
        status, said = bench.provision("--insecure", reference=f"{registry.host}/x")
        assert status == 0, said


# Documents


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (html(), "the registry's answer is not JSON"),
        (Response(200, SMALL.manifest[:-5], {"Content-Type": OCI_MANIFEST}), "the registry's answer is not JSON"),
        (Response(200, b"\xff{}"), "the registry's answer is not JSON"),
        (Response(200, b"[" * 10**6), "the registry's answer is not JSON"),
        (Response(200, b" " * (8 << 20) + b"{}"), "has more than 8 MiB"),
        (Response(200, SMALL.manifest, {"Docker-Content-Digest": builders.digest_of(b"")}), "doesn't match"),
        (answer({"schemaVersion": 1, "fsLayers": []}), "schema 1"),
        (answer({"manifests": [], "layers": []}), "neither an index nor a manifest"),
        (answer({"manifests": {}}), "index.manifests is an object, not a list"),
        (answer({"layers": []}), "manifest.config is missing"),
        (answer({"tags": ["a\x1b[31m"]}), "not an image but 'application/json'"),
        (answer({"mediaType": "\x1b[31m"}), "not an image but '\\x1b[31m'"),
    ],
)
def test_tags_that_lead_to_no_image(bench: Bench, response: Response, why: str) -> None:
    bench.registry.on(TAG, response)
    bench.refuse(6, why.replace("doesn't match", "does not match its digest"))


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        ({"size": 5}, "bytes, 5 were announced"),
        ({"size": "5"}, "index.manifests[0].size is a text, not a whole number"),
        ({"size": 10**30}, "index.manifests[0].size is not a number of bytes"),
        ({"digest": builders.digest_of(b"")}, "is incomplete: the registry has no manifest"),
        ({"digest": "sha256:../../../etc/passwd"}, "is not a sha256 or sha512 digest"),
        ({"platform": {"os": "linux", "architecture": 5}}, "architecture is a whole number, not a text"),
        ({"platform": {"os": "linux", "architecture": "\x1b[31m"}}, "which names no platform"),
    ],
)
def test_indexes_that_lie(bench: Bench, lie: dict[str, object], why: str) -> None:
    entry = builders.descriptor(SMALL.manifest, OCI_MANIFEST, platform=builders.platform("linux/amd64"))
    bench.registry.add_manifest("x", builders.index([], manifests=[{**entry, **lie}]), builders.OCI_INDEX, "latest")
    bench.refuse(6, why)


def test_a_manifest_changed_underway(bench: Bench) -> None:
    entry = builders.descriptor(SMALL.manifest, OCI_MANIFEST, platform=builders.platform("linux/amd64"))
    bench.registry.add_manifest("x", builders.index([], manifests=[entry]), builders.OCI_INDEX, "latest")
    bench.registry.on(f"/v2/x/manifests/{entry['digest']}", Response(200, SMALL.manifest.replace(b"gzip", b"zstd")))
    bench.refuse(6, "does not match its digest")


LAYERS = SMALL.layers
FIRST = builders.descriptor(LAYERS[0].blob, LAYERS[0].media_type)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"layers": [{**FIRST, "size": 5}]}, "1 layers and the config 2"),
        ({"layers": [{**FIRST, "size": 5}, FIRST]}, "announced"),
        ({"layers": [{**FIRST, "size": FIRST["size"] + 1}] * 2}, "layer 1 of 2: blob "),
        ({"layers": [{**FIRST, "digest": builders.digest_of(b"")}] * 2}, "is incomplete: the registry has no blob"),
        ({"layers": [{**FIRST, "mediaType": "text/html"}] * 2}, "layer 2 of 2: the archive does not match its digest"),
        ({"layers": [{**FIRST, "mediaType": f"{OCI_LAYER}+encrypted"}] * 2}, "the layer is encrypted"),
        ({"layers": [FIRST] * 1001}, "1001 layers"),
        ({"layers": None}, "the manifest has 0 layers and the config 2"),
        (
            {"config": builders.descriptor(b"{}", "application/vnd.cncf.helm.config.v1+json")},
            "not a container image but",
        ),
        (
            {"config": {**builders.descriptor(SMALL.config, OCI_CONFIG), "size": 1 << 40}},
            "the config has 1099511627776",
        ),
        ({"config": {**builders.descriptor(SMALL.config, OCI_CONFIG), "size": 7}}, "bytes, 7 were announced"),
    ],
)
def test_manifests_that_lie(bench: Bench, fields: dict[str, object], why: str) -> None:
    bench.registry.push("x", builders.image(*LAYERS, manifest=fields))
    bench.refuse(6, why)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"rootfs": {"diff_ids": [LAYERS[0].diff_id]}}, "2 layers and the config 1"),
        ({"rootfs": {"diff_ids": "sha256"}}, "config.rootfs.diff_ids is a text, not a list"),
        ({"rootfs": None}, "config.rootfs is missing"),
        ({"rootfs": {"diff_ids": [LAYERS[1].diff_id] * 2}}, "layer 1 of 2: the archive does not match its digest"),
        ({"config": {"Cmd": {"sh": 1}}}, "config.config.Cmd is an object, not a list"),
        ({"config": {"Env": {"A": "1"}}}, "config.config.Env is an object, not a list"),
        ({"config": {"Entrypoint": ["sh", 5]}}, "config.config.Entrypoint holds a whole number, not texts"),
        ({"config": {"User": 0}}, "config.config.User is a whole number, not a text"),
        ({"config": {"WorkingDir": "a\0b"}}, "config.config.WorkingDir contains a NUL"),
        ({"config": [1]}, "config.config is a list, not an object"),
        ({"os": "\ud800"}, "config.os contains what is not Unicode"),
        ({"architecture": ["amd64"]}, "config.architecture is a list, not a text"),
    ],
)
def test_configs_that_are_wrong(bench: Bench, fields: dict[str, object], why: str) -> None:
    bench.registry.push("x", builders.image(*LAYERS, config=fields))
    bench.refuse(6, why)


# Layers


def of_blob(blob: bytes, media_type: str, archive: bytes | None = None) -> Image:
    """Return an image with `blob` as its one layer, and the digest of `archive` (by default `blob`) as its diff ID."""
    return builders.image(builders.Layer(blob, media_type, builders.digest_of(blob if archive is None else archive)))


PLAIN = tar(("etc/os-release", b"ID=tiny\n" * 2000), ("bin/sh", b"x" * 100_000))
GZIP, ZSTD = builders.compressed(PLAIN, "gzip"), builders.compressed(PLAIN, "zstd")
ESCAPE = builders.layer(("up", "../../../../../.."), ("up/tmp/x", b"out"))


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (of_blob(GZIP[:-20], f"{OCI_LAYER}+gzip", PLAIN), "layer 1 of 1: "),
        (of_blob(GZIP[:40], f"{OCI_LAYER}+gzip", PLAIN), "layer 1 of 1: "),
        (of_blob(ZSTD[:-20], f"{OCI_LAYER}+zstd", PLAIN), "layer 1 of 1: "),
        (of_blob(PLAIN[:60_000], OCI_LAYER), "layer 1 of 1: "),
        (of_blob(PLAIN[:700], OCI_LAYER), "layer 1 of 1: "),
        (of_blob(GZIP[:-8] + bytes(8), f"{OCI_LAYER}+gzip", PLAIN), "layer 1 of 1: "),
        (of_blob(GZIP, OCI_LAYER), "layer 1 of 1: the archive does not match its digest"),
        (of_blob(ZSTD, f"{OCI_LAYER}+gzip"), "layer 1 of 1: the archive does not match its digest"),
        (of_blob(b"<html>" + b"x" * 999, f"{OCI_LAYER}+gzip"), "the layer is no archive but something else"),
        (of_blob(b"<html>" + b"x" * 999, OCI_LAYER), "layer 1 of 1: "),
        (builders.image(builders.layer(("../../out", b"x"))), "layer 1 of 1: ../../out: "),
        (builders.image(builders.layer(special("in", tarfile.LNKTYPE, "../../out"))), "layer 1 of 1: in: "),
        (builders.image(builders.layer(special("odd", b"Z"))), "layer 1 of 1: odd: "),
        (builders.image(builders.layer(("\x1b[31m/../../x", b"x"))), "layer 1 of 1: \\x1b[31m/../../x: "),
    ],
)
def test_layers_that_are_wrong(bench: Bench, image: Image, why: str) -> None:
    bench.registry.push("x", image)
    bench.refuse(6, why)


@pytest.mark.parametrize(
    ("response", "status", "why"),
    [
        (Broken(200, LAYERS[1].blob, sent=50), 5, "layer 2 of 2: 127.0.0.1"),
        (Broken(200, LAYERS[1].blob, sent=50, announced=False), 5, "ends after 50 of"),
        (Response(200, LAYERS[1].blob[:-1]), 6, "were announced"),
        (Response(200, LAYERS[1].blob + b"x"), 6, "were announced"),
        (Response(200, bytes(len(LAYERS[1].blob))), 6, "layer 2 of 2: "),
        (Response(200, LAYERS[1].blob[:-9] + bytes(9)), 6, "layer 2 of 2: "),
        (html(), 6, "layer 2 of 2: "),
    ],
)
def test_layers_that_are_not_what_their_digest_says(bench: Bench, response: Response, status: int, why: str) -> None:
    bench.registry.on(LAYER, response)
    bench.refuse(status, why)


def test_a_layer_that_climbs_out_by_its_links(bench: Bench) -> None:
    """Links are resolved inside of the rootfs, as in a chroot."""
    bench.registry.push("x", builders.image(ESCAPE))
    status, said = bench.provision()
    assert status == 0, said
    assert (bench.directory / "rootfs/tmp/x").read_bytes() == b"out"


def test_a_failure_leaves_what_was_there_as_it_was(bench: Bench) -> None:
    assert bench.provision()[0] == 0
    (bench.directory / "rootfs/mine").write_text("kept")
    bench.registry.push("x", builders.image(*LAYERS, config={"rootfs": {"diff_ids": [LAYERS[1].diff_id] * 2}}))
    status, said = bench.provision("--force")
    assert status == 6, said
    assert (bench.directory / "rootfs/mine").read_text() == "kept"
    assert (bench.directory / "rootfs/etc/motd").read_text() == "hello\n"
    assert staging_below(bench.place) == []


# Interrupted


@pytest.fixture
def stalled(bench: Bench) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start `provision` on a registry that stops sending in the middle of the second layer, and wait until it does.

    All else has been downloaded then.
    """
    ended = threading.Event()
    bench.registry.on(LAYER, Broken(200, LAYERS[1].blob, sent=50, wait=ended), times=1)
    started: list[subprocess.Popen[str]] = []
    others = (SMALL.config, LAYERS[0].blob)
    cached = [bench.place / "cache/sha256" / Digest.of(blob).hex for blob in others]

    def start() -> subprocess.Popen[str]:
        arguments = ("--platform=linux/amd64", f"{bench.registry.host}/x", bench.directory)
        command, options = provision_command(*arguments, cache=bench.place / "cache")
        process = subprocess.Popen(command, **options)
        started.append(process)
        wait_until(
            lambda: (bench.registry.sent[LAYER] and all(path.exists() for path in cached)) or process.poll() is not None
        )
        assert process.poll() is None
        return process

    yield start
    ended.set()
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_it_at_once_and_the_next_run_completes(
    bench: Bench, stalled: Callable[[], subprocess.Popen[str]], number: signal.Signals, status: int
) -> None:
    process = stalled()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)  # the server is silent for longer
    assert process.returncode == status, said
    assert "Traceback" not in said
    assert [path.name for path in bench.place.iterdir()] == ["cache"]
    completes(bench)


def test_a_killed_run_is_cleaned_up_by_the_next(bench: Bench, stalled: Callable[[], subprocess.Popen[str]]) -> None:
    process = stalled()
    process.kill()
    process.communicate(timeout=60)
    assert not bench.directory.exists()
    assert staging_below(bench.place)
    completes(bench)


def completes(bench: Bench) -> None:
    """Assert that the next run completes with what the cache has, and downloads one more blob."""
    before = len(bench.registry.asked(BLOBS))
    status, said = bench.provision()
    assert status == 0, said
    assert (bench.directory / "rootfs/etc/motd").read_text() == "hello\n"
    assert staging_below(bench.place) == []
    assert len(bench.registry.asked(BLOBS)) == before + 1
    assert list((bench.place / "cache/partial").iterdir()) == []
