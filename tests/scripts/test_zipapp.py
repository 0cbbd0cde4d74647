"""provision.pyz: one file with all that is pure Python, which does the main job, also in an app's jail."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import zipapp
from tests.support import builders
from tests.support.containers import static_busybox
from tests.support.jail import HOME, Jail
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, own, run, unavailable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pyz(lasting_place: Path) -> Path:
    """The file, built as `make zipapp` does."""
    path = lasting_place / "provision.pyz"
    done = subprocess.run(
        [sys.executable, "-m", "scripts.zipapp", path], cwd=zipapp.ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode and "Could not find a version" in done.stderr:
        unavailable("the package index can't be reached")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(zipapp.ROOT / "build", ignore_errors=True)
    return own(path)


@pytest.fixture
def image() -> Iterator[str]:
    """The reference of an image that calls itself Debian, so that a profile and its files are needed."""
    layer = builders.layer(
        ("bin", None),
        ("bin/busybox", static_busybox().read_bytes(), 0o755),
        ("bin/sh", "busybox"),
        ("etc", None),
        ("etc/os-release", b"ID=debian\n"),
    )
    with ScriptedRegistry() as registry:
        registry.push("debian", builders.image(layer, run={"Cmd": ["sh"], "Env": ["PATH=/bin"]}))
        yield f"{registry.host}/debian"


def test_it_does_the_main_job(pyz: Path, image: str, place: Path) -> None:
    env = {**as_user()["env"], "PROVISION_CACHE_DIR": str(place / "cache"), "XDG_STATE_HOME": str(place / "state")}
    options = {**as_user(), "env": env, "cwd": place}
    assert run(pyz, "-V", **options).startswith("provision ")
    run("python3", pyz, "--platform=amd64", image, "debian", **options)
    assert run(place / "debian/start.sh", "sh", "-c", "echo runs", **options) == "runs\n"
    assert '"profile": "debian"' in (place / "debian/.provision/record.json").read_text()
    assert "complete " in run("python3", pyz, "completion", "bash", **options)


def test_it_does_the_main_job_in_an_app_s_jail(pyz: Path, image: str, lasting_place: Path) -> None:
    place = lasting_place / "jail"
    place.mkdir()
    jail = Jail(place)
    own(Path(shutil.copy(pyz, jail.home)))
    done = jail.run(["python3", "provision.pyz", "--platform=amd64", image, f"{HOME}/debian"])
    assert done.returncode == 0, done.stderr
    started = jail.run([f"{HOME}/debian/start.sh", "sh", "-c", "echo runs"], allow=["tmp", "links"])
    assert (started.returncode, started.stdout) == (0, "runs\n"), started.stderr


def test_nothing_in_it_is_compiled_and_nothing_is_ours_alone(pyz: Path) -> None:
    with zipfile.ZipFile(pyz) as archive:
        names = archive.namelist()
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert not [name for name in names if name.endswith((".so", ".pyc", "/RECORD", "direct_url.json"))]
    assert names[1:] == sorted(names[1:])
    assert str(zipapp.ROOT).encode() not in pyz.read_bytes()


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "installed"
    (folder / "a").mkdir(parents=True)
    (folder / "a/module.py").write_text("x = 1\n")
    zipapp.write_zip(folder, tmp_path / "first")
    (folder / "a/module.py").touch()
    (folder / "a/RECORD").write_text("other\n")
    zipapp.write_zip(folder, tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
