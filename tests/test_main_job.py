"""`provision IMAGE DIR` and `DIR/start.sh` as people use them: with real images, from a real registry."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from provisioner.ownership import mtree
from tests.support import realimages
from tests.support.docker_registry import DockerRegistry, run_docker_registry
from tests.support.leftovers import processes_of_session
from tests.support.mounts import mounts_below, mounts_outside_of_tests
from tests.support.scripted_registry import certificate_for
from tests.support.tools import (
    as_user,
    clean_environment,
    find_program,
    messages_of,
    need,
    need_bwrap,
    need_root,
    own,
    provision,
    provision_command,
    run,
)
from tests.support.trees import Entry, sha256_of, tree_of

pytestmark = pytest.mark.real_image

IMAGES = ["debian", "application", "application_zstd", "multiarch"]
UMOCI_IMAGES = ["debian", "application", "multiarch"]  # umoci knows no zstd

# What `provision` changes in a root filesystem: in all of them, and by the profile for Debian.
FIXED_UP = {"etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/mtab", "etc/apt/apt.conf.d/99provision"}
FIELDS = fields(Entry)


def options_of(role: str) -> dict[str, Any]:
    """Return options of subprocess.run that run a command as `user` or as `root`."""
    if role == "user":
        return as_user()
    need_root()
    return {"env": clean_environment()}


def installed(reference: str, directory: Path, *args: str, **options: Any) -> Path:
    """Provision `directory` and return it."""
    provision(*args, reference, directory, **options, status=0)
    return directory


def refused(status: int, *args: str | Path, **options: Any) -> str:
    """Run `provision ARGS`, which has to fail with `status`, and return its message."""
    message = messages_of(*args, status=status, **options)
    assert message.strip()
    return message


def start(directory: Path, *args: str, role: str = "user", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run start.sh and return the result."""
    if role == "user":
        need("proot")
    given = {"input": "", "timeout": 120, **options_of(role), **options}
    return subprocess.run([directory / "start.sh", *args], capture_output=True, text=True, check=False, **given)


def output_of(directory: Path, *args: str, **options: Any) -> str:
    """Return the output of a command in the container, which has to succeed."""
    done = start(directory, *args, **options)
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def differences(ours: dict[str, Entry], theirs: dict[str, Entry]) -> dict[str, str]:
    """Return how two trees differ, by path, but for the files that `provision` changes."""
    found = {}
    for path in sorted((ours.keys() | theirs.keys()) - FIXED_UP):
        if path not in ours or path not in theirs:
            found[path] = "only theirs" if path not in ours else "only ours"
            continue
        pairs = {field.name: (getattr(ours[path], field.name), getattr(theirs[path], field.name)) for field in FIELDS}
        if unequal := {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}:
            found[path] = str(unequal)
    return found


@pytest.fixture(scope="module")
def umoci_tree(lasting_place: Path) -> Callable[[str], dict[str, Entry]]:
    """A function that returns the tree of an image in the registry, as umoci unpacks it as root."""
    need("skopeo", "umoci")
    need_root()
    known: dict[str, dict[str, Entry]] = {}

    def tree(reference: str) -> dict[str, Entry]:
        if reference not in known:
            place = lasting_place / "umoci"
            place.mkdir()
            run("skopeo", "copy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{place}/layout:latest")
            run("umoci", "unpack", "--image", f"{place}/layout:latest", place / "bundle")
            known[reference] = tree_of(place / "bundle" / "rootfs")
            shutil.rmtree(place)
        return known[reference]

    return tree


@pytest.fixture(scope="module")
def user_cache(lasting_place: Path) -> Path:
    """A blob cache that this module's tests share as the unprivileged user."""
    path = lasting_place / "cache"
    path.mkdir()
    return own(path)


@pytest.fixture(scope="module")
def user_debian(debian: str, lasting_place: Path, user_cache: Path) -> Path:
    """Debian, provisioned by the unprivileged user."""
    return installed(debian, lasting_place / "debian", cache=user_cache, **as_user())


@pytest.fixture(scope="module", params=["user", "root"])
def role(request: pytest.FixtureRequest) -> str:
    """Who provisions and starts: tests that use it run once as each."""
    return str(request.param)


@pytest.fixture(scope="module")
def debian_directory(debian: str, lasting_place: Path, role: str) -> Path:
    """Debian, provisioned by `role`."""
    return installed(debian, lasting_place / f"debian-{role}", **options_of(role))


@pytest.fixture(scope="module")
def application_directory(application: str, lasting_place: Path, role: str) -> Path:
    """The application, provisioned by `role`."""
    return installed(application, lasting_place / f"application-{role}", **options_of(role))


# Starting


def test_debian_runs(debian_directory: Path, role: str) -> None:
    version = (debian_directory / "rootfs/etc/debian_version").read_text()
    assert output_of(debian_directory, "cat", "/etc/debian_version", role=role) == version
    assert output_of(debian_directory, "apt-get", "--version", role=role).startswith("apt ")
    assert "base-files" in output_of(debian_directory, "dpkg", "-l", role=role)


def test_dev_and_proc_are_usable_inside(debian_directory: Path, role: str) -> None:
    script = "echo x >/dev/null && cat /proc/self/comm && head -c 9 /dev/urandom | wc -c && cat"
    assert output_of(debian_directory, "sh", "-c", script, role=role, input="read") == "cat\n9\nread"


def test_command_of_the_image_reads_standard_input(debian_directory: Path, role: str) -> None:
    assert output_of(debian_directory, role=role, input="echo $0 says $((6 * 7))") == "bash says 42\n"


def test_exit_status_passes(debian_directory: Path, role: str) -> None:
    assert start(debian_directory, "sh", "-c", "exit 77", role=role).returncode == 77
    assert start(debian_directory, "/no/such/program", role=role).returncode == 127


def test_no_mount_is_left_nor_seen_by_others(debian_directory: Path, role: str) -> None:
    before = mounts_outside_of_tests()
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [str(debian_directory / "start.sh"), "sh", "-c", "echo started; cat"]
    with subprocess.Popen(command, **pipes, **options_of(role)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        assert mounts_below(debian_directory) == []
        process.communicate("")
    assert process.returncode == 0
    assert (mounts_below(debian_directory), mounts_outside_of_tests()) == ([], before)
    assert processes_of_session(debian_directory) == []


@dataclass(frozen=True)
class EntryOutput:
    """What the application's entry script prints of itself."""

    arguments: list[str]
    user: str
    workdir: str
    environment: dict[str, str]


def parse_entry(output: str) -> EntryOutput:
    values: dict[str, list[str]] = {"argument": [], "env": []}
    for field in output.rstrip("\0").split("\0"):
        name, _, value = field.partition(":")
        values.setdefault(name, []).append(value)
    environment = dict(variable.split("=", 1) for variable in values["env"])
    return EntryOutput(values["argument"], values["user"][0], values["workdir"][0], environment)


def test_application_runs_as_its_image_says(application_directory: Path, role: str) -> None:
    app = parse_entry(output_of(application_directory, role=role))
    assert app.arguments == [*realimages.ENTRYPOINT[1:], *realimages.COMMAND]
    assert {name: app.environment.get(name) for name in realimages.ENVIRONMENT} == realimages.ENVIRONMENT
    assert app.environment["HOME"] == "/home/app"
    assert app.workdir == "/srv/app"
    passwd = (application_directory / "rootfs/etc/passwd").read_text().splitlines()
    uid, gid = next(line.split(":")[2:4] for line in passwd if line.startswith("app:"))
    assert app.user == f"{uid}:{gid}"


def test_arguments_replace_cmd(application_directory: Path, role: str) -> None:
    arguments = ["", "two words", "$HOME `id`", "line\nbreak", "'", "-x", "--", "žluť"]
    app = parse_entry(output_of(application_directory, "--", *arguments, role=role))
    assert app.arguments == [*realimages.ENTRYPOINT[1:], *arguments]


def test_foreign_platform_runs_by_qemu(multiarch: str, place: Path, cache_dir: Path) -> None:
    need(realimages.FOREIGN_QEMU)
    platform = f"linux/{realimages.FOREIGN}"
    directory = installed(multiarch, place / "foreign", "--platform", platform, cache=cache_dir, **as_user())
    assert record_of(directory)["platform"] == platform
    assert output_of(directory, "uname", "-m") == f"{realimages.FOREIGN_MACHINE}\n"
    assert output_of(directory, "cat", "/etc/debian_version") == (directory / "rootfs/etc/debian_version").read_text()
    # The image names no command.
    assert output_of(directory, input="echo $0") == "/bin/sh\n"


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh", "mksh"])
def test_moved_directory_starts(user_debian: Path, shell: str) -> None:
    need(*shell.split()[:1])
    moved = user_debian.with_name("moved to 'a' $place")
    user_debian.rename(moved)
    try:
        link = moved.with_name("link")
        link.symlink_to(moved.name + "/start.sh")
        given: dict[str, Any] = {"capture_output": True, "text": True, "check": True, **as_user()}
        for script, cwd in (("./start.sh", moved), (f"{moved.name}/start.sh", moved.parent), (link, Path("/"))):
            done = subprocess.run([*shell.split(), script, "pwd"], **{**given, "cwd": cwd})
            assert done.stdout == "/\n"
        link.unlink()
    finally:
        moved.rename(user_debian)


def test_start_without_any_runtime_says_what_to_install(user_debian: Path, place: Path) -> None:
    need_bwrap()
    programs = place / "bin"
    programs.mkdir()
    for program in Path("/usr/bin").iterdir():
        if program.name not in ("proot", "bwrap"):
            (programs / program.name).symlink_to(program)
    # In there nobody can make a user namespace.
    jail = ["bwrap", "--dev-bind", "/", "/", "--unshare-user", "--disable-userns", "--setenv", "PATH", str(programs)]
    done = subprocess.run(
        [*jail, user_debian / "start.sh", "true"], capture_output=True, text=True, check=False, **as_user()
    )
    assert done.returncode == 125, done.stderr
    assert "proot" in done.stderr
    assert "install" in done.stderr
    assert len(done.stderr.splitlines()) <= 2


# What arrives


def record_of(directory: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((directory / ".provision/record.json").read_text())
    return record


def inspected(reference: str, *options: str) -> tuple[str, Any]:
    """The digest of a document as skopeo shows it, and what it says."""
    raw = run("skopeo", "inspect", "--tls-verify=false", "--raw", *options, f"docker://{reference}").encode()
    return f"sha256:{hashlib.sha256(raw).hexdigest()}", json.loads(raw)


@pytest.mark.parametrize("image", IMAGES)
def test_record_agrees_with_skopeo(request: pytest.FixtureRequest, image: str, place: Path, user_cache: Path) -> None:
    need("skopeo")
    reference = request.getfixturevalue(image)
    record = record_of(installed(reference, place / "x", cache=user_cache, **as_user()))
    digest, document = inspected(reference)
    index = ""
    if "manifests" in document:
        index, native = digest, {"architecture": realimages.NATIVE, "os": "linux"}
        chosen = next(entry["digest"] for entry in document["manifests"] if entry["platform"] == native)
        digest, document = inspected(f"{reference}@{chosen}")
    config_digest, config = inspected(reference, "--config")
    assert record["reference"] == reference + ("" if ":" in reference.rpartition("/")[2] else ":latest")
    assert record["platform"] == f"linux/{realimages.NATIVE}"
    assert (record["index_digest"], record["manifest_digest"], record["config_digest"]) == (
        index,
        digest,
        config_digest,
    )
    layers = [
        {**{key: layer[key] for key in ("digest", "size")}, "media_type": layer["mediaType"], "diff_id": diff_id}
        for layer, diff_id in zip(document["layers"], config["rootfs"]["diff_ids"], strict=True)
    ]
    assert record["layers"] == layers
    for name, served in (("manifest", digest), ("config", config_digest)):
        assert f"sha256:{sha256_of(place / f'x/.provision/{name}.json')}" == served


@pytest.mark.parametrize("image", UMOCI_IMAGES)
def test_tree_of_root_agrees_with_umoci(
    request: pytest.FixtureRequest, image: str, place: Path, umoci_tree: Callable[[str], dict[str, Entry]]
) -> None:
    reference = request.getfixturevalue(image)
    tree = tree_of(installed(reference, place / "x", **options_of("root")) / "rootfs")
    expected = umoci_tree(reference)
    devices = {path for path, entry in expected.items() if entry.type in "cb"}
    placeholders = {path: tree.pop(path) for path in devices}
    assert {entry.type for entry in placeholders.values()} <= {"f"}
    assert differences(tree, {path: entry for path, entry in expected.items() if path not in devices}) == {}


@pytest.mark.parametrize("image", UMOCI_IMAGES)
def test_tree_of_user_agrees_with_umoci(
    request: pytest.FixtureRequest,
    image: str,
    place: Path,
    user_cache: Path,
    umoci_tree: Callable[[str], dict[str, Entry]],
) -> None:
    reference = request.getfixturevalue(image)
    tree = tree_of(installed(reference, place / "x", cache=user_cache, **as_user()) / "rootfs")
    owner = ((place / "x").stat().st_uid, (place / "x").stat().st_gid)
    expected = {}
    for path, entry in umoci_tree(reference).items():
        opened = {"l": 0, "d": 0o700}.get(entry.type, 0o600)
        expected[path] = replace(entry, mode=entry.mode | opened, owner=owner)
        if entry.type in "cb":  # only root can make a device
            expected.pop(path)
            tree.pop(path, None)
    assert differences(tree, expected) == {}


LISTING = r"%P\t%y\t%m\t%U\t%G\0"


def shown(listing: str) -> dict[str, tuple[str, int, tuple[int, int]]]:
    """Type, mode and owner of each path in what `find` printed."""
    found = {}
    for line in listing.rstrip("\0").split("\0"):
        path, kind, mode, uid, gid = line.split("\t")
        found[path or "."] = (kind, 0 if kind == "l" else int(mode, 8), (int(uid), int(gid)))
    return found


def test_owners_under_fakeroot_are_the_images(
    application: str, place: Path, user_cache: Path, umoci_tree: Callable[[str], dict[str, Entry]]
) -> None:
    need("fakeroot", "find")
    command, options = provision_command(application, place / "x", cache=user_cache, **as_user())
    script = f"""rootfs=$1; shift; "$@" >&2 && find "$rootfs" -printf '{LISTING}'"""
    done = subprocess.run(
        ["fakeroot", "--", "sh", "-c", script, "sh", place / "x/rootfs", *command], check=False, **options
    )
    assert done.returncode == 0, done.stderr
    found = shown(done.stdout)
    expected = {path: (entry.type, entry.mode, entry.owner) for path, entry in umoci_tree(application).items()}
    devices = {path for path, (kind, _, _) in expected.items() if kind in "cb"}
    assert {found[path][0] for path in devices} <= {"f"}
    same = (found.keys() | expected.keys()) - devices
    assert {path for path in same if found.get(path) != expected.get(path)} <= FIXED_UP


def test_record_of_owners_agrees_with_umoci(
    application_directory: Path, application: str, umoci_tree: Callable[[str], dict[str, Entry]]
) -> None:
    above: list[str] = []
    found = {}
    with (application_directory / ".provision/ownership.mtree").open("rb") as record:
        for line in mtree.parse_entries(record):
            if line is None:
                above.pop()
                continue
            path = "/".join([*above, os.fsdecode(line.name)])
            kind = {"file": "f", "dir": "d", "link": "l", "fifo": "p", "char": "c", "block": "b"}[line.kind.value]
            found[path.removeprefix("./")] = (kind, 0 if kind == "l" else line.mode, (line.uid, line.gid))
            if line.is_directory:
                above.append(path.rpartition("/")[2])
    expected = {path: (entry.type, entry.mode, entry.owner) for path, entry in umoci_tree(application).items()}
    differing = {path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path)}
    assert differing <= FIXED_UP


def test_fakeroot_shows_the_images_owners_afterwards(
    application_directory: Path, application: str, role: str, umoci_tree: Callable[[str], dict[str, Entry]]
) -> None:
    """With the state that was written, long after `provision` has ended."""
    need("fakeroot", "find")
    command = ["fakeroot", "-i", ".provision/fakeroot.state", "find", "rootfs", "-printf", LISTING]
    found = shown(run(*command, **{**options_of(role), "cwd": application_directory}))
    expected = {path: (entry.type, entry.mode, entry.owner) for path, entry in umoci_tree(application).items()}
    differing = {path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path)}
    assert differing <= FIXED_UP


def test_hard_links_share_an_inode(application_directory: Path) -> None:
    opt = application_directory / "rootfs/opt"
    inodes = {(opt / name).stat().st_ino for name in ("one", "two", "kept/three")}
    assert len(inodes) == 1
    assert (opt / "one").stat().st_nlink == 3
    assert (opt / "one").read_text() == "linked\n"


def test_zstd_twin_is_the_same_tree(application: str, application_zstd: str, place: Path) -> None:
    trees = [
        tree_of(installed(reference, place / str(number), **options_of("root")) / "rootfs")
        for number, reference in enumerate((application, application_zstd))
    ]
    assert differences(*(tree for tree in trees)) == {}


# Again, and in the way


def states(directory: Path) -> dict[Path, tuple[int, int, int]]:
    """Inode, mtime and ctime of all that is below `directory`."""
    paths = [directory, *directory.rglob("*")]
    return {path: (s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for path in paths for s in [path.lstat()]}


def test_second_run_touches_nothing(multiarch: str, place: Path, cache_dir: Path) -> None:
    directory = installed(multiarch, place / "x", cache=cache_dir, **as_user())
    before = states(directory)
    done = provision(multiarch, directory, cache=cache_dir, **as_user(), status=0)
    assert "up to date" in done.stderr
    assert states(directory) == before


def test_empty_directory_is_taken(debian: str, place: Path, user_cache: Path) -> None:
    own_directory = place / "x"
    own_directory.mkdir()
    own(own_directory)
    assert (installed(debian, own_directory, cache=user_cache, **as_user()) / "start.sh").exists()


@pytest.mark.parametrize("foreign", ["x/file", "x"])
def test_foreign_directory_is_left_alone(debian: str, place: Path, user_cache: Path, foreign: str) -> None:
    file = place / foreign
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    own(file.parent)
    before = states(place)
    assert str(place / "x") in refused(8, debian, place / "x", cache=user_cache, **as_user())
    assert states(place) == before
    assert file.read_text() == "mine"


def test_json_prints_the_record(multiarch: str, place: Path, cache_dir: Path) -> None:
    for _ in ("new", "up to date"):
        done = provision("--json", multiarch, place / "x", cache=cache_dir, **as_user())
        assert json.loads(done.stdout) == record_of(place / "x")


def test_quiet_says_nothing(multiarch: str, place: Path, cache_dir: Path) -> None:
    done = provision("--quiet", multiarch, place / "x", cache=cache_dir, **as_user())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Interrupted


ROUNDS = 10


def test_killed_at_any_moment_then_completes(application: str, place: Path, cache_dir: Path) -> None:
    began = time.monotonic()
    expected = tree_of(installed(application, place / "whole", **as_user()) / "rootfs")
    whole = time.monotonic() - began
    seed = random.randrange(10**6)
    print(f"random seed {seed}")
    moments = random.Random(seed)
    directory = place / "x"
    for number in range(ROUNDS):
        if number % 2 == 0:  # in the other rounds, what the killed one has downloaded is used
            shutil.rmtree(cache_dir)
            cache_dir.mkdir()
            own(cache_dir)
        with running(application, directory, cache=cache_dir) as process:
            time.sleep((number + moments.random()) / ROUNDS * whole)
            process.kill()
        if directory.exists():  # it was too late: then nothing may be missing
            assert tree_of(directory / "rootfs").keys() == expected.keys()
            shutil.rmtree(directory)
    installed(application, directory, cache=cache_dir, **as_user())
    assert differences(tree_of(directory / "rootfs"), expected) == {}
    assert sorted(path.name for path in place.iterdir()) == ["cache", "whole", "x"]


@contextmanager
def running(*args: str | Path, cache: Path) -> Iterator[subprocess.Popen[str]]:
    """`provision ARGS` as the unprivileged user, killed at the latest when the block ends."""
    command, options = provision_command(*args, cache=cache, **as_user())
    # A test run in the background has SIGINT ignored, and would pass that on.
    with subprocess.Popen(["env", "--default-signal=INT", *command], **options) as process:
        try:
            yield process
        finally:
            process.kill()


def eventually(happened: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Wait until something happens while a process works."""
    deadline = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, f"it ended too soon: {process.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def slow_link(host: str, rate: int) -> Iterator[str]:
    """A way to `host` that lets through `rate` bytes a second of each connection, and what it is called."""

    def relay(source: socket.socket, sink: socket.socket) -> None:
        with source, sink, suppress(OSError):
            while data := source.recv(rate // 20):
                sink.sendall(data)
                time.sleep(len(data) / rate)

    def accept() -> None:
        with suppress(OSError):  # the listener is closed in the end
            while True:
                near, far = listener.accept()[0], socket.create_connection(far_end)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=relay, args=[end.dup() for end in pair], daemon=True).start()
                near.close()
                far.close()

    address, _, port = host.partition(":")
    far_end = (address, int(port))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # this wakes the thread
            accepting.join()


def sizes_below(directory: Path) -> list[int]:
    """The sizes of all files but those that get another name in this moment."""
    sizes = []
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            sizes += [path.stat().st_size] if path.is_file() else []
    return sizes


def interrupt(process: subprocess.Popen[str], directory: Path) -> None:
    """Press Ctrl-C: it has to end at once with 130, and to leave nothing."""
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert not directory.exists()


def test_interrupted_while_unpacking(
    docker_registry: DockerRegistry, debian: str, place: Path, cache_dir: Path
) -> None:
    with (
        slow_link(docker_registry.host, 5_000_000) as host,
        running(debian.replace(docker_registry.host, host), place / "x", cache=cache_dir) as process,
    ):
        eventually((place / ".x.provision/new/rootfs/usr/share").exists, process)
        interrupt(process, place / "x")


def test_interrupted_while_downloading(
    docker_registry: DockerRegistry, application: str, place: Path, cache_dir: Path
) -> None:
    with slow_link(docker_registry.host, 500_000) as host:
        slow = application.replace(docker_registry.host, host)
        with running(slow, place / "x", cache=cache_dir) as process:
            eventually(lambda: sum(sizes_below(cache_dir)) > 10**6, process)
            interrupt(process, place / "x")


def test_interrupted_while_a_registry_is_silent(place: Path, cache_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        reference = f"127.0.0.1:{silent.getsockname()[1]}/x"
        with running(reference, place / "x", cache=cache_dir) as process, silent.accept()[0]:
            interrupt(process, place / "x")


# Machines that can't


@contextmanager
def mounted(place: Path, *command: str | Path) -> Iterator[Path]:
    """Run a mount command with the mount point as its last argument; the mount point."""
    need_root()
    point = place / "mounted"
    point.mkdir()
    run(*command, point)
    try:
        yield point
    finally:
        run("umount", point)


@pytest.mark.parametrize("limit", ["size=60m", "nr_inodes=500"])
@pytest.mark.parametrize("role", ["user", "root"])
def test_full_disk(debian: str, place: Path, user_cache: Path, limit: str, role: str) -> None:
    options = {"cache": user_cache, **as_user()} if role == "user" else options_of("root")
    with mounted(place, "mount", "-t", "tmpfs", "-o", f"mode=1777,{limit}", "tmpfs") as disk:
        for trusted, why in (([], "No space left|more than"), (["--max-size", "1T"], "No space left")):
            said_why = refused(7, debian, disk / "x", *trusted, **options)
            assert re.search(why, said_why)
            assert "free some space" in said_why
            assert list(disk.iterdir()) == []


def test_full_disk_for_the_cache(debian: str, place: Path) -> None:
    with mounted(place, "mount", "-t", "tmpfs", "-o", "mode=1777,size=9m", "tmpfs") as disk:
        assert "space" in refused(7, debian, place / "x", cache=disk / "cache", **as_user()).lower()
        assert not (place / "x").exists()


def test_file_system_without_symlinks(debian: str, place: Path, cache_dir: Path) -> None:
    need("losetup", "mkfs.exfat", "mount.exfat-fuse")
    need_root()
    disk = place / "disk"
    with disk.open("wb") as file:
        file.truncate(2**28)
    run(find_program("mkfs.exfat") or "", disk)
    device = run("losetup", "--find", "--show", disk).strip()
    try:
        with mounted(place, find_program("mount.exfat-fuse") or "", device) as shared_storage:
            said_why = refused(7, debian, shared_storage / "x", cache=cache_dir, **as_user())
            assert "link" in said_why
            assert list(shared_storage.iterdir()) == []
            # It is known before anything is downloaded.
            assert all(size < 10**6 for size in sizes_below(cache_dir))
    finally:
        run("losetup", "--detach", device)


def test_unwritable_parent(debian: str, place: Path, cache_dir: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o555)
    assert str(closed) in refused(7, debian, closed / "x", cache=cache_dir, **as_user())
    assert list(closed.iterdir()) == []


# Images and registries that aren't there


@pytest.mark.parametrize("name", ["user/nothing", "debian:no-such-tag", "debian@sha256:" + "0" * 64])
def test_unknown_image(docker_registry: DockerRegistry, debian: str, place: Path, cache_dir: Path, name: str) -> None:
    assert name.partition("@")[0] in refused(
        3, f"{docker_registry.host}/{name}", place / "x", cache=cache_dir, **as_user()
    )
    assert not (place / "x").exists()


@pytest.mark.parametrize("image", ["debian", "multiarch"])
def test_unknown_platform(request: pytest.FixtureRequest, image: str, place: Path, cache_dir: Path) -> None:
    reference = request.getfixturevalue(image)
    said_why = refused(3, "--platform", "linux/s390x", reference, place / "x", cache=cache_dir, **as_user())
    assert "linux/s390x" in said_why
    assert f"linux/{realimages.NATIVE}" in said_why
    assert (f"linux/{realimages.FOREIGN}" in said_why) == (image == "multiarch")
    assert "unknown" not in said_why
    assert not (place / "x").exists()


@pytest.fixture(scope="module")
def certificate(lasting_place: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    return certificate_for("127.0.0.1", lasting_place)


@pytest.fixture(scope="module")
def tls_registry(
    docker_registry: DockerRegistry,
    debian: str,
    certificate: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The host of a registry with the same images, that speaks HTTPS with a certificate that nobody knows."""
    with run_docker_registry(tmp_path_factory.mktemp("tls"), docker_registry.storage, certificate) as served:
        yield served.host


def test_unknown_certificate_is_accepted_with_insecure(
    tls_registry: str, certificate: tuple[Path, Path], place: Path, cache_dir: Path
) -> None:
    reference = f"{tls_registry}/debian:12"
    trusting = as_user(REQUESTS_CA_BUNDLE=str(certificate[0]))
    assert (installed(reference, place / "by-file", cache=cache_dir, **trusting) / "start.sh").exists()
    assert (installed(reference, place / "x", "--insecure", cache=cache_dir, **as_user()) / "start.sh").exists()
