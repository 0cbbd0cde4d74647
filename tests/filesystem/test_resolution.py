"""Paths that others could turn elsewhere: links in sticky directories, directories of strangers above, swaps."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from provisioner.filesystem.atomic import replace_file
from provisioner.filesystem.resolution import open_file, resolved
from provisioner.filesystem.trust import NOBODY, TrustedDirectories, Untrusted
from tests.support.disks import bindfs
from tests.support.leftovers import open_descriptors
from tests.support.tools import need, need_root, own, run, user_id, user_python

STRANGER = 1234


def lead(path: Path | str, trust: TrustedDirectories = NOBODY, **options: bool) -> tuple[str, tuple[str, ...]]:
    with resolved(path, trust, **options) as found:
        assert os.readlink(f"/proc/self/fd/{found.directory}") == str(
            Path(*found.path.parts[: len(found.path.parts) - len(found.missing)])
        )
        return str(found.path), found.missing


@contextmanager
def as_uid(uid: int) -> Iterator[None]:
    """Be another user for the context; the real one stays root."""
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.parametrize(
    ("path", "found", "missing"),
    [
        ("a/b", "a/b", ()),
        ("a//./b/", "a/b", ()),
        ("a/b/..", "a", ()),
        ("a/file", "a/file", ("file",)),
        ("a/none", "a/none", ("none",)),
        ("a/none/x/../y", "a/none/y", ("none", "y")),
        ("a/file/x", "a/file/x", ("file", "x")),
        ("to-b", "a/b", ()),
        ("to-b/../none", "a/none", ("none",)),
        ("absolute/b", "a/b", ()),
        ("dangling/x", "a/gone/x", ("gone", "x")),
    ],
)
def test_paths_lead_where_the_kernel_says(tmp_path: Path, path: str, found: str, missing: tuple[str, ...]) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").touch()
    (tmp_path / "to-b").symlink_to("a/b")
    (tmp_path / "absolute").symlink_to(tmp_path / "a")
    (tmp_path / "dangling").symlink_to("a/gone")
    assert lead(f"{tmp_path}/{path}") == (f"{tmp_path}/{found}", missing)
    if not missing:
        assert os.path.realpath(f"{tmp_path}/{path}") == f"{tmp_path}/{found}"


def test_relative_paths_start_where_the_process_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert lead("x/y") == (f"{tmp_path}/x/y", ("x", "y"))
    assert lead("/") == ("/", ())
    assert lead("/../..") == ("/", ())


def test_the_last_name_alone_is_left_to_the_caller(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    assert lead(tmp_path / "link", parents_only=True) == (f"{tmp_path}/link", ("link",))
    assert lead(f"{tmp_path}/link/", parents_only=True) == (f"{tmp_path}/link", ("link",))


def test_circles_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    before = len(open_descriptors())
    with pytest.raises(OSError, match="Too many levels"):
        lead(tmp_path / "a/x")
    assert len(open_descriptors()) == before


def test_a_nul_is_no_path() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        lead("/tmp/\0")


def shared(tmp_path: Path, mode: int = 0o1777) -> Path:
    """A directory for all, as /tmp is."""
    need_root()
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(mode)
    return path


def link_of(uid: int, path: Path, target: str) -> Path:
    path.symlink_to(target)
    os.chown(path, uid, uid, follow_symlinks=False)
    return path


def test_a_strangers_link_in_a_sticky_directory_is_not_followed(tmp_path: Path) -> None:
    link = link_of(STRANGER, shared(tmp_path) / "link", "/etc")
    for checks in (True, False):
        with pytest.raises(Untrusted, match=f"{link} belongs to the user {STRANGER}"):
            lead(link / "x", checks_directories=checks)
    assert lead(link / "x", TrustedDirectories(("*",))) == ("/etc/x", ("x",))


def test_nor_by_a_user(place: Path) -> None:
    link = link_of(STRANGER, shared(place) / "link", "/etc")
    with as_uid(user_id()), pytest.raises(Untrusted):
        lead(link / "x")


def test_links_of_ones_own_are_followed(place: Path) -> None:
    folder = shared(place)
    link_of(user_id(), folder / "mine", "/etc")
    link_of(0, folder / "of-root", "/etc")
    for name in ("mine", "of-root"):
        with as_uid(user_id()):
            assert lead(folder / name) == ("/etc", ())
        # Root trusts the user who became root.
        assert lead(folder / name) == ("/etc", ())


def test_users_follow_links_elsewhere_as_the_kernel_does(place: Path) -> None:
    need_root()
    (place / "theirs").mkdir()
    os.chown(place / "theirs", STRANGER, STRANGER)
    link = link_of(STRANGER, place / "theirs/link", "/etc")
    with as_uid(user_id()):
        assert lead(link) == ("/etc", ())
    with pytest.raises(Untrusted):
        lead(link, checks_directories=False)


@pytest.mark.parametrize(
    ("uid", "mode", "works"),
    [(0, 0o755, True), (0, 0o1777, True), (0, 0o777, False), (0, 0o775, True), (STRANGER, 0o755, False)],
)
def test_root_relies_on_no_directory_of_strangers(tmp_path: Path, uid: int, mode: int, works: bool) -> None:
    need_root()
    (tmp_path / "above/below").mkdir(parents=True)
    (tmp_path / "above").chmod(mode)
    os.chown(tmp_path / "above", uid, uid)
    for path in ("above/x", "above/below/x", "above/below"):
        if works:
            assert lead(tmp_path / path)[0] == f"{tmp_path}/{path}"
            continue
        with pytest.raises(Untrusted, match=f"^{tmp_path}/above "):
            lead(tmp_path / path)
        for trusted in ("*", str(tmp_path / "above"), str(tmp_path)):
            assert lead(tmp_path / path, TrustedDirectories((trusted,)))[0] == f"{tmp_path}/{path}"


def test_the_user_who_became_root_is_trusted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_root()
    assert lead(place / "x")[0] == f"{place}/x"
    monkeypatch.delenv("SUDO_UID")
    with pytest.raises(Untrusted):
        lead(place / "x")


def test_another_user_may_work_below_directories_of_strangers(place: Path) -> None:
    need_root()
    (place / "above").mkdir()
    os.chown(place / "above", STRANGER, STRANGER)
    with as_uid(user_id()):
        assert lead(place / "above/x")[0] == f"{place}/above/x"


def test_directories_that_can_only_be_passed(place: Path) -> None:
    """As / and /data on Android."""
    (place / "passed/own").mkdir(parents=True)
    own(place / "passed/own")
    (place / "passed").chmod(0o711)
    need_root()
    os.chown(place / "passed", 0, 0)
    with as_uid(user_id()):
        assert lead(place / "passed/own")[0] == f"{place}/passed/own"


def test_a_path_that_is_swapped_all_the_time_never_leads_elsewhere(tmp_path: Path) -> None:
    """A stranger swaps a directory of theirs for a link, as fast as can be: root never follows it."""
    folder = shared(tmp_path)
    (tmp_path / "secret").mkdir()
    swapper = f"""
import os
os.chdir({str(folder)!r})
os.setuid({STRANGER})
while True:
    os.mkdir("x", 0o777)
    os.rmdir("x")
    os.symlink({str(tmp_path / "secret")!r}, "x")
    os.unlink("x")
"""
    with subprocess.Popen([sys.executable, "-c", swapper]) as process:
        try:
            for _ in range(3000):
                try:
                    assert lead(folder / "x/y") == (f"{folder}/x/y", ("x", "y"))
                except (Untrusted, OSError):
                    continue
        finally:
            process.kill()


# Where root isn't everything

RESOLVE = """
import os, sys
from provisioner.filesystem.atomic import replace_file
from provisioner.filesystem.resolution import open_file, resolved
try:
    with resolved(sys.argv[1]) as found:
        print("leads on")
except OSError as error:
    print(error)
"""


def outcome(path: Path, *namespace: str) -> str:
    """Return how root resolves a path, in a namespace, and with nobody who became root."""
    python, found_by = user_python()  # which roots of namespaces may read
    environment = {name: value for name, value in os.environ.items() if name not in ("SUDO_UID", "CI")}
    return run(*namespace, python, "-c", RESOLVE, path, env={**environment, **found_by}, cwd="/").strip()


MAPPED = """
import ctypes, os, sys
ready, mapped = os.pipe(), os.pipe()
child = os.fork()
if not child:
    assert ctypes.CDLL(None).unshare(0x10000000) == 0
    os.write(ready[1], b".")
    os.read(mapped[0], 1)
    os.setgid(0)
    os.setuid(0)
    os.execvp(sys.argv[2], sys.argv[2:])
os.read(ready[0], 1)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{name}", "w") as file:
        file.write(sys.argv[1])
os.write(mapped[1], b".")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_root_of_a_namespace_cannot_name_the_machines_own_root(place: Path) -> None:
    """As in rootless containers: / and /home belong to nobody there, and all other users' directories too."""
    need_root()
    namespace = [sys.executable, "-c", MAPPED, "0 1234 1\n"]
    assert run(*namespace, "id", "-u") == "0\n"
    assert outcome(place / "x", *namespace) == "leads on"
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    assert outcome(place / "open/x", *namespace) == f"{place}/open may be written to by everybody"


def test_nobody_of_a_namespace_is_told_from_those_whom_it_cannot_name(place: Path) -> None:
    """As in `podman unshare`, which gives a user 65536 ids: 65534 is one of them."""
    need_root()
    nobody = place / "nobody"
    nobody.mkdir()
    namespace = [sys.executable, "-c", MAPPED, "0 1234 1\n1 100000 65536\n"]
    assert outcome(place / "x", *namespace) == "leads on"
    os.chown(nobody, 100000 + 65533, 1234)
    assert outcome(nobody / "x", *namespace) == f"{nobody} belongs to the user 65534, who is not trusted"


def test_a_file_system_whose_root_is_somebody_else(tmp_path: Path) -> None:
    """As NFS with root_squash: what root creates there is another user's, and so is the directory."""
    with bindfs(tmp_path, "--force-user=65534") as squashed:
        assert outcome(squashed / "x") == "leads on"
        (squashed / "sub").mkdir()
        assert outcome(squashed / "sub/x") == "leads on"
    os.chown(tmp_path / "below", 65534, 65534)  # a daemon's, on a file system that knows owners
    assert "belongs to the user 65534" in outcome(tmp_path / "below/x")


def test_a_job_of_ci_in_a_container(tmp_path: Path) -> None:
    """The checkout is anybody's there, and may be written to by everybody."""
    need_root()
    need("unshare")
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout").chmod(0o777)
    os.chown(tmp_path / "checkout", 1001, 1001)
    container = ["unshare", "--pid", "--fork", "--mount-proc"]
    assert "belongs to the user 1001" in outcome(tmp_path / "checkout/x", *container)
    assert outcome(tmp_path / "checkout/x", *container, "env", "CI=true") == "leads on"


# Files


def read(path: Path | str) -> bytes:
    with open(open_file(path), "rb") as file:
        return file.read()


def test_files_are_read_by_links_of_ones_own_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read(tmp_path / "link") == b"content"
    theirs = link_of(STRANGER, shared(tmp_path) / "link", str(tmp_path / "file"))
    with pytest.raises(Untrusted):
        read(theirs)
    with pytest.raises(Untrusted):
        replace_file(theirs, b"changed", 0o600)
    assert read(tmp_path / "file") == b"content"


def test_what_is_no_file(tmp_path: Path) -> None:
    for path, error in (("", IsADirectoryError), ("none", FileNotFoundError), ("a/b", FileNotFoundError)):
        with pytest.raises(error):
            read(tmp_path / path)


def test_open_files_are_read_by_their_number(tmp_path: Path) -> None:
    """Shells give them as files: `--locked <(curl …)`, `--profile /dev/stdin`."""
    ours, theirs = os.pipe()
    os.write(theirs, b"content")
    os.close(theirs)
    assert read(f"/dev/fd/{ours}") == b"content"
    os.close(ours)
    (tmp_path / "file").write_bytes(b"content")
    with (tmp_path / "file").open("rb") as file:
        (tmp_path / "file").unlink()
        assert read(f"/proc/self/fd/{file.fileno()}") == b"content"
