"""start.sh runs only a DIR that nobody but trusted users can change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import SHELLS, Container, hand_over, make_container
from tests.support.tools import as_user, clean_environment, need, need_root, run, unavailable, user_id

pytestmark = pytest.mark.slow

STRANGER = 64320
"""A user whom nobody trusts. The unprivileged user of the tests has another number."""
USED = [".provision/helper", ".provision/container.bpf", ".provision/run"]
"""Some of what start.sh executes, evaluates or reads."""
SAID = [["--runtime", "chroot", "true"], ["--print"], ["--list"], ["--stop"], ["--detach", "true"]]


def as_root(**environment: str) -> dict[str, Any]:
    """Options of subprocess.run for a root whom nobody has made one, but as `environment` says."""
    need_root()
    env = {name: value for name, value in clean_environment().items() if name != "SUDO_UID"}
    return {"env": {**env, **environment}, "cwd": "/"}


def by_sudo() -> dict[str, Any]:
    return as_root(SUDO_UID=str(user_id()))


def start(container: Container, *words: str, shell: tuple[str, ...] = (), **options: Any) -> tuple[int, str]:
    """Start it, and return the exit status and what is said on standard error."""
    command: list[str | Path] = [*shell, container.script, *(words or ("--print",))]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done = subprocess.run(command, check=False, timeout=60, **pipes, **options)
    return done.returncode, done.stderr.decode()


def give(path: Path, user: int) -> None:
    os.chown(path, user, user)


def give_all(container: Container, user: int, group: int = -1) -> None:
    """Give DIR away with all that start.sh uses."""
    for path in (container.directory, *(container.directory / ".provision").rglob("*")):
        os.chown(path, user, user if group < 0 else group)
    for path in (container.directory / ".provision", container.script):
        os.chown(path, user, user if group < 0 else group)


@pytest.fixture
def foreign(container: Container) -> Container:
    """A DIR of somebody whom nobody trusts."""
    need_root()
    give_all(container, STRANGER)
    return container


# Who owns it


@pytest.mark.parametrize("shell", SHELLS)
def test_a_directory_of_the_user_who_became_root_runs(container: Container, shell: str) -> None:
    need(SHELLS[shell][0])
    assert start(container, "--print", shell=tuple(SHELLS[shell]), **as_user()) == (0, "")
    assert start(container, *SAID[0], shell=tuple(SHELLS[shell]), **by_sudo()) == (0, "")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("words", SAID, ids=lambda words: words[0])
def test_a_strangers_directory_is_refused(foreign: Container, shell: str, words: list[str]) -> None:
    need(SHELLS[shell][0])
    status, said = start(foreign, *words, shell=tuple(SHELLS[shell]), **by_sudo())
    assert said == (
        f"start.sh: {foreign.directory} belongs to user {STRANGER}, who is not trusted: "
        f"sudo chown -R 0 {foreign.directory}, or --trust-dir\n"
    )
    assert status == 125
    assert not (foreign.directory / ".provision/run").exists()
    assert start(foreign, *words, shell=tuple(SHELLS[shell]), **as_user())[0] == 125


@pytest.mark.parametrize("name", [".", ".provision", "start.sh", *USED])
def test_each_part_has_to_be_trusted(container: Container, name: str) -> None:
    need_root()
    (container.directory / ".provision/run").mkdir()
    give(container.directory / ".provision/run", user_id())
    part = container.directory / name
    give(part, STRANGER)
    for options in (by_sudo(), as_user()):
        status, said = start(container, **options)
        assert (status, said.startswith(f"start.sh: {part} belongs to user {STRANGER}")) == (125, True), said
    give(part, 0)
    assert start(container, **by_sudo()) == (0, "")
    assert start(container, **as_user()) == (0, "")


@pytest.mark.parametrize("shell", SHELLS)
def test_what_a_former_owner_has_left_is_neither_executed_nor_evaluated(
    container: Container, place: Path, shell: str
) -> None:
    """They keep their files open, and own them: DIR alone was given away."""
    need_root()
    need(SHELLS[shell][0])
    canary, folder = place / "canary", container.directory / ".provision"
    words = ["--runtime", "chroot", "true"], ["--exec", "true"], ["--list"], ["--stop"]
    helper = (folder / "helper").read_bytes()
    (folder / "run").mkdir()
    stat = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()
    session = f"{stat[19]}\nchroot\nsleep\n user=$(touch {canary}) end=\nready=yes\n"

    def leave_helper() -> None:
        (folder / "helper").write_text(f"#!/bin/sh\n# \177ELF\ntouch {canary}\n")
        give(folder / "helper", STRANGER)

    def leave_session() -> None:
        (folder / f"run/{os.getpid()}").write_text(session)
        give(folder / f"run/{os.getpid()}", STRANGER)

    def leave_links() -> None:
        (folder / "machine").unlink()
        (folder / "machine").symlink_to("/etc/hostname")

    def refused(words: list[str]) -> str:
        status, said = start(container, *words, shell=tuple(SHELLS[shell]), **by_sudo())
        assert status == 125, said
        assert not canary.exists()
        return said

    command = f"sudo chown -R 0 {folder}, or --trust-dir\n"
    leave_session()
    for said in map(refused, words[1:]):
        assert said.endswith(f"run/{os.getpid()} belongs to user {STRANGER}, who is not trusted: {command}")
    leave_helper()
    for said in map(refused, words):
        assert said.endswith(f"helper belongs to user {STRANGER}, who is not trusted: {command}")
    run("chown", "-R", "0", str(folder))
    (folder / "helper").write_bytes(helper)
    (folder / f"run/{os.getpid()}").unlink()
    assert start(container, *words[0], shell=tuple(SHELLS[shell]), **by_sudo()) == (0, "")
    leave_links()
    assert refused(words[0]).endswith(f"machine is a symlink: rm {folder}/machine, or --trust-dir\n")


@pytest.mark.parametrize("name", ["x ..", "x .", "* ", "-n", "run/1 2", "run/9 ..", "a\nlink x"])
def test_a_name_that_a_stranger_has_chosen_is_in_no_message(container: Container, name: str) -> None:
    """A command with such a name would be typed elsewhere: `rm 2`, or chown of the directory above."""
    need_root()
    (container.directory / ".provision/run").mkdir()
    path = container.directory / ".provision" / name
    path.symlink_to("/etc/passwd")
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    refusal = f"start.sh: {path} is a symlink: rm {path}, or --trust-dir\n"
    assert start(container, "--list", **by_sudo()) == ((125, refusal) if name == "-n" else (0, ""))
    path.unlink(missing_ok=True)  # no process has such a number
    path.write_text("")
    path.chmod(0o777)
    give(path, STRANGER)
    status, said = start(container, "--list", **by_sudo())
    assert status == (125 if name == "-n" else 0), said


def test_root_by_other_ways_is_known(container: Container, place: Path) -> None:
    assert start(container, **as_root(PKEXEC_UID=str(user_id()))) == (0, "")
    assert start(container, **as_root(SUDO_UID="none", PKEXEC_UID="-1"))[0] == 125
    give_all(container, 1)
    give(place, 0)
    assert start(container, **as_root(DOAS_USER="daemon")) == (0, "")
    assert start(container, **as_root(ANDROID_ROOT="/system")) == (0, "")
    assert start(container, **as_root(DOAS_USER="--help"))[0] == 125


def test_root_who_has_logged_in_as_a_user_is_known(foreign: Container, place: Path) -> None:
    """By pam_loginuid(8), which writes the user's number once."""
    give(place, 0)
    script = "import os, sys; open('/proc/self/loginuid', 'w').write(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
    for user, expected in ((STRANGER, 0), (7, 125)):
        command = [sys.executable, "-c", script, str(user), str(foreign.script), "--list"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, **as_root())
        if "Traceback" in done.stderr:
            unavailable("this kernel keeps no login's user")
        assert done.returncode == expected, done.stderr


def test_tsu_leaves_the_prefix_of_an_app(foreign: Container, place: Path) -> None:
    """With a /data as on a rooted phone."""
    give(place, 0)
    script = f"""
        cd '{place}' && mkdir -p layers phone && mount -t tmpfs none layers && mkdir layers/upper layers/work &&
        mount -t overlay -o lowerdir=/,upperdir=layers/upper,workdir=layers/work overlay phone &&
        for name in dev proc tmp; do mount --rbind /$name phone/$name || exit 77; done || exit 77
        mkdir -p phone/data/com.termux/files/usr && chown "$1" phone/data/com.termux/files/usr
        PREFIX=/data/com.termux/files/usr exec chroot phone /bin/sh '{foreign.script}' --list
    """
    for user, expected in ((STRANGER, 0), (7, 125)):
        command = ["unshare", "-m", "sh", "-c", script, "sh", str(user)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, **as_root())
        if done.returncode == 77:
            unavailable(f"no overlayfs here: {done.stderr}")
        assert done.returncode == expected, done.stderr


def test_only_root_listens_to_who_became_root(foreign: Container) -> None:
    status, _ = start(foreign, **as_user(SUDO_UID=str(STRANGER)))
    assert status == 125


def test_ci_in_a_container_has_one_user(foreign: Container) -> None:
    starting: list[str | Path] = ["unshare", "--pid", "--fork", "--mount-proc", foreign.script, "--list"]

    def status(*command: str | Path, **options: Any) -> int:
        return subprocess.run(command, check=False, capture_output=True, **options).returncode

    assert status(*starting, **as_root(CI="true")) == 0
    assert status(*starting, **as_root(CI="False")) == 125
    if os.readlink("/proc/self/ns/pid") == "pid:[4026531836]":
        assert status(*starting[4:], **as_root(CI="true")) == 125


def test_a_user_namespace_trusts_those_whom_it_cannot_name(container: Container) -> None:
    user = as_user()
    if subprocess.run(["unshare", "-U", "-r", "true"], check=False, **user).returncode:
        unavailable("user namespaces don't work here")
    run("unshare", "-U", "-r", container.script, "--list", **user)
    if os.geteuid() == 0:
        give(container.directory, 0)
        run("unshare", "-U", "-r", container.script, "--list", **user)


def test_a_file_system_that_gives_files_another_owner_is_ours(container: Container, place: Path) -> None:
    """As NFS does with root_squash, and file systems without owners."""
    need_root()
    need("bindfs")
    shared, mounted = place / "shared", place / "mounted"
    shared.mkdir()
    mounted.mkdir()
    container.directory.rename(shared / "c")
    give(place, 0)
    script = f"""
        bindfs -u {STRANGER} -g {STRANGER} -o allow_other,use_ino '{shared}' '{mounted}' || exit 77
        sh '{mounted}/c/start.sh' --list
        status=$?
        umount '{mounted}'
        exit $status
    """
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], check=False, capture_output=True, **as_root())
    if done.returncode == 77:
        unavailable("bindfs can't mount here")
    assert (done.returncode, done.stderr) == (0, b"")
    assert os.listdir(shared) == ["c"]


# Who may write to it


@pytest.mark.parametrize("name", [".", ".provision", "start.sh", *USED])
@pytest.mark.parametrize(("mode", "by"), [(0o757, "everybody"), (0o1777, "everybody"), (0o775, "group 7")])
def test_nobody_else_may_write(container: Container, name: str, mode: int, by: str) -> None:
    need_root()
    (container.directory / ".provision/run").mkdir()
    part = container.directory / name
    os.chown(part, user_id(), 7)
    part.chmod(mode)
    bit = "o" if by == "everybody" else "g"
    for options in (by_sudo(), as_user()):
        assert start(container, **options) == (
            125,
            f"start.sh: {part} can be written to by {by}: chmod {bit}-w {part}, or --trust-dir\n",
        )


def test_the_users_own_group_and_roots_may_write(container: Container) -> None:
    need_root()
    for group in (user_id(), 0):
        os.chown(container.directory, user_id(), group)
        container.directory.chmod(0o775)
        assert start(container, **by_sudo()) == (0, "")
        assert start(container, **as_user()) == (0, "")


def test_a_group_is_private_by_its_name_and_members(container: Container) -> None:
    """It may have another number than its user, who is root here: `tape` has no member, and isn't root's."""
    need_root()
    script = f"""
        cp /etc/passwd '{container.directory.parent}/passwd'; cp /etc/group '{container.directory.parent}/group'
        cd '{container.directory.parent}'
        echo 'friend:x:{STRANGER}:64555::/:/bin/sh' >>passwd
        echo "friend:x:64555:$1" >>group
        mount --bind passwd /etc/passwd; mount --bind group /etc/group
        SUDO_UID={STRANGER} exec sh '{container.script}' --list
    """
    give(container.directory.parent, 0)
    give_all(container, STRANGER, 64555)
    for path in (container.directory, container.directory / ".provision", container.script):
        path.chmod(0o775)
    for members, status in {"": 0, "friend": 0, "joe": 125, "friend,joe": 125}.items():
        command = ["unshare", "-m", "sh", "-c", script, "sh", members]
        done = subprocess.run(command, check=False, capture_output=True, text=True, **as_root())
        assert done.returncode == status, (members, done.stderr)


@pytest.mark.parametrize("name", [".", ".provision", "start.sh"])
def test_an_access_list_is_refused(container: Container, name: str) -> None:
    need("setfacl")
    part = container.directory / name
    done = subprocess.run(["setfacl", "-m", f"u:{STRANGER}:rwx", part], check=False, capture_output=True)
    if done.returncode:
        unavailable("no access lists on this file system")
    status, said = start(container, **as_user())
    assert (status, f"{part} has an access list" in said, f"setfacl -b {part}" in said) == (125, True, True), said
    run("setfacl", "-m", f"u:{STRANGER}:rx", part)
    assert start(container, **as_user()) == (0, "")


# Where it is


def test_directories_above_are_looked_at_for_root(container: Container, place: Path) -> None:
    need_root()
    above = place / "above"
    above.mkdir()
    moved = Container(above / "odd\nname ü/c")
    moved.directory.parent.mkdir()
    container.directory.rename(moved.directory)
    assert start(moved, **by_sudo()) == (0, "")
    above.chmod(0o777)
    assert start(moved, **by_sudo()) == (
        125,
        f"start.sh: {above} can be written to by everybody: chmod o-w {above}, or --trust-dir\n",
    )
    assert start(moved, **as_user()) == (0, "")
    above.chmod(0o1777)
    assert start(moved, **by_sudo()) == (0, "")
    give(moved.directory.parent, STRANGER)
    assert start(moved, **by_sudo())[0] == 125
    give(moved.directory.parent, 0)
    give(above, STRANGER)
    assert start(moved, **by_sudo())[0] == 125


def test_a_link_leads_to_the_script_that_is_looked_at(container: Container, place: Path) -> None:
    (place / "link").symlink_to("second")
    (place / "second").symlink_to(container.script)
    (place / "linked").symlink_to(container.directory)
    for script in (place / "link", place / "linked/start.sh"):
        options = as_user()
        assert subprocess.run([script, "--print"], check=False, capture_output=True, **options).returncode == 0
        container.directory.chmod(0o777)
        assert subprocess.run([script, "--print"], check=False, capture_output=True, **options).returncode == 125
        container.directory.chmod(0o755)


def test_an_odd_name_of_the_script_and_of_the_directory(container: Container, place: Path) -> None:
    odd = place / "x\n-rwxr-xr-x 1 0 0 start.sh"
    container.directory.rename(odd)
    script = odd / "-s\ndrwxr-xr-x 2 0 0 ."
    (odd / "start.sh").rename(script)
    options = as_user()
    assert subprocess.run([script, "--print"], check=False, capture_output=True, **options).returncode == 0
    script.chmod(0o777)
    assert subprocess.run([script, "--print"], check=False, capture_output=True, **options).returncode == 125


def test_one_without_files_of_provision_runs(container: Container) -> None:
    shutil.rmtree(container.directory / ".provision")
    assert start(container, "--list", **as_user()) == (0, "")


@pytest.mark.parametrize("tools", ["small", "unknown"])
def test_small_tools_and_an_ls_that_says_something_else(
    container: Container, place: Path, small_tools: dict[str, str], tools: str
) -> None:
    if tools == "unknown":
        listing = Path(small_tools["PATH"], "ls")
        listing.unlink()
        listing.write_text("#!/bin/sh\nexec /bin/ls -ldn /proc/self/fd/0\n")
        listing.chmod(0o755)
    options = {**as_user(), "env": small_tools}
    status, said = start(container, "--list", **options)
    assert (status, said) == (0, "") if tools == "small" else status == 125
    container.directory.chmod(0o777)
    assert start(container, "--list", **options)[0] == 125


# How it is lifted


def test_the_option_lifts_it(foreign: Container) -> None:
    assert start(foreign, "--trust-dir", "--runtime", "chroot", "true", **as_root()) == (0, "")
    assert start(foreign, "--trust-dir", "--list", **as_user()) == (0, "")
    assert start(foreign, "--trust-dir=yes", **as_root()) == (
        125,
        "start.sh: --trust-dir takes no value: start.sh --help\n",
    )


@pytest.mark.parametrize("shell", SHELLS)
def test_the_environment_lifts_it(foreign: Container, place: Path, shell: str) -> None:
    need(SHELLS[shell][0])
    (place / "link").symlink_to(place)

    def status(named: str) -> int:
        options = as_root(PROVISION_TRUST_DIR=named)
        return start(foreign, "--list", shell=tuple(SHELLS[shell]), **options)[0]

    lifting = ["*", f"{foreign.directory}", f"{place}/", "/", f"relative:{place}/missing:{place}/link", "::*"]
    assert [status(named) for named in lifting] == [0] * len(lifting)
    other = [":", ".", "relative/*", f"{place}/missing", f"{foreign.directory}/rootfs", f"{place}/c", f"{place}/*"]
    assert [status(named) for named in other] == [125] * len(other)


# What it costs


def test_files_that_other_starts_remove_meanwhile_are_no_matter(container: Container, place: Path) -> None:
    listing = place / "bin/ls"
    listing.parent.mkdir()
    victim = container.directory / ".provision/tried.1"
    victim.write_text("")
    listing.write_text(f'#!/bin/sh\nrm -f {victim}\nexec /bin/ls "$@"\n')
    listing.chmod(0o755)
    options = as_user()
    options["env"] = {**options["env"], "PATH": f"{listing.parent}:{options['env']['PATH']}"}
    hand_over(container)
    assert start(container, "--list", **options) == (0, "")
    assert not victim.exists()


def test_one_program_is_run_for_it(container: Container, place: Path) -> None:
    need("strace")
    trace = place / "trace"
    command = ["strace", "-f", "-qq", "-e", "trace=execve", "-z", "-o", trace, container.script, "--list"]
    run(*map(str, command), **as_user())
    programs = [Path(line.split('"')[1]).name for line in trace.read_text().splitlines() if "execve" in line]
    assert programs == ["start.sh", "ls"]


@pytest.mark.parametrize("path", ["", ".", ":", "here:.:", "/nowhere:."])
def test_no_program_of_the_working_directory_is_run(container: Container, place: Path, path: str) -> None:
    work = make_container(place / "work").directory
    for name in ("ls", "id", "uname", "env", "readlink", "here/ls"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text(f"#!/bin/sh\ntouch '{work}/canary'\n")
        (work / name).chmod(0o755)
    hand_over(Container(work))
    options = {**as_user(), "cwd": work}
    options["env"] = {**options["env"], "PATH": path}
    status, said = start(container, "--print", shell=("/bin/sh",), **options)
    assert not (work / "canary").exists()
    if path != "/nowhere:.":
        assert (status, said) == (0, "")
