"""Where DIR is, what it is called, and where start.sh is started from: none of it matters."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import SAY, Container, choosing, hand_over, starter
from tests.support.tools import need, need_root, user_id


@pytest.mark.parametrize(
    "name",
    [
        b"two words",
        b"quo'te\"s",
        b"new\nline",
        b"-x",
        b"--help",
        b"not\xffutf8\x88",
        b"co:lon",
        b"$(touch canary)",
        b"*",
        b"end\n",
    ],
)
def test_directory_may_have_any_name_and_move(container: Container, runtime: str, name: bytes) -> None:
    moved = Container(Path(os.fsdecode(os.path.join(os.fsencode(container.directory.parent), name))))
    container.directory.rename(moved.directory)
    here = moved.directory.parent
    assert moved.output(runtime, *SAY, "absolute") == b"absolute\0"
    # Started as `-x/start.sh`, which the shell would take for options.
    relative = Container(Path(os.fsdecode(name)))
    assert relative.output(runtime, *SAY, "relative", cwd=here) == b"relative\0"
    assert moved.output(runtime, *SAY, "by a shell", shell=["sh", "--"]) == b"by a shell\0"
    links = here / "links"
    links.mkdir()
    (links / "first").symlink_to(moved.script)
    (links / "second").symlink_to("first")
    for started, cwd in ((links / "second", "/"), (Path("second"), str(links))):
        command = ["sh", str(started), *choosing(runtime), *SAY, "link"]
        done = subprocess.run(command, capture_output=True, check=True, **{**starter(runtime), "cwd": cwd})
        assert done.stdout == b"link\0"


def test_a_copy_works_like_the_original(container: Container, place: Path, runtime: str) -> None:
    shutil.copytree(container.directory, place / "copy", symlinks=True)
    copy = hand_over(Container(place / "copy"))
    shutil.rmtree(container.directory)
    assert copy.output(runtime, *SAY, "copied") == b"copied\0"


def test_the_script_alone_says_what_it_lacks(container: Container, place: Path) -> None:
    shutil.move(container.script, place / "start.sh")
    done = Container(place).run("")
    assert done.returncode == 125
    assert b"there is no rootfs beside" in done.stderr


def test_a_directory_that_cannot_be_written(container: Container) -> None:
    need_root()
    for top, directories, files in os.walk(container.directory):
        for name in [".", *directories, *files]:
            os.chown(os.path.join(top, name), 0, 0, follow_symlinks=False)
    for runtime in ("proot", "userns"):
        for missing in ("dev", "sys"):
            (container.rootfs / missing).mkdir(exist_ok=True)
        assert container.output(runtime, *SAY, "read-only") == b"read-only\0"


def test_a_read_only_file_system(container: Container, place: Path, runtime: str) -> None:
    need_root()
    need("setpriv")
    env = starter(runtime)["env"]
    for name in ("dev", "sys", "run"):
        (container.rootfs / name).mkdir()
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    outer = ["unshare", "--mount", "sh", "-c", script, str(container.directory)]
    if runtime != "chroot":
        outer += ["setpriv", f"--reuid={user_id()}", f"--regid={user_id()}", "--clear-groups"]
    guest = "{ true >/tmp/x; } 2>/dev/null || echo read-only; echo y >/dev/shm/y; pwd; cat /etc/resolv.conf /dev/shm/y"
    options = ["--dns", "192.0.2.1", "--workdir", "/home"]
    output = container.output(runtime, *options, "sh", "-c", guest, shell=outer, by="chroot", env=env)
    assert output == b"read-only\n/home\nnameserver 192.0.2.1\ny\n"


@pytest.mark.parametrize(
    "written",
    ["./container/start.sh", ".//container/./start.sh", "other/../container/start.sh", "link/../container/start.sh"],
)
def test_paths_that_are_shown_are_normal(container: Container, place: Path, written: str) -> None:
    """As a directory's path is written usually: without what leads nowhere."""
    for name in ("other", "data", "elsewhere"):
        (place / name).mkdir()
        (place / name).chmod(0o777)
    (place / "elsewhere/below").mkdir()
    (place / "link").symlink_to("elsewhere/below")
    (place / "elsewhere/container").symlink_to("../container")
    env = {**starter("proot")["env"], "TMPDIR": f"{place}//data/"}
    env["PATH"] = "/usr//bin/:" + env["PATH"].replace("/usr/bin", "/usr/bin/")
    binds = [
        "--bind",
        "./data/:/mnt//data/",
        "--bind",
        f"{place}/other/../data//",
        "-w",
        "//tmp/./",
        "--dns",
        "192.0.2.1",
    ]
    command = [written, "--runtime", "proot", *binds, "--print", "true"]
    done = subprocess.run(command, capture_output=True, check=True, **{**starter("proot"), "cwd": place, "env": env})
    words = done.stdout.decode().replace("=", " ").replace(":", " ").split()
    paths = [word for word in words if word.startswith("/")]
    assert f"{place}/data" in paths
    assert "/mnt/data" in paths
    assert "/tmp" in paths
    if "link" not in written:
        assert f"{place}/container/rootfs" in paths
    else:
        assert f"{place}/link/../container/rootfs" in paths, "what is above a link is the kernel's to say"
        paths = [path for path in paths if "/link/../" not in path]
    assert [path for path in paths if path != os.path.normpath(path)] == []
    for path in (place / "data").glob("start.*"):
        shutil.rmtree(path)


def test_paths_in_messages_are_normal(container: Container, place: Path) -> None:
    options: dict[str, Any] = {**starter("proot"), "cwd": place}
    for words in (["--bind", ".//missing/"], ["--bind", "container/../missing:/x"]):
        done = container.run("proot", *words, "true", **options)
        assert done.stderr.decode() == f"start.sh: --bind: there is no {place}/missing: mkdir -p {place}/missing\n"
    (place / "away").mkdir()
    shutil.copy(container.script, place / "away/start.sh")
    done = subprocess.run(["sh", "./away/.//start.sh"], capture_output=True, check=False, **options)
    assert done.stderr.decode().startswith(f"start.sh: there is no rootfs beside {place}/away/start.sh:")
