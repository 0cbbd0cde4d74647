from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts import bench, bench_entrants, bench_images, bench_link, bench_profile, bench_report
from scripts.bench_entrants import ENTRANTS, Entrant
from scripts.bench_report import (
    ARCHIVES,
    ARCHIVES_BY_UMOCI,
    FAST,
    HASH,
    INFLATE,
    LINK,
    NO_DIGESTS,
    NO_SYNC,
    ON_DISK,
    ONE_CORE,
    OURS,
    PIPED,
    ROOTFS,
    ROOTFS_PEER,
    ROOTFS_TAR,
    TAR,
    UMOCI,
    USER,
    WARM,
    WARM_TAR,
    WRITE,
    Goal,
    Medians,
    Sample,
)
from tests.support.archives import tar
from tests.support.processes import words_of
from tests.support.tools import CHECKOUT, clean_environment
from tests.support.waiting import wait_until

MIB = 1 << 20


def sample(entrant: str, wall: float, cpu: float = 1.0, peak: int = 50 * MIB, image: str = "application") -> Sample:
    return Sample(image, entrant, wall, cpu * 0.75, cpu * 0.25, peak)


def found(*samples: Sample) -> Medians:
    return bench_report.medians(samples, "application")


def parts() -> list[Sample]:
    seconds = {INFLATE[OURS]: 3.0, INFLATE[FAST]: 1.0, HASH: 1.0, WRITE: 2.0}
    return [sample(part, 99, cpu) for part, cpu in seconds.items()]


def test_a_median_is_of_each_figure_by_itself_and_of_one_image() -> None:
    runs = [
        Sample("application", OURS, 1.0, 30.0, 0.2, 5),
        Sample("application", OURS, 9.0, 10.0, 0.1, 7),
        Sample("application", OURS, 2.0, 20.0, 0.9, 6),
        Sample("small-files", OURS, 50.0, 50.0, 50.0, 50),
        Sample("application", TAR, 4.0, 4.0, 4.0, 4),
    ]
    assert bench_report.medians(runs, "application") == {
        OURS: Sample("application", OURS, 2.0, 20.0, 0.2, 6),
        TAR: runs[4],
    }
    assert bench_report.medians(runs, "none") == {}


def test_a_ratio_says_how_many_times_as_long_the_other_takes() -> None:
    both = found(sample(OURS, 2.0), sample(TAR, 5.0))
    assert bench_report.ratio(both, TAR, OURS) == 2.5
    assert bench_report.ratio(both, "udocker", OURS) is None
    assert bench_report.ratio(both, TAR, FAST) is None


def test_the_limit_is_cpu_time_over_cores() -> None:
    figures = found(sample(OURS, 4.5), *parts())
    assert bench_report.limit(figures, OURS, cores=2) == 3.0
    assert bench_report.limit(figures, FAST, cores=4) == 1.0
    assert bench_report.above_limit(figures, OURS, cores=2) == 1.5
    assert bench_report.above_limit(figures, FAST, cores=2) is None
    del figures[HASH]
    assert bench_report.limit(figures, OURS, cores=2) is None


@pytest.mark.parametrize(
    ("goal", "reached"),
    [
        (Goal("more", 2.0, 2.0), True),
        (Goal("more", 2.0, 1.99), False),
        (Goal("less", 1.3, 1.3, less_is_better=True), True),
        (Goal("less", 1.3, 1.31, less_is_better=True), False),
        (Goal("none", 1.3, None), None),
    ],
)
def test_a_goal_is_reached_at_its_figure(goal: Goal, reached: bool | None) -> None:
    assert goal.is_reached is reached


def test_goals_take_the_fastest_peer_that_checks_and_the_largest_peak() -> None:
    small = [sample(TAR, 3.0, image="small-files"), sample(FAST, 4.0, peak=97 * MIB, image="small-files")]
    samples = [
        *parts(),
        *(sample(ROOTFS[0], 2.0), sample(UMOCI, 9.0)),
        *(sample(ARCHIVES["oci-archive"], 2.5), sample(ARCHIVES_BY_UMOCI["oci-archive"], 10.0)),
        *(sample("slow", 90.0), sample("quick", 8.0, peak=900 * MIB), sample(TAR, 6.0)),
        *(sample(OURS, 4.0), sample(FAST, 2.0), *small),
        *(sample(WARM[1], 4.0), sample(WARM_TAR, 3.0), sample(LINK[0], 20.2), sample(LINK[1], 20.0)),
    ]
    by_image = {image: bench_report.medians(samples, image) for image in ("application", "small-files")}
    wanted = {goal.what: goal.measured for goal in bench_report.goals(by_image, ["slow", "quick", TAR], cores=2)}
    assert wanted == {
        f"application: {TAR} to {FAST}": 3.0,
        f"application: {TAR} to {OURS}": 1.5,
        f"application: quick to {FAST}": 4.0,
        f"small-files: {TAR} to {FAST}": 0.75,
        f"application: {WARM_TAR} to {WARM[1]}": 0.75,
        f"application: {OURS} to the limit": 4 / 3,
        f"application: {FAST} to the limit": 1.0,
        f"twenty-layers: {FAST} to the limit": None,
        f"application: {LINK[0]} to {LINK[1]}": 1.01,
        "largest peak, MiB": 97.0,
        f"application: {OURS} to {ROOTFS[0]}": 2.0,
        f"application: {UMOCI} to {ROOTFS[0]}": 4.5,
        f"application: {FAST} to {ROOTFS[1]}": None,
        f"application: {UMOCI} to {ROOTFS[1]}": None,
        f"application: {OURS} from the registry to {ARCHIVES['docker-archive']}": None,
        f"application: {ARCHIVES_BY_UMOCI['docker-archive']} to {ARCHIVES['docker-archive']}": None,
        f"application: {OURS} from the registry to {ARCHIVES['oci-archive']}": 1.6,
        f"application: {ARCHIVES_BY_UMOCI['oci-archive']} to {ARCHIVES['oci-archive']}": 4.0,
    }


def test_what_waiting_for_the_disk_costs_is_shown_for_memory_and_a_disk() -> None:
    figures = found(sample(WARM[0], 4.0), sample(NO_SYNC, 4.1), sample(ON_DISK[0], 7.5), sample(ON_DISK[1], 5.0))
    assert bench_report.sync_table(figures).splitlines()[2:] == [
        "| tmpfs | 4.00 | 4.10 | -0.10 |",
        "| a disk | 7.50 | 5.00 | +2.50 |",
    ]
    del figures[NO_SYNC], figures[ON_DISK[0]]
    assert bench_report.sync_table(figures) == ""


def test_what_digests_of_files_cost_is_shown() -> None:
    figures = found(sample(WARM[1], 4.0, 5.4), sample(NO_DIGESTS, 3.8, 5.0))
    assert bench_report.digests_table(figures).splitlines()[2:] == [
        "| with | 4.00 | 5.40 | +8% |",
        "| without | 3.80 | 5.00 |  |",
    ]
    del figures[NO_DIGESTS]
    assert bench_report.digests_table(figures) == ""


def test_the_record_of_a_run_without_digests_has_none(tmp_path: Path) -> None:
    """Not even of what is always hashed."""
    archive = tmp_path / "rootfs.tar"
    archive.write_bytes(tar(("bin/sh", b"x"), ("etc/passwd", b"x"), ("empty", b"")))
    command = [sys.executable, "-m", "scripts.bench_without_digests", f"rootfs:{archive}", str(tmp_path / "dir")]
    environment = clean_environment(PROVISION_CACHE_DIR=str(tmp_path / "cache"))
    subprocess.run(command, cwd=CHECKOUT, env=environment, check=True, capture_output=True)
    record = (tmp_path / "dir/.provision/ownership.mtree").read_text()
    assert "passwd" in record
    assert record.count("sha256digest=") == 1  # the empty file's is a constant


def test_goals_are_shown_also_when_nothing_was_measured() -> None:
    assert {goal.measured for goal in bench_report.goals({}, [TAR], cores=2)} == {None}


def test_the_report_shows_who_ran_and_who_did_not() -> None:
    samples = [sample(OURS, 4.0), sample(TAR, 6.0, peak=20 * MIB), *parts()]
    titles = {"application": "application: 7 layers"}
    printed = bench_report.report(samples, titles, [TAR, "udocker"], {"udocker": "not here"}, cores=2, floor=22 * MIB)
    lines = printed.splitlines()
    assert "### application: 7 layers" in lines
    assert f"| {TAR} | 6.00 | 1.50 | - | 0.75 | 0.25 | < 22 |" in lines
    assert f"| {OURS} | 4.00 | 1.00 | - | 0.75 | 0.25 | 50 |" in lines
    assert f"| {OURS} | 3.00 | 1.00 | 2.00 | 3.00 | 4.00 | 1.33 |" in lines
    assert f"| application: {TAR} to {OURS} | at least 1.8 | 1.50 | no |" in lines
    assert "- udocker: not here" in lines
    assert "warm cache" not in printed
    # All rows of a table have the cells that its head has.
    tables = [[line.count("|") for line in part.splitlines()] for part in printed.split("\n\n") if part[0] == "|"]
    assert len(tables) == 3
    assert all(len(set(counts)) == 1 for counts in tables)


@pytest.mark.parametrize(
    ("names", "left"),
    [
        ([], {"a", "a/b", "a/b/c", "d"}),
        (["./e", "/f", "a"], {"a", "a/b", "a/b/c", "d", "e", "f"}),
        (["a/.wh.b"], {"a", "d"}),
        (["a/.wh..wh..opq"], {"a", "d"}),
        (["a/new", "a/.wh..wh..opq", "a/.wh.new"], {"a", "a/new", "d"}),
        (["a/b", "a/.wh.b"], {"a", "a/b", "d"}),
        ([".wh.d", ".wh.never"], {"a", "a/b", "a/b/c"}),
        ([".wh..wh..opq"], set()),
    ],
)
def test_paths_left_after_a_layer(names: list[str], left: set[str]) -> None:
    assert bench_images.applied({"a", "a/b", "a/b/c", "d"}, names) == left


def test_an_image_that_is_too_small_is_reported() -> None:
    recipe = bench_images.RECIPES["application"]
    built = bench_images.BenchImage("application", "", ("x",) * 5, 400_000_000, 1, 40_000, 1)
    assert bench_images.shortage_of(recipe, built) == ""
    built = bench_images.BenchImage("application", "", ("x",) * 4, 400_000_000, 1, 39_999, 1)
    assert bench_images.shortage_of(recipe, built) == "layers 4 of 5, entries 39,999 of 40,000"


def test_the_recipes_ask_for_what_the_benchmark_is_about() -> None:
    application, small, big = (bench_images.RECIPES[name] for name in ("application", "small-files", "big-layer"))
    assert (application.layers, application.compressed, application.entries) == (5, 400_000_000, 40_000)
    assert (small.layers, small.entries) == (1, 50_000)
    assert (big.layers, big.compressed) == (1, 400_000_000)
    twenty = bench_images.RECIPES["twenty-layers"]
    assert (twenty.layers, twenty.compressed) == (20, 380_000_000)


def test_a_recipe_that_changes_makes_another_image() -> None:
    recipe = bench_images.RECIPES["big-layer"]
    other_file = replace(recipe, containerfile=recipe.containerfile + "#")
    other_context = replace(recipe, context=bench_images.small_files)
    assert len({recipe.key, other_file.key, other_context.key}) == 3
    assert replace(recipe, entries=21).key == recipe.key


@pytest.mark.parametrize("entrant", ENTRANTS, ids=lambda entrant: entrant.name)
def test_a_script_is_well_formed_and_uses_what_is_documented(entrant: Entrant) -> None:
    subprocess.run(["sh", "-n", "-c", entrant.script], check=True)
    used = set(re.findall(r"\$([A-Z_]+)", entrant.script)) - {"PWD"}
    assert bench_entrants.__doc__ is not None
    assert used <= set(re.findall(r"\b[A-Z_]{3,}\b", bench_entrants.__doc__))
    # An environment that is used is one that is asked for.
    assert used & {"PLAIN", "FAST", "PROOT_DISTRO", "UDOCKER"} == {need for need in entrant.needs if need.isupper()} - {
        "ROOT"
    }


def test_entrants_are_chosen_by_kind_or_by_the_beginning_of_a_name() -> None:
    def chosen(*names: str) -> list[str]:
        return [entrant.name for entrant in ENTRANTS if entrant.is_named(names)]

    assert len(chosen()) == len(ENTRANTS)
    assert chosen("curl", "udo") == [TAR, "udocker", ONE_CORE[1]]
    assert chosen("warm") == [*WARM, NO_DIGESTS, NO_SYNC, WARM_TAR]
    assert chosen("disk") == [*ON_DISK]
    assert chosen("rootfs") == [*ROOTFS, ROOTFS_TAR, ROOTFS_PEER]
    assert sorted(chosen("archive")) == sorted([*ARCHIVES.values(), *ARCHIVES_BY_UMOCI.values(), PIPED])
    assert chosen("other") == [*ONE_CORE, USER, *LINK]
    ours = [OURS, FAST, *WARM, NO_DIGESTS, NO_SYNC, *ON_DISK, ONE_CORE[0], USER, LINK[0]]
    assert chosen("provision") == [*ours, *ARCHIVES.values(), PIPED, *ROOTFS]
    assert chosen("none") == []


def test_a_link_passes_on_as_much_as_it_may(tmp_path: Path) -> None:
    """A second of its rate takes a second, on all connections together."""
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    serve = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), "0"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(["env", "PYTHONUNBUFFERED=1", *serve], **pipes) as server:
        try:
            assert server.stdout
            port = re.findall(r"port (\d+)", server.stdout.readline())[0]
            link = [sys.executable, bench_link.__file__, f"127.0.0.1:{port}", "2000000", str(tmp_path / "link")]
            with subprocess.Popen(link) as relay:
                try:
                    while not (tmp_path / "link").exists():
                        time.sleep(0.01)
                    url = f"http://{(tmp_path / 'link').read_text()}/file"
                    before = time.monotonic()
                    for _ in range(2):
                        with urllib.request.urlopen(url, timeout=60) as answer:
                            assert answer.read() == bytes(1_000_000)
                    assert time.monotonic() - before > 0.9
                finally:
                    relay.kill()
        finally:
            server.kill()


def test_slow_tools_run_in_fewer_rounds_and_not_on_all_images(tmp_path: Path) -> None:
    image = bench_images.BenchImage("small-files", "", (), 1, 1, 1, 0)
    entrants = [
        Entrant("always", "cold", "true", tree=""),
        Entrant("once", "cold", "true", tree="", rounds=1),
        Entrant("elsewhere", "cold", "true", tree="", images=("application",)),
    ]
    samples, failures = bench.rounds(image, place(tmp_path), entrants, 3)
    assert [one.entrant for one in samples] == ["always", "once", "always", "always"]
    assert failures == {}


def test_an_entrant_says_what_is_missing() -> None:
    entrant = Entrant("x", "cold", "", ("sh", "no-such-program", "PLAIN", "ROOT"))
    assert entrant.missing({"PLAIN": "/x"}) == "not here: no-such-program, ROOT"
    assert Entrant("x", "cold", "", ("sh", "PLAIN")).missing({"PLAIN": "/x"}) == ""


def place(tmp_path: Path) -> bench.Workspace:
    return bench.Workspace(tmp_path, tmp_path, {"GIVEN": "value"})


@pytest.mark.slow
def test_a_run_is_measured_with_all_that_it_waits_for(tmp_path: Path) -> None:
    burn = 'import time; b = b"x" * (100 << 20)\nwhile time.process_time() < 0.3: pass'
    script = f"test \"$GIVEN\" = value\nmkdir -p a/tree/x/y\nsleep 0.2\ntrue | {sys.executable} -c '{burn}'"
    wall, usage, paths = bench.run(script, place(tmp_path), "*/tree")
    assert wall >= 0.2 + 0.3
    assert 0.3 <= usage.ru_utime + usage.ru_stime < wall
    assert usage.ru_maxrss >= 100 << 10
    assert paths == 2
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(bench.RunFailed, match=r"^exit status 3; on; its; way$"):
        bench.run("mkdir full; touch full/a; printf 'far\non\nits\nway\n'; exit 3", place(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_no_process(tmp_path: Path) -> None:
    bench.run(f"sleep 1000 & echo $! >{tmp_path}/pid", place(tmp_path))
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not words_of(pid))


def test_tables_of_entrants_that_nobody_ran_are_left_out() -> None:
    assert bench_report.runs_table({}, [OURS], OURS, FAST, "cold", 0) == ""
    assert bench_report.limit_table({}, 2) == ""


def test_the_profile_finds_the_line_that_called(tmp_path: Path) -> None:
    module = tmp_path / "provisioner" / "inner.py"
    module.parent.mkdir()
    module.write_text("def ours(call):\n    return call()\n")
    space: dict[str, object] = {}
    exec(compile(module.read_text(), str(module), "exec"), space)
    ours = space["ours"]
    assert callable(ours)
    assert ours(lambda: bench_profile.line_of(sys._getframe())) == (str(module), 2, "ours")
    assert bench_profile.line_of(sys._getframe())[0] == __file__


def test_cpu_time_is_the_threads_own() -> None:
    before = bench_profile.cpu_time(threading.get_native_id())
    end = time.thread_time() + 0.05
    while time.thread_time() < end:
        pass
    assert 0.03e9 < bench_profile.cpu_time(threading.get_native_id()) - before < 1e9
    assert bench_profile.cpu_time(os.getpid() + 10_000_000) == 0
