"""`provision lxc:…`, as a user of the command line meets it, with an LXC image server on loopback."""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from provisioner.image.digest import Digest
from scripts.loopback_registry import Response
from tests.support import realimages
from tests.support.archives import hard, tar
from tests.support.authorities import Authority
from tests.support.leftovers import staging_below
from tests.support.lxc_server import IMAGES, INDEX, LxcServer, rootfs
from tests.support.scripted_registry import Broken, Request, html
from tests.support.tools import clean_environment, provision, provision_command
from tests.support.trees import tree_of

DEBIAN, NAME = "lxc:debian/12", "lxc:debian/12/default"
ALIASES = "debian/bookworm/default,debian/bookworm,debian/12/default,debian/12"
FIRST, SECOND = rootfs(("./etc/motd", b"first\n")), rootfs(("./etc/motd", b"second\n"))


@dataclass
class Place:
    """A server, a configuration that names it, and a directory to provision in."""

    path: Path
    server: LxcServer
    mirrors: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        config = self.path / "config.toml"
        config.write_text(f"[lxc]\nserver = {json.dumps(self.server.address)}\nmirrors = {json.dumps(self.mirrors)}\n")
        return clean_environment(PROVISION_CONFIG=str(config), **self.variables)

    def run(
        self, *words: str | Path, source: str = DEBIAN, name: str = "container"
    ) -> subprocess.CompletedProcess[str]:
        words = (*words, "--platform=amd64", source, self.path / name)
        return provision(*words, cache=self.path / "cache", env=self.environment)

    def motd(self, name: str = "container") -> str:
        return (self.path / name / "rootfs/etc/motd").read_text()

    def record(self, name: str = "container") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / name / ".provision/record.json").read_text())
        return found

    def refuse(self, status: int, why: str, *words: str | Path, source: str = DEBIAN) -> list[str]:
        """Run it and assert that it fails in one line with a hint, and leaves nothing; return all lines."""
        done = self.run(*words, source=source)
        lines = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        assert lines[-2].startswith("provision: ")
        assert why in lines[-2]
        assert lines[-1].startswith("  ")
        assert all(line.isprintable() for line in lines)
        assert not (self.path / "container").exists()
        assert staging_below(self.path) == []
        for blob in (self.path / "cache").glob("sha256/*"):
            assert Digest.of(blob.read_bytes()).hex == blob.name
        return lines


@pytest.fixture
def server() -> Iterator[LxcServer]:
    with LxcServer() as running:
        running.add("debian/bookworm", FIRST, aliases=ALIASES)
        yield running


@pytest.fixture
def place(tmp_path: Path, server: LxcServer) -> Place:
    return Place(tmp_path, server)


@pytest.fixture
def mirror(place: Place) -> Iterator[LxcServer]:
    """A mirror, which the configuration names."""
    with place.server.mirror() as running:
        place.mirrors = [running.address]
        yield running


def test_the_newest_build(place: Place) -> None:
    place.server.add("debian/bookworm", SECOND, build="20260913_05:24")
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert place.motd() == "second\n"
    assert f"verified by the list of {place.server.host} for its build 20260913_05:24" in done.stderr
    record = place.record()
    assert (record["reference"], record["manifest_digest"]) == (NAME, str(Digest.of(SECOND)))
    assert record["verified"] == f"by the list of {place.server.host} for its build 20260913_05:24"


def test_up_to_date_by_the_hash_and_not_by_the_build(place: Place) -> None:
    assert place.run().returncode == 0
    place.server.add("debian/bookworm", FIRST, build="20260913_05:24", aliases=ALIASES)
    done = place.run()
    assert "is up to date" in done.stderr
    place.server.add("debian/bookworm", SECOND, build="20260914_05:24", aliases=ALIASES)
    done = place.run()
    assert done.returncode == 8
    assert f"holds {NAME} at {Digest.of(FIRST)!s:.19}, not {Digest.of(SECOND)!s:.19}" in done.stderr
    assert place.run("--force").returncode == 0
    assert place.motd() == "second\n"
    assert len(place.server.asked(".*/rootfs.tar.xz")) == 2


def test_a_variant_and_another_platform(place: Place) -> None:
    place.server.add("debian/bookworm/cloud", SECOND, architecture="arm64")
    source = "lxc:debian/bookworm/cloud"
    assert place.run("--platform=arm64", source=source).returncode == 3  # the last --platform counts: amd64
    words = ("--platform=arm64", source, place.path / "arm")
    provision(*words, env=place.environment, status=0)
    assert (place.motd("arm"), place.record("arm")["platform"]) == ("second\n", "linux/arm64")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("lxc:debain/12", "lxc:debain/12/default: no LXC image is called 'debain'; similar: debian"),
        ("lxc:debian/13", "debian has no LXC image of the release '13'; it has 12, bookworm"),
        ("lxc:debian/12/cloud", "debian/12 has no LXC image of the variant 'cloud'; it has default"),
    ],
)
def test_names_that_are_not_there(place: Place, source: str, why: str) -> None:
    place.refuse(3, why, source=source)


def test_a_platform_that_is_not_there(place: Place) -> None:
    place.server.add("alpine/edge", FIRST, architecture="arm64")
    place.refuse(3, "lxc:alpine/edge/default has nothing for linux/amd64; it has linux/arm64", source="lxc:alpine/edge")


def test_whiteouts_mean_nothing_in_a_root_file_system(place: Place) -> None:
    content = rootfs(("./a", b"a"), ("./.wh.a", b"no whiteout"), ("./.wh..wh..opq", b""), hard("./b", "./a"))
    place.server.add("debian/bookworm", content, build="20260913_05:24", aliases=ALIASES)
    assert place.run().returncode == 0
    found = place.path / "container/rootfs"
    assert {"a", ".wh.a", ".wh..wh..opq", "b"} <= {path.name for path in found.iterdir()}
    assert (found / "a").stat().st_ino == (found / "b").stat().st_ino


# Mirrors


def test_bytes_from_a_mirror_are_verified_by_the_hash_of_the_server(place: Place, mirror: LxcServer) -> None:
    assert place.run().returncode == 0
    assert len(mirror.asked(".*/rootfs.tar.xz")) == 1
    assert place.server.asked(".*/rootfs.tar.xz") == []
    assert mirror.asked(".*json") == []


def test_a_mirror_of_the_command_line_comes_first(place: Place, mirror: LxcServer) -> None:
    with place.server.mirror("/x") as other:
        assert place.run(f"--mirror={other.address}").returncode == 0
        assert len(other.asked(".*/rootfs.tar.xz")) == 1
    assert mirror.requests == []


@pytest.mark.parametrize("cut", [0, 1])
def test_a_mirror_that_lies_is_found_out(place: Place, mirror: LxcServer, cut: int) -> None:
    evil = bytearray(FIRST)
    evil[-20] ^= 1
    mirror.files = dict.fromkeys(mirror.files, bytes(evil) + b"x" * cut)
    done = place.run()
    assert done.returncode == 0, done.stderr
    assert place.motd() == "first\n"
    assert f"the mirror {mirror.host} is not asked any more" in done.stderr


def test_a_mirror_with_another_image_of_the_same_size(place: Place, mirror: LxcServer) -> None:
    evil = _of_size(rootfs(("./etc/motd", b"evil!\n")), len(FIRST))
    mirror.files = dict.fromkeys(mirror.files, evil)
    assert place.run().returncode == 0
    assert place.motd() == "first\n"


def _of_size(data: bytes, size: int) -> bytes:
    """Return an archive of xz with stream padding, so that it has this size, or cut to it."""
    return data[:size].ljust(size, b"\0")


def test_wrong_hashes_everywhere(place: Place, mirror: LxcServer) -> None:
    [path] = [path for path in place.server.files if path.endswith("rootfs.tar.xz")]
    place.server.item(path)["sha256"] = "0" * 64
    lines = place.refuse(6, "blob 000000000000 does not match its digest")
    assert any(f"the mirror {mirror.host} is not asked any more" in line for line in lines)


def test_a_mirror_that_has_not_got_the_build_yet(place: Place, mirror: LxcServer) -> None:
    place.server.add("debian/bookworm", SECOND, build="20260913_05:24", aliases=ALIASES)
    done = place.run()
    assert (done.returncode, place.motd()) == (0, "second\n")
    assert f"{mirror.host} has no images/debian/bookworm/amd64/default/20260913_05:24/rootfs.tar.xz" in done.stderr


def test_a_download_goes_on_at_another_server(place: Place, mirror: LxcServer) -> None:
    large = rootfs(("./data", bytes(range(256)) * 400), ("./noise", _noise(300_000)))
    path = place.server.add("debian/bookworm", large, build="20260913_05:24", aliases=ALIASES)
    mirror.files[path] = large
    mirror.on(".*rootfs.tar.xz", Broken(200, large, sent=100_000))
    assert place.run().returncode == 0
    [request] = place.server.asked(".*/rootfs.tar.xz")
    assert request.headers["Range"] == "bytes=100000-"


def _noise(size: int) -> bytes:
    import random

    return random.Random(7).randbytes(size)


@pytest.mark.parametrize("blocked", [Response(403), Response(451), html(), Broken(0)])
def test_where_the_server_is_blocked_a_mirror_is_trusted_and_that_is_said(
    place: Place, mirror: LxcServer, blocked: Response
) -> None:
    place.server.on(".*", blocked)
    done = place.run()
    assert (done.returncode, place.motd()) == (0, "first\n")
    said = f"the list of LXC images comes from the mirror {mirror.host}; it is trusted then: the hashes are its own"
    lines = done.stderr.splitlines()
    assert lines[lines.index(said) - 1].startswith(f"{place.server.host} ")
    assert lines[lines.index(said) - 1].endswith(f"; trying {mirror.host}")
    assert place.record()["verified"].startswith(f"by the list of {mirror.host}")


def test_where_the_server_is_blocked_and_there_is_no_mirror(place: Place) -> None:
    place.server.on(".*", Response(403))
    lines = place.refuse(5, f"{place.server.host} answers with 403 Forbidden for streams/v1/index.json")
    assert lines[-1].endswith("; which mirrors answer here: provision mirrors")


@pytest.mark.parametrize("path", [INDEX, IMAGES])
@pytest.mark.parametrize(
    ("answer", "status"),
    [(Response(200, b"{}"), 6), (Response(200, b"{" + b" " * (17 << 20)), 6), (Response(200, b"{["), 6),
     (html(), 5), (Response(404), 5)],
)  # fmt: skip
def test_servers_that_are_none(place: Place, path: str, answer: Response, status: int) -> None:
    place.server.on(path, answer)
    if path == IMAGES and (answer.status == 404 or answer.body == b"{}"):
        status = 3
    place.refuse(status, "")


# HTTPS


def test_https_with_a_private_authority(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "authority")
    with (
        LxcServer(authority.issue("127.0.0.1")) as server,
        server.mirror(certificate=authority.issue("127.0.0.1")) as other,
    ):
        server.add("debian/bookworm", FIRST, aliases=ALIASES)
        other.files.update(server.files)
        place = Place(tmp_path, server, [other.address])
        place.refuse(5, "certificate that can't be verified")
        place.variables = {"SSL_CERT_FILE": str(authority.certificate)}
        assert place.run().returncode == 0
        assert len(other.asked(".*/rootfs.tar.xz")) == 1
        place.variables = {}
        assert place.run("--insecure", name="insecure").returncode == 0


# Locks, offline


def test_a_lock_of_all_platforms_keeps_to_its_build(place: Place) -> None:
    place.server.add("debian/bookworm", SECOND, architecture="arm64", aliases=ALIASES)
    lock = place.path / "lock"
    assert place.run(f"--lock={lock}").returncode == 0
    assert f'"linux/arm64" = "{Digest.of(SECOND)}"' in lock.read_text()
    place.server.add("debian/bookworm", SECOND, build="20260913_05:24", aliases=ALIASES)
    assert place.run(f"--locked={lock}", name="locked").returncode == 0
    assert place.motd("locked") == "first\n"
    assert place.record("locked")["manifest_digest"] == str(Digest.of(FIRST))
    words = (f"--locked={lock}", "--platform=arm64", DEBIAN, place.path / "arm")
    provision(*words, env=place.environment, status=0)
    assert place.motd("arm") == "second\n"
    before = lock.read_bytes()
    assert place.run(f"--lock={lock}", "--force").returncode == 0
    assert lock.read_bytes() != before


def test_a_lock_says_that_there_is_a_newer_build(place: Place) -> None:
    lock = place.path / "lock"
    assert place.run(f"--lock={lock}").returncode == 0
    assert "is locked at" not in place.run(f"--locked={lock}", name="same").stderr
    place.server.add("debian/bookworm", SECOND, build="20260913_05:24", aliases=ALIASES)
    said = place.run(f"--locked={lock}", name="locked").stderr
    assert f"{NAME} is locked at the build 20260912_05:24 since " in said
    assert said.count("; the newest is 20260913_05:24\n") == 1
    assert "no more on the server" not in said
    place.server.products["debian:bookworm:amd64:default"]["versions"].pop("20260912_05:24")
    said = place.run(f"--locked={lock}", name="pruned").stderr
    assert ", which is no more on the server; the newest is 20260913_05:24\n" in said
    assert place.motd("pruned") == "first\n"
    assert "is locked at" not in place.run(f"--locked={lock}", "--offline", name="offline").stderr


@pytest.mark.parametrize("document", ["/streams/v1/index.json", "/streams/v1/images.json"])
def test_a_damaged_list_is_asked_for_anew(place: Place, document: str) -> None:
    """It has come with the ETag of the whole one, and the server says afterwards that this hasn't changed."""

    answers = [Response(200, b"{", {"ETag": '"same"'})]

    def answer(request: Request) -> Response | None:
        return Response(304) if request.headers.get("If-None-Match") else next(iter(answers), None)

    place.server.on(document, answer)
    place.refuse(6, "is not JSON")
    answers.clear()
    assert place.run().returncode == 0


def test_a_lock_whose_build_is_gone_says_what_happened(place: Place, mirror: LxcServer) -> None:
    lock = place.path / "lock"
    path = place.server.add("debian/bookworm", SECOND, build="20260913_05:24", aliases=ALIASES)
    assert place.run(f"--lock={lock}").returncode == 0
    shutil.rmtree(place.path / "container")
    shutil.rmtree(place.path / "cache")
    del place.server.files[path]
    place.server.products["debian:bookworm:amd64:default"]["versions"].pop("20260913_05:24")
    lines = place.refuse(
        3, f"the build 20260913_05:24 of {NAME}, locked as {Digest.of(SECOND)}, is gone", f"--locked={lock}"
    )
    assert "name a mirror that still has it" in lines[-1]
    mirror.files[path] = SECOND
    assert place.run(f"--locked={lock}").returncode == 0
    assert place.motd() == "second\n"


def test_a_lock_needs_no_server_where_the_cache_has_the_file(place: Place) -> None:
    lock = place.path / "lock"
    assert place.run(f"--lock={lock}").returncode == 0
    place.server.files.clear()
    place.server.on(".*", Response(503))
    assert place.run(f"--locked={lock}", name="again").returncode == 0
    assert place.run(f"--locked={lock}", "--offline", name="offline").returncode == 0


def test_a_lock_of_another_image(place: Place) -> None:
    lock = place.path / "lock"
    assert place.run(f"--lock={lock}", name="first").returncode == 0
    place.refuse(
        2, f"is the lock of {NAME}, not of lxc:alpine/edge/default", f"--locked={lock}", source="lxc:alpine/edge"
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('"linux/amd64" = "x"', "files: not a table of path and size (line 8)"),
        ('"linux/amd64" = { path = "../x", size = 1 }', "has an invalid path: '../x'"),
        ('"linux/amd64" = { path = "x", size = -1 }', "not a table of path and size"),
        ('"linux/s390x" = { path = "x", size = 1 }', "files: linux/s390x has no digest in manifests"),
        ("", "not a table of platforms"),
    ],
)
def test_locks_that_are_wrong(place: Place, line: str, why: str) -> None:
    lock = place.path / "lock"
    lock.write_text(f'''format = 1
reference = "{NAME}"
locked = 2026-01-31T12:00:00Z

[manifests]
"linux/amd64" = "{Digest.of(FIRST)}"

[files]
{line}
''')
    place.refuse(2, why, f"--locked={lock}")


def test_a_lock_without_files(place: Place) -> None:
    lock = place.path / "lock"
    manifests = f'[manifests]\n"linux/amd64" = "{Digest.of(FIRST)}"\n'
    lock.write_text(f'format = 1\nreference = "{NAME}"\nlocked = 2026-01-31T12:00:00Z\n{manifests}')
    place.refuse(2, f"{NAME}: the lock doesn't say which file is {Digest.of(FIRST)}", f"--locked={lock}")


def test_offline(place: Place) -> None:
    lines = place.refuse(5, f"offline: the cache has no {NAME} for linux/amd64", "--offline")
    assert lines[-1] == "  run once without --offline"
    assert place.run(name="first").returncode == 0
    asked = len(place.server.requests)
    assert place.run("--offline").returncode == 0
    assert place.motd() == "first\n"
    assert len(place.server.requests) == asked


def test_without_a_cache(place: Place) -> None:
    assert place.run("--no-cache").returncode == 0
    assert not (place.path / "cache").exists()
    assert sorted(path.name for path in place.path.iterdir()) == ["config.toml", "container"]


def test_the_file_is_downloaded_once(place: Place) -> None:
    for name in ("first", "second"):
        assert place.run(name=name).returncode == 0
    assert len(place.server.asked(".*/rootfs.tar.xz")) == 1


def test_update_to_a_newer_build(place: Place) -> None:
    assert place.run().returncode == 0
    place.server.add("debian/bookworm", SECOND, build="20260913_05:24", aliases=ALIASES)
    words = ("update", "--yes", place.path / "container")
    provision(*words, cache=place.path / "cache", env=place.environment, status=0)
    assert place.motd() == "second\n"
    assert place.record()["reference"] == NAME


def test_inspect(place: Place) -> None:
    place.server.add("debian/bookworm", SECOND, architecture="arm64", aliases=ALIASES)

    def inspect(*words: str | Path) -> dict[str, Any]:
        done = provision("inspect", "--json", *words, cache=place.path / "cache", env=place.environment, status=0)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    found = inspect("--platform=arm64", DEBIAN)
    assert (found["reference"], found["platforms"]) == (NAME, ["linux/amd64", "linux/arm64"])
    assert (found["platform"], found["manifest_digest"]) == ("linux/arm64", str(Digest.of(SECOND)))
    assert (found["size"], found["verified"]) == (
        len(SECOND), f"by the list of {place.server.host} for its build 20260912_05:24",
    )  # fmt: skip
    assert place.server.asked(".*rootfs.*") == []
    assert place.run().returncode == 0
    assert inspect(place.path / "container")["reference"] == NAME


# Ends in the middle


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_end_in_the_middle_leaves_a_part_that_is_used(place: Place, number: signal.Signals) -> None:
    large = rootfs(("./noise", _noise(400_000)))
    path = place.server.add("debian/bookworm", large, build="20260913_05:24", aliases=ALIASES)
    silent = threading.Event()
    place.server.on(".*rootfs.tar.xz", Broken(200, large, sent=200_000, wait=silent), times=1)
    command, options = provision_command(
        "--platform=amd64", DEBIAN, place.path / "container", cache=place.path / "cache", env=place.environment
    )
    with subprocess.Popen(command, **options) as process:
        while place.server.sent[f"/{path.replace(':', '%3A')}"] < 200_000 or not _partial(place):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        process.communicate()
    silent.set()
    assert process.returncode != 0
    assert not (place.path / "container").exists()
    assert place.run().returncode == 0
    assert place.server.asked(".*/rootfs.tar.xz")[-1].headers["Range"]
    assert staging_below(place.path) == []


def _partial(place: Place) -> bool:
    return any(path.stat().st_size > 100_000 for path in (place.path / "cache/partial").glob("*"))


# A real image


@pytest.mark.slow
def test_debian_by_mmdebstrap(place: Place, image_cache: Path, debian: str) -> None:
    """The tree is that of the same archive as the layer of an image in a registry."""
    began = time.time_ns()
    layout = realimages.layout("debian", image_cache)
    [layer] = [path for path in layout.glob("blobs/sha256/*") if path.read_bytes()[:2] == b"\x1f\x8b"]
    archive = gzip.decompress(layer.read_bytes())
    path = place.server.add("debian/trixie", lzma.compress(archive, preset=0), architecture=realimages.NATIVE)
    words = ("lxc:debian/trixie", place.path / "container")
    provision(*words, cache=place.path / "cache", env=place.environment, status=0)
    provision(debian, place.path / "registry/container", status=0)
    trees = [tree_of(place.path / name / "rootfs") for name in ("container", "registry/container")]
    # What is written for this machine has the time of the run.
    first, second = (
        {name: replace(entry, mtime=min(entry.mtime, began)) for name, entry in tree.items()} for tree in trees
    )
    assert first == second
    assert place.record()["profile"] == "debian"
    assert place.server.item(path)["sha256"] == place.record()["manifest_digest"].removeprefix("sha256:")
    started = subprocess.run(
        [place.path / "container/start.sh", "/bin/sh", "-c", ". /etc/os-release && echo $ID && dpkg --version"],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=clean_environment(),
    )  # fmt: skip
    assert started.stdout.startswith("debian\nDebian 'dpkg' package management program"), started.stderr


def test_an_archive_that_climbs_out(place: Place) -> None:
    evil = lzma.compress(tar(("up", "../../../../../.."), ("up/tmp/x", b"out"), ("etc/x", b"")))
    place.server.add("debian/bookworm", evil, build="20260913_05:24", aliases=ALIASES)
    place.run()
    assert not (place.path / "tmp").exists()


def test_an_archive_that_inflates_to_too_much(place: Place) -> None:
    bomb = lzma.compress(tar(("./etc/os-release", b"ID=x\n"), ("./zeros", bytes(50_000_000))))
    place.server.add("debian/bookworm", bomb, build="20260913_05:24", aliases=ALIASES)
    place.refuse(7, "", "--max-size=10M")


def test_a_file_that_is_no_archive(place: Place) -> None:
    place.server.add("debian/bookworm", b"no archive" * 100, build="20260913_05:24", aliases=ALIASES)
    place.refuse(6, "the layer is no archive but")
