"""The main job in one process: what becomes of the directory, whatever happens."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.blobs import BlobCache
from provisioner.console import Console
from provisioner.errors import InTheWay, MalformedImage, ProvisionError, UsageError
from provisioner.platforms import Platform, host_platform
from provisioner.provision import Outcome, Plan, occupant, provision
from provisioner.reference import Reference
from provisioner.registry.client import RegistryClient
from provisioner.rootfs.ownership import Ownership
from provisioner.seccomp import root_emulation
from provisioner.sources.registry import RegistrySource

from . import builders
from .scripted_registry import ScriptedRegistry
from .tools import tree_of

AMD64 = Platform("linux", "amd64")


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as registry:
        yield registry


def job(registry: ScriptedRegistry, plan: Plan, cache: Path) -> Outcome:
    reference = Reference.parse(f"{registry.host}/image:latest")
    source = RegistrySource(reference, RegistryClient(reference), BlobCache(cache), 2)
    return provision(plan, source, Ownership.of_this_process(), Console(quiet=True))


def test_a_directory_is_made_whole(registry: ScriptedRegistry, tmp_path: Path) -> None:
    digest = registry.push("image", builders.small(run={"Cmd": ["/bin/sh"]}))
    outcome = job(registry, Plan(tmp_path / "a/b/dir", AMD64), tmp_path / "cache")
    made = tmp_path / "a/b/dir"
    assert outcome.is_new
    assert sorted(os.listdir(made)) == [".provision", "rootfs", "start.sh"]
    assert made.stat().st_mode & 0o777 == 0o700
    assert (made / "rootfs").stat().st_mode & 0o777 == 0o755
    assert (made / "rootfs/etc/motd").read_bytes() == b"hello\n"
    assert (made / "start.sh").stat().st_mode & 0o777 == 0o755
    assert json.loads((made / ".provision/record.json").read_text())["manifest_digest"] == digest
    assert (made / ".provision/seccomp.bpf").read_bytes() == root_emulation(host_platform())
    for name in ("resolv.conf", "hosts", "hostname"):
        assert (made / ".provision/made" / name).read_bytes() == (made / "rootfs/etc" / name).read_bytes()
    assert os.listdir(tmp_path / "a/b") == ["dir"]


def test_a_machine_without_a_filter_for_namespaces_gets_none(
    registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.push("image", builders.small())
    monkeypatch.setattr("provisioner.provision.host_platform", lambda: Platform("linux", "mips64le"))
    job(registry, Plan(tmp_path / "dir", AMD64), tmp_path / "cache")
    assert not (tmp_path / "dir/.provision/seccomp.bpf").exists()


def test_the_second_run_touches_nothing(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.push("image", builders.small())
    plan = Plan(tmp_path / "dir", AMD64)
    job(registry, plan, tmp_path / "cache")
    before = tree_of(plan.directory)
    inode = plan.directory.stat().st_ino
    assert not job(registry, plan, tmp_path / "cache").is_new
    assert tree_of(plan.directory) == before
    assert plan.directory.stat().st_ino == inode


def test_another_image_is_refused_without_force(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.push("image", builders.small())
    plan = Plan(tmp_path / "dir", AMD64)
    job(registry, plan, tmp_path / "cache")
    before = tree_of(plan.directory)
    new = registry.push("image", builders.image(builders.layer(("new", b"new"))))
    with pytest.raises(InTheWay, match=r"holds .* not sha256:") as error:
        job(registry, plan, tmp_path / "cache")
    assert "--force" in error.value.hint
    assert tree_of(plan.directory) == before
    outcome = job(registry, Plan(plan.directory, AMD64, force=True), tmp_path / "cache")
    assert outcome.record.manifest_digest == new
    assert (plan.directory / "rootfs/new").exists()
    assert not (plan.directory / "rootfs/bin").exists()
    assert sorted(os.listdir(tmp_path)) == ["cache", "dir"]


def test_force_makes_the_same_image_anew(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.push("image", builders.small())
    plan = Plan(tmp_path / "dir", AMD64, force=True)
    job(registry, plan, tmp_path / "cache")
    (plan.directory / "rootfs/etc/motd").write_text("changed")
    assert job(registry, plan, tmp_path / "cache").is_new
    assert (plan.directory / "rootfs/etc/motd").read_text() == "hello\n"


def test_what_fails_leaves_what_was_there(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.push("image", builders.small())
    plan = Plan(tmp_path / "dir", AMD64, force=True)
    job(registry, plan, tmp_path / "cache")
    before = tree_of(plan.directory)
    wrong = builders.layer(("x", b"x"))
    wrong = builders.Layer(wrong.blob, wrong.media_type, builders.digest_of(b"something else"))
    registry.push("image", builders.image(wrong))
    with pytest.raises(MalformedImage, match=r"layer 1 of 1: .*does not match its digest"):
        job(registry, plan, tmp_path / "cache")
    assert tree_of(plan.directory) == before
    assert sorted(os.listdir(tmp_path)) == ["cache", "dir"]


def test_unknown_profiles_are_told_before_anything_is_asked(registry: ScriptedRegistry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no profile 'nope'"):
        job(registry, Plan(tmp_path / "dir", AMD64, profile="nope"), tmp_path / "cache")
    assert registry.requests == []


@pytest.mark.parametrize("make", [Path.touch, lambda path: (path.mkdir(), (path / "mine").touch())])
def test_what_is_not_ours_is_refused_before_anything_is_asked(
    make: object, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    make(tmp_path / "dir")  # type: ignore[operator]
    before = tree_of(tmp_path)
    with pytest.raises(InTheWay) as error:
        job(registry, Plan(tmp_path / "dir", AMD64, force=True), tmp_path / "cache")
    assert error.value.hint
    assert registry.requests == []
    assert tree_of(tmp_path) == before


def test_the_directory_one_is_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InTheWay, match="directory that you are in"):
        occupant(tmp_path)


def test_an_image_without_layers_is_an_empty_root(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.push("image", builders.image())
    job(registry, Plan(tmp_path / "dir", AMD64), tmp_path / "cache")
    assert os.listdir(tmp_path / "dir/rootfs") == ["etc"]  # resolv.conf and hosts


def test_the_same_layer_twice_is_downloaded_once(registry: ScriptedRegistry, tmp_path: Path) -> None:
    layer = builders.layer(("x", b"x"))
    registry.push("image", builders.image(layer, builders.layer((".wh.x", b"")), layer))
    job(registry, Plan(tmp_path / "dir", AMD64), tmp_path / "cache")
    assert (tmp_path / "dir/rootfs/x").read_bytes() == b"x"
    assert len(registry.asked(f".*/blobs/{builders.digest_of(layer.blob)}")) == 1


def test_profile_dns_and_the_image_meet_in_the_launch_script(registry: ScriptedRegistry, tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text(
        'dns = ["9.9.9.9"]\nhostname = "box"\n[env]\nA = "b c"\n[files]\n"/etc/motd" = "from the profile"\n'
    )
    registry.push("image", builders.small(run={"Env": ["X=y"], "User": "me"}))
    job(registry, Plan(tmp_path / "dir", AMD64, profile=str(profile)), tmp_path / "cache")
    start = (tmp_path / "dir/start.sh").read_text()
    for line in ("default_dns=9.9.9.9\n", "default_env=''\"'\"'A=b c'\"'\"''\n", "image_env=X=y\n", "image_user=me\n"):
        assert line in start
    rootfs = tmp_path / "dir/rootfs"
    assert (rootfs / "etc/resolv.conf").read_text() == "nameserver 9.9.9.9\n"
    assert (rootfs / "etc/hostname").read_text() == "box\n"
    assert (rootfs / "etc/motd").read_text() == "from the profile\n"


def test_dns_of_the_command_line_goes_before_the_profiles(registry: ScriptedRegistry, tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text('dns = ["9.9.9.9"]\n')
    registry.push("image", builders.small())
    plan = Plan(tmp_path / "dir", AMD64, profile=str(profile), dns=("1.2.3.4", "::1"))
    job(registry, plan, tmp_path / "cache")
    assert (tmp_path / "dir/rootfs/etc/resolv.conf").read_text() == "nameserver 1.2.3.4\nnameserver ::1\n"


def test_errors_are_all_ours(registry: ScriptedRegistry, tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match="has no tag"):
        job(registry, Plan(tmp_path / "dir", AMD64), tmp_path / "cache")
    assert os.listdir(tmp_path) == []
