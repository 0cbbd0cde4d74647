"""Registries that fail in each way we know: every pull ends in the right bytes or in the right error."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.errors import NetworkError
from provisioner.image.digest import CHUNK
from provisioner.image.platform import Platform
from provisioner.image.reference import Reference
from provisioner.provision import Plan, provision
from provisioner.sources.registry import RegistrySource
from provisioner.store.blobs import BlobCache
from provisioner.terminal.progress import Console
from scripts.loopback_registry import Response
from tests.support import builders, faults, pulls
from tests.support.faults import CASES, Case, check
from tests.support.scripted_registry import Raw, ScriptedRegistry, mirrored


def test_the_table_is_long_enough() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_registry_that_fails(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.slow
def test_runs_that_are_killed_at_random_moments(tmp_path: Path) -> None:
    """The run that is left alone then completes; a kill costs what was in one buffer of each blob, at most."""
    figures = pulls.kill_pulls(8, tmp_path)
    assert figures.kills == 8
    assert figures.most_lost <= CHUNK
    assert figures.sent >= figures.size


def test_eight_processes_download_each_blob_once(tmp_path: Path) -> None:
    """`make -j` with several targets of one image starts such processes."""
    pulls.pull_at_once(8, tmp_path)


def test_a_pull_that_gives_up_says_what_is_kept_and_the_next_one_goes_on_elsewhere(tmp_path: Path) -> None:
    with ScriptedRegistry() as origin, ScriptedRegistry() as mirror:
        for registry in (origin, mirror):
            registry.push("x", faults.IMAGE)
        origin.on(faults.LAYER, Response(500)).on(faults.LAYER, faults.cut(origin, 300_000), 1)
        reference = Reference.parse(f"{origin.host}/x")

        def pull(*mirrors: str) -> None:
            source = RegistrySource(reference, mirrored(reference, *mirrors), BlobCache(tmp_path / "cache"), 4)
            plan = Plan(tmp_path / "directory", Platform("linux", "amd64"))
            provision(plan, source, Console(quiet=True))

        with pytest.raises(NetworkError, match="answers with 500") as caught:
            pull()
        assert re.fullmatch(r"30\d\.\d kB are kept: run again to go on; try again later", caught.value.hint)
        pull(mirror.host)
        (request,) = mirror.asked(faults.LAYER)
        assert request.headers["Range"] == "bytes=300000-"
        assert mirror.sent[faults.LAYER] == faults.SIZE - 300_000
    assert (tmp_path / "directory/rootfs/data").read_bytes() == faults.CONTENT


def test_a_layer_is_unpacked_while_it_is_downloaded(tmp_path: Path) -> None:
    """So unpacking hides behind a slow line; `make bench-faults` has the figure."""
    image = builders.image(builders.layer(*pulls.text_files(0, 20_000_000)))
    blob = image.layers[0].blob
    seen: list[bool] = []

    def pieces() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(blob)
        yield blob[: len(blob) // 2]
        deadline = time.monotonic() + 60
        while not (found := any("file0-0" in names for _, _, names in os.walk(tmp_path))):
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        seen.append(found)
        yield blob[len(blob) // 2 :]

    with ScriptedRegistry() as registry:
        registry.push("x", image)
        registry.on(pulls.path(blob), Raw(200, pieces=pieces()))
        reference = Reference.parse(f"{registry.host}/x")
        source = RegistrySource(reference, mirrored(reference), BlobCache(tmp_path / "cache"), 4)
        provision(Plan(tmp_path / "directory", Platform("linux", "amd64"), sync=False), source, Console(quiet=True))
    assert seen == [True]
