"""`provision export --format oci-archive` and `docker-archive`: what other programs make of them, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provisioner.cli import main
from provisioner.sizes import size_text
from provisioner.terminal.progress import Console
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.containers import Container
from tests.support.exported_images import (
    MORE,
    ImageArchive,
    as_in_images,
    change_in_all_ways,
    export,
    exportable,
    in_format_of_docker,
)
from tests.support.kills import kill_at_random
from tests.support.provisioned import add_unusual_files
from tests.support.provisioned import image as usual_image
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.termux import make_hard_links
from tests.support.tools import (
    as_user,
    clean_environment,
    find_program,
    need,
    need_root,
    own,
    podman_in,
    provision,
    run,
    user_id,
)
from tests.support.trees import Entry, tree_of

IMAGES = ("oci-archive", "docker-archive")


@pytest.fixture
def source(place: Path) -> Iterator[Path]:
    """A container of the unprivileged user, whose registry answers."""
    with exportable(place, usual_image(*MORE), **as_user()) as directory:
        yield directory


@pytest.mark.parametrize(("option", "layer"), [("--format=oci-archive", "the changed"), ("--squash", "all")])
def test_what_is_written_is_shown(place: Path, monkeypatch: pytest.MonkeyPatch, option: str, layer: str) -> None:
    """The bytes of the layer's archive, and those of the file, are counted while they are written."""
    monkeypatch.setenv("PROVISION_CACHE_DIR", str(place / "cache"))
    shown: list[tuple[str, str]] = []

    @contextmanager
    def activity(self: Console, what: str, count: Callable[[], str]) -> Iterator[None]:
        yield
        shown.append((what, count()))

    with exportable(place) as directory:
        (directory / "rootfs/new").write_bytes(bytes(3_000_000))
        monkeypatch.setattr(Console, "activity", activity)
        assert main(["export", "--format=oci-archive", option, str(directory), str(place / "i.tar")]) == 0
    assert [what for what, _ in shown] == [f"making a layer of {layer} files", f"writing {place}/i.tar"]
    assert shown[0][1] == "3.0 MB" or option == "--squash"
    assert "0 B" not in dict(shown).values()
    assert shown[1][1] == size_text((place / "i.tar").stat().st_size)


# The layer


def test_the_layer_has_what_was_changed_and_what_is_above_it(place: Path, source: Path) -> None:
    change_in_all_ways(source)
    export("--format", "oci-archive", source, place / "i.tar", cache=place / "cache", **as_user())
    top = ImageArchive(place / "i.tar").top()
    long = "home/" + "n" * 150
    assert list(top) == [
        ".wh.gone",
        "etc",
        "etc/passwd",
        "home",
        long,
        f"{long}/{'m' * 150}",
        "home/ünï",
        "lib-was",
        "usr",
        "usr/.wh.absolute",
        "usr/fifo",
        "usr/fifo/file",
        "usr/link",
        "usr/one",
        "usr/owned",
        "usr/three",
        "usr/two",
    ]
    assert (top["usr/owned"].uid, top["usr/owned"].gid, top["usr/owned"].mode) == (33, 34, 0o4711)
    assert (top["etc/passwd"].uid, top["etc/passwd"].gid) == (0, 0)
    assert [top[f"usr/{name}"].linkname for name in ("one", "three", "two")] == ["", "usr/one", "usr/one"]
    assert all(not member.mtime % 1 for member in top.values())


def test_nothing_changed_is_the_image_itself(place: Path, source: Path) -> None:
    record = json.loads((source / ".provision/record.json").read_text())
    for form in IMAGES:
        message = export("--format", form, source, place / "i.tar", cache=place / "cache", **as_user())
        assert "no file was changed" in message
        assert ImageArchive(place / "i.tar").index["manifests"][0]["digest"] == record["manifest_digest"]


def test_what_start_sh_writes_does_not_count_unless_it_is_edited(place: Path, source: Path) -> None:
    (source / "rootfs/etc/hosts").write_text("127.0.0.1 mine\n")
    export("--format", "oci-archive", source, place / "i.tar", cache=place / "cache", **as_user())
    assert list(ImageArchive(place / "i.tar").top()) == ["etc", "etc/hosts"]


def test_patterns_are_left_out_of_the_layer(place: Path, source: Path) -> None:
    rootfs = source / "rootfs"
    (rootfs / "cache").mkdir()
    (rootfs / "cache/file").write_text("x")
    (rootfs / "usr/one").unlink()
    (rootfs / "kept").write_text("x")
    words = ("--exclude", "cache/*", "--exclude", "/usr/one")
    export("--format", "oci-archive", *words, source, place / "i.tar", cache=place / "cache", **as_user())
    assert list(ImageArchive(place / "i.tar").top()) == ["cache", "kept"]


@pytest.mark.parametrize("squash", [[], ["--squash"]])
def test_files_that_would_be_whiteouts_are_refused(place: Path, source: Path, squash: list[str]) -> None:
    (source / "rootfs/etc/.wh.passwd").write_text("x")
    words = ("--format", "oci-archive", *squash)
    message = export(*words, source, place / "i.tar", cache=place / "cache", status=2, **as_user())
    assert "'etc/.wh.passwd' can't be in an image" in message
    assert "--exclude" in message
    assert not (place / "i.tar").exists()
    export(*words, "--exclude", "etc/.wh.*", source, place / "i.tar", cache=place / "cache", **as_user())


def test_closed_directories_are_read_and_stay_closed(place: Path, source: Path) -> None:
    (source / "rootfs/closed").mkdir()
    (source / "rootfs/closed/file").write_text("secret")
    (source / "rootfs/closed/file").chmod(0)
    (source / "rootfs/closed").chmod(0)
    if os.geteuid() == 0:
        run("chown", "-hR", f"{user_id()}:{user_id()}", source / "rootfs/closed")
    before = tree_of(source)
    export("--format", "oci-archive", source, place / "i.tar", cache=place / "cache", **as_user())
    assert tree_of(source) == before
    assert ImageArchive(place / "i.tar").top()["closed/file"].mode == 0


def test_capabilities_that_the_user_has_given_are_in_the_layer(place: Path) -> None:
    need_root()
    need("setcap")
    with exportable(place) as source:
        run(find_program("setcap") or "", "cap_net_raw+ep", source / "rootfs/etc/os-release")
        os.setxattr(source / "rootfs/tmp", "user.note", b"x")
        export("--format=oci-archive", source, place / "i.tar", cache=place / "cache")
    top = ImageArchive(place / "i.tar").top()
    assert list(top) == ["etc", "etc/os-release", "tmp"]
    assert "SCHILY.xattr.security.capability" in top["etc/os-release"].pax_headers
    assert top["tmp"].pax_headers["SCHILY.xattr.user.note"] == "x"


def test_hard_links_of_proot_are_hard_links_in_the_layer(place: Path, source: Path) -> None:
    rootfs = source / "rootfs"
    make_hard_links(Container(source), "usr/a", "usr/b")
    (rootfs / "usr/owned").chmod(0o4755)  # chown(2) has taken its set-user-ID bit away
    (source / ".provision/links").write_text(f"{rootfs}\n")
    run("chown", f"{user_id()}:{user_id()}", source / ".provision/links")
    export("--format=oci-archive", source, place / "i.tar", cache=place / "cache", **as_user())
    top = ImageArchive(place / "i.tar").top()
    assert list(top) == ["usr", "usr/a", "usr/b"]
    assert (top["usr/a"].size, top["usr/b"].linkname) == (5, "usr/a")


# The documents


def test_config_and_history_are_kept_and_added_to(place: Path) -> None:
    image = usual_image()
    config = json.loads(image.config)
    config |= {
        "author": "me",
        "history": [{"created_by": "one"}, {"created_by": "x", "empty_layer": True}, {"comment": "2"}],
    }
    config["config"]["Labels"] = {"a": "b"}
    with exportable(place, with_config(image, config)) as source:
        (source / "rootfs/new").write_text("x")
        words = (
            "--change",
            'CMD ["/bin/cat", "/etc/os-release"]',
            "--change",
            "ENV PATH=$PATH:/x",
            "--comment",
            "why",
        )
        export("--format=oci-archive", *words, source, place / "i.tar", cache=place / "cache")
        archive = ImageArchive(place / "i.tar")
        assert archive.config["author"] == "me"
        assert archive.config["config"] == {
            "Labels": {"a": "b"},
            "Cmd": ["/bin/cat", "/etc/os-release"],
            "Env": ["PATH=/bin:/x"],
        }
        assert archive.config["history"][:3] == config["history"]
        assert archive.config["history"][3]["comment"] == "why"
        full = [entry for entry in archive.config["history"] if not entry.get("empty_layer")]
        assert len(full) == len(archive.manifest["layers"]) == len(archive.config["rootfs"]["diff_ids"]) == 3
        record = json.loads((source / ".provision/record.json").read_text())
        assert archive.manifest["annotations"] == {
            "org.opencontainers.image.base.name": record["reference"],
            "org.opencontainers.image.base.digest": record["manifest_digest"],
        }
        export("--format=oci-archive", "--change", "USER web", source, place / "i.tar", cache=place / "cache")


def with_config(image: builders.Image, config: dict[str, Any]) -> builders.Image:
    """Return an image with another config."""
    data = builders.json_bytes(config)
    manifest = json.loads(image.manifest)
    manifest["config"] |= {"digest": builders.digest_of(data), "size": len(data)}
    return replace(image, manifest=builders.json_bytes(manifest), config=data)


def test_a_change_of_the_config_alone_adds_no_layer(place: Path, source: Path) -> None:
    words = ("--format=oci-archive", "--change", "WORKDIR /srv")
    export(*words, source, place / "i.tar", cache=place / "cache", **as_user())
    archive = ImageArchive(place / "i.tar")
    assert archive.config["config"]["WorkingDir"] == "/srv"
    assert len(archive.manifest["layers"]) == 2
    assert archive.config["history"][-1]["empty_layer"] is True


def test_squash_makes_one_layer_without_the_registry(place: Path) -> None:
    with exportable(place, usual_image(*MORE), **as_user()) as source:
        (source / "rootfs/new").write_text("x")
        shutil.rmtree(source / "rootfs/gone")
    shutil.rmtree(place / "cache")
    export("--format=oci-archive", "--squash", source, place / "i.tar", **as_user())
    archive = ImageArchive(place / "i.tar")
    assert len(archive.manifest["layers"]) == len(archive.config["rootfs"]["diff_ids"]) == 1
    assert [entry for entry in archive.config["history"] if not entry.get("empty_layer")] == [
        archive.config["history"][-1]
    ]
    top = archive.top()
    assert {"new", "usr/one", "same/file", "etc/shadow"} <= top.keys()
    assert not any("gone" in name for name in top)
    assert (top["etc/shadow"].gid, top["usr/null"].type) == (42, tarfile.CHRTYPE)


def test_the_same_directory_gives_the_same_bytes(place: Path, source: Path) -> None:
    (source / "rootfs/new").write_text("x")
    os.utime(source / "rootfs/new", ns=(0, 1_600_000_000_123_456_789))
    for form in IMAGES:
        for name in ("one", "two"):
            export(f"--format={form}", source, place / name, cache=place / "cache", **as_user())
        assert (place / "one").read_bytes() == (place / "two").read_bytes()


def test_source_date_epoch_makes_two_containers_one_image(place: Path) -> None:
    for name in ("one", "two"):
        (place / name).mkdir()
        with exportable(place / name) as source:
            (source / "rootfs/new").write_text("x")
            os.utime(source / "rootfs/new", (0, 1_600_000_000))
            (source / "rootfs/newer").write_text("y")
        env = clean_environment(SOURCE_DATE_EPOCH="1700000000")
        export("--format=docker-archive", "--squash", source, place / f"{name}.tar", env=env)
    assert (place / "one.tar").read_bytes() == (place / "two.tar").read_bytes()
    top, config = ImageArchive(place / "one.tar").top(), ImageArchive(place / "one.tar").config
    assert (top["new"].mtime, top["newer"].mtime) == (1_600_000_000, 1_700_000_000)
    assert config["created"] == "2023-11-14T22:13:20Z"
    env = clean_environment(SOURCE_DATE_EPOCH="yesterday")
    assert "SOURCE_DATE_EPOCH is 'yesterday'" in export("--format=oci-archive", source, place / "x", env=env, status=2)


def test_a_docker_image_is_written_in_one_format(place: Path) -> None:
    with exportable(place, in_format_of_docker(usual_image())) as source:
        (source / "rootfs/new").write_text("x")
        export("--format=oci-archive", source, place / "i.tar", cache=place / "cache")
    archive = ImageArchive(place / "i.tar")
    types = [archive.manifest["mediaType"], archive.manifest["config"]["mediaType"]]
    types += [layer["mediaType"] for layer in archive.manifest["layers"]]
    assert all(media_type.startswith("application/vnd.oci.image.") for media_type in types), types


# Other programs


def changed_by_root(place: Path) -> Path:
    """A container of root's with all kinds of changes."""
    source = place / "source"
    change_in_all_ways(add_unusual_files(source))
    (source / "rootfs/usr/closed-directory").chmod(0o700)
    os.chown(source / "rootfs/home/ünï", 70_000, 80_000)
    return source


def tree_below(root: Path) -> dict[str, Entry]:
    """The tree without what provision writes to /etc for this machine, which is none of the user's changes."""
    tree = as_in_images(tree_of(root))
    ours = (".", "etc", "etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/mtab", "dev", "proc", "sys", "run")
    return {
        path: entry for path, entry in tree.items() if path not in ours and path not in ("dev", "proc", "sys", "run")
    }


Unpack = Callable[[Path, Path], Path]


def by_umoci(archive: Path, place: Path) -> Path:
    need("skopeo", "umoci")
    run("skopeo", "copy", f"oci-archive:{archive}", f"oci:{place}/layout:latest")
    run("umoci", "unpack", "--image", f"{place}/layout:latest", place / "bundle")
    return place / "bundle/rootfs"


def by_podman(archive: Path, place: Path) -> Path:
    need("podman")
    podman = podman_in(place)
    loaded = run(*podman, "load", "-i", archive)
    name = loaded.strip().rpartition(" ")[2]
    assert name == "docker.io/me/test:1", loaded
    mounted = run(*podman, "image", "mount", name).strip()
    run("cp", "-a", mounted, place / "unpacked")
    run(*podman, "image", "unmount", "--all")
    run(*podman, "system", "reset", "--force")
    return place / "unpacked"


def by_skopeo_from_docker_archive(archive: Path, place: Path) -> Path:
    need("skopeo", "umoci")
    run("skopeo", "copy", f"docker-archive:{archive}", f"oci:{place}/layout:latest")
    run("umoci", "unpack", "--image", f"{place}/layout:latest", place / "bundle")
    return place / "bundle/rootfs"


@pytest.mark.parametrize(
    ("form", "unpack"),
    [
        ("oci-archive", by_umoci),
        ("docker-archive", by_skopeo_from_docker_archive),
        ("docker-archive", by_umoci),
        ("docker-archive", by_podman),
        ("oci-archive", by_podman),
    ],
    ids=["umoci", "skopeo", "umoci of docker's", "podman", "podman of oci's"],
)
@pytest.mark.parametrize("squash", [[], ["--squash"]], ids=["layers", "squash"])
@pytest.mark.slow
def test_the_tree_that_comes_back_is_the_same(place: Path, form: str, unpack: Unpack, squash: list[str]) -> None:
    need_root()
    with exportable(place, usual_image(*MORE)):
        source = changed_by_root(place)
        words = (f"--format={form}", "--tag=me/test:1", *squash)
        export(*words, source, place / "i.tar", cache=place / "cache")
    there = unpack(place / "i.tar", place)
    found, expected = tree_below(there), tree_below(source / "rootfs")
    for tree in (found, expected):  # the image has no entry of it in the layer with busybox, so that its time is theirs
        tree["bin"] = replace(tree["bin"], mtime=0)
    assert expected.pop("usr/null").type == "f"  # where provision doesn't make devices
    assert found.pop("usr/null").device == os.makedev(1, 3)
    assert found == expected
    assert os.getxattr(there / "usr/sparse", "user.note") == b"dear"


# Bad input


def test_options_of_images_are_refused_for_a_tar(place: Path, source: Path) -> None:
    for words in (["--squash"], ["--change", "CMD x"], ["--tag", "x"], ["--offline"]):
        assert "is for images" in export(*words, source, place / "x", status=2, **as_user())


@pytest.mark.parametrize("text", ["RUN x", "ENV", "ENV x", "EXPOSE 99999999", "", "USER a b", 'LABEL "a=b'])
def test_changes_that_cannot_be_made_are_refused(place: Path, source: Path, text: str) -> None:
    words = ("--format=oci-archive", "--change", text)
    assert "--change" in export(*words, source, place / "x", status=2, **as_user())
    assert not (place / "x").exists()


def test_a_directory_of_a_root_file_system_needs_squash(place: Path) -> None:
    archive = place / "rootfs.tar"
    with tarfile.open(archive, "w") as opened:
        for name in ("etc", "bin", "usr", "var"):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE
            opened.addfile(member)
    provision(f"rootfs:{archive}", place / "source", status=0)
    archive.unlink()
    message = export("--format=oci-archive", place / "source", place / "i.tar", status=2)
    assert "no layers" in message
    assert f"provision export --squash --format=oci-archive {place}/source {place}/i.tar" in message
    export("--format=oci-archive", "--squash", place / "source", place / "i.tar")
    assert len(ImageArchive(place / "i.tar").config["rootfs"]["diff_ids"]) == 1


@pytest.mark.parametrize("form", IMAGES)
def test_a_directory_of_an_archive_takes_its_layers_from_there(place: Path, form: str) -> None:
    with exportable(place) as source:
        (source / "rootfs/one").write_text("x")
        export(f"--format={form}", source, place / "i.tar", cache=place / "cache")
    provision(f"{form}:{place}/i.tar", place / "two", "--platform=linux/amd64", status=0)
    assert (place / "two/rootfs/one").read_text() == "x"
    (place / "two/rootfs/two").write_text("y")
    export("--format=oci-archive", place / "two", place / "j.tar")
    archive = ImageArchive(place / "j.tar")
    assert len(archive.manifest["layers"]) == 4
    assert archive.manifest["layers"][:3] == ImageArchive(place / "i.tar").manifest["layers"]
    assert list(archive.top()) == ["two"]
    (place / "i.tar").unlink()
    message = export("--format=oci-archive", place / "two", place / "k.tar", status=3)
    assert "--squash" in message
    assert not (place / "k.tar").exists()


def test_the_uncompressed_layers_of_docker_save_can_be_in_another_image(place: Path) -> None:
    need("skopeo")
    with exportable(place) as source:
        reference = json.loads((source / ".provision/record.json").read_text())["reference"]
        run("skopeo", "copy", "--src-tls-verify=false", f"docker://{reference}", f"docker-archive:{place}/i.tar:a/b:c")
    provision(f"docker-archive:{place}/i.tar", place / "two", "--platform=linux/amd64", status=0)
    (place / "two/rootfs/two").write_text("y")
    export("--format=oci-archive", place / "two", place / "j.tar")
    run("skopeo", "copy", f"oci-archive:{place}/j.tar", f"dir:{place}/all")
    assert list(ImageArchive(place / "j.tar").top()) == ["two"]


def test_a_corrupt_layer_is_downloaded_again(place: Path) -> None:
    image = usual_image()
    with ScriptedRegistry() as registry:
        registry.push("image", image)
        words = (f"{registry.host}/image", place / "source", "--platform=linux/amd64")
        provision(*words, cache=place / "cache", status=0)
        source = place / "source"
        (source / "rootfs/new").write_text("x")
        layer = image.layers[0]
        bad = Response(200, bytes(len(layer.blob)), {"Content-Type": "application/octet-stream"})
        registry.on(f"/v2/image/blobs/{builders.digest_of(layer.blob)}", bad, times=1)
        export("--format=oci-archive", source, place / "i.tar", cache=place / "empty")
        ImageArchive(place / "i.tar").blob(ImageArchive(place / "i.tar").manifest["layers"][0])
        registry.on(f"/v2/image/blobs/{builders.digest_of(layer.blob)}", bad)
        message = export("--format=oci-archive", source, place / "j.tar", cache=place / "other", status=6)
        assert "--squash" in message
        assert not (place / "j.tar").exists()


def test_layers_that_cannot_be_had_are_told_with_a_way_out(place: Path) -> None:
    with exportable(place) as source:
        (source / "rootfs/new").write_text("x")
    message = export("--format=oci-archive", "--offline", source, place / "i.tar", status=5)
    assert "the cache lacks" in message
    assert "--squash" in message
    assert not (place / "i.tar").exists()
    export("--format=oci-archive", "--offline", source, place / "i.tar", cache=place / "cache")


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "record.json"])
def test_a_record_that_lies_is_refused(place: Path, source: Path, name: str) -> None:
    file = source / ".provision" / name
    (source / "rootfs/new").write_text("x")
    own(source / "rootfs/new")
    data = file.read_text()
    wrongs = [data.replace("sha256:", "sha256:0", 1), "{}", ""]
    if name != "record.json":  # the platform of an image is what its config says
        wrongs += [data.replace("amd64", "\\u001b[31m"), data + " "]
    for wrong in wrongs:
        if wrong == data:
            continue
        file.write_text(wrong)
        done = provision("export", "--format=oci-archive", source, place / "i.tar", cache=place / "cache", **as_user())
        assert done.returncode in (2, 6, 7), (wrong[:50], done.stderr)
        assert "\x1b" not in done.stderr
        assert not (place / "i.tar").exists()


@pytest.mark.slow
def test_an_image_that_is_killed_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with exportable(tmp_path) as source:
        (source / "rootfs/new").write_text("x")
        (tmp_path / "place").mkdir()
        target = tmp_path / "place/i.tar"
        monkeypatch.setenv("PROVISION_CACHE_DIR", str(tmp_path / "cache"))
        words = ["export", "--format=oci-archive", str(source), str(target)]
        export(*words[1:], cache=tmp_path / "cache")
        new = target.read_bytes()

        def prepare() -> list[str]:
            target.write_bytes(b"old")
            return words

        kills = 0
        for was_killed in kill_at_random(40, prepare, tmp_path):
            kills += was_killed
            assert target.read_bytes() in ((b"old", new) if was_killed else (new,))
        assert kills > 25
        export(*words[1:], cache=tmp_path / "cache")
        assert os.listdir(tmp_path / "place") == ["i.tar"]
