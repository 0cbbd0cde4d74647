"""The main job in this process: the directory it creates, and that a failure leaves no trace."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

import provisioner.provision as provision_module
from provisioner import threads
from provisioner.container.existing import existing_record
from provisioner.errors import MachineError, MalformedImage, ProvisionError, TargetExists, UsageError
from provisioner.image.platform import Platform, host_platform
from provisioner.image.reference import Reference
from provisioner.launch.seccomp import root_emulation
from provisioner.layers.job import UnpackOptions
from provisioner.provision import Completion, Outcome, Plan, provision
from provisioner.sources.registry import RegistrySource
from provisioner.store.blobs import BlobCache
from provisioner.terminal.progress import Console
from tests.support import builders
from tests.support.archives import Member, hard, special
from tests.support.leftovers import opened_paths
from tests.support.local_archives import PLAIN, docker_members, provision_word, write_archive
from tests.support.programs import program_for_kernel
from tests.support.scripted_registry import Broken, ScriptedRegistry, mirrored
from tests.support.tools import as_user, find_program, provision_command, without_links
from tests.support.trees import sha256_of, tree_of
from tests.support.waiting import wait_until

AMD64 = Platform("linux", "amd64")
OPTIONS = UnpackOptions()


def job(registry: ScriptedRegistry, plan: Plan, cache: Path, complete: Completion = lambda new: "") -> Outcome:
    reference = Reference.parse(f"{registry.host}/image:latest")
    source = RegistrySource(reference, mirrored(reference), BlobCache(cache), 2)
    return provision(plan, source, Console(quiet=True), complete)


def test_a_directory_is_made_whole(registry: ScriptedRegistry, tmp_path: Path) -> None:
    digest = registry.push("image", builders.small(run={"Cmd": ["/bin/sh"]}))
    outcome = job(registry, Plan(tmp_path / "a/b/dir", AMD64, OPTIONS), tmp_path / "cache")
    directory = tmp_path / "a/b/dir"
    assert outcome.is_new
    assert sorted(os.listdir(directory)) == [".provision", "rootfs", "start.sh"]
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "rootfs").stat().st_mode & 0o777 == 0o755
    assert (directory / "rootfs/etc/motd").read_bytes() == b"hello\n"
    assert (directory / "start.sh").stat().st_mode & 0o777 == 0o755
    assert json.loads((directory / ".provision/record.json").read_text())["manifest_digest"] == digest
    assert (directory / ".provision/seccomp.bpf").read_bytes() == root_emulation(host_platform())
    for name in ("resolv.conf", "hosts", "hostname"):
        assert (directory / ".provision/generated" / name).read_bytes() == (
            directory / "rootfs/etc" / name
        ).read_bytes()
    assert os.listdir(tmp_path / "a/b") == ["dir"]


def test_a_machine_without_a_filter_for_namespaces_gets_none(
    registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.push("image", builders.small())
    monkeypatch.setattr("provisioner.start_files.files.host_platform", lambda: Platform("linux", "mips64le"))
    job(registry, Plan(tmp_path / "dir", AMD64, OPTIONS), tmp_path / "cache")
    assert not (tmp_path / "dir/.provision/seccomp.bpf").exists()


def test_the_second_run_touches_nothing(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.push("image", builders.small())
    plan = Plan(tmp_path / "dir", AMD64, OPTIONS)
    job(registry, plan, tmp_path / "cache")
    before = tree_of(plan.directory)
    inode = plan.directory.stat().st_ino
    assert not job(registry, plan, tmp_path / "cache").is_new
    assert tree_of(plan.directory) == before
    assert plan.directory.stat().st_ino == inode


def test_another_image_is_refused_without_force(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.push("image", builders.small())
    plan = Plan(tmp_path / "dir", AMD64, OPTIONS)
    job(registry, plan, tmp_path / "cache")
    before = tree_of(plan.directory)
    new = registry.push("image", builders.image(builders.layer(("new", b"new"))))
    with pytest.raises(TargetExists, match=r"holds .* not sha256:") as error:
        job(registry, plan, tmp_path / "cache")
    assert "--force" in error.value.hint
    assert tree_of(plan.directory) == before
    outcome = job(registry, Plan(plan.directory, AMD64, OPTIONS, force=True), tmp_path / "cache")
    assert outcome.record.manifest_digest == new
    assert (plan.directory / "rootfs/new").exists()
    assert not (plan.directory / "rootfs/bin").exists()
    assert sorted(os.listdir(tmp_path)) == ["cache", "dir"]


def test_force_makes_the_same_image_anew(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.push("image", builders.small())
    plan = Plan(tmp_path / "dir", AMD64, OPTIONS, force=True)
    job(registry, plan, tmp_path / "cache")
    (plan.directory / "rootfs/etc/motd").write_text("changed")
    assert job(registry, plan, tmp_path / "cache").is_new
    assert (plan.directory / "rootfs/etc/motd").read_text() == "hello\n"


def test_what_was_started_meanwhile_is_not_replaced(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.push("image", builders.small())
    plan = Plan(tmp_path / "dir", AMD64, OPTIONS, force=True)
    job(registry, plan, tmp_path / "cache")
    sleep = Path(shutil.copy(find_program("sleep") or "", plan.directory / "rootfs/sleep"))
    with ExitStack() as stack:

        def start(new: int) -> str:
            process = stack.enter_context(subprocess.Popen([sleep, "60"]))
            stack.callback(process.kill)
            return ""

        with pytest.raises(TargetExists, match="processes run from"):
            job(registry, plan, tmp_path / "cache", start)
        assert sleep.exists()
        job(registry, replace(plan, stop_running=True), tmp_path / "cache")
    assert not sleep.exists()


def test_a_failure_leaves_the_old_directory(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.push("image", builders.small())
    plan = Plan(tmp_path / "dir", AMD64, OPTIONS, force=True)
    job(registry, plan, tmp_path / "cache")
    before = tree_of(plan.directory)
    wrong = builders.layer(("x", b"x"))
    wrong = builders.Layer(wrong.blob, wrong.media_type, builders.digest_of(b"something else"))
    registry.push("image", builders.image(wrong))
    with pytest.raises(MalformedImage, match=r"layer 1 of 1: .*does not match its digest"):
        job(registry, plan, tmp_path / "cache")
    assert tree_of(plan.directory) == before
    assert sorted(os.listdir(tmp_path)) == ["cache", "dir"]


def test_no_directory_is_left_open(registry: ScriptedRegistry, tmp_path: Path) -> None:
    """Neither after a success, nor when a layer fails, nor when the fixups fail."""
    fine = builders.layer(("x", b"x"))
    images = [
        (builders.small(), ""),
        (builders.image(fine, replace(fine, diff_id=builders.digest_of(b""))), "layer 2 of 2: .*does not match"),
        (builders.image(builders.layer(("etc", b"a file"))), "write the fixups|no directory"),
    ]
    for number, (image, why) in enumerate(images):
        registry.push("image", image)
        plan = Plan(tmp_path / str(number), AMD64, OPTIONS)
        with pytest.raises(MalformedImage, match=why) if why else nullcontext():
            job(registry, plan, tmp_path / "cache")
        assert [path for path in opened_paths() if path.startswith(str(tmp_path)) and "/cache" not in path] == []


def test_unknown_profiles_are_refused_before_any_request(registry: ScriptedRegistry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no profile 'nope'"):
        job(registry, Plan(tmp_path / "dir", AMD64, OPTIONS, profile="nope"), tmp_path / "cache")
    assert registry.requests == []


@pytest.mark.parametrize("make", [Path.touch, lambda path: (path.mkdir(), (path / "mine").touch())])
def test_a_foreign_directory_is_refused_before_any_request(
    make: object, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    make(tmp_path / "dir")  # type: ignore[operator]
    before = tree_of(tmp_path)
    with pytest.raises(TargetExists) as error:
        job(registry, Plan(tmp_path / "dir", AMD64, OPTIONS, force=True), tmp_path / "cache")
    assert error.value.hint
    assert registry.requests == []
    assert tree_of(tmp_path) == before


def test_the_current_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetExists, match="is the current directory"):
        existing_record(tmp_path)


def test_an_image_without_layers_is_an_empty_root(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.push("image", builders.image())
    job(registry, Plan(tmp_path / "dir", AMD64, OPTIONS), tmp_path / "cache")
    assert os.listdir(tmp_path / "dir/rootfs") == ["etc"]  # resolv.conf and hosts


def test_the_empty_layer_that_docker_writes_is_one(registry: ScriptedRegistry, tmp_path: Path) -> None:
    blob = bytes.fromhex("1f8b080000096e8800ff621805a360148c5800080000ffff2eafb5ef00040000")
    assert builders.digest_of(blob) == "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
    diff_id = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
    empty = builders.Layer(blob, f"{builders.OCI_LAYER}+gzip", diff_id)
    registry.push("image", builders.image(empty, builders.layer(("x", b"x")), empty))
    job(registry, Plan(tmp_path / "dir", AMD64, OPTIONS), tmp_path / "cache")
    assert (tmp_path / "dir/rootfs/x").read_bytes() == b"x"


def test_the_same_layer_twice_is_downloaded_once(registry: ScriptedRegistry, tmp_path: Path) -> None:
    layer = builders.layer(("x", b"x"))
    registry.push("image", builders.image(layer, builders.layer((".wh.x", b"")), layer))
    job(registry, Plan(tmp_path / "dir", AMD64, OPTIONS), tmp_path / "cache")
    assert (tmp_path / "dir/rootfs/x").read_bytes() == b"x"
    assert len(registry.asked(f".*/blobs/{builders.digest_of(layer.blob)}")) == 1


def test_profile_dns_and_the_image_meet_in_the_launch_script(registry: ScriptedRegistry, tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text(
        'dns = ["9.9.9.9"]\nhostname = "box"\n[env]\nA = "b c"\n[files]\n"/etc/motd" = "from the profile"\n'
    )
    registry.push("image", builders.small(run={"Env": ["X=y"], "User": "me"}))
    job(registry, Plan(tmp_path / "dir", AMD64, OPTIONS, profile=str(profile)), tmp_path / "cache")
    start = (tmp_path / "dir/start.sh").read_text()
    for line in ("default_dns=9.9.9.9\n", "default_env=''\"'\"'A=b c'\"'\"''\n", "image_env=X=y\n", "image_user=me\n"):
        assert line in start
    rootfs = tmp_path / "dir/rootfs"
    assert (rootfs / "etc/resolv.conf").read_text() == "nameserver 9.9.9.9\n"
    assert (rootfs / "etc/hostname").read_text() == "box\n"
    assert (rootfs / "etc/motd").read_text() == "from the profile\n"


def test_the_kernel_that_the_libc_asks_for_is_in_the_launch_script(registry: ScriptedRegistry, tmp_path: Path) -> None:
    for name, release, line in (("old", (3, 2, 0), "image_kernel=''\n"), ("new", (5, 4, 0), "image_kernel=5.4.0\n")):
        registry.push("image", builders.image(builders.layer(("usr/bin/env", program_for_kernel(release)))))
        job(registry, Plan(tmp_path / name, AMD64, OPTIONS), tmp_path / "cache")
        assert line in (tmp_path / name / "start.sh").read_text()


def test_dns_of_the_command_line_goes_before_the_profiles(registry: ScriptedRegistry, tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text('dns = ["9.9.9.9"]\n')
    registry.push("image", builders.small())
    plan = Plan(tmp_path / "dir", AMD64, OPTIONS, profile=str(profile), dns=("1.2.3.4", "::1"))
    job(registry, plan, tmp_path / "cache")
    assert (tmp_path / "dir/rootfs/etc/resolv.conf").read_text() == "nameserver 1.2.3.4\nnameserver ::1\n"


def test_errors_are_provision_errors(registry: ScriptedRegistry, tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match="is not found"):
        job(registry, Plan(tmp_path / "dir", AMD64, OPTIONS), tmp_path / "cache")
    assert os.listdir(tmp_path) == []


class Disk:
    """What `os.statvfs` returns for a disk."""

    def __init__(self, free: int, inodes: int, blocks: int = 1 << 40, files: int = 1 << 40) -> None:
        self.f_bavail, self.f_frsize, self.f_blocks = free, 1, blocks
        self.f_favail, self.f_files = inodes, files


@pytest.mark.parametrize(
    ("disk", "max_size", "why"),
    [
        (Disk(100, 1 << 30), None, "no room for the compressed layers: .* kB or more are needed, 100 B are free"),
        (Disk(100, 1 << 30), 10**9, "no room for the compressed layers: .* kB or more are needed, 100 B are free"),
        (Disk(1 << 40, 0), None, "no more files can be made here"),
        (Disk(1 << 40, 1 << 30), 1000, "more than the 1,000 bytes that are allowed"),
    ],
)
def test_an_image_without_room_is_not_downloaded(
    disk: Disk,
    max_size: int | None,
    why: str,
    registry: ScriptedRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = builders.image(builders.layer(("x", random.Random(1).randbytes(20_000))))
    registry.push("image", image)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    with pytest.raises(MachineError, match=why) as raised:
        job(
            registry,
            Plan(tmp_path / "dir", AMD64, UnpackOptions(max_size)),
            tmp_path / "cache",
        )
    assert raised.value.hint
    assert registry.asked(f".*/blobs/{builders.digest_of(image.layers[0].blob)}") == []
    assert not (tmp_path / "dir").exists()


@pytest.mark.parametrize(
    ("disk", "max_size", "fits"),
    [
        (Disk(34_816, 1 << 30), None, False),  # 30,720 bytes and one entry
        (Disk(34_816 * 10 // 9 + 1, 1 << 30), None, True),
        (Disk(34_816, 1 << 30), 34_816, True),
        (Disk(1 << 40, 1 << 30), 34_815, False),
        (Disk(0, 0, blocks=0, files=0), None, True),  # the file system reports nothing
    ],
)
def test_nine_tenths_of_the_free_space_are_the_default_limit(
    disk: Disk,
    max_size: int | None,
    fits: bool,
    registry: ScriptedRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.push("image", builders.image(builders.layer(("x", bytes(20_480)))))
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    plan = Plan(tmp_path / "dir", AMD64, UnpackOptions(max_size))
    if fits:
        job(registry, plan, tmp_path / "cache")
    else:
        with pytest.raises(MachineError, match="more than"):
            job(registry, plan, tmp_path / "cache")
    assert plan.directory.exists() == fits


@pytest.mark.parametrize(
    ("hardlinks", "message"),
    [
        ("auto", "2 copies, which take 6.0 MB more in their place; --hardlinks symlink saves that"),
        ("copy", "2 copies, which take 6.0 MB more in their place; --hardlinks symlink saves that"),
        ("symlink", "2 symlinks in their place"),
    ],
)
def test_what_replaces_hard_links_is_reported_once(
    registry: ScriptedRegistry, place: Path, hardlinks: str, message: str
) -> None:
    """The whole tool, as a user, where the kernel refuses hard links as Android's does."""
    layer = builders.layer(("bin/one", bytes(3_000_000)), hard("bin/two", "bin/one"), hard("three", "bin/two"))
    registry.push("image", builders.image(layer))
    words = [f"--hardlinks={hardlinks}", "--platform=linux/amd64", f"{registry.host}/image", str(place / "dir")]
    command, options = provision_command(*words, cache=place / "cache", **as_user())
    done = subprocess.run(without_links(*command), check=False, **options)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "hard links" in line] == [
        f"hard links are refused here: {message}"
    ]
    moved = (place / "dir").rename(place / "moved")
    three = moved / "rootfs/three"
    assert three.stat().st_size == 3_000_000
    assert three.is_symlink() == (hardlinks == "symlink")
    if three.is_symlink():
        assert os.readlink(three) == "bin/one"


def test_where_hard_links_are_real_nothing_is_reported(registry: ScriptedRegistry, place: Path) -> None:
    registry.push("image", builders.image(builders.layer(("one", b"1"), hard("two", "one"))))
    words = ["--platform=linux/amd64", f"{registry.host}/image", str(place / "dir")]
    command, options = provision_command(*words, cache=place / "cache", **as_user())
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 0, done.stderr
    assert "hard link" not in done.stderr
    assert (place / "dir/rootfs/two").samefile(place / "dir/rootfs/one")


def test_the_ownership_record_is_complete(registry: ScriptedRegistry, tmp_path: Path) -> None:
    """It describes the final tree, with the fixups and the times of directories."""
    registry.push("image", builders.small())
    job(registry, Plan(tmp_path / "dir", AMD64, OPTIONS), tmp_path / "cache")
    folder = tmp_path / "dir/.provision"
    assert sorted(os.listdir(folder)) == [
        "accounts",
        "background.bpf",
        "changed",
        "config.json",
        "container.bpf",
        "fakeroot.state",
        "generated",
        "helper",
        "machine",
        "manifest.json",
        "ownership.mtree",
        "proot-probe",
        "proot.bpf",
        "record.json",
        "seccomp.bpf",
        "shm",
        "terminal-relay",
    ]
    lines = (folder / "ownership.mtree").read_text().splitlines()
    assert len([line for line in lines if " type=" in line]) == len(tree_of(tmp_path / "dir/rootfs"))
    (hosts,) = (line for line in lines if line.startswith("hosts "))
    state = (tmp_path / "dir/rootfs/etc/hosts").stat()
    assert hosts == (
        f"hosts type=file mode=0644 uid=0 gid=0 time={state.st_mtime_ns // 10**9}.{state.st_mtime_ns % 10**9:09}"
        f" size={state.st_size} sha256digest={sha256_of(tmp_path / 'dir/rootfs/etc/hosts')}"
    )


def test_fixups_leave_directories_the_times_of_the_image(registry: ScriptedRegistry, tmp_path: Path) -> None:
    """Also the directories that fixups write into and create."""
    dated: list[Member] = [
        special(".", tarfile.DIRTYPE, mode=0o755, mtime=3),
        special("etc", tarfile.DIRTYPE, mode=0o755, mtime=4),
        special("etc/hosts", tarfile.DIRTYPE, mode=0o755, mtime=5),
    ]
    for number, members in enumerate((dated, dated[:1])):
        registry.push("image", builders.image(builders.layer(*members)))
        directory = tmp_path / str(number)
        job(registry, Plan(directory, AMD64, OPTIONS), tmp_path / "cache")
        assert (directory / "rootfs/etc/hosts").is_file()
        assert (directory / "rootfs").stat().st_mtime == 3
    assert (tmp_path / "0/rootfs/etc").stat().st_mtime == 4
    assert (tmp_path / "1/rootfs/etc").stat().st_mtime > 5
    lines = (tmp_path / "0/.provision/ownership.mtree").read_text().splitlines()
    assert [line.split(" time=")[1] for line in lines if " type=dir" in line] == ["3.000000000", "4.000000000"]


WRONG = builders.layer(("dato", b"wrong"), ("zero", bytes(200_000)), compression="").blob


@pytest.mark.parametrize("wrong", [WRONG, WRONG[:512] + b"x" * (len(WRONG) - 512)])
def test_what_corrupt_data_left_is_removed(tmp_path: Path, wrong: bytes) -> None:
    """A mirror's corrupt layer can be unpacked and only its digest differs, or it is no archive at all."""
    right = builders.layer(("data", b"right"), ("zero", bytes(200_000)), compression="")
    image = builders.image(right)
    with ScriptedRegistry() as registry, ScriptedRegistry() as mirror:
        for served in (registry, mirror):
            served.push("image", image)
        # All but the last byte is there to be read until it is; that one comes from the registry then.
        go_on = threading.Event()
        broken = Broken(200, wrong, sent=len(wrong) - 1, wait=go_on)
        mirror.on(f"/v2/image/blobs/{builders.digest_of(right.blob)}", broken)

        def is_unpacked() -> bool:
            # What is no archive at all is removed again as soon as that is seen.
            return "unpacking again" in output.getvalue() or any("dato" in names for _, _, names in os.walk(tmp_path))

        def wait_for_corrupt_file() -> None:
            wait_until(is_unpacked)
            go_on.set()

        output = io.StringIO()
        watcher = threading.Thread(target=wait_for_corrupt_file)
        watcher.start()
        reference = Reference.parse(f"{registry.host}/image:latest")
        source = RegistrySource(reference, mirrored(reference, mirror.host), BlobCache(tmp_path / "cache"), 2)
        provision(Plan(tmp_path / "dir", AMD64, OPTIONS), source, Console(stream=output))
        watcher.join()
    assert (tmp_path / "dir/rootfs/data").read_bytes() == b"right"
    assert not (tmp_path / "dir/rootfs/dato").exists()
    assert "unpacking again, each layer after it is verified" in output.getvalue()


IMPORTED_MEANWHILE = """
import sys, threading, time
from pathlib import Path
from provisioner.errors import NotFound
from provisioner.image.platform import Platform
from provisioner.provision import Plan, provision
from provisioner.terminal.progress import Console

class Registry:
    def image(self, platform):
        deadline = time.monotonic() + 60
        while not hasattr(sys.modules.get("provisioner.provision.creation"), "create"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise NotFound("it has no such image")

assert "provisioner.provision.creation" not in sys.modules
try:
    provision(Plan(Path(sys.argv[1]), Platform("linux", "amd64")), Registry(), Console(quiet=True))
except NotFound:
    print(threading.active_count())
"""


def test_what_makes_a_directory_is_imported_while_the_registry_answers(tmp_path: Path) -> None:
    """No thread is left then, so that workers can be forked."""
    command = [sys.executable, "-c", IMPORTED_MEANWHILE, str(tmp_path / "dir")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"
    assert os.listdir(tmp_path) == []


def test_an_interrupt_does_not_wait_for_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread may wait for the lock of imports, which a signal leaves locked where it comes at a bad moment."""
    may_end = threading.Event()
    monkeypatch.setattr(threads, "_import", lambda name: may_end.wait(60))
    with pytest.raises(KeyboardInterrupt), threads.importing_in_background("x"):
        raise KeyboardInterrupt
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "import"]
    may_end.set()
    thread.join()


def test_two_threads_import_nothing_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What reads files imports what it needs for that."""
    archive = write_archive(tmp_path / "x", docker_members(PLAIN))
    monkeypatch.setattr(provision_module, "importing_in_background", NotImplemented)
    monkeypatch.setenv("PROVISION_CACHE_DIR", str(tmp_path / "cache"))
    for word in (f"docker-archive:{archive}", str(archive)):
        provision_word(word, tmp_path / f"dir-{len(word)}")
