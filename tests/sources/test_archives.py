"""Images in archives and directories, in every form that programs write, and in hostile ones; by the Python API."""

from __future__ import annotations

import gc
import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioner.archives import stream as stream_module
from provisioner.errors import MalformedImage, NotFound, ProvisionError, UsageError
from provisioner.image.manifest import DOCUMENT_LIMIT
from provisioner.sources import members as members_module
from provisioner.terminal.progress import Console
from tests.support import builders
from tests.support.archives import END, Member, hard, raw, special, tar
from tests.support.local_archives import (
    GZIPPED,
    PLAIN,
    docker_members,
    hex_of,
    oci_members,
    provision_word,
    without,
    write_archive,
    write_directory,
)
from tests.support.tools import CHECKOUT


def zstd(data: bytes) -> bytes:
    return builders.compressed(data, "zstd")


OTHER = builders.small(run={"Cmd": ["other"]})
ARM = builders.small(on="linux/arm64", run={"User": "arm"})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own, and a check that no file is left open and nothing but DIR is made."""
    monkeypatch.setenv("PROVISION_CACHE_DIR", str(tmp_path / "cache"))
    before = len(os.listdir("/proc/self/fd"))
    yield tmp_path / "cache"
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert not list(tmp_path.glob(".*.provision"))


def cached(cache: Path) -> set[str]:
    """Return the names of all files in the cache."""
    return {path.name for path in cache.rglob("*") if path.is_file()}


def said(word: str, directory: Path, **options: Any) -> list[str]:
    """Provision, and return the lines about it."""
    stream = io.StringIO()
    provision_word(word, directory, Console(stream=stream), **options)
    return stream.getvalue().splitlines()


def motd(directory: Path) -> bytes:
    return (directory / "rootfs/etc/motd").read_bytes()


def record(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / ".provision/record.json").read_text())
    return found


def layer_names(image: builders.Image) -> list[str]:
    return [f"{layer.diff_id.removeprefix('sha256:')}.tar" for layer in image.layers]


# docker-archive


def old_docker_members() -> list[Member]:
    """Docker 1.10 to 24: a directory a layer, of which one is a symlink to another's file; manifest.json in between."""
    first, second = PLAIN.layers
    config = f"{hex_of(PLAIN.config)}.json"
    ids = ["a" * 64, "b" * 64, "c" * 64]
    # The same diff twice: the third layer is a link to the second one's file.
    document = {**json.loads(PLAIN.config), "rootfs": {"diff_ids": [first.diff_id, second.diff_id, second.diff_id]}}
    data = builders.json_bytes(document)
    config = f"{hex_of(data)}.json"
    manifest = [{"Config": config, "RepoTags": ["x:1"], "Layers": [f"{name}/layer.tar" for name in ids]}]
    members: list[Member] = [("manifest.json", json.dumps(manifest).encode())]
    for name, content in zip(ids, (first.blob, second.blob, None), strict=True):
        members += [(name, None), (f"{name}/VERSION", b"1.0"), (f"{name}/json", b"{}")]
        members.append((f"{name}/layer.tar", content) if content else (f"{name}/layer.tar", f"../{ids[1]}/layer.tar"))
    return [*members, (config, data), ("repositories", b'{"x": {"1": "%s"}}' % ids[2].encode())]


def guix_members() -> list[Member]:
    """Guix: the config isn't called by its digest; layers are gzipped; the names are nobody's digests."""
    manifest = [{"Config": "config.json", "RepoTags": ["guix:latest"], "Layers": ["one/layer.tar", "two/layer.tar"]}]
    layers: list[Member] = [
        (f"{name}/layer.tar", layer.blob) for name, layer in zip(("one", "two"), GZIPPED.layers, strict=True)
    ]
    return [*layers, ("config.json", GZIPPED.config), ("manifest.json", json.dumps(manifest).encode())]


def kaniko_members() -> list[Member]:
    """kaniko and go-containerregistry: the config is `sha256:HEX`, layers are `HEX.tar.gz`."""
    config = builders.digest_of(GZIPPED.config)
    names = [f"{hex_of(layer.blob)}.tar.gz" for layer in GZIPPED.layers]
    manifest = [{"Config": config, "RepoTags": [], "Layers": names}]
    files: list[Member] = [(name, layer.blob) for name, layer in zip(names, GZIPPED.layers, strict=True)]
    return [(config, GZIPPED.config), *files, ("manifest.json", json.dumps(manifest).encode())]


DOCKER_FORMS: dict[str, Callable[[], list[Member]]] = {
    "skopeo": lambda: docker_members(PLAIN, "docker.io/library/x:1"),
    "old docker": old_docker_members,
    "guix": guix_members,
    "kaniko": kaniko_members,
    "reversed": lambda: docker_members(GZIPPED)[::-1],
    "dots": lambda: [("./", None), *((f"./{name}", data) for name, data in docker_members(PLAIN))],  # type: ignore[misc]
    "hard links": lambda: [
        *without(docker_members(PLAIN), layer_names(PLAIN)[1]),
        ("real", PLAIN.layers[1].blob),
        hard(layer_names(PLAIN)[1], "real"),
    ],
}


@pytest.mark.parametrize("word", ["docker-archive:", ""])
@pytest.mark.parametrize("form", DOCKER_FORMS)
def test_every_form_of_a_docker_archive(tmp_path: Path, form: str, word: str) -> None:
    path = write_archive(tmp_path / "x", DOCKER_FORMS[form]())
    outcome = provision_word(f"{word}{path}", tmp_path / "dir")
    assert motd(tmp_path / "dir") == b"hello\n"
    assert outcome.record.reference == f"{word}{path}"
    assert outcome.record.config_digest == str(outcome.image.manifest.config.digest)
    rest = "but not of its config" if form == "guix" else "and its config"
    assert outcome.record.verified == f"by the digests in the archive, of its layers {rest}"


@pytest.mark.parametrize("form", DOCKER_FORMS)
def test_every_form_compressed(tmp_path: Path, form: str, cache: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(tar(*DOCKER_FORMS[form]())))
    lines = said(f"docker-archive:{path}", tmp_path / "dir")
    assert f"read {path}" in lines
    assert motd(tmp_path / "dir") == b"hello\n"
    assert cached(cache) == set()  # its members are in DIR, and useless for registries


def test_the_manifest_that_is_made_is_always_the_same(tmp_path: Path) -> None:
    words = [write_archive(tmp_path / name, DOCKER_FORMS[name]()) for name in ("skopeo", "dots", "hard links")]
    digests = {provision_word(str(word), tmp_path / f"dir-{word.name}").record.manifest_digest for word in words}
    assert len(digests) == 1
    manifest = json.loads((tmp_path / "dir-skopeo/.provision/manifest.json").read_text())
    assert [layer["digest"] for layer in manifest["layers"]] == [layer.diff_id for layer in PLAIN.layers]
    assert manifest["config"]["digest"] == builders.digest_of(PLAIN.config)


def test_up_to_date_is_by_the_config(tmp_path: Path) -> None:
    """The same image is in two archives, of which one has compressed layers: their manifests differ."""
    zipped = builders.image(
        *(
            builders.Layer(gzip.compress(layer.blob, mtime=0), layer.media_type, layer.diff_id)
            for layer in PLAIN.layers
        ),
        run={"Cmd": ["/bin/sh"]},
    )
    assert zipped.config == PLAIN.config
    one = write_archive(tmp_path / "one", docker_members(PLAIN))
    other = write_archive(tmp_path / "other", oci_members(("x", zipped)))
    assert provision_word(str(one), tmp_path / "dir").is_new
    assert not provision_word(str(other), tmp_path / "dir").is_new
    third = write_archive(tmp_path / "third", docker_members(OTHER))
    with pytest.raises(ProvisionError) as caught:
        provision_word(str(third), tmp_path / "dir")
    assert caught.value.status == 8


def test_several_images_are_listed(tmp_path: Path) -> None:
    other = builders.image(*PLAIN.layers, run={"Cmd": ["other"]})  # its layers are there once more
    one, two = docker_members(PLAIN, "docker.io/library/one:latest"), docker_members(other, "r.example/two:2", "two:x")
    entries = [json.loads(members[-1][1])[0] for members in (one, two)]  # type: ignore[index, arg-type]
    path = write_archive(tmp_path / "x", [*one[:-1], *two[:-1], ("manifest.json", json.dumps(entries).encode())])
    with pytest.raises(UsageError) as caught:
        provision_word(str(path), tmp_path / "dir")
    assert "has 2 images: @0 docker.io/library/one:latest; @1 r.example/two:2, two:x" in caught.value.message
    assert f"docker-archive:{path}:docker.io/library/one:latest" in caught.value.hint
    for number, (choice, command) in enumerate(
        {"one": "/bin/sh", "@0": "/bin/sh", "two:x": "other", "@1": "other", "r.example/two:2": "other"}.items()
    ):
        outcome = provision_word(f"docker-archive:{path}:{choice}", tmp_path / f"dir{number}")
        assert outcome.image.config.command == (command,)
        assert outcome.record.reference == f"docker-archive:{path}:{choice}"
    for choice in ("three", "@2"):
        with pytest.raises(NotFound, match=r"it has @0 docker.io/library/one:latest; @1"):
            provision_word(f"docker-archive:{path}:{choice}", tmp_path / "dir")
    assert not (tmp_path / "dir").exists()


def test_an_archive_with_repositories_alone(tmp_path: Path) -> None:
    members: list[Member] = [("a" * 64, None), ("a" * 64 + "/layer.tar", b""), ("repositories", b"{}")]
    with pytest.raises(MalformedImage, match=r"before 1\.10") as caught:
        provision_word(str(write_archive(tmp_path / "x", members)), tmp_path / "dir")
    assert "docker load" in caught.value.hint


def test_a_config_with_another_digest_than_its_name(tmp_path: Path) -> None:
    members = docker_members(PLAIN, Config=f"{'0' * 64}.json")
    path = write_archive(tmp_path / "x", [(f"{'0' * 64}.json", PLAIN.config), *members])
    with pytest.raises(MalformedImage, match="does not match its digest"):
        provision_word(str(path), tmp_path / "dir")


def test_a_layer_with_another_diff_id(tmp_path: Path) -> None:
    members = docker_members(PLAIN)
    name = layer_names(PLAIN)[1]
    path = write_archive(tmp_path / "x", [(name, tar(("etc/motd", b"another\n"))), *without(members, name)])
    with pytest.raises(MalformedImage, match="layer 2 of 2: the archive does not match its digest"):
        provision_word(str(path), tmp_path / "dir")
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("word", ["docker-archive:{}", "{}"])
def test_repositories_alone_are_explained_whatever_the_word(tmp_path: Path, word: str) -> None:
    path = write_archive(tmp_path / "x", [("repositories", b"{}"), ("a/layer.tar", b"")])
    with pytest.raises(MalformedImage, match=r"is an archive of Docker before 1\.10") as caught:
        provision_word(word.format(path), tmp_path / "dir")
    assert "docker save -o NEW" in caught.value.hint


# OCI image layouts


def docker_25_members(**manifest: Any) -> list[Member]:
    """Docker 25 to 28: an OCI image layout and a docker-archive, in one."""
    image = builders.image(*PLAIN.layers, run={"Cmd": ["/bin/sh"]}, manifest=manifest)
    names = {"io.containerd.image.name": "docker.io/library/x:1", "org.opencontainers.image.ref.name": "1"}
    index = [builders.descriptor(image.manifest, image.media_type, annotations=names)]
    entry = {
        "Config": f"blobs/sha256/{hex_of(image.config)}",
        "RepoTags": ["x:1"],
        "Layers": [f"blobs/sha256/{hex_of(layer.blob)}" for layer in image.layers],
        "LayerSources": {},
    }
    extra: list[Member] = [("manifest.json", json.dumps([entry]).encode()), ("repositories", b"{}"), ("odd", b"")]
    return [*oci_members(("", image), index=index), *extra]


def test_an_archive_in_two_formats_is_taken_for_an_oci_layout(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "x", docker_25_members())
    lines = said(str(path), tmp_path / "dir")
    assert "it is an OCI image layout and a docker-archive: it is taken for the former" in lines
    assert record(tmp_path / "dir")["verified"] == "by the digests that it states"
    for number, word in enumerate(("docker-archive:{}:x:1", "oci-archive:{}:x:1", "oci-archive:{}:1")):
        assert said(word.format(path), tmp_path / f"dir{number}")
        assert motd(tmp_path / f"dir{number}") == b"hello\n"


def test_docker_25_0_wrote_manifests_without_layers(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "x", docker_25_members(layers=[]))
    lines = said(str(path), tmp_path / "dir")
    assert "its OCI manifest has no layers: it is taken for a docker-archive" in lines
    assert motd(tmp_path / "dir") == b"hello\n"
    with pytest.raises(MalformedImage, match="no layers, unlike its config"):
        provision_word(f"oci-archive:{path}", tmp_path / "other")


def docker_29_members() -> list[Member]:
    """Docker 29: index.json names an index, which names images of other platforms, and attestations, not in there."""
    index = json.loads(builders.index([("linux/arm64", ARM), ("linux/amd64", GZIPPED), ("linux/386", OTHER)]))
    attestation = {"vnd.docker.reference.type": "attestation-manifest"}
    index["manifests"].append(
        builders.descriptor(
            b"{}", builders.OCI_MANIFEST, annotations=attestation, platform={"os": "unknown", "architecture": "unknown"}
        )
    )
    data = builders.json_bytes(index)
    top = [builders.descriptor(data, builders.OCI_INDEX, annotations={"io.containerd.image.name": "docker.io/x/y:1"})]
    entry = {
        "Config": f"blobs/sha256/{hex_of(GZIPPED.config)}",
        "RepoTags": ["x/y:1"],
        "Layers": [f"blobs/sha256/{hex_of(layer.blob)}" for layer in GZIPPED.layers],
    }
    return [
        *oci_members(("", GZIPPED), index=top),
        (f"blobs/sha256/{hex_of(data)}", data),
        ("manifest.json", json.dumps([entry]).encode()),
    ]


def test_a_nested_index_of_which_one_platform_is_there(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "x", docker_29_members())
    outcome = provision_word(str(path), tmp_path / "dir")
    assert motd(tmp_path / "dir") == b"hello\n"
    assert outcome.record.manifest_digest == builders.digest_of(GZIPPED.manifest)
    assert outcome.record.index_digest
    assert outcome.index
    assert provision_word(f"docker-archive:{path}", tmp_path / "docker").is_new


def test_an_index_without_this_platform(tmp_path: Path) -> None:
    only_arm = write_directory(tmp_path / "arm", oci_members(("", ARM)))
    with pytest.raises(NotFound, match="has nothing for linux/amd64; it has linux/arm64"):
        provision_word(f"oci:{only_arm}", tmp_path / "dir")
    absent = json.loads(builders.index([("linux/arm64", ARM), ("linux/amd64", GZIPPED)]))["manifests"]
    path = write_archive(tmp_path / "x", oci_members(("", ARM), index=absent))
    with pytest.raises(NotFound, match="names an image for linux/amd64, but doesn't have it; it has linux/arm64"):
        provision_word(str(path), tmp_path / "dir")


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress, zstd], ids=["tar", "gz", "xz", "zst"])
def test_a_layout_in_an_archive(tmp_path: Path, cache: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "x"
    path.write_bytes(compress(tar(*oci_members(("v1", GZIPPED)))))
    for number, word in enumerate((f"oci-archive:{path}", f"oci-archive:{path}:v1", str(path))):
        outcome = provision_word(word, tmp_path / f"dir{number}")
        assert motd(tmp_path / f"dir{number}") == b"hello\n"
        assert outcome.record.manifest_digest == builders.digest_of(GZIPPED.manifest)
    # What can be read in place isn't copied into the cache; blobs of a compressed archive stay, as those of registries.
    blobs = {hex_of(blob) for blob in (GZIPPED.manifest, *GZIPPED.blobs)}
    assert cached(cache) == (set() if compress is bytes else blobs)


TWO_THINGS: dict[str, list[Member]] = {
    "oci": oci_members(("", GZIPPED)),
    "dir": [("manifest.json", b"{}"), ("version", b"")],
}


@pytest.mark.parametrize("word", TWO_THINGS)
def test_a_directory_that_is_two_things(tmp_path: Path, word: str) -> None:
    place = write_directory(tmp_path / "x", [*TWO_THINGS[word], ("bin", None), ("etc", None), ("usr", None)])
    with pytest.raises(UsageError, match=r"is both an? .* and a root file system") as caught:
        provision_word(str(place), tmp_path / "dir")
    assert caught.value.hint == f"say which: {word}:{place}, or tar -C {place} -c . | provision rootfs:- DIR"


def test_a_layout_in_a_directory(tmp_path: Path, cache: Path) -> None:
    layout = write_directory(tmp_path / "x", [*oci_members(("v1", GZIPPED), ("v2", OTHER)), ("odd", b"extra")])
    for number, word in enumerate((f"oci:{layout}:v1", f"oci:{layout}:@0")):
        assert provision_word(word, tmp_path / f"dir{number}").image.config.command == ("/bin/sh",)
    with pytest.raises(UsageError, match="has 2 images: @0 v1; @1 v2") as caught:
        provision_word(str(layout), tmp_path / "dir")
    assert f"oci:{layout}:v1" in caught.value.hint
    assert not cached(cache)


def test_a_directory_of_skopeo_by_hand(tmp_path: Path) -> None:
    files: list[Member] = [(hex_of(blob), blob) for blob in GZIPPED.blobs]
    version: Member = ("version", b"Directory Transport Version: 1.1\n")
    place = write_directory(tmp_path / "x", [*files, version, ("manifest.json", GZIPPED.manifest)])
    for number, word in enumerate((f"dir:{place}", str(place))):
        outcome = provision_word(word, tmp_path / f"dir{number}")
        assert outcome.record.manifest_digest == builders.digest_of(GZIPPED.manifest)
    (place / "version").write_text("Directory Transport Version: 2.0\n")
    with pytest.raises(MalformedImage, match=r"which is none of skopeo's 1\.x"):
        provision_word(f"dir:{place}", tmp_path / "dir")


def test_a_layer_with_another_blob_digest(tmp_path: Path) -> None:
    """The diff_id fits, the blob was compressed anew."""
    first = GZIPPED.layers[0]
    name = f"blobs/sha256/{hex_of(first.blob)}"
    changed = first.blob[:4] + b"\1" + first.blob[5:]  # the time in gzip's header, which no checksum covers
    path = write_archive(tmp_path / "x", [(name, changed), *without(oci_members(("", GZIPPED)), name)])
    with pytest.raises(MalformedImage, match=f"{name} does not match its digest"):
        provision_word(str(path), tmp_path / "dir")
    assert os.listdir(tmp_path) == ["x"]


# Locks


def test_locks(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from provisioner.image.lockfile import Lock

    path = write_archive(tmp_path / "x", docker_29_members())
    outcome = provision_word(str(path), tmp_path / "dir")
    lock = tmp_path / "lock"
    Lock.of("r.example/x:1", outcome.image, outcome.index, datetime.now(UTC)).write(lock)
    moved = path.rename(tmp_path / "moved")  # only the digests count, wherever the file is
    assert provision_word(str(moved), tmp_path / "again", locked=lock).image == outcome.image
    write_archive(moved, oci_members(("", OTHER)))
    with pytest.raises(NotFound, match=f"has no manifest {builders.digest_of(GZIPPED.manifest)[:19]}"):
        provision_word(str(moved), tmp_path / "other", locked=lock)
    write_archive(moved, docker_members(OTHER))
    with pytest.raises(NotFound, match="which is locked"):
        provision_word(str(moved), tmp_path / "other", locked=lock)


@pytest.mark.parametrize("form", ["docker", "oci", "nested"])
def test_a_lock_chooses_among_several_images(tmp_path: Path, form: str) -> None:
    from datetime import UTC, datetime

    from provisioner.image.lockfile import Lock

    other = builders.image(*PLAIN.layers, run={"Cmd": ["other"]})
    images = {"one:1": PLAIN, "two:2": other}
    if form == "docker":
        parts = [docker_members(image, name) for name, image in images.items()]
        entries = [json.loads(members[-1][1])[0] for members in parts]  # type: ignore[index, arg-type]
        files = {name: data for members in parts for name, data in members[:-1]}  # type: ignore[misc]
        path = write_archive(tmp_path / "x", [*files.items(), ("manifest.json", json.dumps(entries).encode())])
    elif form == "oci":
        path = write_archive(tmp_path / "x", oci_members(*images.items()))
    else:
        indexes = [builders.index([("linux/amd64", image), ("linux/arm64", ARM)]) for image in images.values()]
        top = [builders.descriptor(index, builders.OCI_INDEX) for index in indexes]
        blobs: list[Member] = [(f"blobs/sha256/{hex_of(index)}", index) for index in indexes]
        path = write_archive(tmp_path / "x", [*oci_members(*images.items(), index=top), *blobs])
    word = "docker-archive" if form == "docker" else "oci-archive"
    for number, command in enumerate(("/bin/sh", "other")):
        chosen = provision_word(f"{word}:{path}:@{number}", tmp_path / f"chosen{number}")
        lock = tmp_path / f"lock{number}"
        Lock.of("r.example/x:1", chosen.image, chosen.index, datetime.now(UTC)).write(lock)
        for shown in (f"{word}:{path}", str(path)):
            locked = provision_word(shown, tmp_path / f"{number}-{len(shown)}", locked=lock)
            assert locked.image == chosen.image
            assert locked.image.config.command == (command,)
    with pytest.raises(NotFound, match=r"has no manifest|which is locked"):
        provision_word(f"{word}:{path}:@0", tmp_path / "dir", locked=tmp_path / "lock1")
    write_archive(path, docker_members(OTHER) if form == "docker" else oci_members(("a", OTHER), ("b", ARM)))
    with pytest.raises(NotFound, match=r"has no manifest|which is locked"):
        provision_word(f"{word}:{path}", tmp_path / "dir", locked=tmp_path / "lock1")


def test_a_lock_of_none_of_several_images(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from provisioner.image.lockfile import Lock

    chosen = provision_word(f"docker-archive:{write_archive(tmp_path / 'x', docker_members(OTHER))}", tmp_path / "dir")
    Lock.of("r.example/x:1", chosen.image, None, datetime.now(UTC)).write(tmp_path / "lock")
    members = docker_members(PLAIN)
    entry = json.loads(members[-1][1])[0]  # type: ignore[index, arg-type]
    broken = {**entry, "Config": "none.json"}
    path = write_archive(tmp_path / "x", [*members[:-1], ("manifest.json", json.dumps([broken, entry]).encode())])
    with pytest.raises(NotFound, match="which is locked"):
        provision_word(f"docker-archive:{path}", tmp_path / "other", locked=tmp_path / "lock")


# Hostile ones


def config_of(size: int) -> list[Member]:
    return [*without(docker_members(PLAIN, Config="config"), "config"), ("config", b" " * size + PLAIN.config)]


HOSTILE: dict[str, tuple[Callable[[], list[Member]], str]] = {
    "a path that climbs": (lambda: docker_members(PLAIN, Layers=["../../x", "y"]), "leads out of the archive"),
    "an absolute path": (lambda: docker_members(PLAIN, Layers=["/etc/passwd", "y"]), "leads out of the archive"),
    "a config that climbs": (lambda: docker_members(PLAIN, Config="../../etc/passwd"), "leads out of the archive"),
    "a link to outside": (
        lambda: [("out", "../../../etc/passwd"), *docker_members(PLAIN, Layers=["out", "out"])],
        "out is a link that leads out of the archive",
    ),
    "a link that comes back": (
        lambda: [("a/out", f"../../a/{layer_names(PLAIN)[0]}"), *docker_members(PLAIN, Layers=["a/out", "a/out"])],
        "leads out of the archive",
    ),
    "an absolute link": (
        lambda: [("out", "/etc/passwd"), *docker_members(PLAIN, Layers=["out", "out"])],
        "out is a link that leads out of the archive",
    ),
    "a hard link to outside": (
        lambda: [hard("out", "../etc/passwd"), *docker_members(PLAIN, Layers=["out", "out"])],
        "out is a link that leads out of the archive",
    ),
    "a circle": (
        lambda: [("a", "b"), ("b", "a"), *docker_members(PLAIN, Layers=["a", "b"])],
        "a is a link that leads to itself",
    ),
    "a device": (
        lambda: [special("x.tar", tarfile.CHRTYPE), *docker_members(PLAIN, Layers=["x.tar", "x.tar"])],
        "layer 1, x.tar, is missing",
    ),
    "two manifests": (
        lambda: [*docker_members(PLAIN), ("./manifest.json", b"[]")],
        "manifest.json is in the archive more than once",
    ),
    "two layers of a name": (
        lambda: [(layer_names(PLAIN)[0], b""), *docker_members(PLAIN)],
        "is in the archive more than once",
    ),
    "a missing layer": (lambda: without(docker_members(PLAIN), layer_names(PLAIN)[1]), "layer 2, .*, is missing"),
    "a missing config": (
        lambda: without(docker_members(PLAIN), f"{hex_of(PLAIN.config)}.json"),
        "the config .*json is missing",
    ),
    "too few layers": (lambda: docker_members(PLAIN, Layers=layer_names(PLAIN)[:1]), "has 1 layers and the config 2"),
    "too many layers": (lambda: docker_members(PLAIN, Layers=["x"] * 1001), "has 1001 layers, 1000 is the most"),
    "a large config": (lambda: config_of(DOCUMENT_LIMIT), f"{DOCUMENT_LIMIT} is the most"),
    "no list": (lambda: [*docker_members(PLAIN)[:-1], ("manifest.json", b"{}")], "is not a list of images"),
    "a field twice": (
        lambda: [*docker_members(PLAIN)[:-1], ("manifest.json", b'[{"Config": "x", "Layers": [], "Layers": ["y"]}]')],
        "'Layers' more than once",
    ),
    "a field in other capitals": (lambda: docker_members(PLAIN, layers=["x"]), "which other tools read as 'Layers'"),
    "a root file system too": (
        lambda: [*docker_members(PLAIN), ("etc/passwd", b""), ("usr/bin/x", b"")],
        "is both a docker-archive and a root file system",
    ),
    "no JSON": (lambda: [*docker_members(PLAIN)[:-1], ("manifest.json", b"[" * 100_000)], "is not JSON"),
    "a number": (lambda: docker_members(PLAIN, Layers=[1, 2]), r"manifest.json\[0\].Layers holds a whole number"),
    "no images": (lambda: [*docker_members(PLAIN)[:-1], ("manifest.json", b"[]")], "has no image"),
    "no rootfs": (
        lambda: docker_members(builders.image(*PLAIN.layers, config={"rootfs": None})),
        "config.rootfs is missing",
    ),
    "no index": (lambda: without(oci_members(("", GZIPPED)), "index.json"), "is no image: neither"),
    "an index that is none": (
        lambda: [*without(oci_members(("", GZIPPED)), "index.json"), ("index.json", b"[]")],
        "index.json is not a JSON object",
    ),
    "a missing blob": (
        lambda: without(oci_members(("", GZIPPED)), f"blobs/sha256/{hex_of(GZIPPED.layers[0].blob)}"),
        "layer 1, .*, is missing",
    ),
    "a missing manifest": (
        lambda: without(oci_members(("", GZIPPED)), f"blobs/sha256/{hex_of(GZIPPED.manifest)}"),
        "the manifest .* is missing",
    ),
    "a blob of another size": (
        lambda: [
            *without(oci_members(("", GZIPPED)), f"blobs/sha256/{hex_of(GZIPPED.layers[0].blob)}"),
            (f"blobs/sha256/{hex_of(GZIPPED.layers[0].blob)}", GZIPPED.layers[0].blob + b"x"),
        ],
        "were announced",
    ),
    "a manifest of another digest": (
        lambda: [
            *without(oci_members(("", GZIPPED)), f"blobs/sha256/{hex_of(GZIPPED.manifest)}"),
            (f"blobs/sha256/{hex_of(GZIPPED.manifest)}", GZIPPED.manifest.replace(b"2", b"3", 1)),
        ],
        "does not match its digest",
    ),
    "blobs that are links": (
        lambda: [
            *without(oci_members(("", GZIPPED)), f"blobs/sha256/{hex_of(GZIPPED.layers[0].blob)}"),
            (f"blobs/sha256/{hex_of(GZIPPED.layers[0].blob)}", "../../../etc/passwd"),
        ],
        "leads out of the archive",
    ),
}


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_archives(tmp_path: Path, cache: Path, attack: str, compress: Callable[[bytes], bytes]) -> None:
    make, message = HOSTILE[attack]
    path = tmp_path / "x"
    path.write_bytes(compress(tar(*make())))
    canary = tmp_path / "canary"
    canary.write_bytes(b"unchanged")
    with pytest.raises(ProvisionError, match=message) as caught:
        provision_word(str(path), tmp_path / "dir")
    assert caught.value.message.isprintable()
    assert caught.value.hint
    assert canary.read_bytes() == b"unchanged"
    assert not (tmp_path / "dir").exists()
    assert cached(cache) == set()


def test_an_index_that_names_itself(tmp_path: Path) -> None:
    """By what its digest says, that can't be; by what is in its place, it is an error and not a loop."""
    entries = json.loads(builders.index([("", GZIPPED)]))["manifests"]
    nested = builders.json_bytes({"schemaVersion": 2, "mediaType": builders.OCI_INDEX, "manifests": entries})
    members = oci_members(("", GZIPPED), index=[builders.descriptor(nested, builders.OCI_INDEX)])
    blobs: list[Member] = [(f"blobs/sha256/{hex_of(nested)}", nested)]
    for _ in range(5):
        entries = [builders.descriptor(nested, builders.OCI_INDEX)]
        nested = builders.json_bytes({"schemaVersion": 2, "mediaType": builders.OCI_INDEX, "manifests": entries})
        blobs.append((f"blobs/sha256/{hex_of(nested)}", nested))
    top = builders.json_bytes({"manifests": [builders.descriptor(nested, builders.OCI_INDEX)]})
    members = [*without(members, "index.json"), *blobs, ("index.json", top)]
    with pytest.raises(MalformedImage, match="nested indexes"):
        provision_word(str(write_archive(tmp_path / "x", members)), tmp_path / "dir")


@pytest.mark.parametrize("nested", [builders.OCI_INDEX, builders.OCI_MANIFEST])
def test_a_large_document_that_is_named_often_is_not_read_often(
    tmp_path: Path, nested: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """990 entries lead to one index of 8 MB, or to one manifest."""
    fields: dict[str, Any] = {"manifests": []} if nested == builders.OCI_INDEX else {"config": {}, "layers": []}
    large = builders.json_bytes({"schemaVersion": 2, "mediaType": nested, "x": "x" * (8_000_000), **fields})
    one = builders.descriptor(large, nested)
    entries = [{**one, "platform": {"os": "linux", "architecture": f"a{number}"}} for number in range(990)]
    top = builders.json_bytes({"schemaVersion": 2, "mediaType": builders.OCI_INDEX, "manifests": entries})
    members: list[Member] = [
        *oci_members(index=[builders.descriptor(top, builders.OCI_INDEX)]),
        *((f"blobs/sha256/{hex_of(blob)}", blob) for blob in (large, top)),
    ]
    reads: list[int] = []
    read_range = members_module.read_range

    def counted(file: int, member: members_module.Member, limit: int | None = None) -> bytes:
        reads.append(member.size)
        return read_range(file, member, limit)

    monkeypatch.setattr(members_module, "read_range", counted)
    with pytest.raises(ProvisionError):
        provision_word(f"oci-archive:{write_archive(tmp_path / 'x', members)}", tmp_path / "dir")
    assert sum(reads) < 100 << 20


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members_module, "MAX_MEMBERS", 10)
    members: list[Member] = [*docker_members(PLAIN), *((f"{number}.json", b"") for number in range(10))]
    with pytest.raises(MalformedImage, match="more than 10 files"):
        provision_word(str(write_archive(tmp_path / "x", members)), tmp_path / "dir")


def test_ten_thousand_members(tmp_path: Path, cache: Path) -> None:
    members: list[Member] = [*((f"{number}.json", b"{}") for number in range(10_000)), *docker_members(PLAIN)]
    path = write_archive(tmp_path / "x", members)
    provision_word(str(path), tmp_path / "dir")
    path.write_bytes(gzip.compress(path.read_bytes(), 1))
    provision_word(str(path), tmp_path / "other")
    assert motd(tmp_path / "other") == b"hello\n"
    assert cached(cache) == set()


def sparse_archive(path: Path, size: int, last: list[Member]) -> Path:
    """Write an archive whose first member is `size` zeros, as a hole."""
    head = raw(b"zeros.tar", size=b"\x80" + size.to_bytes(11, "big"))
    with path.open("wb") as file:
        file.write(head)
        file.seek(size + -size % 512, os.SEEK_CUR)
        file.write(tar(*last))
    return path


def test_an_archive_of_five_gibibytes(tmp_path: Path) -> None:
    path = sparse_archive(tmp_path / "x", 5 << 30, docker_members(PLAIN))
    provision_word(str(path), tmp_path / "dir")
    assert motd(tmp_path / "dir") == b"hello\n"


def test_json_of_200_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(raw(b"manifest.json", size=b"\x80" + (200 << 20).to_bytes(11, "big")))
    os.truncate(path, path.stat().st_size + (200 << 20))
    with pytest.raises(MalformedImage, match=rf"manifest\.json has {200 << 20} bytes, {DOCUMENT_LIMIT} is the most"):
        provision_word(str(path), tmp_path / "dir")


def test_a_member_that_claims_exbibytes(tmp_path: Path, cache: Path) -> None:
    claim = raw(b"x.tar", size=b"\x80" + (1 << 62).to_bytes(11, "big"))
    for name, data in (("tar", claim + END), ("tar.gz", gzip.compress(claim + END))):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ProvisionError, match=r"ends in the middle of a file|no room for it in the cache"):
            provision_word(f"docker-archive:{path}", tmp_path / "dir")
    assert cached(cache) == set()


def test_bombs(tmp_path: Path, cache: Path) -> None:
    """Zeros behind the end of a compressed archive, and as a layer, compressed twice."""
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(tar(*docker_members(PLAIN))) + gzip.compress(bytes(1 << 26)))
    provision_word(str(path), tmp_path / "dir")
    bomb = gzip.compress(gzip.compress(bytes(1 << 26)))
    name = layer_names(PLAIN)[0]
    write_archive(path, [(name, bomb), *without(docker_members(PLAIN), name)])
    with pytest.raises(MalformedImage, match="layer 1 of 2"):
        provision_word(str(path), tmp_path / "other")
    assert cached(cache) == set()


@pytest.mark.parametrize("members", [[("etc/x", b""), ("bin/sh", b"")], [("a/bin/sh", b""), ("a/etc/x", b"")]])
def test_zeros_behind_a_root_file_system_are_limited(
    tmp_path: Path, members: list[Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the search for the root, and where it is known and the archive is unpacked."""
    monkeypatch.setattr(stream_module, "_PADDING", 1 << 20)
    path = tmp_path / "x"
    archive = tar(*members)
    path.write_bytes(gzip.compress(archive + bytes(1 << 19)))
    provision_word(f"rootfs:{path}", tmp_path / "dir")
    path.write_bytes(gzip.compress(archive) + gzip.compress(bytes(100 << 20), 1))
    with pytest.raises(MalformedImage, match=f"behind its end there are more than {1 << 20} bytes of zeros"):
        provision_word(f"rootfs:{path}", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("size", [100, 511, 513, 3000])
def test_an_archive_that_ends_early(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(tar(*docker_members(PLAIN))[:size])
    with pytest.raises(ProvisionError):
        provision_word(f"docker-archive:{path}", tmp_path / "dir")
    assert os.listdir(tmp_path) == ["x"]


def test_a_member_that_is_stored_with_holes(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x.tar")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1000000"}
    sparse = b"1\n0\n0\n".ljust(512, b"\0")
    info.size = len(sparse)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(sparse))
    path = tmp_path / "x"
    path.write_bytes(data.getvalue())
    with pytest.raises(MalformedImage, match="stored with holes"):
        provision_word(f"docker-archive:{path}", tmp_path / "dir")


DOCUMENTS = {
    "docker": dict(docker_members(PLAIN)),  # type: ignore[arg-type]
    "oci": dict(oci_members(("", GZIPPED))),  # type: ignore[arg-type]
}


@settings(max_examples=60)
@given(st.data())
def test_no_change_of_an_archive_gets_through_or_breaks_it(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """A byte of any member is changed: it is an error of ours, or the image is the same."""
    place = tmp_path_factory.mktemp("changed")
    archive = bytearray(tar(*DOCUMENTS[data.draw(st.sampled_from(sorted(DOCUMENTS)))].items()))
    at = data.draw(st.integers(0, len(archive) - 1))
    archive[at] = data.draw(st.integers(0, 255))
    (place / "x").write_bytes(archive)
    try:
        provision_word(str(place / "x"), place / "dir")
    except ProvisionError as error:
        assert str(error).isprintable()  # noqa: PT017
        assert not (place / "dir").exists()
    else:
        assert motd(place / "dir") == b"hello\n"


def test_the_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path / "app.tar", docker_members(PLAIN))
    monkeypatch.chdir(tmp_path)
    page = (CHECKOUT / "docs/sources.md").read_text().partition("## From Python")[2]
    code = "\n".join(line[4:] for line in page.splitlines() if line.startswith("    "))
    found: dict[str, Any] = {}
    exec(code.replace("host_platform()", 'host_platform().parse("linux/amd64")'), found)
    assert found["outcome"].is_new
    assert motd(tmp_path / "app") == b"hello\n"
