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
        (["HEALTHCHECK NONE"], {"Healthcheck": {"Test": ["NONE"]}}),
        (
            ["HEALTHCHECK CMD curl -f 'x y' || exit 1"],
            {"Healthcheck": {"Test": ["CMD-SHELL", "curl -f 'x y' || exit 1"]}},
        ),
        (
            ['healthcheck --interval=1m30s --timeout=1.5s --start-period=0 --retries=3  cmd ["a", "b c"]'],
            {"Healthcheck": {"Test": ["CMD", "a", "b c"], "Interval": 90 * 10**9, "Timeout": 15 * 10**8, "Retries": 3}},
        ),
        (
            ["HEALTHCHECK --start-interval=5ms CMD x"],
            {"Healthcheck": {"Test": ["CMD-SHELL", "x"], "StartInterval": 5 * 10**6}},
        ),
        (['SHELL ["/bin/bash", "-c"]', "CMD x"], {"Shell": ["/bin/bash", "-c"], "Cmd": ["/bin/bash", "-c", "x"]}),
        (["STOPSIGNAL SIGINT"], {"StopSignal": "SIGINT"}),
        (["STOPSIGNAL 9"], {"StopSignal": "9"}),
        (["STOPSIGNAL RTMIN+3"], {"StopSignal": "RTMIN+3"}),
        (["ENV B=${A:-x}${C:-y z}${A:+set}${C:+set}"], {"Env": ["PATH=/bin", "A=1", "B=1y zset"]}),
        (["EXPOSE 8000-8002/UDP"], {"ExposedPorts": {"8000/udp": {}, "8001/udp": {}, "8002/udp": {}}}),
        (["WORKDIR ../x/./y//z/"], {"WorkingDir": "/x/y/z"}),
        (["WORKDIR //x"], {"WorkingDir": "/x"}),
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
    [
        *(
            "",
            "RUN x",
            "FROM x",
            "ENV",
            "ENV x",
            "ENV =x",
            "EXPOSE x",
            "EXPOSE 1/icmp",
            "USER a b",
            'LABEL a="b',
            "VOLUME",
        ),
        *(
            "EXPOSE 70000",
            "EXPOSE 9-8",
            "STOPSIGNAL SIGNOPE",
            "STOPSIGNAL 65",
            "ONBUILD FROM x",
            "ONBUILD onbuild RUN x",
        ),
        *("HEALTHCHECK", "HEALTHCHECK NONE x", "HEALTHCHECK x", "HEALTHCHECK CMD", "HEALTHCHECK CMD []", "SHELL x"),
        *("HEALTHCHECK --interval=1 CMD x", "HEALTHCHECK --interval=1us CMD x", "HEALTHCHECK --retries=1s CMD x"),
        *(
            "HEALTHCHECK --nope=1s CMD x",
            "HEALTHCHECK --interval=-1s CMD x",
            "HEALTHCHECK --interval=1s NONE",
            "SHELL []",
        ),
    ],
)
def test_what_is_no_instruction_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--change") as caught:
        ConfigChange.parse(text)
    assert caught.value.hint


@hypothesis.given(st.sampled_from(INSTRUCTIONS), st.text())
def test_any_text_is_an_instruction_or_refused(name: str, text: str) -> None:
    with contextlib.suppress(UsageError):
        changed(f"{name} {text}")
