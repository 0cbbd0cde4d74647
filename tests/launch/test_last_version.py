"""Directories that the last version made: they start with their own start.sh, and this version reads them.

Its start.sh, in last_version.sh.gz, compares the files of /etc with a folder of another name.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.image.platform import host_platform
from provisioner.launch.launcher import launcher
from provisioner.launch.renewal import find_outdated
from provisioner.launch.script import body
from tests.support import builders
from tests.support.containers import SETTINGS, Container, hand_over
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import clean_environment, provision

BODY = gzip.decompress((Path(__file__).parent / "last_version.sh.gz").read_bytes())
GENERATED = "ma" + "de"
"""The folder in .provision that is called `generated` today."""


def as_of_last_version(container: Container) -> Container:
    """Change what differs between the two: the body of start.sh, and a folder's name."""
    header = container.script.read_bytes().partition(b"\n\n")[0]
    header = b"\n".join(line for line in header.splitlines() if b"SHA-256" not in line)
    container.script.write_bytes(header + b"\n\n" + BODY)
    folder = container.directory / ".provision"
    (folder / "generated").rename(folder / GENERATED)
    return container


def test_it_starts_and_still_follows_the_machine(container: Container, runtime: str) -> None:
    for directory in (container.directory / ".provision/generated", container.rootfs / "etc"):
        directory.mkdir(exist_ok=True)
        (directory / "hosts").write_text("hosts of yesterday\n")
    hand_over(
        as_of_last_version(container.set(image_entrypoint=("sh", "-c"), image_command=("cat /etc/hosts; exit 3",)))
    )
    done = container.run(runtime)
    assert (done.returncode, done.stderr) == (3, b"")
    assert done.stdout.startswith(b"127.0.0.1 localhost\n")
    folder = container.directory / ".provision" / GENERATED
    assert (folder / "hosts").read_bytes() == (container.rootfs / "etc/hosts").read_bytes() == done.stdout
    assert container.output("", "--list", by=runtime) == b""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return clean_environment(XDG_STATE_HOME=str(tmp_path / "state"))


@pytest.fixture
def reference(tmp_path: Path, env: dict[str, str]) -> Iterator[str]:
    """An image in a registry, and `tmp_path/dir` provisioned from it by the last version."""
    with ScriptedRegistry() as registry:
        registry.push("image", builders.small(on=str(host_platform())))
        provision(f"{registry.host}/image", tmp_path / "dir", env=env, status=0)
        (tmp_path / "dir/rootfs/bin/sh").chmod(0o755)  # proot looks whether it can be executed
        as_of_last_version(Container(tmp_path / "dir"))
        yield f"{registry.host}/image"


def test_it_is_renewed(reference: str, tmp_path: Path, env: dict[str, str]) -> None:
    script, folder = tmp_path / "dir/start.sh", tmp_path / "dir/.provision"
    os.utime(script, ns=(1, 1_500_000_000_123_456_789))
    old, header = script.read_bytes(), script.read_bytes().partition(b"\n\n")[0].splitlines()
    (folder / "helper").unlink()
    (folder / "container.bpf").unlink()
    done = provision(reference, tmp_path / "dir", env=env, status=0)
    assert "dir is up to date" in done.stderr
    assert "renewed, as this version writes them: start.sh, .provision/container.bpf, .provision/helper" in done.stderr
    new = script.read_bytes()
    assert new.endswith(body())
    assert set(header) <= set(new.splitlines())
    assert script.stat().st_mtime_ns == 1_500_000_000_123_456_789
    assert stat.S_IMODE(script.stat().st_mode) == 0o755
    assert (folder / "start.sh.old").read_bytes() == old
    assert (folder / "generated/hosts").exists()
    assert os.access(folder / "helper", os.X_OK)
    again = provision(reference, tmp_path / "dir", env=env)
    assert "renewed, as" not in again.stderr


def test_a_body_that_was_edited_stays(reference: str, tmp_path: Path, env: dict[str, str]) -> None:
    provision(reference, tmp_path / "dir", env=env)
    script = tmp_path / "dir/start.sh"
    edited = script.read_bytes().replace(b"umask 022", b"umask 077")
    script.write_bytes(edited)
    done = provision(reference, tmp_path / "dir", env=env)
    assert "start.sh was edited, and stays as it is" in done.stderr
    assert script.read_bytes() == edited


@pytest.mark.parametrize("text", ["", "a\n\nb='c'\n\n", "'\"\n#'\"'\"", "$(x)\n`y`", "\udcff", "x=\n"])
def test_renewing_keeps_settings_with_odd_text(tmp_path: Path, text: str) -> None:
    directory = tmp_path / "dir"
    settings = dataclasses.replace(SETTINGS, image_command=(text, "x"), image_workdir=text)
    new = launcher(settings, "/bin/bash")
    (directory / ".provision").mkdir(parents=True)
    header = b"".join(line for line in new[: -len(body())].splitlines(True) if b"SHA-256" not in line)
    (directory / "start.sh").write_bytes(header + b"echo old\n")
    outdated = find_outdated(directory, host_platform())
    assert outdated.script == new
    assert not outdated.is_edited


def test_it_can_be_replaced(reference: str, tmp_path: Path, env: dict[str, str]) -> None:
    provision("--force", reference, tmp_path / "dir", env=env, status=0)
    assert (tmp_path / "dir/.provision/generated/hosts").exists()
    assert not (tmp_path / "dir/.provision" / GENERATED).exists()


def test_inspect_list_and_doctor_read_it(reference: str, tmp_path: Path, env: dict[str, str]) -> None:
    record = json.loads((tmp_path / "dir/.provision/record.json").read_text())
    inspected = provision("inspect", "--json", tmp_path / "dir", env=env)
    assert (inspected.returncode, inspected.stderr) == (0, "")
    assert json.loads(inspected.stdout)["manifest_digest"] == record["manifest_digest"]
    listed = provision("list", "--json", env=env)
    assert [(row["directory"], row["reference"]) for row in json.loads(listed.stdout)["directories"]] == [
        (str(tmp_path / "dir"), record["reference"])
    ]
    done = provision("doctor", "--offline", "--json", tmp_path / "dir", env=env)
    (check,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "start.sh"]
    assert check["state"] == "ok"
    assert "older than this provision, which renews it: start.sh" in check["detail"]
    assert [row["is_outdated"] for row in json.loads(listed.stdout)["directories"]] == [True]
