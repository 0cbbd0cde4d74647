"""`provision IMAGE DIR` on a terminal and in scripts: the start line, --json, --quiet, and defaults for start.sh."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.cli import main
from provisioner.image.platform import host_platform
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, clean_environment, need_root, open_directory, provision

TYPES = {kind: builders.OCI_LAYER + (f"+{kind}" if kind else "") for kind in ("gzip", "zstd", "")}
Output = pytest.CaptureFixture[str]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedRegistry]:
    """A registry with `image`, for runs in this process with a cache of their own."""
    monkeypatch.setenv("PROVISION_CACHE_DIR", str(tmp_path / "cache"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with ScriptedRegistry() as served:
        served.push("image", builders.small(run={"Cmd": ["/bin/sh", "a b"]}))
        yield served
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_people_read_stderr_and_stdout_stays_empty(registry: ScriptedRegistry, tmp_path: Path, capsys: Output) -> None:
    # A disk that takes seconds to write would be told.
    assert main([f"{registry.host}/image", str(tmp_path / "dir"), "--platform", "amd64", "--no-sync"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    *steps, ready, command, start = err.splitlines()
    assert steps[-2:] == ["layer 1 of 2: 174 B", "layer 2 of 2: 106 B"]
    assert re.fullmatch(rf"{tmp_path}/dir is ready: 280 B in \d+[.]\d s, 7 files, 134 B unpacked", ready)
    assert [command, start] == [
        "  command: /bin/sh 'a b'",
        f"  start:   {tmp_path}/dir/start.sh",
    ]


def test_a_layer_says_what_made_it_shortened(registry: ScriptedRegistry, tmp_path: Path, capsys: Output) -> None:
    history = [{"created_by": "ADD rootfs.tar.xz /"}, {"empty_layer": True}, {"created_by": f"RUN {'apk add ' * 20}"}]
    registry.push("told", builders.small(config={"history": history}))
    assert main([f"{registry.host}/told", str(tmp_path / "dir"), "--platform", "amd64"]) == 0
    first, second = [line for line in capsys.readouterr().err.splitlines() if line.startswith("layer ")]
    assert first == "layer 1 of 2: 174 B, ADD rootfs.tar.xz /"
    assert re.fullmatch("layer 2 of 2: 106 B, (apk add )+apk ad…", second)
    assert len(second) == 100


def test_the_start_line_can_be_pasted(
    registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([f"{registry.host}/image", "my dir", "--platform", "amd64"]) == 0
    assert "  start:   './my dir/start.sh'\n" in capsys.readouterr().err


def test_defaults_of_start_sh_can_be_given(
    registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profile.toml").write_text(
        'binds = ["/opt"]\nenv = {A = "profile", B = "profile"}\ndns = ["9.9.9.9"]\nproot-options = ["-a"]\n'
    )
    (tmp_path / "config.toml").write_text('proot-options = ["-b", "c d"]\n')
    monkeypatch.setenv("PROVISION_CONFIG", str(tmp_path / "config.toml"))
    words = ["--bind", "my data:/data", "--bind", "co:lon", "--env", "A=it's", "--runtime", "proot", "--dns", "::1"]
    words += ["--profile", "./profile.toml", "--platform=amd64", "--proot-option=-e", "--proot-option", "f"]
    assert main([f"{registry.host}/image", "dir", *words]) == 0
    script = (tmp_path / "dir/start.sh").read_text().partition("\n\n")[0]
    ask = 'for list in "$default_runtime" "$default_dns" "$default_binds" "$default_env" "$default_proot_options"; do '
    ask += 'eval "set -- $list"'
    ask += '; printf "%s\\n" "$@"; done'
    output = subprocess.run(["sh", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == [
        *("proot", "::1", "/opt", f"{tmp_path}/my data:/data", f"{tmp_path}/co:lon"),
        *("A=it's", "B=profile"),
        *("-a", "-b", "c d", "-e", "f"),
    ]


def test_json_is_the_record_and_quiet_is_quiet(registry: ScriptedRegistry, tmp_path: Path, capsys: Output) -> None:
    for _ in ("new", "up to date"):
        assert main([f"{registry.host}/image", str(tmp_path / "dir"), "--platform=amd64", "--json", "--quiet"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert json.loads(out) == json.loads((tmp_path / "dir/.provision/record.json").read_text())


def test_up_to_date_is_shown(registry: ScriptedRegistry, tmp_path: Path, capsys: Output) -> None:
    words = [f"{registry.host}/image", str(tmp_path / "dir"), "--platform=amd64"]
    assert main(words) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "dir is up to date\n" in capsys.readouterr().err


def test_what_is_unusual_of_layers_is_said_with_verbose(
    registry: ScriptedRegistry, tmp_path: Path, capsys: Output
) -> None:
    """All nine combinations; some layers are large enough for worker processes."""
    kinds: list[builders.Compression] = ["gzip", "zstd", ""]
    layers, expected = [], []
    for number in range(9):
        kind, announced = kinds[number // 3], kinds[number % 3]
        content = builders.incompressible(2_000_000 if number % 2 else 100, number)
        layers.append(
            replace(builders.layer((f"file{number}", content), compression=kind), media_type=TYPES[announced])
        )
        if kind != announced:
            said = f"{kind or 'not compressed'}, its media type says {announced or 'tar'}"
            expected.append(f"layer {number + 1} of 9 is {said}")
    registry.push("odd", builders.image(*layers))
    words = [f"{registry.host}/odd", str(tmp_path / "dir"), "--platform=amd64", "--force"]
    for option, lines in (("--verbose", expected), ("--no-sync", [])):
        assert main([*words, option]) == 0
        assert sorted(line for line in capsys.readouterr().err.splitlines() if "its media" in line) == lines
    assert len(list((tmp_path / "dir/rootfs").glob("file*"))) == 9


def test_what_an_image_does_not_say_is_said_to_be_assumed(
    registry: ScriptedRegistry, tmp_path: Path, capsys: Output
) -> None:
    registry.push("silent", builders.small(run={"Entrypoint": [""], "Cmd": "echo a"}, config={"architecture": None}))
    name, directory = f"{registry.host}/silent", str(tmp_path / "dir")
    assert main([name, directory, "--platform=arm64"]) == 0
    err = capsys.readouterr().err
    assert f"{name}:latest doesn't say which machines it is for: linux/arm64 is assumed\n" in err
    assert "  command: 'echo a'\n" in err
    assert main(["inspect", name, "--platform", "mips", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "linux/mips is assumed" in err
    assert json.loads(out)["platform"] == "linux/mips"


def test_a_platform_that_the_image_does_not_have(registry: ScriptedRegistry, tmp_path: Path, capsys: Output) -> None:
    """Exit status 3, not 2, for every architecture that Go knows."""
    assert main([f"{registry.host}/image", str(tmp_path / "dir"), "--platform=mips"]) == 3
    assert "has nothing for linux/mips; it has linux/amd64" in capsys.readouterr().err


def test_the_number_of_ids_belongs_to_a_directory(registry: ScriptedRegistry) -> None:
    image, place = f"{registry.host}/image", open_directory("ids")

    def run(*words: str | Path, hint: str = "") -> None:
        done = provision(image, *words, "--platform=amd64", **as_user())
        assert done.returncode == (8 if hint else 0), done.stderr
        assert hint in done.stderr

    try:
        run(place / "many", "--ids", "many")
        assert (place / "many/.provision/ids").read_text() == "many\n"
        run(place / "many")
        run(place / "many", "--ids", "many")
        run(place / "many", "--ids", "one", hint="is used with many ids, not with one")
        run(place / "one")
        assert not (place / "one/.provision/ids").exists()
        run(place / "one", "--ids=one")
        run(place / "one", "--ids=many", hint="is used with one id, not with many")
        run(place / "one", "--ids=many", "--force")
        assert (place / "one/.provision/ids").read_text() == "many\n"
        # After its first start only subordinate ids may be able to remove it.
        (place / "many/.provision/ids").write_text("many\n100000\n")
        run(place / "many", "--force", hint=f"provision remove {place}/many")
        assert (place / "many/start.sh").exists()
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize("runtime", ["proot", "chroot"])
def test_many_ids_are_for_user_namespaces(registry: ScriptedRegistry, runtime: str) -> None:
    place = open_directory("ids")
    done = provision(
        f"{registry.host}/image", place / "dir", "--ids", "many", "--runtime", runtime, **as_user(), status=2
    )
    assert f"--ids many and --runtime {runtime} exclude each other" in done.stderr
    assert list(place.iterdir()) == []
    place.rmdir()


def test_many_ids_are_not_for_root(registry: ScriptedRegistry, tmp_path: Path, capsys: Output) -> None:
    need_root()
    assert main([f"{registry.host}/image", str(tmp_path / "dir"), "--ids", "many"]) == 2
    assert "--ids many is for users" in capsys.readouterr().err
    assert not (tmp_path / "dir").exists()


def test_variables_and_binds_are_taken_as_docker_takes_them(tmp_path: Path) -> None:
    env = clean_environment(XDG_STATE_HOME=str(tmp_path / "state"))
    with ScriptedRegistry() as registry:
        registry.push("image", builders.small(on=str(host_platform())))
        options = [
            "-eA=1",
            "-e",
            "TOKEN",
            "--env=A=2",
            "-e",
            "no_proxy",
            "-v",
            f"{tmp_path}:/data",
            f"--volume={tmp_path}",
        ]
        done = provision(*options, f"{registry.host}/image", tmp_path / "dir", env=env)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "dir/start.sh").read_text().splitlines()
    assert "default_env='A=2 TOKEN no_proxy'" in lines
    assert f"default_binds='{tmp_path}:/data {tmp_path}'" in lines


def test_the_image_s_timezone_is_known_at_each_start(tmp_path: Path) -> None:
    env = clean_environment(XDG_STATE_HOME=str(tmp_path / "state"))
    link = ("etc/localtime", "../usr/share/zoneinfo/Etc/UTC")
    with ScriptedRegistry() as registry:
        for name, members in (("with", [link]), ("without", [])):
            registry.push(name, builders.image(builders.layer(("etc", None), *members), on=str(host_platform())))
            provision(f"{registry.host}/{name}", tmp_path / name, env=env, status=0)
    assert f"image_localtime={link[1]}\n" in (tmp_path / "with/start.sh").read_text()
    assert "image_localtime=''\n" in (tmp_path / "without/start.sh").read_text()
