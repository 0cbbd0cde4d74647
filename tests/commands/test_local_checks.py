"""What is wrong with a command line, or with DIR, is said before a registry is asked for anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.cli import _parser, main
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry

Output = pytest.CaptureFixture[str]

WRONG = {
    "--platform": "amiga",
    "--mirror": "no mirror",
    "--profile": "nothing",
    "--dns": "one",
    "--bind": ":/x",
    "--env": "=x",
    "--cmd": "'",
    "--entrypoint": "'",
    "--env-image": "x",
    "--workdir": "srv",
    "--user": "a:b:c",
    "--hostname": "-",
    "--runtime": "docker",
    "--ids": "few",
    "--max-size": "huge",
    "--hardlinks": "never",
    "--sha256": "123",
    "--lock": "nowhere/x.lock",
    "--locked": "nowhere/x.lock",
    "--jobs": "many",
    "--stamp": "nowhere/stamp",
    "--stamp-if-changed": "nowhere/stamp",
    "--color": "yes",
}
"""For each option of install that takes a value, one that is wrong; --proot-option takes any."""


@pytest.fixture
def image(registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An image of which `x.lock` is a lock, in a directory with the container `there`, whose start.sh was edited."""
    registry.push("image", builders.small(on="linux/amd64"))
    name = f"{registry.host}/image"
    monkeypatch.setenv("PROVISION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert main([name, "there", "--platform", "amd64", "--hardlinks", "copy", "--quiet", "--lock", "x.lock"]) == 0
    with Path("there/start.sh").open("a") as script:
        script.write("# mine\n")
    registry.requests.clear()
    return name


def test_there_is_a_row_for_each_option() -> None:
    parser = _parser("install")
    names = {name for name in parser.options if name.startswith("--") and parser.takes_value(name)}
    assert names - {"--help", "--version", "--volume", "--proot-option"} == set(WRONG)


@pytest.mark.parametrize("lock", [[], ["--locked", "x.lock"]], ids=["", "locked"])
@pytest.mark.parametrize(
    "words",
    [
        *([f"{option}={value}", "new"] for option, value in WRONG.items()),
        ["new", "--platform", "arm64", "--locked", "x.lock"],
        ["x.lock"],
        ["there/start.sh"],
        ["there", "--profile", "debian"],
        ["there", "--hardlinks", "symlink"],
        ["there", "--env", "A=1"],
        ["there", "--cmd", "true"],
    ],
    ids=" ".join,
)
def test_nothing_is_asked_for(
    words: list[str], lock: list[str], registry: ScriptedRegistry, image: str, capsys: Output
) -> None:
    lock = [] if any(word.startswith("--lock") for word in words) else lock
    assert main([image, "--platform", "amd64", *lock, *words]) in (2, 3, 7, 8)
    assert not registry.requests, capsys.readouterr().err
