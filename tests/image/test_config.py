"""Configs: what is read of them."""

from __future__ import annotations

from typing import Any

import pytest

from provisioner.errors import MalformedImage
from provisioner.image.config import ImageConfig
from provisioner.image.platform import Platform, host_platform
from tests.support import builders


def test_a_config_with_everything() -> None:
    run = {
        "Entrypoint": ["/init", "a b"], "Cmd": ["x", ""], "WorkingDir": "/srv", "User": "www:33",
        "Env": ["A=1", "B=", "=x", "NAKED", "C=d=e"], "StopSignal": "SIGQUIT",
    }  # fmt: skip
    config = ImageConfig.from_json(builders.image(on="linux/arm/v6", run=run).config)
    assert config == ImageConfig(
        platform=Platform("linux", "arm", "v6"), diff_ids=(), entrypoint=("/init", "a b"), command=("x", ""),
        env=("A=1", "B=", "C=d=e"), working_dir="/srv", user="www:33", stop_signal="SIGQUIT",
    )  # fmt: skip


@pytest.mark.parametrize("empty", [{}, {"config": None}, {"config": {"Cmd": None, "Env": None, "User": None}}])
def test_a_config_may_say_next_to_nothing(empty: dict[str, Any]) -> None:
    config = ImageConfig.from_json(builders.image(config=empty).config)
    assert (config.command, config.env, config.user) == ((), (), "")


@pytest.mark.parametrize(
    ("run", "entrypoint", "command"),
    [
        ({"Entrypoint": [""], "Cmd": ["x"]}, (), ("x",)),
        ({"Entrypoint": "", "Cmd": "x"}, (), ("x",)),
        ({"Entrypoint": "/bin/sh -c", "Cmd": "echo a"}, ("/bin/sh -c",), ("echo a",)),
        ({"Entrypoint": ["", "x"]}, ("", "x"), ()),
        ({"Entrypoint": None, "Cmd": ""}, (), ()),
        ({"Entrypoint": ["x"], "Cmd": [""]}, ("x",), ("",)),
        ({"Entrypoint": ["x", None]}, ("x", ""), ()),
    ],
)
def test_commands_as_docker_reads_them(run: Any, entrypoint: tuple[str, ...], command: tuple[str, ...]) -> None:
    """`Entrypoint: [""]` resets the base image's; a text is one word and not split; null is Go's empty text."""
    config = ImageConfig.from_json(builders.image(run=run).config)
    assert (config.entrypoint, config.command) == (entrypoint, command)


NOT_UTF_8 = {b"latin-1": b"caf\xe9", b"a surrogate": b"caf\\ud800", b"cut": b"caf\xc3", b"a NUL": b"caf\\u0000"}


@pytest.mark.parametrize("text", NOT_UTF_8.values(), ids=[name.decode() for name in NOT_UTF_8])
def test_what_nobody_executes_need_not_be_unicode(text: bytes) -> None:
    data = builders.image(
        run={"Labels": {"NAME": "TEXT"}},
        config={
            "author": "TEXT",
            "created": "TEXT",
            "comment": "TEXT",
            "history": [{"created_by": "TEXT", "x": "TEXT"}],
        },
    ).config
    config = ImageConfig.from_json(data.replace(b"TEXT", text).replace(b"NAME", text))
    assert config.created == "caf\ufffd"
    assert config.labels == (("caf\ufffd", "caf\ufffd"),)


@pytest.mark.parametrize("text", [text for name, text in NOT_UTF_8.items() if name != b"a NUL"])
@pytest.mark.parametrize(
    "field", ["Entrypoint", "Cmd", "Env", "WorkingDir", "User", "StopSignal", "Volumes", "ExposedPorts"]
)
def test_what_is_executed_must_be(field: str, text: bytes) -> None:
    value = {"Volumes": {"/TEXT": {}}, "ExposedPorts": {"TEXT": {}}, "Env": ["A=TEXT"], "Cmd": ["x", "TEXT"]}
    data = builders.image(run={field: value.get(field, "TEXT")}).config
    with pytest.raises(MalformedImage, match=f"config.config.{field} contains what is not Unicode"):
        ImageConfig.from_json(data.replace(b"TEXT", text))


@pytest.mark.parametrize("stated", [{}, {"os": "linux"}, {"os": None, "architecture": None}, {"architecture": ""}])
def test_a_config_that_does_not_say_what_it_is_for(stated: dict[str, Any]) -> None:
    data = builders.json_bytes({**stated, "rootfs": {"diff_ids": None}})
    known = ImageConfig.from_json(data, Platform("linux", "arm", "v6"))
    assert (str(known.platform), known.states_platform) == ("linux/arm/v6", False)
    assert ImageConfig.from_json(data).platform == host_platform()


def test_a_config_with_an_architecture_alone_is_for_linux() -> None:
    config = ImageConfig.from_json(builders.json_bytes({"architecture": "X86_64", "rootfs": {"diff_ids": []}}))
    assert (str(config.platform), config.states_platform) == ("linux/amd64", True)
