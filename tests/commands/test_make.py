"""Makefiles that set up containers, run by GNU make; stamps, waiting for another run, and containers that run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from provisioner.cli import main
from provisioner.container.staging import Staging
from provisioner.image.platform import host_platform
from tests.support import builders
from tests.support.containers import static_busybox
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import CHECKOUT, as_user, clean_environment, need, need_root, provision, provision_command

Output = pytest.CaptureFixture[str]


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    """A registry with an image of busybox, which can be started."""
    registry.push("toolchain", toolchain("one"))
    return registry


def toolchain(name: str) -> builders.Image:
    """Return an image of busybox with a file that says its name."""
    applets = [(f"bin/{applet}", "busybox") for applet in ("sh", "md5sum", "cat", "sleep", "true", "cc")]
    compiler = ("usr/bin/compile", b'#!/bin/sh\nset -e\nmd5sum <"$1" >"$2"\n', 0o755)
    base = builders.layer(("bin", None), ("bin/busybox", static_busybox().read_bytes(), 0o755), *applets)
    return builders.image(
        base,
        builders.layer(("usr", None), ("usr/bin", None), compiler, ("name", name.encode())),
        on=str(host_platform()),
        run={"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin"]},
    )


@pytest.fixture
def workspace(place: Path) -> Path:
    """A directory with sources, in which `make` runs as the unprivileged user."""
    for name in "abcd":
        (place / f"{name}.c").write_text(f"{name}\n")
    return place


def make(workspace: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run make on a Makefile of this text, with `provision` on its PATH, as the unprivileged user."""
    need("make")
    command, options = provision_command(cache=workspace / "cache", **as_user())
    tools = workspace / ".tools"
    tools.mkdir(exist_ok=True)
    (tools / "provision").write_text(f'#!/bin/sh\nexec {command[0]} -m provisioner "$@"\n')
    (tools / "provision").chmod(0o755)
    (workspace / "Makefile").write_text(text)
    options["env"]["PATH"] = f"{tools}:{options['env']['PATH']}"
    options["env"]["XDG_STATE_HOME"] = str(workspace / ".state")
    return subprocess.run(["make", "-s", *words], check=False, timeout=120, **{**options, "cwd": workspace})


def makefile(number: int, image: str) -> str:
    """Return a Makefile of docs/make.md by its number, with `image` in place of the one that it names."""
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", (CHECKOUT / "docs/make.md").read_text(), re.MULTILINE)
    texts = [re.sub("(?m)^    ", "", block) for block in blocks if "provision" in block]
    return re.sub("ghcr.io/owner/toolchain:v3|debian:12", image, texts[number])


def times(workspace: Path, pattern: str) -> dict[str, int]:
    """Return the times of the files that match a pattern."""
    return {path.name: path.stat().st_mtime_ns for path in workspace.glob(pattern)}


def test_a_toolchain_with_jobs(registry: ScriptedRegistry, workspace: Path) -> None:
    text = makefile(0, f"{registry.host}/toolchain")
    done = make(workspace, text, "-j8")
    assert (done.returncode, done.stderr) == (0, "")
    first = times(workspace, "*.o")
    assert sorted(first) == ["a.o", "b.o", "c.o", "d.o"]
    done = make(workspace, text, "-j8")
    assert (done.returncode, done.stderr) == (0, "")
    assert times(workspace, "*.o") == first
    (workspace / "toolchain.stamp").unlink()
    assert make(workspace, text, "-j8").returncode == 0
    second = times(workspace, "*.o")
    assert all(second[name] > first[name] for name in first)


def test_tests_for_another_architecture(multiarch: str, workspace: Path) -> None:
    need("qemu-aarch64-static")
    text = makefile(1, multiarch)
    for _ in range(2):
        done = make(workspace, text)
        assert (done.returncode, done.stderr) == (0, "")
        assert (workspace / "machine.txt").read_text() == "aarch64\n"
    before = times(workspace, "arm64.stamp")
    os.utime(workspace / "Makefile")
    assert make(workspace, text).returncode == 0
    assert times(workspace, "arm64.stamp") != before


def test_ci_with_a_lock_and_a_cache(registry: ScriptedRegistry, workspace: Path) -> None:
    text = makefile(2, f"{registry.host}/toolchain")
    done = make(workspace, text, "lock")
    assert (done.returncode, done.stderr) == (0, "")
    assert (workspace / "toolchain.lock").exists()
    assert (workspace / ".cache").is_dir()
    registry.push("toolchain", toolchain("two"))
    done = make(workspace, text)
    assert done.returncode == 0, done.stderr
    assert (workspace / "ci/rootfs/name").read_text() == "one"


def test_the_example_of_the_readme(registry: ScriptedRegistry, workspace: Path) -> None:
    block = (CHECKOUT / "README.md").read_text().partition("**In a Makefile**")[2].partition("[docs/make.md]")[0]
    text = re.sub("(?m)^    ", "", block.partition("\n")[2])
    text = text.replace("ghcr.io/owner/toolchain:v3", f"{registry.host}/toolchain")
    (workspace / "firmware.c").write_text("x\n")
    done = make(workspace, text.replace("cc -o $@ $<", "compile $< $@"), "firmware.bin")
    assert (done.returncode, done.stderr) == (0, "")
    assert (workspace / "firmware.bin").exists()


def test_a_dry_run_of_make_runs_nothing(registry: ScriptedRegistry, workspace: Path) -> None:
    (workspace / "toolchain.lock").touch()
    for number in range(3):
        done = make(workspace, makefile(number, f"{registry.host}/toolchain"), "-n")
        assert (done.returncode, done.stderr) == (0, "")
        assert "provision -q" in done.stdout
    assert not registry.asked(".*")
    assert not [path for path in workspace.iterdir() if path.is_dir() and path.name != ".tools"]


SPACES = """\
all: a\\ stamp another\\ one
	"./a dir/start.sh" true
a\\ stamp another\\ one: Makefile
	provision -q --stamp "$(CURDIR)/a stamp" --stamp-if-changed "another one" IMAGE "./a dir"
"""


def test_names_with_spaces(registry: ScriptedRegistry, workspace: Path) -> None:
    text = SPACES.replace("IMAGE", f"{registry.host}/toolchain")
    for _ in range(2):
        done = make(workspace, text)
        assert (done.returncode, done.stderr) == (0, "")
        assert set(times(workspace, "a*")) >= {"a dir", "a stamp", "another one"}
    command, options = provision_command("remove", "--yes", workspace / "a dir", cache=workspace / "cache", **as_user())
    assert subprocess.run(command, check=False, **options).returncode == 0
    assert not times(workspace, "a* *")


@pytest.mark.parametrize("option", ["--stamp", "--stamp-if-changed"])
def test_a_stamp_that_make_has_deleted_is_there_after_the_next_run(
    option: str, registry: ScriptedRegistry, workspace: Path
) -> None:
    recipe = f"\tprovision -q {option} $@ {registry.host}/toolchain dir\n\ttest -e allowed\n"
    text = f".DELETE_ON_ERROR:\nall: x.stamp\nx.stamp:\n{recipe}"
    for _ in range(2):
        failed = make(workspace, text)
        assert (failed.returncode, "test -e allowed" in failed.stderr or "Error 1" in failed.stderr) == (2, True)
        assert not (workspace / "x.stamp").exists()
        assert (workspace / "dir/start.sh").exists()
    (workspace / "allowed").touch()
    done = make(workspace, text)
    assert (done.returncode, done.stderr) == (0, "")
    assert (workspace / "x.stamp").exists()


def test_stamps_follow_the_directory(registry: ScriptedRegistry, tmp_path: Path, capsys: Output) -> None:
    words = [f"{registry.host}/toolchain", str(tmp_path / "dir"), "--quiet"]
    stamp, changed = tmp_path / "stamp", tmp_path / "changed"
    options = ["--stamp", str(stamp), "--stamp-if-changed", str(changed)]
    stamp.touch()
    assert main([f"{registry.host}/none", *words[1:], *options]) == 3
    assert not stamp.exists()  # DIR isn't there either
    assert main([*words, *options]) == 0
    first = [path.stat().st_mtime_ns for path in (stamp, changed)]
    time.sleep(0.01)
    assert main([*words, *options]) == 0
    second = [path.stat().st_mtime_ns for path in (stamp, changed)]
    assert second[0] > first[0]
    assert second[1] == first[1]
    changed.unlink()
    assert main([*words, *options]) == 0
    assert changed.exists()
    time.sleep(0.01)
    assert main([*words, *options, "--force"]) == 0
    assert changed.stat().st_mtime_ns > second[1]


@pytest.mark.parametrize("option", ["--stamp", "--stamp-if-changed"])
def test_what_is_no_stamp_is_never_touched(
    option: str, registry: ScriptedRegistry, tmp_path: Path, capsys: Output
) -> None:
    mine, link, folder = tmp_path / "Makefile", tmp_path / "link", tmp_path / "folder"
    mine.write_text("all:\n")
    (tmp_path / "empty").touch()
    link.symlink_to("empty")
    folder.mkdir()
    for path in (mine, link, folder, tmp_path):
        assert main([f"{registry.host}/toolchain", str(tmp_path / "dir"), option, str(path)]) == 2
        assert option in capsys.readouterr().err
    assert mine.read_text() == "all:\n"
    assert link.is_symlink()
    assert not registry.asked(".*")


def test_a_second_run_waits_and_finds_it_up_to_date(registry: ScriptedRegistry, place: Path) -> None:
    words: list[str | Path] = [f"{registry.host}/toolchain", place / "dir"]
    holder = f"another run is at work on {place}/dir, process {os.getpid()}"
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        first.enter_context(Staging(place / "dir"))
        refused = provision(*words, "--no-wait", cache=place / "cache", status=8)
        assert holder in refused.stderr
        command, options = provision_command(*words, cache=place / "cache")
        process = stack.enter_context(subprocess.Popen(command, **options))
        assert process.stderr
        process.stderr.readline()
        assert process.stderr.readline() == f"{holder}: waiting for it (Ctrl-C: don't)\n"
        first.close()
        done = provision(*words, cache=place / "cache")
        _, err = process.communicate(timeout=60)
    assert (process.returncode, done.returncode) == (0, 0), err + done.stderr
    assert sum("dir is up to date" in text for text in (err, done.stderr)) == 1


def test_a_run_that_waits_can_be_interrupted_and_outlives_one_that_is_killed(
    registry: ScriptedRegistry, place: Path
) -> None:
    words: list[str | Path] = [f"{registry.host}/toolchain", place / "dir"]
    hold = "import sys, time, pathlib; from provisioner.container.staging import Staging\n"
    hold += "with Staging(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    with ExitStack() as stack:
        first = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", hold, place / "dir"], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
            )
        )
        stack.callback(first.kill)
        assert first.stdout
        assert first.stdout.readline() == "held\n"
        command, options = provision_command(*words, cache=place / "cache")
        waiting = [stack.enter_context(subprocess.Popen(command, **options)) for _ in range(2)]
        for process in waiting:
            stack.callback(process.kill)
            assert process.stderr
            process.stderr.readline()
            assert f"process {first.pid}: waiting for it" in process.stderr.readline()
        waiting[0].send_signal(signal.SIGINT)
        waiting[0].communicate(timeout=60)
        assert waiting[0].returncode == 130
        first.kill()
        _, err = waiting[1].communicate(timeout=60)
    assert waiting[1].returncode == 0, err
    assert sorted(path.name for path in place.iterdir()) == ["cache", "dir"]


def test_a_container_that_runs_is_not_replaced(registry: ScriptedRegistry, place: Path) -> None:
    words: list[str | Path] = [f"{registry.host}/toolchain", place / "dir"]
    provision(*words, cache=place / "cache", **as_user(), status=0)
    started = subprocess.run(
        [place / "dir/start.sh", "-d", "sleep", "1000"], check=False, capture_output=True, text=True, **as_user()
    )
    assert started.returncode == 0, started.stderr
    missing = f"{registry.host}/missing"
    failed = provision(missing, place / "dir", "--force", "--stop-running", cache=place / "cache", **as_user())
    assert failed.returncode == 3  # and goes on running
    refused = provision(*words, "--force", cache=place / "cache", **as_user(), status=8)
    assert re.search(rf"processes run from {place}/dir: \d+ \S+", refused.stderr)
    assert f"{place}/dir/start.sh --stop; or add --stop-running" in refused.stderr
    provision(*words, "--force", "--stop-running", cache=place / "cache", **as_user(), status=0)


def start_as_root(directory: Path, *words: str) -> None:
    """Start a container of the unprivileged user in the background as root, as by sudo."""
    line: list[str | Path] = [directory / "start.sh", "--runtime", "chroot", *words, "-d", "sleep", "1000"]
    done = subprocess.run(line, check=False, capture_output=True, text=True, env=clean_environment(), cwd="/")
    assert done.returncode == 0, done.stderr


def test_what_others_have_started_is_seen(registry: ScriptedRegistry, place: Path) -> None:
    """A user may read little of what /proc says of processes of others, and ends none of them; root ends them all."""
    need_root()
    words: list[str | Path] = [f"{registry.host}/toolchain", place / "dir", "--force"]
    provision(*words, cache=place / "cache", **as_user(), status=0)
    start_as_root(place / "dir", "--user", "1234:1234")
    (place / "dir/rootfs/mine").touch()
    for by in (as_user(), {"env": clean_environment()}):
        refused = provision(*words, cache=place / "cache", **by)
        assert (refused.returncode, f"run from {place}/dir: " in refused.stderr) == (8, True), refused.stderr
    refused = provision(*words, "--stop-running", cache=place / "cache", **as_user())
    assert (refused.returncode, "stop them as root" in refused.stderr) == (7, True), refused.stderr
    assert (place / "dir/rootfs/mine").exists()
    provision(*words, "--stop-running", cache=place / "root-cache", status=0)
    assert not (place / "dir/rootfs/mine").exists()


def test_root_ends_what_a_user_has_started(registry: ScriptedRegistry, place: Path) -> None:
    need_root()
    words: list[str | Path] = [f"{registry.host}/toolchain", place / "dir", "--force"]
    provision(*words, cache=place / "cache", **as_user(), status=0)
    line: list[str | Path] = [place / "dir/start.sh", "-d", "sleep", "1000"]
    assert subprocess.run(line, check=False, capture_output=True, **as_user()).returncode == 0
    provision(*words, cache=place / "root-cache", status=8)
    provision(*words, "--stop-running", cache=place / "root-cache", status=0)


def test_a_lock_names_its_image(
    registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([f"{registry.host}/toolchain", "first", "--lock", "one.lock", "--quiet"]) == 0
    registry.push("toolchain", toolchain("newer"))
    for _ in range(2):  # the second time DIR is there
        for words in ([], ["./ci"], ["other"]):
            assert main(["--locked", "one.lock", *words, "--quiet"]) == 0
    for name in ("toolchain", "ci", "other"):
        assert (tmp_path / name / "rootfs/name").read_text() == "one"


def test_one_lock_file_for_several_images_and_no_need_to_name_them(
    registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    registry.push("other", toolchain("other"))
    for name in ("toolchain", "other"):
        assert main([f"{registry.host}/{name}", name, "--lock", "all.lock", "--quiet"]) == 0
    assert main([f"{registry.host}/other", "--lock", "one.lock", "--quiet"]) == 0
    registry.push("other", toolchain("newer"))
    registry.push("toolchain", toolchain("newer"))
    assert main(["--locked", "one.lock", "again", "--quiet"]) == 0
    assert (tmp_path / "again/rootfs/name").read_text() == "other"
    assert main([f"{registry.host}/toolchain", "third", "--locked", "all.lock", "--quiet"]) == 0
    assert (tmp_path / "third/rootfs/name").read_text() == "one"
    capsys.readouterr()
    for words in (["fourth"], ["./fourth"], []):
        assert main(["--locked", "all.lock", *words]) == 2
        err = capsys.readouterr().err
        names = [f"{registry.host}/{name}:latest" for name in ("toolchain", "other")]
        assert f"all.lock holds the locks of several images: {', '.join(names)}\n" in err
        assert f"as in provision --locked all.lock {names[0]} DIR\n" in err
