"""The words that name sources."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import UsageError
from provisioner.image.reference import Reference
from provisioner.image.source_name import (
    DockerArchive,
    FileName,
    Lxc,
    OciArchive,
    OciLayout,
    RegistryName,
    Rootfs,
    SkopeoDirectory,
    SourceName,
    StandardInput,
    Url,
    is_path,
    parse_source,
)

GOOD: dict[str, SourceName] = {
    "ubuntu": RegistryName(Reference.parse("ubuntu")),
    "docker://ghcr.io/o/i:1": RegistryName(Reference.parse("ghcr.io/o/i:1")),
    "docker://oci:1": RegistryName(Reference.parse("docker.io/library/oci:1")),
    "sif:1.0": RegistryName(Reference.parse("docker.io/library/sif:1.0")),
    "localhost:5000/oci": RegistryName(Reference.parse("localhost:5000/oci")),
    "docker-archive:/a/x.tar": DockerArchive(Path("/a/x.tar")),
    "docker-archive:/a/x.tar:r.example:5000/x:1": DockerArchive(Path("/a/x.tar"), "r.example:5000/x:1"),
    "docker-archive:x.tar:@3": DockerArchive(Path("/here/x.tar"), "@3"),
    "docker-archive:-": DockerArchive(Path("/dev/stdin")),
    "oci:dir": OciLayout(Path("/here/dir")),
    "oci:../dir/./x:v1": OciLayout(Path("/dir/x"), "v1"),
    "oci-archive:~/x.tar:a/b": OciArchive(Path("/home/me/x.tar"), "a/b"),
    "dir:/a/b:c": SkopeoDirectory(Path("/a/b:c")),
    "rootfs:x.tar.xz": Rootfs("/here/x.tar.xz"),
    "rootfs:https://h.example/x.tar": Rootfs("https://h.example/x.tar"),
    "lxc:debian/trixie": Lxc("debian", "trixie"),
    "lxc:alpine/3.22/cloud": Lxc("alpine", "3.22", "cloud"),
    "./x:1": FileName(Path("/here/x:1")),
    "../x": FileName(Path("/x")),
    "/x": FileName(Path("/x")),
    "~/x": FileName(Path("/home/me/x")),
    "~": FileName(Path("/home/me")),
    "..": FileName(Path("/")),
    "https://h.example/a:b": Url("https://h.example/a:b"),
    "HTTP://h.example/a": Url("HTTP://h.example/a"),
    "-": StandardInput(),
}

BAD = {
    "docker-archive:": "lacks the path",
    "oci::x": "lacks the path",
    "oci:x:": "ends with a colon",
    "oci:x:@": "is not @ and a number",
    "docker-archive:x:@1x": "is not @ and a number",
    "dir:": "lacks the path",
    "dir:a\0b": "contains a NUL",
    "containers-storage:x": "can only be read by the tools of",
    "docker-daemon:x:1": "can only be read by the tools of",
    "ostree:x@/a/b": "can only be read by the tools of",
    "lxc:debian": "is not DISTRIBUTION/RELEASE",
    "lxc:a/b/c/d": "is not DISTRIBUTION/RELEASE",
    "lxc:a/../c": "is not DISTRIBUTION/RELEASE",
    "ftp://h.example/x": "no URL scheme",
    "": "is missing",
    "X": "capital letters",
}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr("os.getcwd", lambda: "/here")


@pytest.mark.parametrize("text", GOOD)
def test_words(text: str) -> None:
    assert parse_source(text) == GOOD[text]


@pytest.mark.parametrize("text", GOOD)
def test_what_is_spelled_out_is_the_same_source(text: str) -> None:
    spelled = str(parse_source(text))
    assert str(parse_source(spelled)) == spelled


@pytest.mark.parametrize("text", BAD)
def test_words_that_are_wrong(text: str) -> None:
    with pytest.raises(UsageError, match=BAD[text]) as caught:
        parse_source(text)
    assert caught.value.message.isprintable()
    assert caught.value.hint


@given(st.text())
def test_any_text_is_a_source_or_an_error(text: str) -> None:
    try:
        source = parse_source(text)
    except UsageError as error:
        assert error.message.isprintable()  # noqa: PT017
    else:
        assert str(parse_source(str(source))) == str(source)


def test_paths() -> None:
    assert all(map(is_path, ("./x", "/x", "../x", "~/x", ".", "..", "~")))
    assert not any(map(is_path, ("x", "x/y", ".x", "~x", "...", "oci:./x", "-")))


def test_a_current_directory_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("os.getcwd", gone)
    with pytest.raises(UsageError, match="No such file") as caught:
        parse_source("oci:x")
    assert "absolute path" in caught.value.hint
