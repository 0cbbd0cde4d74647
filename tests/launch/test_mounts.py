"""What is mounted in chroot and userns is the same with the static helper and with mount(8)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from provisioner.launch.script import body
from tests.support.containers import ROOTS_USERNS, SHELLS, Container, starter
from tests.support.hostile import give_to_root
from tests.support.tools import need, need_root, run, user_id

pytestmark = pytest.mark.slow

OPTIONS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "read-only": ("--read-only",),
    "ephemeral": ("--ephemeral",),
    "privileged": ("--privileged",),
    "all devices": ("--dev=host",),
    "binds": (
        "--bind",
        "PLACE/a:/shown",
        "--bind",
        "PLACE/a:/kept:ro",
        "--bind",
        "PLACE/a file:/etc/a file",
        "--dns",
        "::1",
    ),
    "a device": ("--device", "/dev/null"),
    "all capabilities": ("--cap-add", "ALL"),
    "another user": ("--user", "joe"),
}


@pytest.fixture(params=["userns", ROOTS_USERNS, "chroot"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def seen(container: Container, runtime: str, *options: str, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The mounts, by what is mounted, where and how; what root can do, as a guest sees it; and what start.sh says."""
    guest = "cat /proc/self/mountinfo; grep -E '^(Cap|SigIgn)' /proc/self/status; hostname"
    done = container.run(runtime, *options, "busybox", "sh", "-c", guest, shell=before, by="chroot" if before else "")
    assert done.returncode == 0, done.stderr
    rows: list[tuple[str, ...]] = [("start.sh says", done.stderr.decode())]
    for line in done.stdout.decode().splitlines():
        words = line.split()
        # A new file system has a number of its own. In userns the stage is in the host's /dev/shm, where tests may be.
        if " - " not in line:
            rows.append(tuple(words))
        elif not words[4].startswith("/dev/shm/"):
            rows.append(tuple(words[3:]))
    return rows


@pytest.mark.parametrize("name", OPTIONS)
def test_the_helper_mounts_as_mount_does(container: Container, place: Path, runtime: str, name: str) -> None:
    starter(runtime)
    need("setpriv", "mount", "hostname")
    (place / "a").mkdir()
    (place / "a file").touch()
    options = [word.replace("PLACE", str(place)) for word in OPTIONS[name]]
    (container.directory / ".provision/seccomp.bpf").unlink()  # which bwrap would install
    if runtime == ROOTS_USERNS:
        give_to_root(container)
    by_helper = seen(container, runtime, *options)
    (container.directory / ".provision/machine").unlink()
    by_mount = seen(container, runtime, *options)
    assert by_helper == by_mount
    assert len(by_helper) > 8


def test_they_are_the_same_where_the_kernel_refuses_a_new_proc(container: Container) -> None:
    """As inside of other containers, where a part of /proc is covered."""
    need_root()
    need("unshare", "setpriv", "mount", "hostname")
    (container.directory / ".provision/seccomp.bpf").unlink()
    user = str(user_id())
    covered = 'mount -t tmpfs none /proc/fs && exec setpriv --reuid "$0" --regid "$0" --clear-groups "$@"'
    before = ("unshare", "-m", "sh", "-c", covered, user)
    by_helper = seen(container, "userns", before=before)
    (container.directory / ".provision/machine").unlink()
    assert seen(container, "userns", before=before) == by_helper
    # It is the host's, with what covers it.
    assert [row[1] for row in by_helper if len(row) > 1].count("/proc/fs") == 2


def test_an_option_of_mount_is_a_flag_of_the_kernel_s(container: Container, place: Path) -> None:
    """The rootfs keeps what its file system is mounted with: a user may not take that away."""
    starter("chroot")
    need("mount")
    script = """
        mount -t tmpfs -o nosuid,noexec,noatime,nodiratime tmpfs "$0" && cp -a "$1/." "$0/" &&
        mount -o remount,exec "$0" && exec "$0/start.sh" --runtime chroot busybox grep " / rw," /proc/self/mountinfo
    """
    (place / "moved").mkdir()
    shown = run("unshare", "-m", "sh", "-c", script, place / "moved", container.directory, env=starter("chroot")["env"])
    assert set(shown.split()[5].split(",")) == {"rw", "nosuid", "nodev", "noatime", "nodiratime"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_file_for_a_bind_is_made_where_no_link_leads(tmp_path: Path, shell: str) -> None:
    """A guest may put a link there after start.sh has seen that nothing is there. busybox's mv followed it."""
    need(SHELLS[shell][0])
    script, inside, outside = tmp_path / "script", tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "full").write_text("the host's")
    names = {"link": outside / "new", "link-to-a-file": outside / "full", "link-to-a-directory": outside}
    for name, target in names.items():
        (inside / name).symlink_to(target)
    (inside / "file").write_text("the guest's")
    script.write_text(
        body().decode().rpartition("main")[0]
        + 'prepare_shell; problem=refused ephemeral=yes resolved=; cd "$1"; create_file "$2" || fail "$problem"\n'
    )

    def create(name: str) -> tuple[int, str]:
        done = subprocess.run(
            [*SHELLS[shell], script, inside, name], check=False, capture_output=True, text=True, cwd="/"
        )
        return done.returncode, done.stderr

    for name in (*names, "file"):
        assert create(name) == (125, "start.sh: refused\n")
    assert create("free") == (0, "")
    assert (inside / "free").read_bytes() == b""
    assert [path.name for path in outside.iterdir()] == ["full"]
    assert (outside / "full").read_text() == "the host's"
    assert (inside / "file").read_text() == "the guest's"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_file_for_a_bind_may_be_made_by_another_start_at_the_same_time(tmp_path: Path, shell: str) -> None:
    need(SHELLS[shell][0])
    script = tmp_path / "script"
    functions = body().decode().rpartition("main")[0]
    assert "\ncreate_file() {" in functions
    script.write_text(
        functions.replace("\ncreate_file() {", "\ncreate_after_the_other() {")
        + """
        create_file() {
            true >"./$1"
            create_after_the_other "$1"
        }
        enter() { cd "$1"; }
        bind_opened() { echo "bound on $file"; }
        prepare_shell
        source=/etc/passwd destination=$1/file resolved=$1/file ephemeral=yes
        bind_in_namespace
        """
    )
    done = subprocess.run([*SHELLS[shell], script, tmp_path], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "bound on file\n", "")
