"""`provision IMAGE DIR` on a terminal and in scripts: the start line, --json, --quiet, and defaults for start.sh."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.cli import main
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry

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
    assert main([f"{registry.host}/image", str(tmp_path / "dir"), "--platform", "amd64"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-3:] == [
        f"{tmp_path}/dir is ready",
        "  command: /bin/sh 'a b'",
        f"  start:   {tmp_path}/dir/start.sh",
    ]


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
        *("A=profile", "B=profile", "A=it's"),
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
