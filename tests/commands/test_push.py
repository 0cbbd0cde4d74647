"""`provision push`: directories and archives to real registries, what comes back, and what is refused."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from scripts.loopback_registry import Response
from tests.support.docker_registry import DockerRegistry, run_docker_registry
from tests.support.exported_images import (
    MORE,
    ImageArchive,
    as_in_images,
    change_in_all_ways,
    export,
    exportable,
    in_format_of_docker,
)
from tests.support.kills import kill_at_random, run_forked
from tests.support.provisioned import add_unusual_files
from tests.support.provisioned import image as usual_image
from tests.support.registry_setups import (
    RegistrySetup,
    with_client_certificates,
    with_tls,
    with_tokens,
    with_tokens_and_tls,
)
from tests.support.scripted_registry import Request, challenge
from tests.support.tools import (
    as_user,
    clean_environment,
    messages_of,
    need,
    need_root,
    provision,
    provision_command,
    run,
)
from tests.support.trees import tree_of
from tests.support.writable_registry import WritableRegistry


def push(*words: str | Path, **options: Any) -> str:
    return messages_of("push", *words, **options)


@pytest.fixture
def registry() -> Iterator[WritableRegistry]:
    with WritableRegistry() as registry:
        yield registry


@pytest.fixture
def container(place: Path, registry: WritableRegistry) -> Path:
    """A container that was pulled from the repository `base` of a registry, with one new file."""
    registry.push("base", usual_image(*MORE))
    words = (f"{registry.host}/base", place / "source", "--platform=linux/amd64")
    provision(*words, cache=place / "cache", status=0)
    (place / "source/rootfs/new").write_text("x")
    return place / "source"


def complete(registry: WritableRegistry, name: str, tag: str = "latest") -> dict[str, Any]:
    """Return the manifest of a tag, all blobs of which have to be there."""
    manifest: dict[str, Any] = json.loads(registry.manifests[name, tag][1])
    for blob in (manifest["config"], *manifest["layers"]):
        data = registry.blobs[name, blob["digest"]]
        assert blob["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert blob["size"] == len(data)
    return manifest


# Directories


@pytest.mark.slow
def test_what_comes_back_from_docker_registry_is_the_same(place: Path) -> None:
    need_root()
    with run_docker_registry(place, place / "storage") as registry:
        with exportable(place, usual_image(*MORE)):
            source = place / "source"
            change_in_all_ways(add_unusual_files(source))
            (source / "rootfs/usr/closed-directory").chmod(0o700)
            push(source, f"{registry.host}/me/x:1", cache=place / "cache")
        provision(f"{registry.host}/me/x:1", place / "back", "--platform=linux/amd64", status=0)
    ours, theirs = as_in_images(tree_of(place / "source/rootfs")), as_in_images(tree_of(place / "back/rootfs"))
    for tree in (ours, theirs):
        for path in (".", "etc", *(f"etc/{name}" for name in ("resolv.conf", "hosts", "hostname", "mtab"))):
            tree.pop(path, None)  # which provision writes for each directory
    ours["usr/device"] = theirs["usr/device"] = ours["usr/null"]  # provision makes no devices
    assert theirs == ours
    assert os.getxattr(place / "back/rootfs/usr/sparse", "user.note") == b"dear"


def test_layers_of_the_same_registry_are_mounted(place: Path) -> None:
    """With the cache gone: nothing of the image is downloaded or sent."""
    with run_docker_registry(place, place / "storage") as registry:
        with exportable(place) as source:
            push(source, f"{registry.host}/base", cache=place / "cache")
        provision(f"{registry.host}/base", place / "two", "--platform=linux/amd64", status=0)
        (place / "two/rootfs/new").write_text("x")
        message = push("-v", place / "two", f"{registry.host}/me/other", cache=place / "empty")
        assert "the registry has 2 of 2 layers of the image" in message
        assert message.count("mount") == 0  # queries aren't shown
        assert "PATCH" not in message
        assert message.count(": 201") == 2 + 3  # two mounts, then the new layer, the config and the manifest
        skopeo = json.loads(inspected(registry, "me/other"))
        assert len(skopeo["Layers"]) == 3


def inspected(registry: DockerRegistry, name: str) -> str:
    need("skopeo")
    return run("skopeo", "inspect", "--tls-verify=false", f"docker://{registry.host}/{name}")


def test_a_second_push_sends_nothing(place: Path, registry: WritableRegistry, container: Path) -> None:
    push(container, f"{registry.host}/me/x", cache=place / "cache")
    manifest = complete(registry, "me/x")
    assert len(manifest["layers"]) == 3
    registry.requests.clear()
    assert "already" in push(container, f"{registry.host}/me/x", cache=place / "cache")
    assert set(registry.methods("/v2/me/x/.*")) == {"HEAD"}


def test_only_what_is_new_is_sent(place: Path, registry: WritableRegistry, container: Path) -> None:
    push(container, f"{registry.host}/me/x:1", cache=place / "cache")
    (container / "rootfs/newer").write_text("y")
    registry.requests.clear()
    push(container, f"{registry.host}/me/x:2", "--change", "USER web", cache=place / "cache")
    manifest = complete(registry, "me/x", "2")
    assert registry.methods("/v2/me/x/.*").count("POST") == 2
    config = json.loads(registry.blobs["me/x", manifest["config"]["digest"]])
    assert config["config"]["User"] == "web"


def test_an_image_without_changes_keeps_its_digest(place: Path, registry: WritableRegistry, container: Path) -> None:
    (container / "rootfs/new").unlink()
    push(container, f"{registry.host}/me/x", cache=place / "cache")
    assert registry.manifests["me/x", "latest"][1] == usual_image(*MORE).manifest


def test_docker_s_format_is_kept(place: Path, registry: WritableRegistry) -> None:
    image = in_format_of_docker(usual_image())
    with exportable(place, image) as source:
        (source / "rootfs/new").write_text("x")
        push(source, f"{registry.host}/me/x", cache=place / "cache")
    pushed = complete(registry, "me/x")
    assert pushed["mediaType"] == registry.manifests["me/x", "latest"][0] == image.media_type
    assert pushed["layers"][-1]["mediaType"] == "application/vnd.docker.image.rootfs.diff.tar.gzip"
    assert "annotations" not in pushed


def test_layers_that_the_cache_lacks_are_fetched_and_sent(place: Path, registry: WritableRegistry) -> None:
    with exportable(place) as source:
        (source / "rootfs/new").write_text("x")
        shutil.rmtree(place / "cache")
        push(source, f"{registry.host}/me/x")
        complete(registry, "me/x")


def test_squash_needs_no_other_registry(place: Path, registry: WritableRegistry) -> None:
    with exportable(place, **as_user()) as source:
        pass
    message = push(source, f"{registry.host}/me/x", status=5, **as_user())
    assert f"provision push --squash {source} {registry.host}/me/x" in message
    push("--squash", source, f"{registry.host}/me/x", **as_user())
    assert len(complete(registry, "me/x")["layers"]) == 1


def test_a_password_is_sent_that_was_saved_for_the_registry(
    place: Path, registry: WritableRegistry, container: Path
) -> None:
    word = base64.b64encode(b"me:secret").decode()

    def check(request: Request) -> Response | None:
        return None if request.headers.get("Authorization") == f"Basic {word}" else challenge('Basic realm="x"')

    registry.check = check
    message = push(container, f"{registry.host}/me/x", cache=place / "cache", status=4)
    assert f"provision login {registry.host}" in message
    (place / "auth.json").write_text(json.dumps({"auths": {registry.host: {"auth": word}}}))
    (place / "auth.json").chmod(0o600)
    env = clean_environment(REGISTRY_AUTH_FILE=str(place / "auth.json"))
    assert "pushed" in push(container, f"{registry.host}/me/x", cache=place / "cache", env=env)
    complete(registry, "me/x")


# Archives


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_an_archive_is_pushed(place: Path, registry: WritableRegistry, container: Path, form: str) -> None:
    export(f"--format={form}", container, place / "i.tar", cache=place / "cache")
    registry.requests.clear()
    push(place / "i.tar", f"{registry.host}/me/x")
    complete(registry, "me/x")
    # The image names its base, whose two layers are mounted.
    assert [request.query.get("from") for request in registry.requests if request.method == "POST"] == [["base"]] * 4
    assert registry.methods("/v2/me/x/blobs/uploads/.*").count("PUT") == 2
    digest = ImageArchive(place / "i.tar").index["manifests"][0]["digest"]
    assert f"sha256:{hashlib.sha256(registry.manifests['me/x', 'latest'][1]).hexdigest()}" == digest


def test_an_archive_of_skopeo_is_pushed(place: Path, registry: WritableRegistry, container: Path) -> None:
    need("skopeo")
    base = f"docker://{registry.host}/base"
    run("skopeo", "copy", "--src-tls-verify=false", base, f"oci-archive:{place}/i.tar")
    push(place / "i.tar", f"{registry.host}/me/x")
    complete(registry, "me/x")


def packed(files: dict[str, bytes], place: Path) -> Path:
    with tarfile.open(place / "bad.tar", "w") as opened:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            opened.addfile(member, io.BytesIO(data))
    return place / "bad.tar"


def test_files_of_other_kinds_are_refused_with_what_helps(place: Path, registry: WritableRegistry) -> None:
    need("skopeo")
    with exportable(place) as source:
        reference = json.loads((source / ".provision/record.json").read_text())["reference"]
        run(
            "skopeo", "copy", "--src-tls-verify=false", f"docker://{reference}", f"docker-archive:{place}/old.tar:a/b:c"
        )
    old = (place / "old.tar").read_bytes()
    (place / "old.tar.gz").write_bytes(gzip.compress(old, 1))
    (place / "text").write_text("text\n" * 1000)
    for name, why, hint in (
        ("old.tar", "docker save writes one since version 25", "skopeo copy docker-archive:FILE oci-archive:NEW"),
        ("old.tar.gz", "the file is compressed by gzip", "gzip -dc <FILE >NEW"),
        ("text", "the file is no archive but something else", "provision export"),
    ):
        message = push(place / name, f"{registry.host}/me/x", status=2)
        assert why in message
        assert hint in message
    assert registry.requests == []
    run("skopeo", "copy", f"docker-archive:{place}/old.tar", f"oci-archive:{place}/new.tar")
    push(place / "new.tar", f"{registry.host}/me/x")
    complete(registry, "me/x")


def test_hostile_archives_are_refused(place: Path, registry: WritableRegistry, container: Path) -> None:
    export("--format=oci-archive", container, place / "i.tar", cache=place / "cache")
    archive = ImageArchive(place / "i.tar")
    layer = "blobs/" + archive.manifest["layers"][-1]["digest"].replace(":", "/")
    config = "blobs/" + archive.manifest["config"]["digest"].replace(":", "/")
    index = archive.files["index.json"]
    twice = json.dumps({**archive.index, "manifests": archive.index["manifests"] * 2}).encode()
    cases: list[tuple[dict[str, bytes], str]] = [
        ({**archive.files, layer: archive.files[layer][:-1] + b"x"}, "does not match its digest"),
        ({**archive.files, layer: archive.files[layer] + b"x"}, "were announced"),
        ({**archive.files, config: b"{}"}, "were announced"),
        ({name: data for name, data in archive.files.items() if name != layer}, "has no blob"),
        ({name: data for name, data in archive.files.items() if name != "index.json"}, "no OCI layout"),
        ({**archive.files, "index.json": b"[]"}, "index"),
        ({**archive.files, "index.json": index.replace(b"sha256:", b"sha256:../../", 1)}, "digest"),
        ({**archive.files, "index.json": twice}, "2 images"),
    ]
    registry.requests.clear()
    for files, why in cases:
        message = provision("push", packed(files, place), f"{registry.host}/me/x")
        assert message.returncode in (2, 3, 6), message.stderr
        assert why in message.stderr
    data = (place / "i.tar").read_bytes()
    for cut in (0, 100, 600, len(data) // 2):
        (place / "bad.tar").write_bytes(data[:cut])
        message = provision("push", place / "bad.tar", f"{registry.host}/me/x")
        assert message.returncode in (2, 6), message.stderr
    assert registry.requests == []


# Bad input


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["source", "r.example/x@sha256:" + "0" * 64], "follows from the content"),
        (["source", "UPPER"], "capital letters"),
        (["none", "r.example/x"], "no directory"),
        ([".", "r.example/x"], "not made by provision"),
        (["file", "r.example/x", "--squash"], "is for directories"),
        (["file", "r.example/x"], "no OCI layout"),
    ],
)
def test_wrong_words_are_answered(place: Path, words: list[str], why: str) -> None:
    (place / "file").write_bytes(bytes(2048))
    done = provision("push", str(place / words[0]), *words[1:])
    assert done.returncode in (2, 3, 6, 8), done.stderr
    if words[0] != "source":
        assert why in done.stderr


@pytest.mark.slow
def test_a_push_that_is_killed_goes_on_with_the_next_one(
    place: Path, registry: WritableRegistry, container: Path
) -> None:
    """At no moment does a tag name an image that lacks something."""
    registry.largest = 1 << 20
    command, options = provision_command("push", container, f"{registry.host}/me/x", cache=place / "cache")
    killed_at, count = 0, 0
    while True:
        registry.requests.clear()
        count = 0
        process: subprocess.Popen[str] | None = None

        def kill(request: Request) -> Response | None:
            nonlocal count
            count += 1
            if count > killed_at and process:  # noqa: B023
                process.send_signal(signal.SIGKILL)  # noqa: B023
            return None

        registry.check = kill
        process = subprocess.Popen(command, **options)
        _, message = process.communicate()
        if ("me/x", "latest") in registry.manifests:
            complete(registry, "me/x")
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, message
        killed_at += 1
        assert killed_at < 60
    assert killed_at > 2
    complete(registry, "me/x")


@pytest.mark.slow
def test_killed_at_a_hundred_moments_a_tag_never_names_what_is_not_there(
    place: Path, registry: WritableRegistry, container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.largest = 1 << 20
    monkeypatch.setenv("PROVISION_CACHE_DIR", str(place / "cache"))
    words = ["push", str(container), f"{registry.host}/me/x"]
    before = tree_of(container)

    def prepare() -> list[str]:
        registry.manifests.pop(("me/x", "latest"), None)
        for key in [key for key in registry.blobs if key[0] == "me/x"]:
            del registry.blobs[key]
        return words

    kills = 0
    for was_killed in kill_at_random(100, prepare, place):
        kills += was_killed
        if ("me/x", "latest") in registry.manifests:
            complete(registry, "me/x")
        else:
            assert was_killed
        if kills % 10 == 0:
            assert run_forked(words) == 0
            complete(registry, "me/x")
    assert kills > 80
    assert tree_of(container) == before


# Real registries with TLS and token servers


@pytest.mark.slow
@pytest.mark.parametrize("with_setup", [with_tls, with_tokens, with_tokens_and_tls, with_client_certificates])
def test_a_registry_with_certificates_and_tokens(
    place: Path, container: Path, with_setup: Callable[[Path], AbstractContextManager[RegistrySetup]]
) -> None:
    """Who isn't logged in is refused; then a directory, the same image by mounts, and an archive are pushed."""
    (place / "home").mkdir()
    archive = export(container, place / "web.tar", "--format=oci-archive", "--tag=web", cache=place / "cache")
    assert archive
    with with_setup(place / "home") as setup:
        target = f"{setup.host}/me/private/web:1"
        words = ("push", container, target)
        if setup.is_private:
            refused = setup.provision(*words, cache=place / "cache")
            assert refused.returncode == 4, refused.stderr
            assert f"provision login {setup.host}" in refused.stderr
            assert setup.login().returncode == 0
        done = setup.provision(*words, cache=place / "cache")
        assert done.returncode == 0, done.stderr
        if setup.issuer:
            assert "repository:me/private/web:pull,push" in setup.issuer.scopes
        again = setup.provision(*words, cache=place / "cache")
        assert again.returncode == 0
        back = setup.provision(target, place / "back", "--platform=linux/amd64", cache=place / "other")
        assert back.returncode == 0, back.stderr
        assert (place / "back/rootfs/new").read_text() == "x"
        # What was pulled from there is mounted: its cache is gone, and nothing is sent but what is new.
        (place / "back/rootfs/newer").write_text("y")
        shutil.rmtree(place / "other")
        mounted = setup.provision("push", "-v", place / "back", f"{setup.host}/me/second:2", cache=place / "other")
        assert mounted.returncode == 0, mounted.stderr
        assert "the registry has 3 of 3 layers of the image" in mounted.stderr
        if setup.issuer:
            assert "repository:me/private/web:pull" in setup.issuer.scopes
        sent = setup.provision("push", place / "web.tar", f"{setup.host}/me/third:3", cache=place / "other")
        assert sent.returncode == 0, sent.stderr
        for name, new in (("me/second:2", "newer"), ("me/third:3", "new")):
            directory = place / name.replace("/", "-")
            done = setup.provision(f"{setup.host}/{name}", directory, "--platform=linux/amd64", cache=place / "third")
            assert done.returncode == 0, done.stderr
            assert (directory / "rootfs" / new).exists()
