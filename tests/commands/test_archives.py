"""Archives that skopeo, buildah, podman and umoci write, and standard input, by the command line."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import builders, realimages
from tests.support.archives import tar
from tests.support.disks import tmpfs
from tests.support.leftovers import processes_left, staging_below
from tests.support.local_archives import (
    GZIPPED,
    PLAIN,
    docker_members,
    hex_of,
    oci_members,
    write_archive,
    write_directory,
)
from tests.support.tools import (
    fast_directory,
    messages_of,
    need,
    need_root,
    podman_in,
    provision,
    provision_command,
    run,
)
from tests.support.trees import Entry, tree_of

BEGAN = time.time_ns()


def record_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / ".provision/record.json").read_text())
    return found


def tree_of_image(directory: Path) -> dict[str, tuple[Entry, dict[str, bytes]]]:
    """Return the files with their extended attributes; those that this test session has made get no time."""
    root = directory / "rootfs"
    return {
        name: (entry if entry.mtime < BEGAN else replace(entry, mtime=0), xattrs_of(root / name))
        for name, entry in tree_of(root).items()
    }


def xattrs_of(path: Path) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def owners_of(directory: Path) -> str:
    """Return the record of owners, without its own time and those of files that this test session has made."""

    def time_of(match: re.Match[str]) -> str:
        return match[0] if int(match[1]) < BEGAN // 10**9 else "time=now"

    return re.sub(r"(?:time|written)=(\d+)\.\d+", time_of, (directory / ".provision/ownership.mtree").read_text())


def cached(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


# Archives of real tools


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of this module, removed at its end."""
    need("skopeo")
    path = tmp_path_factory.mktemp("archives")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def from_registry(application: str, place: Path) -> Path:
    """The application as the registry has it."""
    need_root()
    messages_of(application, place / "dir", "--no-sync")
    return place / "dir"


@pytest.fixture(scope="module")
def layout(image_cache: Path) -> Path:
    return realimages.layout("application", image_cache)


def skopeo(layout: Path, target: str) -> None:
    run("skopeo", "copy", "--quiet", f"oci:{layout}:latest", target)


def by_storage(program: str, layout: Path, path: Path, *options: str) -> None:
    """Have podman or buildah load the layout into a storage of its own, and save it."""
    need(program)
    name = "localhost/application:1"
    environment = {
        key: value for key, value in os.environ.items() if key not in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE")
    }
    # podman takes short paths only.
    with tempfile.TemporaryDirectory(dir=fast_directory()) as place:
        skopeo(layout, f"containers-storage:[vfs@{place}/storage+{place}/run]{name}")
        if program == "podman":
            run(*podman_in(Path(place)), "save", "--quiet", *options, "-o", str(path), name, env=environment)
        else:
            storage = (program, f"--root={place}/storage", f"--runroot={place}/run", "--storage-driver=vfs")
            run(*storage, "push", "--quiet", name, f"{options[0]}:{path}:{name}", env=environment)


FORMS: dict[str, Callable[[Path, Path], object]] = {
    "skopeo docker-archive": lambda layout, path: skopeo(layout, f"docker-archive:{path}:localhost/x:1"),
    "skopeo oci-archive": lambda layout, path: skopeo(layout, f"oci-archive:{path}:1"),
    "skopeo oci": lambda layout, path: skopeo(layout, f"oci:{path}:1"),
    "skopeo dir": lambda layout, path: skopeo(layout, f"dir:{path}"),
    "umoci": lambda layout, path: shutil.copytree(layout, path),
    "podman docker-archive": lambda layout, path: by_storage("podman", layout, path),
    "podman oci-archive": lambda layout, path: by_storage("podman", layout, path, "--format", "oci-archive"),
    "podman oci-dir": lambda layout, path: by_storage("podman", layout, path, "--format", "oci-dir"),
    "buildah docker-archive": lambda layout, path: by_storage("buildah", layout, path, "docker-archive"),
    "buildah oci-archive": lambda layout, path: by_storage("buildah", layout, path, "oci-archive"),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_archive_gives_the_tree_and_the_record_of_the_registry(
    form: str, layout: Path, from_registry: Path, place: Path, tmp_path: Path
) -> None:
    """Owners, modes, times, links and extended attributes are in the trees and in the records of owners."""
    path = tmp_path / "image"
    FORMS[form](layout, path)
    said = messages_of(path, tmp_path / "dir", "--no-sync", cache=tmp_path / "cache")
    assert "verified by the digests" in said
    assert tree_of_image(tmp_path / "dir") == tree_of_image(from_registry)
    assert owners_of(tmp_path / "dir") == owners_of(from_registry)
    ours, theirs = record_of(tmp_path / "dir"), record_of(from_registry)
    assert ours["reference"] == str(path)
    assert [layer["diff_id"] for layer in ours["layers"]] == [layer["diff_id"] for layer in theirs["layers"]]
    assert (ours["platform"], ours["profile"]) == (theirs["platform"], theirs["profile"])
    if "podman" not in form and "buildah" not in form:  # they write the config anew
        assert ours["config_digest"] == theirs["config_digest"]
    assert cached(tmp_path / "cache") == []
    assert f"{tmp_path / 'dir'} is up to date" in messages_of(path, tmp_path / "dir", cache=tmp_path / "cache")
    shutil.rmtree(tmp_path / "dir")


@pytest.mark.slow
def test_skopeo_into_standard_input(layout: Path, from_registry: Path, tmp_path: Path) -> None:
    command, options = provision_command("-", tmp_path / "dir", "--no-sync", cache=tmp_path / "cache")
    with subprocess.Popen(
        ["skopeo", "copy", "--quiet", f"oci:{layout}:latest", "docker-archive:/dev/stdout"], stdout=subprocess.PIPE
    ) as writer:
        done = subprocess.run(command, check=False, **{**options, "stdin": writer.stdout})
    assert done.returncode == 0, done.stderr
    assert writer.returncode == 0
    assert tree_of_image(tmp_path / "dir") == tree_of_image(from_registry)
    assert cached(tmp_path / "cache") == []
    assert record_of(tmp_path / "dir")["reference"] == "-"


def test_a_multi_platform_layout(image_cache: Path, tmp_path: Path) -> None:
    layout = realimages.layout("multiarch", image_cache)
    archive = tmp_path / "x.tar"
    run("tar", "-C", str(layout), "-cf", str(archive), ".")
    for word in (f"oci:{layout}", f"oci-archive:{archive}", str(archive)):
        done = provision("inspect", "--json", word, status=0)
        found = json.loads(done.stdout)
        assert sorted(found["platforms"]) == sorted({*found["platforms"], "linux/amd64"})
        assert len(found["platforms"]) == 2
        assert found["verified"] == "by the digests that it states"
        assert found["index_digest"]


# Inspecting, locks, options


def test_inspect(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "x", docker_members(PLAIN, "x:1"))
    for word in (f"docker-archive:{archive}", str(archive)):
        shown = json.loads(provision("inspect", "--json", word).stdout)
        assert shown["reference"] == word
        assert shown["config_digest"] == builders.digest_of(PLAIN.config)
        assert [layer["diff_id"] for layer in shown["layers"]] == [layer.diff_id for layer in PLAIN.layers]
    lines = provision("inspect", f"docker-archive:{archive}").stdout.splitlines()
    assert any(
        re.fullmatch("verified +by the digests in the archive, of its layers and its config", line) for line in lines
    )
    assert any(line.startswith("size") and line.endswith(" uncompressed") for line in lines)
    layout = write_directory(tmp_path / "layout", oci_members(("", GZIPPED)))
    raw = provision("inspect", "--raw", layout)
    assert raw.stdout.encode() == GZIPPED.manifest
    command, options = provision_command("inspect", "--json", "-", cache=tmp_path / "cache")
    with archive.open("rb") as file:
        done = subprocess.run(command, check=False, **{**options, "stdin": file})
    assert json.loads(done.stdout)["config_digest"] == builders.digest_of(PLAIN.config)
    provision("inspect", tmp_path / "none", status=3)


def test_lock_and_locked(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "x", docker_members(PLAIN, "x:1"))
    lock = tmp_path / "lock"
    messages_of(archive, tmp_path / "one", f"--lock={lock}")
    assert f'reference = "{archive}"' in lock.read_text()
    messages_of(archive, tmp_path / "two", f"--locked={lock}", "--offline")
    write_archive(archive, docker_members(builders.image(*PLAIN.layers, run={"Cmd": ["other"]})))
    changed = provision(archive, tmp_path / "three", f"--locked={lock}", status=3)
    assert "which is locked" in changed.stderr
    assert not (tmp_path / "three").exists()


def test_several_locks_in_one_file(tmp_path: Path) -> None:
    """Files of this machine are found by their name among them, and elsewhere by their digests."""
    other = builders.image(*PLAIN.layers, run={"Cmd": ["other"]})
    root = [("etc", None), ("bin", None), ("usr/x", b""), ("var", None)]
    archives = {
        name: write_archive(tmp_path / name, members)
        for name, members in (("one", docker_members(PLAIN)), ("two", docker_members(other)), ("root", root))
    }
    lock = tmp_path / "lock"
    for name, archive in archives.items():
        messages_of(archive, tmp_path / f"dir-{name}", f"--lock={lock}")
    assert lock.read_text().count("[[image]]") == 3
    for name, archive in archives.items():
        messages_of(archive, tmp_path / f"again-{name}", f"--locked={lock}")
        moved = shutil.copy(archive, tmp_path / f"moved-{name}")
        messages_of(moved, tmp_path / f"elsewhere-{name}", f"--locked={lock}")
        record = record_of(tmp_path / f"elsewhere-{name}")
        assert record["manifest_digest"] == record_of(tmp_path / f"dir-{name}")["manifest_digest"]
    third = write_archive(tmp_path / "third", docker_members(builders.image(*PLAIN.layers, run={"Cmd": ["third"]})))
    shutil.copy(third, tmp_path / "two")
    for path, says in ((third, "has none of the images that are locked"), (tmp_path / "two", "which is locked")):
        done = provision(path, tmp_path / "third-dir", f"--locked={lock}", status=3)
        assert says in done.stderr
    write_archive(third, [*root, ("usr/y", b"")])
    done = provision(f"rootfs:{third}", tmp_path / "third-dir", f"--locked={lock}", status=6)
    assert "the lock says" in done.stderr


def test_the_lock_of_an_image_is_none_of_a_root_file_system(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "x", docker_members(PLAIN, "x:1"))
    messages_of(archive, tmp_path / "one", f"--lock={tmp_path / 'lock'}")
    write_archive(archive, [("etc", None), ("bin", None), ("usr", None), ("var", None)])
    for word in (str(archive), f"rootfs:{archive}"):
        done = provision(word, tmp_path / "two", f"--locked={tmp_path / 'lock'}", status=2)
        assert "is no lock of a root file system" in done.stderr


def test_sha256(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "x", docker_members(PLAIN, "x:1"))
    digest = builders.digest_of(archive.read_bytes()).removeprefix("sha256:")
    messages_of(archive, tmp_path / "dir", f"--sha256={digest}")
    for words in ((archive, f"--sha256={'0' * 64}"), (f"docker-archive:{archive}", f"--sha256={'0' * 64}")):
        wrong = provision(*words, tmp_path / "other", status=6)
        assert f"has the SHA-256 {digest}, --sha256 says {'0' * 64}" in wrong.stderr
    for expected, status in ((digest, 0), ("0" * 64, 6)):
        command, options = provision_command(
            "-", tmp_path / "piped", f"--sha256={expected}", "--force", cache=tmp_path / "c"
        )
        done = piped(archive.read_bytes(), command, options)
        assert done.returncode == status, done.stderr
    assert cached(tmp_path / "c") == []


def piped(data: bytes, command: list[str], options: dict[str, Any]) -> subprocess.CompletedProcess[bytes]:
    """Run a command with `data` in a pipe as its standard input."""
    options = {name: value for name, value in options.items() if name not in ("stdin", "text")}
    return subprocess.run(command, check=False, input=data, **options)


# Standard input


def test_a_file_as_standard_input_is_read_in_place(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "x", docker_members(PLAIN))
    command, options = provision_command("-", tmp_path / "dir", cache=tmp_path / "cache")
    with archive.open("rb") as file:
        done = subprocess.run(command, check=False, **{**options, "stdin": file})
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "cache").exists()


def test_the_rest_of_a_file_as_standard_input(tmp_path: Path) -> None:
    archive = tmp_path / "x"
    archive.write_bytes(b"head\n" + tar(*docker_members(PLAIN)))
    command, options = provision_command("-", tmp_path / "dir", cache=tmp_path / "cache")
    with archive.open("rb", buffering=0) as file:
        file.read(5)
        done = subprocess.run(command, check=False, **{**options, "stdin": file})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("word", ["-", "docker-archive:/dev/stdin", "docker-archive:-"])
def test_a_slow_pipe(tmp_path: Path, word: str) -> None:
    command, options = provision_command(word, tmp_path / "dir", cache=tmp_path / "cache")
    data = tar(*docker_members(PLAIN))
    with subprocess.Popen(command, **{**options, "stdin": subprocess.PIPE, "text": False}) as process:
        assert process.stdin
        assert process.stderr
        for at in range(0, len(data), 1000):
            process.stdin.write(data[at : at + 1000])
            process.stdin.flush()
            time.sleep(0.002)
        process.stdin.close()
        errors = process.stderr.read()
        assert process.wait() == 0, errors
    assert (tmp_path / "dir/rootfs/etc/motd").read_bytes() == b"hello\n"
    assert cached(tmp_path / "cache") == []


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.9])
def test_a_pipe_that_breaks(tmp_path: Path, compress: Any, part: float) -> None:
    data = compress(tar(*docker_members(PLAIN)))
    command, options = provision_command("-", tmp_path / "dir", cache=tmp_path / "cache")
    data = data.rstrip(b"\0")
    done = piped(data[: int(len(data) * part)], command, options)
    assert done.returncode in (2, 6), done.stderr
    assert done.stderr.decode().count("provision: ") == 1
    assert b"Traceback" not in done.stderr
    assert not (tmp_path / "dir").exists()
    assert not staging_below(tmp_path)
    assert cached(tmp_path / "cache") == []


def wait_for_spool(pid: int, size: int) -> None:
    """Wait until a process has written so many bytes to one file of the cache, which may have no name any more."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if "/partial/." in os.readlink(path) and path.stat().st_size >= size:
                    return
            except FileNotFoundError:
                continue
        time.sleep(0.01)
    raise AssertionError("nothing was written to the cache")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_the_pipe_is_silent(tmp_path: Path, number: int) -> None:
    command, options = provision_command("-", tmp_path / "dir", cache=tmp_path / "cache")
    data = tar(("x.tar", bytes(3 << 20)), *docker_members(PLAIN))
    with subprocess.Popen(command, **{**options, "stdin": subprocess.PIPE, "text": False}) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write(data[: 2 << 20])
        process.stdin.flush()
        wait_for_spool(process.pid, 1 << 20)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        process.stdin.close()
    assert cached(tmp_path / "cache") == []
    assert os.listdir(tmp_path) == ["cache"]
    assert not processes_left(tmp_path)


PIPED = {"docker": docker_members(PLAIN), "oci": oci_members(("", GZIPPED))}


def piped_archive(form: str) -> bytes:
    """Return an archive whose first member has 3 MiB."""
    blob = builders.incompressible(3 << 20)
    return tar((f"blobs/sha256/{hex_of(blob)}" if form == "oci" else "x.tar", blob), *PIPED[form])


@pytest.mark.parametrize("form", PIPED)
def test_runs_do_not_delete_what_others_have_from_the_same_archive(tmp_path: Path, form: str) -> None:
    """One has read half of it, a second one all, a third one breaks."""
    data, cache = piped_archive(form), tmp_path / "cache"
    command, options = provision_command("-", tmp_path / "one", cache=cache)
    with subprocess.Popen(command, **{**options, "stdin": subprocess.PIPE, "text": False}) as process:
        assert process.stdin
        assert process.stderr
        process.stdin.write(data[: 2 << 20])
        process.stdin.flush()
        wait_for_spool(process.pid, 1 << 20)
        command, options = provision_command("-", tmp_path / "two", cache=cache)
        assert piped(data, command, options).returncode == 0
        command, options = provision_command("-", tmp_path / "three", cache=cache)
        assert piped(data.rstrip(b"\0")[:-100], command, options).returncode != 0
        process.stdin.write(data[2 << 20 :])
        process.stdin.close()
        errors = process.stderr.read()
        assert process.wait() == 0, errors
    for name in ("one", "two"):
        assert (tmp_path / name / "rootfs/etc/motd").read_bytes() == b"hello\n"
    assert len(cached(cache)) == (0 if form == "docker" else 1 + len({*GZIPPED.blobs, GZIPPED.manifest}))


@pytest.mark.parametrize("cleaning", [("cache", "prune"), ("inspect", "./archive")])
@pytest.mark.parametrize("form", PIPED)
def test_what_a_killed_run_has_left_is_deleted(tmp_path: Path, form: str, cleaning: tuple[str, ...]) -> None:
    data, cache = piped_archive(form), tmp_path / "cache"
    command, options = provision_command("-", tmp_path / "dir", cache=cache)
    with subprocess.Popen(command, **{**options, "stdin": subprocess.PIPE, "text": False}) as process:
        assert process.stdin
        process.stdin.write(data[: 2 << 20])
        process.stdin.flush()
        wait_for_spool(process.pid, 1 << 20)
        process.kill()
    spools = list(cache.glob("partial/.*"))
    assert len(spools) == (form == "oci")
    for path in spools:
        os.utime(path, (0, 0))
    (tmp_path / "archive").write_bytes(gzip.compress(tar(*docker_members(PLAIN))))
    provision(*cleaning, cache=cache, cwd=tmp_path, status=0)
    assert not list(cache.glob("*/.*"))
    shutil.rmtree(tmp_path / ".dir.provision")


def test_no_cache_leaves_nothing(tmp_path: Path) -> None:
    command, options = provision_command("-", tmp_path / "dir", "--no-cache", cache=tmp_path / "cache")
    done = piped(tar(*oci_members(("", GZIPPED))), command, options)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["dir"]


def test_one_copy_on_the_disk(tmp_path: Path) -> None:
    """Where there is room for one copy of what comes in, and the unpacked image is elsewhere.

    That is the archive, not compressed, whatever is asked for.
    """
    disk = tmp_path / "disk"
    with tmpfs(disk, "size=30m"):
        layers = [builders.layer((f"f{n}", builders.incompressible(11 << 20, n)), compression="") for n in range(2)]
        archive = tar(*docker_members(builders.image(*layers)))
        assert len(archive) > 22 << 20
        for number, data in enumerate((archive, gzip.compress(archive, 1))):
            digest = builders.digest_of(data).removeprefix("sha256:")
            for word in ("-", "docker-archive:-"):
                words = (word, tmp_path / f"dir{number}", f"--sha256={digest}", "--force")
                command, options = provision_command(*words, cache=disk / "cache")
                done = piped(data, command, options)
                assert done.returncode == 0, done.stderr
        too_large = tar(
            *docker_members(builders.image(*layers, builders.layer(("f", bytes(11 << 20)), compression="")))
        )
        command, options = provision_command("-", tmp_path / "other", cache=disk / "cache")
        done = piped(too_large, command, options)
        assert done.returncode == 7
        assert b"no room for it in the cache" in done.stderr
        assert b"PROVISION_CACHE_DIR" in done.stderr
        assert cached(disk / "cache") == []


def test_a_pipe_that_breaks_between_members(tmp_path: Path) -> None:
    command, options = provision_command("-", tmp_path / "dir", cache=tmp_path / "cache")
    members = tar(*docker_members(PLAIN)[:-1]).rstrip(b"\0")
    done = piped(members + bytes(-len(members) % 512), command, options)
    assert done.returncode == 6, done.stderr
    assert b"so it was cut off" in done.stderr


@pytest.mark.parametrize("word", ["-", "rootfs:-", "docker-archive:-"])
@pytest.mark.parametrize("endless", ["yes", "cat /dev/zero", "cat /dev/urandom"])
def test_an_endless_pipe_is_refused_at_once(tmp_path: Path, endless: str, word: str) -> None:
    command, options = provision_command(word, tmp_path / "dir", cache=tmp_path / "cache")
    with subprocess.Popen(endless.split(), stdout=subprocess.PIPE) as writer:
        done = subprocess.run(command, check=False, **{**options, "stdin": writer.stdout})
        writer.kill()
    assert done.returncode == 6, done.stderr
    assert "no archive but" in done.stderr
    assert not (tmp_path / "cache").exists()


def test_input_that_is_no_archive(tmp_path: Path) -> None:
    command, options = provision_command("-", tmp_path / "dir", cache=tmp_path / "cache")
    for data, status, says in ((b"", 2, "standard input is empty"), (b"hello\n" * 1000, 6, "no archive")):
        done = piped(data, command, options)
        assert done.returncode == status, done.stderr
        assert says in done.stderr.decode()
        assert cached(tmp_path / "cache") == []


# Paths and words


def test_a_fifo(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    archive = tar(*docker_members(PLAIN))
    writer = subprocess.Popen(
        [sys.executable, "-c", "import sys; open(sys.argv[1], 'wb').write(sys.stdin.buffer.read())", str(fifo)],
        stdin=subprocess.PIPE,
    )
    assert writer.stdin
    writer.stdin.write(archive)
    writer.stdin.close()
    messages_of(fifo, tmp_path / "dir")
    assert writer.wait() == 0


BAD = [
    ("./none.tar", 3, "there is no file"),
    ("docker-archive:none", 3, "there is no file"),
    ("oci-archive:none:x", 3, "there is no file"),
    ("oci:none", 3, "there is no directory"),
    ("dir:none", 3, "there is no directory"),
    ("oci:file", 2, "is no directory"),
    ("docker-archive:directory", 2, "is a directory"),
    ("./directory", 2, "is no image"),
    ("oci:directory", 6, "no index.json"),
    ("dir:directory", 6, "no manifest.json"),
    ("docker-archive:file", 6, "no archive but"),
    ("./empty", 2, "is empty"),
    ("/dev/zero", 2, "is no file and no pipe"),
    ("docker-archive:/dev/zero", 2, "is no file and no pipe"),
    ("docker-archive:file:", 2, "ends with a colon"),
    ("docker-archive:file:@x", 2, "is not @ and a number"),
    ("containers-storage:localhost/x", 2, "podman save"),
    ("docker-daemon:x:latest", 2, "docker save"),
]


@pytest.mark.parametrize(("word", "status", "says"), BAD)
def test_words_that_lead_nowhere(tmp_path: Path, word: str, status: int, says: str) -> None:
    (tmp_path / "file").write_text("hello\n" * 200)
    (tmp_path / "empty").touch()
    (tmp_path / "directory").mkdir()
    done = provision(word, "./dir", cwd=tmp_path, status=status)
    assert says in done.stderr
    message = done.stderr[done.stderr.index("provision: ") :]
    assert message.count("\n") == 2  # one line, and the command that helps
    assert not (tmp_path / "dir").exists()
    assert not staging_below(tmp_path)


def test_a_strangers_symlink_is_not_followed(tmp_path: Path) -> None:
    need_root()
    archive = write_archive(tmp_path / "x", docker_members(PLAIN))
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "link"
    link.symlink_to(archive)
    os.chown(link, 65000, 65000, follow_symlinks=False)
    done = provision(link, tmp_path / "dir", status=7)
    assert "symlink" in done.stderr


def test_a_name_does_not_matter(tmp_path: Path) -> None:
    for name in ("x.zip", "rootfs.tar.xz", "x"):
        messages_of(write_archive(tmp_path / name, docker_members(PLAIN)), tmp_path / f"dir-{name}")


def test_several_images_in_a_pipe_are_listed(tmp_path: Path) -> None:
    command, options = provision_command("-", tmp_path / "dir", cache=tmp_path / "cache")
    data = tar(*oci_members(("one", GZIPPED), ("two", builders.small(run={"Cmd": ["two"]}))))
    done = piped(data, command, options)
    assert done.returncode == 2
    assert b"oci-archive:- has 2 images: @0 one; @1 two" in done.stderr
    assert b"name one of them: oci-archive:-:one, or oci-archive:-:@0" in done.stderr
    command, options = provision_command("oci-archive:-:two", tmp_path / "dir", cache=tmp_path / "cache")
    assert piped(data, command, options).returncode == 0
    assert record_of(tmp_path / "dir")["reference"] == "oci-archive:/dev/stdin:two"


def test_a_process_substitution(tmp_path: Path) -> None:
    need("bash")
    archive = write_archive(tmp_path / "x", docker_members(PLAIN))
    command, options = provision_command("PLACE", tmp_path / "dir", cache=tmp_path / "cache")
    words = [word if word != "PLACE" else '<(cat "$archive")' for word in command]
    options["env"] = {**options["env"], "archive": str(archive)}
    done = subprocess.run(["bash", "-c", " ".join(words)], check=False, **options)
    assert done.returncode == 0, done.stderr


def test_standard_input_is_a_first_word(tmp_path: Path) -> None:
    """DIR may be called as a subcommand is."""
    command, options = provision_command("-", "list", cache=tmp_path / "cache", cwd=tmp_path)
    done = piped(tar(*docker_members(PLAIN)), command, options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "list/start.sh").exists()
    missing = piped(b"", command[:-1], options)
    assert missing.returncode == 2
    assert b"name a directory: provision - ./container" in missing.stderr
