"""Nothing of the host is touched: mounts, links and text that want out of the rootfs get nowhere through start.sh."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from provisioner.launch.settings import LaunchSettings
from tests.support.containers import (
    ENVIRONMENT,
    PASSWD,
    SAY,
    SETTINGS,
    Container,
    make_container,
    make_scratch,
    starter,
)
from tests.support.mounts import mounts_below
from tests.support.tools import need_root, run

pytestmark = pytest.mark.slow


def mounts_around(container: Container, propagation: str, tools: str) -> list[str]:
    """What a mount namespace around start.sh says of its mounts, while a guest runs with a bind, and afterwards.

    The namespace's own mounts have that propagation; `tools` is the PATH of start.sh.
    """
    need_root()
    script = f"""
        mount --make-r{propagation} / && before=$(cat /proc/self/mountinfo)
        # The kernel takes others' mounts away where they remove the directory below.
        nothing_new() {{ [ -z "$(grep -vxF "$before" /proc/self/mountinfo)" ]; }}
        env PATH="$0" sh "$@" -c 'echo ready; sleep 1' | {{
            read line; echo $line; nothing_new && echo same during; }}
        nothing_new && echo same after
    """
    starting: list[str | Path] = [
        container.script,
        "--runtime",
        "chroot",
        "--bind",
        f"{container.directory.parent}:/data",
        "sh",
    ]
    return run("unshare", "--mount", "sh", "-c", script, tools, *starting, **starter("chroot")).splitlines()


@pytest.mark.parametrize("propagation", ["private", "shared"])
def test_nothing_stays_mounted(container: Container, propagation: str) -> None:
    path = starter("chroot")["env"]["PATH"]
    assert mounts_around(container, propagation, path) == ["ready", "same during", "same after"]


def test_nothing_stays_mounted_with_small_tools(container: Container, small_tools: dict[str, str]) -> None:
    assert mounts_around(container, "shared", small_tools["PATH"]) == ["ready", "same during", "same after"]


def test_a_mount_that_fails_is_reported_and_undone(container: Container, place: Path) -> None:
    (place / "data").mkdir()
    (container.rootfs / "file").write_text("")
    done = container.run("chroot", "--bind", f"{place}/data:/file", "true")
    assert done.returncode == 125
    assert f"start.sh: can't bind {place}/data on /file".encode() in done.stderr
    assert mounts_below(place) == []


def test_deleting_the_directory_during_a_run_spares_the_host(container: Container, place: Path) -> None:
    data = place / "data"
    data.mkdir()
    (data / "canary").write_text("alive")
    data.chmod(0o777)
    with container.running(
        "chroot", "--bind", f"{data}:/data", "sh", "-c", "echo ready; cat", stdin=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        shutil.rmtree(container.directory, ignore_errors=True)
        assert (data / "canary").read_text() == "alive"
        assert Path("/dev/null").is_char_device()
        process.communicate()
    shutil.rmtree(container.directory, ignore_errors=True)
    assert not container.directory.exists()
    assert (data / "canary").read_text() == "alive"


# What the image says


CANARIES = [
    "$(touch {0})",
    "`touch {0}`",
    "'; touch {0}; '",
    '"; touch {0}; "',
    "\ntouch {0}\n",
    "$(touch {0}",
    "&& touch {0} #",
]


@pytest.mark.parametrize("text", CANARIES)
def test_no_field_of_an_image_runs_on_the_host(container: Container, place: Path, runtime: str, text: str) -> None:
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    canary = text.format(place / "open/canary")
    (container.rootfs / "etc/passwd").write_text(f"root:x:0:0::{canary.strip()}:{canary.strip()}\n")
    container.set(
        **{
            field.name: canary if isinstance(getattr(SETTINGS, field.name), str) else (f"A={canary}", canary)
            for field in dataclasses.fields(LaunchSettings)
            if field.name not in ("default_runtime", "image_platform", "image_user", "image_entrypoint")
            and field.name != "default_proot_options"  # proot refuses other words than its own
        },
        image_entrypoint=SAY,
    )
    done = container.run(runtime)
    assert done.returncode == 0, done
    assert done.stdout.split(b"\0")[:-1] == [f"A={canary}".encode(), canary.encode()]
    container.set(image_platform=canary)
    assert container.run(runtime).returncode == 125
    container.set(image_user=canary, image_entrypoint=(canary,))
    assert container.run(runtime).returncode == 125
    assert container.run(runtime, "--root").returncode in (126, 127)
    assert list((place / "open").iterdir()) == []


@pytest.mark.parametrize("kind", ["container", "scratch"])
def test_variables_of_an_image_do_not_act_on_host_programs(place: Path, runtime: str, kind: str) -> None:
    target = {"container": make_container, "scratch": make_scratch}[kind](place / kind)
    evil = place / "evil"
    evil.mkdir(mode=0o755)
    for name in ("proot", "chroot", "unshare", "mount", "env", "sh", "mkdir", "cp", "uname", "readlink"):
        (evil / name).write_text(f"#!/bin/sh\necho ran {name}\n")
        (evil / name).chmod(0o755)
    target.set(
        image_env=(
            f"PATH={evil}:/bin:/app",
            *(f"{name}={evil}/no-such" for name in ("LD_PRELOAD", "LD_AUDIT", "PROOT_TMP_DIR", "TMPDIR", "GCONV_PATH")),
            *("LD_DEBUG=all", "PROOT_VERBOSE=9", "GLIBC_TUNABLES=glibc.malloc.check=3", "LOCPATH=/x"),
        ),
        image_workdir="/work",
    )
    found = target.words(runtime, *ENVIRONMENT)
    assert f"PATH={evil}:/bin:/app".encode() in found
    # With env in the image, the guest does get all of them.
    assert (b"LD_DEBUG=all" in found) == (kind == "container")


# What the rootfs holds


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../../etc/passwd", "{outside}/passwd", "loop"])
def test_users_are_not_read_outside_of_the_rootfs(container: Container, place: Path, runtime: str, target: str) -> None:
    (place / "passwd").write_text("mallory:x:7:7::/:/bin/sh\n")
    (container.rootfs / "etc/passwd").unlink()
    (container.rootfs / "etc/passwd").symlink_to(target.format(outside=place))
    (container.rootfs / "etc/loop").symlink_to("passwd")
    done = container.run(runtime, "--user", "mallory", "true")
    assert done.returncode == 125
    assert done.stderr.count(b"\n") == 1
    assert (
        b"no user mallory" if "outside" in target else b"too many links"
    ) in done.stderr  # two are links to themselves


@pytest.mark.parametrize(("links", "length", "status"), [(38, 4000, 125), (3, 4000, 125), (38, 200, 0), (2, 4000, 0)])
def test_links_of_an_image_take_limited_time(
    container: Container, runtime: str, links: int, length: int, status: int
) -> None:
    """Each name that a link adds is one more step, of a text that long: 38 of 4000 bytes took seconds a start."""
    etc = container.rootfs / "etc"
    etc.rename(container.rootfs / "the-last")
    names = [f"link{number}" for number in range(links - 1)]
    for name, target in zip(["etc", *names], [*names, "the-last"], strict=True):
        (container.rootfs / name).symlink_to("./" * ((length - len(target)) // 2) + target)
    done = container.run(runtime, "true")
    assert done.returncode == status, done.stderr
    assert (b"too many links at" in done.stderr) == (status == 125)


def make_long(path: Path, beginning: str = "") -> None:
    """Make a file of 8 GiB without blocks on the disk behind its beginning, as a few KB of a layer may have it."""
    path.write_text(beginning)
    os.truncate(path, 8 << 30)


def test_files_of_an_image_take_limited_time(container: Container, runtime: str) -> None:
    """A shell reads one byte at a time: any of these would take an hour."""
    etc, generated = container.rootfs / "etc", container.directory / ".provision/generated"
    generated.mkdir()
    for name in ("resolv.conf", "hosts", "hostname"):
        (generated / name).write_text("as generated\n")
        make_long(etc / name, "as generated\nand edited\n")
    make_long(etc / "passwd")
    make_long(etc / "group", "more:x:7:root\n")
    done = container.run(runtime, "sh", "-c", "echo $HOME")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"/\n", b"")
    for name in ("resolv.conf", "hosts", "hostname"):
        assert (etc / name).stat().st_size == 8 << 30


def test_users_are_those_of_the_first_64_kib(container: Container) -> None:
    others = "".join(f"user{number}:x:{number}:7::/home/{number}:/bin/sh\n" for number in range(2000, 4000))
    (container.rootfs / "etc/passwd").write_text(PASSWD + "\n" + others)
    (container.rootfs / "etc/group").write_text(f"{others}late:x:5:\n")
    assert container.output("proot", "--user", "user2500", "id", "-u") == b"2500\n"
    for user, kind in {"user3900": "user", "0:late": "group"}.items():
        done = container.run("proot", "--user", user, "true")
        assert done.returncode == 125
        name = user.removeprefix("0:")
        assert f"no {kind} {name} in the first 64 KiB of the image's /etc/" in done.stderr.decode()


def test_users_may_stand_behind_a_link_inside(container: Container) -> None:
    (container.rootfs / "etc/passwd").rename(container.rootfs / "home/users")
    (container.rootfs / "etc/passwd").symlink_to("/usr/../home/users")
    assert container.output("proot", "--user", "joe", "id", "-u") == b"1000\n"


@pytest.mark.parametrize("kind", ["fifo", "directory", "nothing", "binary", "unreadable", "bad lines"])
def test_odd_user_files_do_no_harm(container: Container, kind: str) -> None:
    home = b"/\n"
    passwd = container.rootfs / "etc/passwd"
    passwd.unlink()
    if kind == "fifo":
        os.mkfifo(passwd)
    elif kind == "directory":
        passwd.mkdir()
    elif kind == "binary":
        passwd.write_bytes(bytes(range(256)) * 300)
    elif kind == "bad lines":
        passwd.write_text("root\nroot:x:no:0::/a:\nroot:x:0::::\n:\n\nroot:x:99999999999:0::/b:\nroot:x:0:0::/good:")
        home = b"/good root\n"
    elif kind == "unreadable":
        passwd.write_text(PASSWD)
        passwd.chmod(0)
    assert container.output("proot", "sh", "-c", "echo $HOME $USER") == home


def test_hostile_mount_points_lead_nowhere(container: Container, place: Path, runtime: str) -> None:
    outside = place / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (container.rootfs / "proc").rmdir()
    for name in ("dev", "proc", "sys"):
        (container.rootfs / name).symlink_to(outside / name)
    container.run(runtime, "true")
    assert list(outside.iterdir()) == []
