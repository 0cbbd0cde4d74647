"""start.sh --ids many: user namespaces with the user's subordinate ids, which DIR remembers."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import Container, make_container, starter
from tests.support.subordinate import FIRST, with_subordinate_ids
from tests.support.tools import user_id

CHOWN = ("sh", "-c", "touch /tmp/file && busybox chown 5:6 /tmp/file && busybox stat -c %u:%g /tmp/file")
REMOVAL = b"unshare -U -r --map-auto rm -rf "


@pytest.fixture
def options(place: Path) -> dict[str, Any]:
    starter("userns")
    return with_subordinate_ids(place)


@pytest.fixture
def container(place: Path) -> Container:
    return make_container(place / "container")


def refusal(container: Container, *words: str, **options: Any) -> str:
    """The message of a start that has to be refused."""
    done = container.run("", *words, "true", **options)
    assert (done.returncode, done.stdout) == (125, b""), done
    message = done.stderr.decode()
    assert message.startswith("start.sh: ")
    assert message.count("\n") == 1
    return message


def test_many_ids_are_taken_when_asked_for_and_remembered(container: Container, options: dict[str, Any]) -> None:
    first = container.run("", "--ids", "many", *CHOWN, **options)
    assert (first.returncode, first.stdout) == (0, b"5:6\n")
    assert REMOVAL + str(container.directory).encode() in first.stderr
    status = (container.rootfs / "tmp/file").stat()
    assert (status.st_uid, status.st_gid) == (FIRST + 4, FIRST + 5)
    # From then on without being asked, in the only runtime that can, and without a word.
    assert container.output("", *CHOWN, **options) == b"5:6\n"
    assert container.output("userns", *CHOWN, **options) == b"5:6\n"
    assert (container.directory / ".provision/ids").read_text() == f"many\n{FIRST}\n"


def test_they_are_never_taken_unasked(container: Container, options: dict[str, Any]) -> None:
    for name in ("seccomp.bpf", "container.bpf", "helper", "machine"):
        (container.directory / ".provision" / name).unlink()
    done = container.run("userns", "sh", "-c", "cat /proc/self/uid_map", **options)
    assert done.stdout.split() == [b"0", str(user_id()).encode(), b"1"]
    assert not (container.directory / ".provision/ids").exists()


def test_the_user_is_another_one_with_its_groups(container: Container, options: dict[str, Any]) -> None:
    done = container.run("", "--ids", "many", "--user", "joe", "id", **options)
    assert done.stdout.startswith(b"uid=1000(joe) gid=1001(joe) groups=")
    assert b"29(audio)" in done.stdout


@pytest.mark.parametrize("runtime", ["proot", "userns"])
def test_what_was_started_with_one_id_refuses_many(container: Container, options: dict[str, Any], runtime: str) -> None:
    container.output(runtime, "true", **options)
    message = refusal(container, "--ids", "many", **options)
    assert "provision --ids many" in message
    assert not (container.directory / ".provision/ids").exists()
    assert container.run(runtime, "true", **options).returncode == 0


def test_what_was_started_with_many_refuses_one(container: Container, options: dict[str, Any]) -> None:
    assert container.run("", "--ids=many", "true", **options).returncode == 0
    assert "--ids" in refusal(container, "--ids", "one", **options)
    for runtime in ("proot", "chroot"):
        assert "--runtime" in refusal(container, "--runtime", runtime, **options)
    assert "--no-namespace" in refusal(container, "--no-namespace", **options)
    assert "without sudo" in refusal(container, by="chroot")
    # A setting for all of a user's containers is no wish for this one.
    env = {**options["env"], "PROVISION_RUNTIME": "proot"}
    assert container.output("", *CHOWN, **{**options, "env": env}) == b"5:6\n"


def test_other_ids_than_before_are_refused(container: Container, options: dict[str, Any], place: Path) -> None:
    assert container.run("", "--ids", "many", "true", **options).returncode == 0
    other = with_subordinate_ids(place, FIRST + 100_000)
    assert f"from {FIRST} on" in refusal(container, **other)
    assert container.output("", *CHOWN, **options) == b"5:6\n"


def test_without_subordinate_ids_nothing_is_changed(container: Container, place: Path) -> None:
    starter("userns")
    options = with_subordinate_ids(place, 0)
    message = refusal(container, "--ids", "many", **options)
    assert "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 tester" in message
    assert not (container.directory / ".provision/ids").exists()
    assert not (container.directory / ".provision/run").exists()


def test_an_unknown_number_of_ids_is_refused(container: Container) -> None:
    assert "--ids can be one or many" in refusal(container, "--ids", "two", by="proot")


def test_the_first_start_sets_the_image_s_owners_and_modes(
    container: Container, options: dict[str, Any], place: Path
) -> None:
    rootfs = container.rootfs
    odd = "100% a\\b\t'c\n=#é"
    for name in ("home/joe/sub", f"home/joe/{odd}"):
        (rootfs / name).mkdir()
    for name in ("home/joe/file", f"home/joe/{odd}/x", "etc/shadow", "bin/su", "etc/gone"):
        (rootfs / name).write_text("")
    (rootfs / "home/joe/link").symlink_to(place)
    outside = place.stat()
    record = f"""\
#mtree
. type=dir mode=0755 uid=0 gid=0 time=0.0
bin type=dir mode=0755 uid=0 gid=0 time=0.0
su type=file mode=4755 uid=0 gid=0 time=0.0 size=0
..
etc type=dir mode=0755 uid=0 gid=0 time=0.0
gone type=file mode=0644 uid=3 gid=3 time=0.0 size=0
shadow type=file mode=0040 uid=0 gid=42 time=0.0 size=0
..
home type=dir mode=0755 uid=0 gid=0 time=0.0
joe type=dir mode=2750 uid=1000 gid=1001 time=0.0
# xattr.user.x=AA==
{vis(odd)} type=dir mode=0755 uid=1000 gid=1001 time=0.0
x type=file mode=0644 uid=33 gid=34 time=0.0 size=0
..
file type=file mode=0644 uid=1000 gid=1001 time=0.0 size=0
link type=link mode=0777 uid=1000 gid=1001 time=0.0 link=/
sub type=dir mode=0555 uid=0 gid=7 time=0.0
..
..
..
..
"""
    (container.directory / ".provision/ownership.mtree").write_bytes(record.encode())
    (rootfs / "etc/gone").unlink()
    subprocess.run(["chown", "-hR", f"{user_id()}:{user_id()}", container.directory], check=True)
    done = container.run("", "--ids", "many", "true", **options)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(b"\n") == 1, done.stderr

    def found(name: str) -> tuple[int, int, str]:
        status = (rootfs / name).lstat()
        return (
            0 if status.st_uid == user_id() else status.st_uid - FIRST + 1,
            0 if status.st_gid == user_id() else status.st_gid - FIRST + 1,
            f"{status.st_mode & 0o7777:o}",
        )

    assert found("bin/su") == (0, 0, "4755")
    assert found("etc/shadow") == (0, 42, "40")
    assert found("home/joe") == (1000, 1001, "2750")
    assert found("home/joe/file")[:2] == (1000, 1001)
    assert found("home/joe/link")[:2] == (1000, 1001)
    assert found("home/joe/sub") == (0, 7, "555")
    assert found(f"home/joe/{odd}")[:2] == (1000, 1001)
    assert found(f"home/joe/{odd}/x")[:2] == (33, 34)
    assert found("home")[:2] == (0, 0)
    assert not (rootfs / "etc/gone").exists()
    assert (place.stat().st_uid, place.stat().st_mode) == (outside.st_uid, outside.st_mode)
    # Once only: what is changed inside stays.
    assert container.run("", "sh", "-c", "busybox chown 8:9 /home/joe", **options).returncode == 0
    assert container.output("", "true", **options) == b""
    assert found("home/joe")[:2] == (8, 9)


def vis(name: str) -> str:
    return "".join(
        c if "!" <= c <= "~" and c not in "#*=?[\\" else "".join(f"\\{b:03o}" for b in c.encode()) for c in name
    )


def test_the_command_that_is_named_deletes_all_of_it(container: Container, options: dict[str, Any]) -> None:
    guest = "mkdir -p /srv/a/b && touch /srv/a/b/c && busybox chown -R 5:6 /srv && chmod 700 /srv /srv/a"
    done = container.run("", "--ids", "many", "sh", "-c", guest.replace("chmod", "busybox chmod"), **options)
    assert done.returncode == 0, done
    line = next(line for line in done.stderr.decode().splitlines() if REMOVAL.decode() in line)
    command = line[line.index(REMOVAL.decode()) :]
    removing = [*options["shell"], "sh", "-c"]
    failed = subprocess.run([*removing, f"rm -rf {container.directory}"], capture_output=True, env=options["env"])
    assert failed.returncode != 0, "the user can't do it alone"
    subprocess.run([*removing, command], check=True, env=options["env"])
    assert not container.directory.exists()
