"""`make run` for real: an image of this machine's shell, the registry on loopback, and what the container says."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from scripts import demo
from scripts.loopback_registry import OCI_MANIFEST, LoopbackRegistry
from tests.support.tools import CHECKOUT, as_user, clean_environment, find_program, need, need_root, run, user_python


def make_run(place: Path, *image: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Do what `make run [IMAGE]` does, in `place`; what it says on both streams is in its `stdout`."""
    here = (sys.executable, {"PYTHONPATH": str(CHECKOUT)})
    python, found_by = user_python() if "user" in options else here
    ours = {**found_by, "PYTHONDONTWRITEBYTECODE": "1", "PROVISION_CACHE_DIR": str(place / "cache")}
    options["env"] = {**clean_environment(), **options.get("env", {}), **ours}
    options |= {"cwd": place, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run([python, "-m", "scripts.demo", *image], check=False, text=True, timeout=240, **options)


def path_without(directory: Path, *names: str) -> str:
    """Make a PATH of all programs but those whose names start with one of `names`."""
    programs = directory / "programs"
    programs.mkdir()
    for place in ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for program in Path(place).glob("*"):
            if not program.name.startswith(names) and not (programs / program.name).is_symlink():
                (programs / program.name).symlink_to(program)
    return str(programs)


def said(output: str) -> dict[str, str]:
    """Return what the container said, text by label (`label: text`); a line without a label has the empty one."""
    lines = [line.removeprefix("  | ") for line in output.splitlines() if line.startswith("  | ")]
    labelled = [line.partition(":") if ":" in line else ("", "", line) for line in lines]
    return {label: text.strip() for label, _, text in labelled}


def assert_hello(done: subprocess.CompletedProcess[str]) -> None:
    """Assert that the container started, as its image says, in the tree that its two layers make."""
    assert done.returncode == 0, done.stdout
    hello = said(done.stdout)
    assert hello[""] == "Hello from inside of the container!"
    assert hello["machine"].startswith(os.uname().machine)
    assert hello["system"] == "The shell of the machine that this was made on"
    assert hello["directory"] == "/srv/hello"
    assert {"bin", "etc", "srv"} <= set(hello["files"].split())
    assert "gone" in hello["whiteout"]


def test_root_starts_it_and_the_second_run_finds_it_up_to_date(place: Path) -> None:
    need_root()
    need("busybox")
    assert_hello(make_run(place))
    rootfs = (place / "container/rootfs").stat()
    again = make_run(place)
    assert_hello(again)
    assert "up to date" in again.stdout
    assert (place / "container/rootfs").stat().st_ino == rootfs.st_ino


def test_what_an_older_demo_made_is_replaced_and_nothing_else(place: Path) -> None:
    need_root()
    need("busybox")
    make_run(place)
    record = place / "container/.provision/record.json"
    other = "sha256:" + 64 * "0"
    older = json.loads(record.read_text()) | {"manifest_digest": other, "config_digest": other}
    record.write_text(json.dumps(older))
    assert_hello(make_run(place))
    record.write_text(json.dumps(older | {"reference": "docker.io/library/ubuntu:latest"}))
    inode = (place / "container/rootfs").stat().st_ino
    done = make_run(place)
    assert done.returncode == 8, done.stdout
    assert (place / "container/rootfs").stat().st_ino == inode


@pytest.mark.slow
def test_a_user_starts_it_with_proot(place: Path) -> None:
    need("busybox", "proot")
    assert_hello(make_run(place, **as_user()))


@pytest.mark.slow
def test_a_shell_with_its_libraries_does_without_busybox(place: Path) -> None:
    need("ldd")
    done = make_run(place, env={"PATH": path_without(place, "busybox")})
    assert_hello(done)
    assert not (place / "container/rootfs/bin/busybox").exists()


def test_without_anything_to_make_it_of_it_says_what_to_install(place: Path) -> None:
    done = make_run(place, env={"PATH": path_without(place, "busybox", "ldd")})
    assert done.returncode == 7
    assert "busybox-static" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (place / "container").exists()


def test_a_real_image_is_asked_what_it_is(place: Path, debian: str) -> None:
    done = make_run(place, debian, **as_user())
    assert done.returncode == 0, done.stdout
    assert said(done.stdout)["system"].startswith("Debian GNU/Linux")
    assert (place / f"container-{debian.replace('/', '-').replace(':', '-')}/start.sh").exists()


def test_its_exit_status_is_that_of_the_step_that_fails(place: Path) -> None:
    with LoopbackRegistry() as registry:
        done = make_run(place, f"{registry.host}/nothing")
    assert done.returncode == 3, done.stdout
    assert "start.sh" not in done.stdout


def test_the_image_is_the_same_each_time_and_skopeo_reads_it() -> None:
    need("busybox", "skopeo")
    seen = []
    for _ in range(2):
        with LoopbackRegistry() as registry:
            demo.publish(registry, "hello", [demo.tar(demo.base_layer()), demo.tar(demo.top_layer())])
            report = run("skopeo", "inspect", "--tls-verify=false", "--no-tags", f"docker://{registry.host}/hello")
            seen.append(json.loads(report))
    assert seen[0]["Digest"] == seen[1]["Digest"]
    assert len(seen[0]["Layers"]) == 2
    assert "GREETING=Hello from inside of the container!" in seen[0]["Env"]


@pytest.mark.parametrize(("program", "static"), [("busybox", True), ("sh", False), ("ldd", False)])
def test_static_programs_are_known(program: str, static: bool) -> None:
    need(program)
    path = find_program(program)
    assert path is not None
    assert demo.is_static(Path(path).read_bytes()) is static


# The registry on loopback


BLOB = "sha256:" + hashlib.sha256(b"0123456789").hexdigest()
MANIFEST = "sha256:" + hashlib.sha256(b"{}").hexdigest()


@pytest.fixture
def loopback() -> Iterator[str]:
    """The URL of a registry with one blob and one manifest in the repository `a/b`."""
    with LoopbackRegistry() as registry:
        assert registry.add_blob("a/b", b"0123456789") == BLOB
        assert registry.add_manifest("a/b", b"{}", tag="latest") == MANIFEST
        yield f"http://{registry.host}/v2/"


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=-4", 206, b"6789", "bytes 6-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_blobs_have_ranges(
    loopback: str, asked: str, status: int, body: bytes | None, content_range: str | None
) -> None:
    answer = requests.get(f"{loopback}a/b/blobs/{BLOB}", headers={"Range": asked}, timeout=60)
    assert answer.status_code == status
    assert answer.headers.get("Content-Range") == content_range
    assert body is None or answer.content == body


@pytest.mark.parametrize(
    ("path", "media_type", "digest", "size"),
    [
        ("a/b/manifests/latest", OCI_MANIFEST, MANIFEST, 2),
        (f"a/b/manifests/{MANIFEST}", OCI_MANIFEST, MANIFEST, 2),
        (f"a/b/blobs/{BLOB}", "application/octet-stream", BLOB, 10),
        ("", "application/json", None, 2),
    ],
)
def test_head_says_of_a_document_what_get_sends(
    loopback: str, path: str, media_type: str, digest: str | None, size: int
) -> None:
    with requests.Session() as session:  # one connection: a body after HEAD would be taken for the next answer
        head = session.head(loopback + path, timeout=60)
        got = session.get(loopback + path, timeout=60)
    for answer in (head, got):
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == media_type
        assert answer.headers.get("Docker-Content-Digest") == digest
        assert int(answer.headers["Content-Length"]) == size
    assert head.content == b""
    assert len(got.content) == size


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("a/b/manifests/none", "MANIFEST_UNKNOWN"),
        (f"a/b/manifests/{BLOB}", "MANIFEST_UNKNOWN"),
        (f"a/b/blobs/{MANIFEST}", "BLOB_UNKNOWN"),
        (f"a/blobs/{BLOB}", "NAME_UNKNOWN"),
        ("a/b/nothing", "UNSUPPORTED"),
    ],
)
def test_what_is_not_there_is_named_by_the_specification(loopback: str, path: str, code: str) -> None:
    answer = requests.get(loopback + path, timeout=60)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/json"
    assert [error["code"] for error in answer.json()["errors"]] == [code]


def test_it_works_where_no_terminal_can_be_made(place: Path) -> None:
    """As in a bare chroot without /dev/pts."""
    need_root()
    need("unshare", "mount", "busybox")
    command = f"""
        mount -t tmpfs none /dev/pts && mount --bind /dev/null /dev/ptmx || exit
        exec {sys.executable} -m scripts.demo
    """
    env = {**clean_environment(), "PYTHONPATH": str(CHECKOUT), "PROVISION_CACHE_DIR": str(place / "cache")}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command], cwd=place, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Hello from inside of the container!" in done.stdout
