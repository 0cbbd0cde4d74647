"""Changes of a config, as instructions of a Dockerfile."""

from __future__ import annotations

import contextlib
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from provisioner.errors import UsageError
from provisioner.image.config_changes import INSTRUCTIONS, ConfigChange, apply_changes

BASE = {
    "Env": ["PATH=/bin", "A=1"],
    "Cmd": ["old"],
    "Entrypoint": ["/init"],
    "WorkingDir": "/srv",
    "Labels": {"x": "y"},
}


def changed(*texts: str, base: dict[str, Any] = BASE) -> dict[str, Any]:
    after = apply_changes(base, [ConfigChange.parse(text) for text in texts])
    return {key: value for key, value in after.items() if value != base.get(key)} | dict.fromkeys(
        base.keys() - after.keys()
    )


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (['CMD ["a", "b c"]'], {"Cmd": ["a", "b c"]}),
        (["cmd a $HOME 'b'"], {"Cmd": ["/bin/sh", "-c", "a $HOME 'b'"]}),
        (["CMD"], {"Cmd": []}),
        (["CMD []"], {"Cmd": []}),
        (["CMD [not json"], {"Cmd": ["/bin/sh", "-c", "[not json"]}),
        (['ENTRYPOINT ["/x"]'], {"Entrypoint": ["/x"], "Cmd": None}),
        (['CMD ["c"]', 'ENTRYPOINT ["/x"]'], {"Entrypoint": ["/x"], "Cmd": ["c"]}),
        (["ENV B=2"], {"Env": ["PATH=/bin", "A=1", "B=2"]}),
        (["ENV A=2 B='x y' C=\"z $A\""], {"Env": ["PATH=/bin", "A=2", "B=x y", "C=z 1"]}),
        (["ENV PATH=${PATH}:/x"], {"Env": ["PATH=/bin:/x", "A=1"]}),
        (["ENV B='$A' C=\\$A"], {"Env": ["PATH=/bin", "A=1", "B=$A", "C=$A"]}),
        (["ENV B some words"], {"Env": ["PATH=/bin", "A=1", "B=some words"]}),
        (["ENV B=1", "ENV C=$B"], {"Env": ["PATH=/bin", "A=1", "B=1", "C=1"]}),
        (["EXPOSE 80 53/udp"], {"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}),
        (["LABEL a=b c=d=e"], {"Labels": {"x": "y", "a": "b", "c": "d=e"}}),
        (["ONBUILD RUN x"], {"OnBuild": ["RUN x"]}),
        (["STOPSIGNAL SIGINT"], {"StopSignal": "SIGINT"}),
        (["USER web:www"], {"User": "web:www"}),
        (["VOLUME /a /b"], {"Volumes": {"/a": {}, "/b": {}}}),
        (['VOLUME ["/a b"]'], {"Volumes": {"/a b": {}}}),
        (["WORKDIR /x"], {"WorkingDir": "/x"}),
        (["WORKDIR x"], {"WorkingDir": "/srv/x"}),
    ],
)
def test_an_instruction_changes_what_docker_would_change(texts: list[str], expected: dict[str, Any]) -> None:
    assert changed(*texts) == expected


def test_the_image_s_shell_is_used() -> None:
    assert changed("CMD a", base={"Shell": ["/bin/bash", "-c"]}) == {"Cmd": ["/bin/bash", "-c", "a"]}
    assert changed("CMD a", base={"Shell": "odd", "OnBuild": "odd"}) == {"Cmd": ["/bin/sh", "-c", "a"]}


@pytest.mark.parametrize(
    "text",
    ["", "RUN x", "FROM x", "ENV", "ENV x", "ENV =x", "EXPOSE x", "EXPOSE 1/icmp", "USER a b", 'LABEL a="b', "VOLUME"],
)
def test_what_is_no_instruction_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--change") as caught:
        ConfigChange.parse(text)
    assert caught.value.hint


@hypothesis.given(st.sampled_from(INSTRUCTIONS), st.text())
def test_any_text_is_an_instruction_or_refused(name: str, text: str) -> None:
    with contextlib.suppress(UsageError):
        changed(f"{name} {text}")
