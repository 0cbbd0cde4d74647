"""Configs: what is read of them."""

from __future__ import annotations

from typing import Any

import pytest

from provisioner.image.config import ImageConfig
from provisioner.image.platform import Platform
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
