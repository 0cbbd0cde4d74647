"""`provision rootfs:FILE` and `provision https://…/rootfs.tar.xz`: root file systems from archives."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.image.digest import Digest
from tests.support import builders
from tests.support.archives import Member, hard, raw, special, tar
from tests.support.containers import static_busybox
from tests.support.file_server import FileServer
from tests.support.local_archives import GZIPPED, PLAIN, docker_members, oci_members
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import (
    as_user,
    find_program,
    need,
    need_root,
    open_directory,
    podman_in,
    provision,
    provision_command,
    run,
)
from tests.support.trees import Entry, tree_of

SHELL = b"\x7fELF\x02\x01" + bytes(12) + b"\x3e\0" + bytes(44)
"""The beginning of a program for amd64."""
AMD64 = "--platform=linux/amd64"
PASSWD = b"root:x:0:0:root:/root:/bin/bash\n"
USUAL: list[Member] = [
    special("./", b"5", mode=0o755),
    ("./bin", None),
    ("./bin/bash", SHELL),
    ("./bin/sh", "bash"),
    ("./etc/passwd", PASSWD),
    ("./etc/os-release", b"ID=tiny\n"),
    ("./usr/lib/.wh.kept", b"no whiteout"),
    hard("./usr/lib/bash", "./bin/bash"),
    ("./var", None),
]


OURS = {"etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", "etc/apt/apt.conf.d/99provision"}
"""What provision writes for this machine, at the time of the run."""


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as served:
        yield served


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def write(path: Path, *members: Member) -> Path:
    path.write_bytes(tar(*members))
    return path


def make(source: str | Path, directory: Path, *options: str | Path, status: int = 0, cache: Path | None = None) -> str:
    """Run `provision SOURCE DIRECTORY`, and return what it says."""
    result = provision(AMD64, "--no-sync", *options, source, directory, cache=cache, status=status)
    if status:
        assert not directory.exists() or status == 8
        assert len(result.stderr.strip().splitlines()) >= 1
    assert not list(directory.parent.glob("*.provision"))
    return result.stderr


def record(directory: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((directory / ".provision/record.json").read_text())
    return found


def comparable(directory: Path) -> dict[str, Entry]:
    """Return the tree without what provision writes for this machine, and without times of directories."""
    tree = {path: entry for path, entry in tree_of(directory / "rootfs").items() if path not in OURS}
    return {path: replace(entry, mtime=0) if entry.type == "d" else entry for path, entry in tree.items()}


def test_a_rootfs_becomes_a_directory_that_says_what_it_is(tmp_path: Path) -> None:
    archive = write(tmp_path / "x.tar", *USUAL)
    said = make(f"rootfs:{archive}", tmp_path / "dir")
    assert "not verified: nobody says what the file must be; --sha256 HEX does" in said
    assert "command: /bin/bash" in said
    assert (tmp_path / "dir/rootfs/usr/lib/.wh.kept").read_bytes() == b"no whiteout"
    assert (tmp_path / "dir/rootfs/usr/lib/bash").samefile(tmp_path / "dir/rootfs/bin/bash")
    made = record(tmp_path / "dir")
    digest = str(Digest.of(archive.read_bytes()))
    assert (made["reference"], made["manifest_digest"]) == (f"rootfs:{archive}", digest)
    assert (made["platform"], made["verified"]) == ("linux/amd64", "not verified")
    text = (tmp_path / "dir/start.sh").read_text()
    assert "image_command=/bin/bash\n" in text
    assert "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in text
    shown = json.loads(provision("inspect", "--json", tmp_path / "dir").stdout)
    assert shown["command"] == ["/bin/bash"]
    assert shown["manifest_digest"] == digest
    assert shown["layers"][0]["diff_id"] is None
    assert shown["verified"] == "not verified"


def test_it_is_up_to_date_as_long_as_the_file_is_the_same(tmp_path: Path) -> None:
    archive = write(tmp_path / "x.tar", *USUAL)
    make(f"rootfs:{archive}", tmp_path / "dir")
    said = make(f"rootfs:{archive}", tmp_path / "dir")
    assert "is up to date" in said
    assert "command: /bin/bash" in said
    write(archive, *USUAL, ("new", b""))
    assert "holds rootfs:" in make(f"rootfs:{archive}", tmp_path / "dir", status=8)
    make(f"rootfs:{archive}", tmp_path / "dir", "--force")
    assert (tmp_path / "dir/rootfs/new").exists()


COMPRESSORS = {"gzip": ["gzip"], "xz": ["xz"], "zstd": ["zstd"], "bzip2": ["bzip2"], "lz4": ["lz4"], "no": ["cat"]}


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_every_compression_gives_the_same(tmp_path: Path, compression: str) -> None:
    need(*COMPRESSORS[compression])
    write(tmp_path / "x", *USUAL)
    with open(tmp_path / "x", "rb") as source, open(tmp_path / "y.whatever", "wb") as target:
        subprocess.run(COMPRESSORS[compression], stdin=source, stdout=target, check=True)
    make(f"rootfs:{tmp_path}/y.whatever", tmp_path / "dir")
    make(f"rootfs:{tmp_path}/x", tmp_path / "plain")
    assert comparable(tmp_path / "dir") == comparable(tmp_path / "plain")


LEVELS: dict[str, list[Member]] = {
    "a directory": [(f"alpine/{name}", content) for name, content in (("bin/sh", SHELL), ("etc/passwd", PASSWD))],
    "Incus": [
        *(("metadata.yaml", b"architecture: x86_64\n"), ("templates", None), ("templates/hosts.tpl", b"x")),
        *(("rootfs", None), ("rootfs/bin/sh", SHELL), ("rootfs/etc/passwd", PASSWD)),
    ],
    "proot-distro": [
        *(("debian/manifest.json", b"{}"), ("debian/rootfs", None)),
        *(("debian/rootfs/bin/sh", SHELL), ("debian/rootfs/etc/passwd", PASSWD)),
    ],
    "proot-distro 4": [
        *(("proot-distro/debian.sh", b"x"), ("installed-rootfs/debian", None)),
        *(("installed-rootfs/debian/bin/sh", SHELL), ("installed-rootfs/debian/etc/passwd", PASSWD)),
    ],
}


@pytest.mark.parametrize("level", LEVELS)
def test_the_root_may_be_below_other_directories(tmp_path: Path, level: str) -> None:
    make(f"rootfs:{write(tmp_path / 'x.tar', *LEVELS[level])}", tmp_path / "dir")
    assert sorted(os.listdir(tmp_path / "dir/rootfs")) == ["bin", "etc"]


def test_the_digest_is_checked_before_anything_counts(tmp_path: Path) -> None:
    archive = write(tmp_path / "x.tar", *USUAL)
    digest = Digest.of(archive.read_bytes()).hex
    said = make(f"rootfs:{archive}", tmp_path / "dir", f"--sha256={'0' * 64}", status=6)
    assert f"has the SHA-256 {digest}, --sha256 says {'0' * 64}" in said
    said = make(f"rootfs:{archive}", tmp_path / "dir", f"--sha256={digest.upper()}")
    assert "verified by --sha256" in said
    assert record(tmp_path / "dir")["verified"] == "by --sha256"
    assert "is no SHA-256" in make(f"rootfs:{archive}", tmp_path / "other", "--sha256=123", status=2)
    assert "--sha256 is for files" in make("docker://localhost:1/x", tmp_path / "other", f"--sha256={digest}", status=2)


def test_a_lock_keeps_the_digest(tmp_path: Path) -> None:
    archive = write(tmp_path / "x.tar", *USUAL)
    make(f"rootfs:{archive}", tmp_path / "dir", f"--lock={tmp_path}/lock")
    assert "verified by the lock" in make(f"rootfs:{archive}", tmp_path / "again", f"--locked={tmp_path}/lock")
    write(archive, *USUAL, ("new", b""))
    assert "the lock says" in make(f"rootfs:{archive}", tmp_path / "third", f"--locked={tmp_path}/lock", status=6)
    other = f"--sha256={'0' * 64}"
    assert "contradict" in make(f"rootfs:{archive}", tmp_path / "4", f"--locked={tmp_path}/lock", other, status=2)


BAD: dict[str, tuple[bytes, int, str]] = {
    "text": (b"hello\n" * 200, 6, "no archive but something else"),
    "nothing": (b"", 6, "there is nothing in it"),
    "an empty archive": (tar(), 6, "there is nothing in it"),
    "a broken gzip": (b"\x1f\x8b\x08" + bytes(600), 6, "can't be decompressed"),
    "half of an xz": (lzma.compress(tar(*USUAL, ("x", os.urandom(100_000))))[:-50_000], 6, "ends early"),
    "two roots": (tar(("a/bin/sh", b""), ("b/bin/sh", b"")), 6, "more than one root directory: 'a' and 'b'"),
    "a path that climbs": (tar(*USUAL, ("../../x", b"")), 6, "climbs out of the root"),
    "a bomb": (lzma.compress(raw(b"etc/x", size=b"77777777777\0") + bytes(50 << 20)), 7, "takes more than"),
    "another processor": (tar(("bin/sh", SHELL.replace(b"\x3e", b"\xb7")), ("etc/x", b"")), 3, "it has linux/arm64"),
    "an archive in an archive": (lzma.compress(lzma.compress(tar(*USUAL))), 6, "the archive can't be read"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_files(tmp_path: Path, fault: str) -> None:
    content, status, message = BAD[fault]
    (tmp_path / "x").write_bytes(content)
    assert message in make(f"rootfs:{tmp_path}/x", tmp_path / "dir", "--max-size=10M", status=status)


def test_what_is_no_file(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(tmp_path / "socket"))
    assert "there is no file" in make(f"rootfs:{tmp_path}/none", tmp_path / "dir", status=3)
    assert "tar -C" in make(f"rootfs:{tmp_path}", tmp_path / "dir", status=2)
    assert "is no file and no pipe" in make(f"rootfs:{tmp_path}/socket", tmp_path / "dir", status=2)
    assert "is no file and no pipe" in make("rootfs:/dev/zero", tmp_path / "dir", status=2)
    assert "nothing in it" in make("rootfs:/dev/null", tmp_path / "dir", status=6)


def from_pipe(words: str, content: bytes, directory: Path, cache: Path) -> str:
    """Run a command of bash in which PROVISION stands for provision, and `cat $archive` for a pipe."""
    need("bash")
    (directory.parent / "archive").write_bytes(content)
    command, options = provision_command("PLACE", AMD64, "--no-sync", directory, cache=cache)
    words = words.replace("PROVISION", " ".join(command))
    source = words.partition("SOURCE=")[2]
    line = words.partition(" SOURCE=")[0].replace("PLACE", source)
    options["env"] = {**options["env"], "archive": str(directory.parent / "archive")}
    done = subprocess.run(["bash", "-c", line], check=False, **options)
    assert done.returncode == 0, done.stderr
    return str(done.stderr)


PIPES = {
    "standard input": "cat $archive | PROVISION SOURCE=rootfs:-",
    "recognised": "cat $archive | PROVISION SOURCE=-",
    "a redirected file": "PROVISION <$archive SOURCE=rootfs:-",
    "a process": "PROVISION SOURCE=rootfs:<(cat $archive)",
    "a recognised process": "PROVISION SOURCE=<(cat $archive)",
    "a FIFO": "mkfifo $archive.fifo; cat $archive >$archive.fifo & PROVISION SOURCE=rootfs:$archive.fifo",
    "its digest": "cat $archive | PROVISION --sha256=$(sha256sum <$archive | cut -c-64) SOURCE=rootfs:-",
}


@pytest.mark.parametrize("compress", [bytes, lzma.compress], ids=["tar", "tar.xz"])
@pytest.mark.parametrize("pipe", PIPES)
def test_pipes(tmp_path: Path, cache: Path, pipe: str, compress: Callable[[bytes], bytes]) -> None:
    content = compress(tar(*USUAL))
    from_pipe(PIPES[pipe], content, tmp_path / "dir", cache)
    assert (tmp_path / "dir/rootfs/usr/lib/bash").exists()
    assert record(tmp_path / "dir")["manifest_digest"] == str(Digest.of(content))
    assert not [path for path in cache.rglob("*") if path.is_file()]


LAYOUT_BEHIND = [*USUAL, *oci_members(("", GZIPPED))]
ARCHIVE_BEHIND = [*docker_members(PLAIN)[::-1], *USUAL]


@pytest.mark.parametrize("compress", [bytes, lzma.compress], ids=["tar", "tar.xz"])
@pytest.mark.parametrize("piped", [False, True])
@pytest.mark.parametrize("members", [LAYOUT_BEHIND, ARCHIVE_BEHIND], ids=["root first", "image first"])
def test_an_archive_that_is_two_things(
    tmp_path: Path, cache: Path, members: list[Member], piped: bool, compress: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "x").write_bytes(compress(tar(*members)))
    word = "-" if piped else str(tmp_path / "x")
    command, options = provision_command(AMD64, word, tmp_path / "dir", cache=cache)
    with open(tmp_path / "x", "rb") as file, subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as cat:
        done = subprocess.run(command, check=False, **{**options, "stdin": cat.stdout})
    assert done.returncode == 2, done.stderr
    image = "an OCI image layout" if members is LAYOUT_BEHIND else "a docker-archive"
    assert f"is both {image} and a root file system" in done.stderr
    assert "say which: rootfs:" in done.stderr
    assert not (tmp_path / "dir").exists()
    make(f"rootfs:{tmp_path}/x", tmp_path / "root")
    assert (tmp_path / "root/rootfs/usr/lib/bash").exists()
    make(f"{'oci' if members is LAYOUT_BEHIND else 'docker'}-archive:{tmp_path}/x", tmp_path / "image")
    assert (tmp_path / "image/rootfs/etc/motd").read_bytes() == b"hello\n"


RECOGNISED: dict[str, tuple[list[Member], str]] = {
    "a document before a root": ([("x.json", b"{}"), *USUAL], "usr/lib/bash"),
    "many documents before a root": ([*((f"{n}.json", b"{}") for n in range(100)), *USUAL], "usr/lib/bash"),
    "blobs before a root": ([("blobs", None), ("blobs/x", b""), *USUAL], "usr/lib/bash"),
    "notes before a layout": ([*((f"note{n}", b"") for n in range(100)), *oci_members(("", GZIPPED))], "etc/motd"),
    "documents before a layout": (
        [*((f"{n}.json", b"") for n in range(100)), *oci_members(("", GZIPPED))],
        "etc/motd",
    ),
}


@pytest.mark.parametrize("compress", [bytes, lzma.compress], ids=["tar", "tar.xz"])
@pytest.mark.parametrize("case", RECOGNISED)
def test_all_members_tell_what_it_is(
    tmp_path: Path, cache: Path, case: str, compress: Callable[[bytes], bytes]
) -> None:
    members, file = RECOGNISED[case]
    (tmp_path / "x").write_bytes(compress(tar(*members)))
    make(tmp_path / "x", tmp_path / "dir", cache=cache)
    assert (tmp_path / "dir/rootfs" / file).exists()
    assert not [path for path in cache.rglob("*") if path.is_file() and "motd" not in file]


def test_a_root_in_a_pipe_that_begins_as_an_image(tmp_path: Path, cache: Path) -> None:
    content = tar(*((f"{n}.json", b"{}") for n in range(100)), *USUAL)
    command, options = provision_command(AMD64, "-", tmp_path / "dir", cache=cache)
    options = {name: value for name, value in options.items() if name not in ("stdin", "text")}
    done = subprocess.run(command, check=False, input=content, **options)
    assert done.returncode == 2
    assert b"say what it is: rootfs:-" in done.stderr


@pytest.mark.parametrize("word", ["{}/x", "rootfs:{}/x", "docker-archive:{}/x", "{}/x.xz", "rootfs:-"])
def test_other_kinds_of_files_are_named(tmp_path: Path, word: str) -> None:
    need("bsdcpio")
    run("sh", "-c", f"echo /etc/passwd | bsdcpio -o -H newc >{tmp_path}/x")
    (tmp_path / "x.xz").write_bytes(lzma.compress((tmp_path / "x").read_bytes()))
    command, options = provision_command(word.format(tmp_path), tmp_path / "dir", cache=tmp_path / "cache")
    with open(tmp_path / "x", "rb") as file:
        done = subprocess.run(command, check=False, **{**options, "stdin": file})
    assert done.returncode == 6, done.stderr
    assert " is a cpio archive, which provision doesn't read\n" in done.stderr
    assert "bsdtar -cf rootfs.tar @FILE" in done.stderr
    run("bsdtar", "-cf", tmp_path / "rootfs.tar", f"@{tmp_path}/x")
    make(f"rootfs:{tmp_path}/rootfs.tar", tmp_path / "dir")
    assert (tmp_path / "dir/rootfs/etc/passwd").exists()


@pytest.mark.parametrize("word", ["rootfs:{}", "docker-archive:{}", "{}"])
def test_a_file_that_may_not_be_read(word: str) -> None:
    place = open_directory("closed")
    for name, quoted in {"x": f"{place}/x", "x\ny": f"\"$(printf '{place}/x\\012y')\""}.items():
        archive = write(place / name, *USUAL)
        archive.chmod(0)
        done = provision(word.format(archive), place / "dir", **as_user(), status=7)
        assert f"choose a file that you may read, or allow it: chmod u+r {quoted}" in done.stderr
    shutil.rmtree(place)


def test_an_archive_that_is_cut_between_members(tmp_path: Path) -> None:
    whole = tar(*USUAL)
    (tmp_path / "x").write_bytes(whole.rstrip(b"\0") + bytes(-len(whole.rstrip(b"\0")) % 512))
    digest = Digest.of((tmp_path / "x").read_bytes()).hex
    for word in ("rootfs:{}/x", "{}/x"):
        said = make(word.format(tmp_path), tmp_path / "dir", status=6)
        assert "lacks the empty blocks that end one, so it was cut off" in said
        assert "(cat FILE; head -c 1024 /dev/zero) | provision - DIR" in said
    make(f"rootfs:{tmp_path}/x", tmp_path / "verified", f"--sha256={digest}")
    (tmp_path / "x.xz").write_bytes(lzma.compress((tmp_path / "x").read_bytes()))
    make(tmp_path / "x.xz", tmp_path / "compressed")
    (tmp_path / "y").write_bytes((tmp_path / "x").read_bytes() + bytes(1024))
    make(tmp_path / "y", tmp_path / "extended")


WRITERS = {
    "GNU tar": "tar -C {0} -cf {1} .",
    "GNU tar, one block": "tar -b1 -C {0} -cf {1} .",
    "bsdtar": "bsdtar -C {0} -cf {1} .",
    "busybox tar": "busybox tar -C {0} -cf {1} .",
    "bsdcpio": "cd {0} && find . | bsdcpio -o -H ustar >{1}",
    "Python": "cd {0} && python3 -m tarfile -c {1} *",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_writers_of_archives_write_their_end(tmp_path: Path, writer: str) -> None:
    program = WRITERS[writer].partition("&& ")[2] or WRITERS[writer]
    need(program.removeprefix("find . | ").split()[0])
    for name in ("bin", "etc", "usr", "var"):
        (tmp_path / "tree" / name).mkdir(parents=True)
    (tmp_path / "tree/bin/sh").write_bytes(SHELL)
    run("sh", "-c", WRITERS[writer].format(tmp_path / "tree", tmp_path / "x"))
    make(tmp_path / "x", tmp_path / "dir")


def test_a_directory_with_a_root_file_system(tmp_path: Path) -> None:
    for name in ("bin", "etc", "usr", "var"):
        (tmp_path / "root" / name).mkdir(parents=True)
    assert f"tar -C {tmp_path}/root -c . | provision rootfs:- DIR" in make(tmp_path / "root", tmp_path / "x", status=2)


def test_a_file_that_looks_like_none_is_taken_where_the_user_says_so(tmp_path: Path, server: FileServer) -> None:
    content = tar(("hello", SHELL))
    url = server.add("/x", content)
    (tmp_path / "x").write_bytes(content)
    assert "rootfs:FILE" in make(url, tmp_path / "dir", status=2)
    make(f"rootfs:{url}", tmp_path / "one", "--entrypoint=/hello")
    make(f"rootfs:{tmp_path}/x", tmp_path / "two", '--cmd=["/hello", "a b"]')
    assert "image_command='/hello '\"'\"'a b'\"'\"''" in (tmp_path / "two/start.sh").read_text()


def test_a_url(tmp_path: Path, server: FileServer, cache: Path) -> None:
    content = lzma.compress(tar(*USUAL))
    url = server.add("/rootfs.tar.xz", content)
    said = make(url, tmp_path / "dir", cache=cache)
    assert "download rootfs.tar.xz" in said
    assert "not verified" in said
    assert record(tmp_path / "dir")["reference"] == url
    assert "is up to date" in make(url, tmp_path / "dir", cache=cache)
    assert server.sent == len(content)
    make(url, tmp_path / "offline", "--offline", cache=cache)
    assert "offline: the cache has no" in make(url, tmp_path / "else", "--offline", status=5)
    server.add("/SHA256SUMS", f"{Digest.of(content).hex}  rootfs.tar.xz\n".encode())
    assert f"verified by SHA256SUMS of {server.host}" in make(url, tmp_path / "sums", cache=cache)
    make(url, tmp_path / "sum", f"--sha256={'1' * 64}", cache=cache, status=6)
    make(url, tmp_path / "no-cache", "--no-cache")
    assert "has no none there: 404" in make(f"http://{server.host}/none", tmp_path / "none", status=3)
    assert "plain http" in make("http://example.invalid/x", tmp_path / "none", status=2)


def test_an_image_s_name_behind_http(tmp_path: Path, server: FileServer) -> None:
    """What has the address of a registry in front, and isn't an archive by its name, may be an image."""

    def said_of(url: str, status: int) -> str:
        return make(url, tmp_path / "none", status=status)

    hint = "; an image of a registry: provision "
    assert f"{hint}{server.host}/image:tag DIR" in said_of(f"http://{server.host}/image:tag", 3)
    assert f"{hint}--insecure r.invalid/a/b@sha256:{'0' * 64} DIR" in said_of(
        f"HTTP://r.invalid/a/b@sha256:{'0' * 64}", 2
    )
    for path in ("none.tar.gz", "None", "none?x=1", ""):
        assert hint not in said_of(f"http://{server.host}/{path}", 3)


@pytest.mark.parametrize("word", ["", "rootfs:"])
def test_nothing_is_downloaded_for_a_run_that_cannot_succeed(tmp_path: Path, server: FileServer, word: str) -> None:
    url = server.add("/rootfs.tar", tar(*USUAL))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine").touch()
    make(f"{word}{url}", tmp_path / "taken", status=8)
    make(f"{word}{url}", tmp_path / "dir", "--profile=nope", status=2)
    assert server.paths() == []


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "half of it": lambda content: content[: len(content) // 2],
    "nothing": lambda content: b"",
    "a web page": lambda content: b"<html>log in</html>" * 99,
    "other bytes in it": lambda content: content[:2000] + bytes(100) + content[2100:],
}


@pytest.mark.parametrize("word", ["", "rootfs:"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_of_a_url_is_asked_for_anew(
    tmp_path: Path, server: FileServer, cache: Path, damage: str, word: str
) -> None:
    """The server sends it with the ETag of the whole file, and says afterwards that this hasn't changed."""
    content = lzma.compress(tar(*USUAL, ("usr/x", os.urandom(5000))))
    url = server.add("/rootfs.tar.xz", DAMAGED[damage](content), etag='"same"')
    said = make(f"{word}{url}", tmp_path / "dir", cache=cache, status=6)
    assert "try again, which downloads it anew" in said
    server.add("/rootfs.tar.xz", content, etag='"same"')
    make(f"{word}{url}", tmp_path / "dir", cache=cache)
    sent = server.sent
    make(f"{word}{url}", tmp_path / "again", cache=cache)
    assert server.sent == sent


def test_a_damaged_file_stays_where_it_is_verified_or_can_not_be_had_anew(
    tmp_path: Path, server: FileServer, cache: Path
) -> None:
    url = server.add("/x", b"no archive" * 100)
    digest = f"--sha256={Digest.of(b'no archive' * 100).hex}"
    make(url, tmp_path / "dir", digest, cache=cache, status=6)
    make(url, tmp_path / "dir", digest, "--offline", cache=cache, status=6)
    assert len(server.paths()) == 1


@pytest.mark.parametrize("place", ["dir", "not/there/dir"])
@pytest.mark.parametrize(("content", "status"), [(b"no archive" * 100, 6), (tar(*USUAL), 6), (None, 3)])
def test_a_url_that_fails_leaves_nothing_without_a_cache(
    tmp_path: Path, server: FileServer, content: bytes | None, status: int, place: str
) -> None:
    url = server.add("/x", content) if content else f"http://{server.host}/none"
    words: list[str | Path] = [url, tmp_path / place, "--no-cache", *([f"--sha256={'0' * 64}"] if status == 6 else [])]
    provision(AMD64, *words, status=status)
    assert os.listdir(tmp_path) == []


def test_a_url_through_a_proxy(tmp_path: Path, server: FileServer) -> None:
    content = tar(*USUAL)
    server.add("/rootfs.tar", content)
    env = {**os.environ, "HTTP_PROXY": f"http://{server.host}"}
    words = (AMD64, f"--sha256={Digest.of(content).hex}", "http://example.invalid/rootfs.tar", tmp_path / "dir")
    provision(*words, env=env, status=0)
    assert server.paths() == ["http://example.invalid/rootfs.tar"]


def test_a_redirect_to_another_host_in_plain_http_is_refused(tmp_path: Path, server: FileServer) -> None:
    url = server.add("/rootfs.tar", b"", redirect="http://example.invalid/rootfs.tar")
    assert "redirects to another host in plain http" in make(url, tmp_path / "dir", status=5)


def test_run_settings_are_in_the_record_and_in_start_sh(registry: ScriptedRegistry, tmp_path: Path) -> None:
    run = {"Entrypoint": ["/entry"], "Cmd": ["cmd"], "Env": ["A=1", "B=2"], "User": "app", "WorkingDir": "/srv"}
    registry.push("x", builders.image(builders.layer(("etc/x", b"")), run=run))
    options = ["--cmd=one 'two three'", "--env-image=A=new", "--env-image=C=$x", "--workdir=/w", "--user=1:2"]
    make(f"{registry.host}/x", tmp_path / "dir", *options)
    text = (tmp_path / "dir/start.sh").read_text()
    assert "image_entrypoint=/entry\n" in text
    assert "image_command='one '\"'\"'two three'\"'\"''\n" in text
    assert "image_env='A=new B=2 '\"'\"'C=$x'\"'\"''\n" in text
    assert "image_workdir=/w\n" in text
    assert "image_user=1:2\n" in text
    assert (tmp_path / "dir/rootfs/w").is_dir()
    assert record(tmp_path / "dir")["run"] == {
        "entrypoint": None,
        "command": ["one", "two three"],
        "env": ["A=new", "C=$x"],
        "working_dir": "/w",
        "user": "1:2",
    }
    shown = json.loads(provision("inspect", "--json", tmp_path / "dir").stdout)
    assert (shown["entrypoint"], shown["command"], shown["user"]) == (["/entry"], ["one", "two three"], "1:2")
    assert "is up to date" in make(f"{registry.host}/x", tmp_path / "dir")
    assert "is up to date" in make(f"{registry.host}/x", tmp_path / "dir", *options)
    make(f"{registry.host}/x", tmp_path / "dir", "--user=0")
    assert "image_user=0\n" in (tmp_path / "dir/start.sh").read_text()
    make(f"{registry.host}/x", tmp_path / "dir", "--force", "--entrypoint=/other")
    text = (tmp_path / "dir/start.sh").read_text()
    assert "image_entrypoint=/other\n" in text
    assert "image_command=''\n" in text  # as in docker run


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--cmd='", "can't be divided"),
        ('--cmd=["a", 1]', "no word"),
        ("--cmd=[1", "can't be divided"),
        ("--workdir=x", "no absolute path"),
        ("--user=a:b:c", "is not USER"),
        ("--user=", "is not USER"),
        ("--env-image=x", "is not NAME=VALUE"),
        ("--env-image==x", "is not NAME=VALUE"),
    ],
)
def test_settings_that_are_none(tmp_path: Path, option: str, message: str) -> None:
    assert message in make(f"rootfs:{tmp_path}/x", tmp_path / "dir", option, status=2)


def mtree(directory: Path) -> list[str]:
    """Return the ownership record without what provision writes, and without the time of the run."""
    lines = (directory / ".provision/ownership.mtree").read_text().splitlines()
    names = {path.rpartition("/")[2] for path in OURS}
    return [line for line in lines if line.split(" ")[0] not in names and not line.startswith("# written=")]


def unpacked(layout: Path, place: Path) -> Path:
    """Return the rootfs of an OCI layout, as umoci unpacks it."""
    need("umoci")
    run("umoci", "unpack", "--image", f"{layout}:latest", place)
    return place / "rootfs"


def test_the_tar_of_mmdebstrap_is_as_from_the_registry(debian: str, image_cache: Path, tmp_path: Path) -> None:
    from tests.support import realimages

    blobs = (realimages.layout("debian", image_cache) / "blobs/sha256").iterdir()
    layer = max(blobs, key=lambda path: path.stat().st_size)  # the tar that mmdebstrap has written, gzipped
    shutil.copy(layer, tmp_path / "debian")
    provision(f"rootfs:{tmp_path}/debian", tmp_path / "file", status=0)
    provision(debian, tmp_path / "registry", status=0)
    assert comparable(tmp_path / "file") == comparable(tmp_path / "registry")
    assert mtree(tmp_path / "file") == mtree(tmp_path / "registry")
    assert "image_command=/bin/bash\n" in (tmp_path / "file/start.sh").read_text()
    if os.geteuid() == 0:
        said = run(tmp_path / "file/start.sh", "--runtime=chroot", "/bin/cat", "/etc/debian_version")
        assert said.startswith("12")


TARS = {
    "GNU tar": ["tar", "--xattrs", "--acls", "-C", "{}", "-cf", "-", "."],
    "GNU tar, by names": ["sh", "-c", "tar -C '{}' --format=pax -cf - $(ls -A '{}')"],
    "bsdtar": ["bsdtar", "-C", "{}", "-cf", "-", "."],
    "bsdtar, one directory above": ["bsdtar", "-C", "{}/..", "-cf", "-", "rootfs"],
    "busybox tar": ["busybox", "tar", "-C", "{}", "-cf", "-", "."],
}


@pytest.fixture(scope="module")
def application_container(application: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The application as provisioned from the registry."""
    place = tmp_path_factory.mktemp("registry")
    provision("--no-sync", application, place / "dir", status=0)
    yield place / "dir"
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def application_tree(image_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The application, unpacked by umoci as root."""
    need_root()
    from tests.support import realimages

    place = tmp_path_factory.mktemp("application")
    yield unpacked(realimages.layout("application", image_cache), place / "bundle")
    shutil.rmtree(place)


@pytest.mark.parametrize("program", TARS)
def test_tars_of_the_application_are_as_from_the_registry(
    application_container: Path, application_tree: Path, tmp_path: Path, program: str
) -> None:
    need(TARS[program][0])
    command = [word.replace("{}", str(application_tree)) for word in TARS[program]]
    with open(tmp_path / "x.tar", "wb") as target:
        subprocess.run(command, stdout=target, check=True)
    make(f"rootfs:{tmp_path}/x.tar", tmp_path / "file")
    assert comparable(tmp_path / "file") == comparable(application_container)
    (tmp_path / "x.tar").unlink()
    shutil.rmtree(tmp_path / "file")


def test_podman_export_is_as_from_the_registry(application_container: Path, image_cache: Path, tmp_path: Path) -> None:
    need_root()
    need("podman", "skopeo")
    from tests.support import realimages

    layout = realimages.layout("application", image_cache)
    storage = Path(tempfile.mkdtemp(prefix="p"))  # podman wants a short path
    podman = podman_in(storage)
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    env = {name: value for name, value in os.environ.items() if name not in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG")}
    policy = f"{tmp_path}/policy.json"
    image = "localhost/application:1"
    run("skopeo", f"--policy={policy}", "copy", f"oci:{layout}:latest", f"docker-archive:{storage}/a.tar:{image}")
    run(*podman, "load", f"--signature-policy={policy}", "--quiet", f"--input={storage}/a.tar", env=env)
    made = run(*podman, "create", "--network=none", image, env=env).strip()
    run(*podman, "export", "-o", tmp_path / "x.tar", made)
    run(*podman, "rm", made)
    run(*podman, "rmi", image)
    shutil.rmtree(storage)
    make(f"rootfs:{tmp_path}/x.tar", tmp_path / "file")
    found, expected = comparable(tmp_path / "file"), comparable(application_container)
    assert {path: entry for path, entry in found.items() if path in expected} == expected


def test_a_backup_of_proot_distro(tmp_path: Path) -> None:
    if not find_program("proot-distro"):
        pytest.skip("proot-distro is missing: pip install proot-distro")
    archive = write(tmp_path / "x.tar", *USUAL, ("./bin/busybox", static_busybox().read_bytes(), 0o755))
    home = {**os.environ, "HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    run("proot-distro", "install", "-n", "tiny", archive, env=home)
    (rootfs,) = (tmp_path / "home").rglob("tiny/rootfs")
    data, middle = rootfs / "usr/lib/.l2s.a0001.0002", rootfs / "usr/lib/.l2s.a0001"
    data.write_bytes(b"content")
    middle.symlink_to(data)
    (rootfs / "usr/lib/a").symlink_to(middle)
    (rootfs / "usr/lib/b").symlink_to(middle)
    backups = {"its own": tmp_path / "own.tar.xz", "of tar": tmp_path / "tar.tar"}
    run("proot-distro", "backup", "-o", backups["its own"], "tiny", env=home)
    run("tar", "-C", rootfs.parent.parent, "-cf", backups["of tar"], "tiny")
    for name, backup in backups.items():
        directory = tmp_path / name
        said = make(f"rootfs:{backup}", directory)
        assert (directory / "rootfs/usr/lib/a").read_bytes() == b"content"
        assert stat.S_ISREG((directory / "rootfs/usr/lib/b").lstat().st_mode)
        assert (directory / "rootfs/bin/bash").exists()
        runtime = "--runtime=chroot" if os.geteuid() == 0 else "--runtime=proot"
        assert run(directory / "start.sh", runtime, "/bin/busybox", "cat", "/usr/lib/a", "/usr/lib/b") == "content" * 2
        if name == "of tar":  # which keeps the links of proot, while proot-distro writes copies
            assert "restored 2 hard links that proot had replaced" in said
            assert (directory / "rootfs/usr/lib/a").samefile(directory / "rootfs/usr/lib/b")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    archive = write(tmp_path / "x.tar", *USUAL, ("large", os.urandom(3 << 20)))
    program = (
        "import sys, provisioner.sources.rootfs as rootfs\n"
        "hash_file = rootfs.hash_file\n"
        "def change(file, name):\n"
        "    digest = hash_file(file, name)\n"
        f"    with open({str(archive)!r}, 'r+b') as opened: opened.seek(1 << 20); opened.write(b'changed')\n"
        "    return digest\n"
        "rootfs.hash_file = change\n"
        "from provisioner.cli import main\n"
        f"sys.exit(main([{AMD64!r}, 'rootfs:{archive}', {str(tmp_path / 'dir')!r}]))\n"
    )
    env = {**os.environ, "PROVISION_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 6, done.stderr
    assert "does not match its digest" in done.stderr
    assert not (tmp_path / "dir").exists()


@pytest.fixture
def squashfs(tmp_path: Path) -> Path:
    """A squashfs with all kinds of files and odd names."""
    need("mksquashfs")
    tree = tmp_path / "tree"
    for name in ("bin", "etc", "usr", "var"):
        (tree / name).mkdir(parents=True)
    (tree / "bin/sh").write_bytes(SHELL)
    (tree / "bin/sh").chmod(0o4755)
    os.link(tree / "bin/sh", tree / "bin/b c")
    for name in ("new\nline", "back\\slash", 'quo"te', "tab\tx", os.fsdecode(b"\xff"), "n" * 200, "empty"):
        (tree / "usr" / name).write_text(name if name != "empty" else "", "utf-8", "surrogateescape")
    (tree / "usr/link").symlink_to("a \\ b" * 30)
    os.mkfifo(tree / "var/fifo")
    (tree / "var/large").write_bytes(os.urandom(3 << 20))
    for path in [*tree.rglob("*"), tree]:
        os.utime(path, (10**9, 10**9), follow_symlinks=False)
    run("mksquashfs", tree, tmp_path / "x", "-quiet", "-no-progress")
    return tmp_path / "x"


def test_a_squashfs_is_as_a_tar_of_it(squashfs: Path, tmp_path: Path) -> None:
    need("unsquashfs")
    make(f"rootfs:{squashfs}", tmp_path / "dir")
    run("tar", "-C", tmp_path / "tree", "-cf", tmp_path / "x.tar", ".")
    make(f"rootfs:{tmp_path}/x.tar", tmp_path / "tar")
    assert comparable(tmp_path / "dir") == comparable(tmp_path / "tar")
    assert mtree(tmp_path / "dir") == mtree(tmp_path / "tar")
    assert record(tmp_path / "dir")["manifest_digest"] == str(Digest.of(squashfs.read_bytes()))
    said = make(f"rootfs:{squashfs}", tmp_path / "other", f"--sha256={'0' * 64}", status=6)
    assert "--sha256 says" in said


def test_a_squashfs_with_its_root_below_a_directory(squashfs: Path, tmp_path: Path) -> None:
    need("unsquashfs")
    (tmp_path / "above").mkdir()
    (tmp_path / "tree").rename(tmp_path / "above/debian-arm64")
    run("mksquashfs", tmp_path / "above", tmp_path / "y", "-quiet", "-no-progress")
    for word in (f"rootfs:{tmp_path}/y", f"{tmp_path}/y"):
        make(word, tmp_path / "dir", "--force")
        assert {"bin", "etc", "usr", "var"} <= set(os.listdir(tmp_path / "dir/rootfs"))
        assert (tmp_path / "dir/rootfs/bin/b c").samefile(tmp_path / "dir/rootfs/bin/sh")


def test_holes_of_a_squashfs(tmp_path: Path) -> None:
    """It is refused by the sizes of its files before one is written, and takes no more than its data."""
    need("mksquashfs", "unsquashfs")
    for name in ("bin", "etc", "usr", "var"):
        (tmp_path / "tree" / name).mkdir(parents=True)
    holes = tmp_path / "tree/etc/holes"
    with open(holes, "wb") as file:
        for offset in (0, 10 << 20, (40 << 20) + 5):
            file.seek(offset)
            file.write(b"data")
        file.truncate(64 << 20)
    run("mksquashfs", tmp_path / "tree", tmp_path / "x", "-quiet", "-no-progress")
    said = make(f"rootfs:{tmp_path}/x", tmp_path / "dir", "--max-size=63M", status=7)
    assert "takes more than the 63,000,000 bytes" in said
    assert "layer 1 of 1" not in said
    make(f"rootfs:{tmp_path}/x", tmp_path / "dir", "--max-size=100M")
    made = tmp_path / "dir/rootfs/etc/holes"
    assert made.read_bytes() == holes.read_bytes()
    assert made.stat().st_blocks * 512 < 2 << 20
    run("tar", "-C", tmp_path / "tree", "-Scf", tmp_path / "x.tar", ".")
    make(f"rootfs:{tmp_path}/x.tar", tmp_path / "tar")
    assert mtree(tmp_path / "dir") == mtree(tmp_path / "tar")


def test_a_squashfs_that_is_damaged(squashfs: Path, tmp_path: Path) -> None:
    need("unsquashfs")
    content = squashfs.read_bytes()
    for number, damaged in enumerate((content[:-5000], content[:200_000], content[:96] + os.urandom(9000))):
        squashfs.write_bytes(damaged)
        assert "unsquashfs can't read it (" in make(f"rootfs:{squashfs}", tmp_path / str(number), status=6)


def test_newlines_in_a_squashfs(tmp_path: Path) -> None:
    """In targets of symlinks and in names, as unsquashfs writes them: nothing is taken for another file."""
    need("mksquashfs", "unsquashfs")
    (tmp_path / "tree/etc").mkdir(parents=True)
    targets = ["a\nb R 1 644 0 0 5 0", "x\netc/shadow L etc/passwd", "\n\n", "1\n#\n# START OF DATA"]
    for number, target in enumerate(targets):
        (tmp_path / f"tree/etc/{number}").symlink_to(target)
    (tmp_path / "tree/etc/new\nR 1 644 0 0 5 0").write_text("content")
    (tmp_path / "tree/large").write_bytes(os.urandom(3 << 20))
    run("mksquashfs", tmp_path / "tree", tmp_path / "x", "-quiet", "-no-progress")
    make(f"rootfs:{tmp_path}/x", tmp_path / "dir")
    etc = tmp_path / "dir/rootfs/etc"
    assert [os.readlink(etc / str(number)) for number in range(len(targets))] == targets
    assert (etc / "new\nR 1 644 0 0 5 0").read_text() == "content"
    assert not (etc / "shadow").exists()
    assert (tmp_path / "dir/rootfs/large").read_bytes() == (tmp_path / "tree/large").read_bytes()


def test_a_squashfs_without_its_program(squashfs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    env = {**os.environ, "PATH": str(tmp_path / "empty")}
    done = provision(AMD64, f"rootfs:{squashfs}", tmp_path / "dir", env=env, status=7)
    assert "needs the program unsquashfs, which is missing" in done.stderr
    (tmp_path / "empty/unsquashfs").write_text("#!/bin/sh\necho 'SYNTAX: unsquashfs [options]' >&2; exit 1\n")
    (tmp_path / "empty/unsquashfs").chmod(0o755)
    done = provision(AMD64, f"rootfs:{squashfs}", tmp_path / "dir", env=env, status=7)
    assert "too old" in done.stderr
