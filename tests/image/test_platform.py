from __future__ import annotations

import platform
import struct
from collections.abc import Iterable

import pytest

from provisioner.errors import MachineError, NotFound, UsageError
from provisioner.image.platform import Platform, choose, host_platform, platform_of

V2 = ["cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"]
V3 = [*V2, "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"]
V4 = [*V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]

MACHINES = [
    ("aarch64", 64, "linux/arm64/v8"),
    ("aarch64", 32, "linux/arm/v8"),
    ("armv8l", 32, "linux/arm/v8"),
    ("armv7l", 32, "linux/arm/v7"),
    ("armv6l", 32, "linux/arm/v6"),
    ("armv5tejl", 32, "linux/arm/v5"),
    ("x86_64", 64, "linux/amd64"),
    ("x86_64", 32, "linux/386"),
    ("i686", 32, "linux/386"),
    ("riscv64", 64, "linux/riscv64"),
    ("ppc64le", 64, "linux/ppc64le"),
    ("s390x", 64, "linux/s390x"),
    ("loongarch64", 64, "linux/loong64"),
]


@pytest.mark.parametrize(("machine", "bits", "expected"), MACHINES)
def test_machines_by_their_kernels_name_and_pointer_size(machine: str, bits: int, expected: str) -> None:
    assert str(platform_of(machine, bits)) == expected


@pytest.mark.parametrize(
    ("flags", "variant"),
    [
        ([], ""),
        (V2, "v2"),
        (V2[1:], ""),
        (V3, "v3"),
        (V3[:-1], "v2"),
        (V4, "v4"),
        (set(V4) - {"ssse3"}, ""),  # a level needs all those below
    ],
)
def test_levels_of_amd64(flags: Iterable[str], variant: str) -> None:
    assert platform_of("x86_64", 64, frozenset(flags)) == Platform("linux", "amd64", variant)
    assert platform_of("x86_64", 32, frozenset(flags)) == Platform("linux", "386")


def test_this_machine_is_linux_whatever_python_calls_its_system(monkeypatch: pytest.MonkeyPatch) -> None:
    before = host_platform()
    monkeypatch.setattr(platform, "system", lambda: "Android")
    monkeypatch.setattr("sys.platform", "android")
    assert host_platform() == before
    assert before.os == "linux"


def test_this_machine_goes_by_the_pointer_size_of_the_running_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: type("uname", (), {"machine": "aarch64"}))
    monkeypatch.setattr(struct, "calcsize", lambda kind: 4)
    assert str(host_platform()) == "linux/arm/v8"


def test_an_unknown_machine_is_named_with_a_hint() -> None:
    with pytest.raises(MachineError, match="'vax'") as caught:
        platform_of("vax", 32)
    assert "--platform" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/arm64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64/v8"),
        ("arm64", "linux/arm64"),
        ("aarch64", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("arm/v7", "linux/arm/v7"),
        ("armhf", "linux/arm/v7"),
        ("armv7l", "linux/arm/v7"),
        ("armel", "linux/arm/v6"),
        ("linux/arm", "linux/arm"),
        ("x86_64", "linux/amd64"),
        ("Linux/AMD64/v3", "linux/amd64/v3"),
        ("i686", "linux/386"),
        ("loongarch64", "linux/loong64"),
        ("riscv64", "linux/riscv64"),
        ("linux/arm/7", "linux/arm/v7"),
        ("arm64/8", "linux/arm64/v8"),
        ("linux/x86_64/v3", "linux/amd64/v3"),
        ("mips", "linux/mips"),
        ("linux/sparc64", "linux/sparc64"),
    ],
)
def test_platforms_as_people_write_them(text: str, expected: str) -> None:
    assert str(Platform.parse(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "linux", "linux/", "linux//v7", "vax", "windows/amd64", "linux/amd64/v3/x", "linux/arm/v", "arm/vx",
        "armv7l/v6", "linux/arm64/v8\n", "linux/arm/v٣", "linux/linux", "\x1b[31m", "linux arm64",
    ],
)  # fmt: skip
def test_what_is_no_platform_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(UsageError, match="is not a platform") as caught:
        Platform.parse(text)
    assert caught.value.message.isprintable()
    assert "riscv64" in caught.value.hint


# `go tool dist list`, those of linux
GO = "386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x"


@pytest.mark.parametrize("architecture", GO.split())
def test_every_architecture_that_go_has_for_linux_is_known(architecture: str) -> None:
    """An image may have nothing for it: that is an exit status of its own."""
    platform = Platform.parse(architecture)
    assert str(platform) == f"linux/{architecture}"
    with pytest.raises(NotFound, match=f"nothing for linux/{architecture};"):
        choose([(Platform("linux", "wasm"), "")], platform, "x")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("linux", "x86_64"), "linux/amd64"),
        (("Linux", "AMD64", "v1"), "linux/amd64"),
        (("linux", "x86-64", "v2"), "linux/amd64/v2"),
        (("linux", "aarch64"), "linux/arm64"),
        (("linux", "aarch64", "8"), "linux/arm64/v8"),
        (("linux", "arm64", "v8.0"), "linux/arm64/v8"),
        (("linux", "arm64", "V9"), "linux/arm64/v9"),
        (("linux", "armhf"), "linux/arm/v7"),
        (("linux", "armhf", "v6"), "linux/arm/v7"),  # as containerd: the name says more
        (("linux", "armel"), "linux/arm/v6"),
        (("linux", "arm", "5"), "linux/arm/v5"),
        (("linux", "i386", "x"), "linux/386"),
        (("linux", "loongarch64"), "linux/loong64"),
        (("", "riscv64"), "linux/riscv64"),
        (("windows", "amd64"), "windows/amd64"),
    ],
)
def test_foreign_spellings_in_images_are_normalised_as_containerd_does(words: tuple[str, ...], expected: str) -> None:
    assert str(Platform.normalized(*words)) == expected


@pytest.mark.parametrize(
    ("image", "host", "expected"),
    [
        ("linux/arm64/v8.2", "linux/arm64/v8", True),
        ("linux/arm64/v9.1", "linux/arm64/v8", False),
        ("linux/arm/v6", "linux/arm/v7", True),
        ("linux/arm/v7", "linux/arm/v6", False),
        ("linux/arm", "linux/arm/v7", True),  # v7 where none is written
        ("linux/arm", "linux/arm/v6", False),
        ("linux/arm/v5", "linux/arm/v8", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm64/v9", "linux/arm64", False),
        ("linux/amd64", "linux/amd64/v3", True),
        ("linux/amd64/v3", "linux/amd64/v3", True),
        ("linux/amd64/v4", "linux/amd64/v3", False),
        ("linux/amd64/v2", "linux/amd64", False),
        ("linux/arm/v7", "linux/arm64", False),
        ("linux/s390x", "linux/s390x", True),
        ("windows/amd64", "linux/amd64", False),
    ],
)
def test_an_image_runs_where_its_variant_is_no_newer(image: str, host: str, expected: bool) -> None:
    assert Platform(*image.split("/")).satisfies(Platform(*host.split("/"))) is expected


@pytest.mark.parametrize(
    ("offers", "host", "expected"),
    [
        ("arm/v5 arm/v6 arm/v7 arm64/v8", "arm/v8", "arm/v7"),
        ("arm/v5 arm/v7 arm/v6", "arm/v6", "arm/v6"),
        ("arm/v5 arm/v7", "arm/v6", "arm/v5"),
        ("amd64 amd64/v2 amd64/v4", "amd64/v3", "amd64/v2"),
        ("amd64/v2 amd64", "amd64", "amd64"),
        ("arm64 arm64/v8", "arm64/v8", "arm64"),  # of equals, the first
    ],
)
def test_the_newest_variant_that_runs_is_chosen(offers: str, host: str, expected: str) -> None:
    pairs = [(Platform("linux", *offer.split("/")), offer) for offer in offers.split()]
    assert choose(pairs, Platform("linux", *host.split("/")), "x") == expected


@pytest.mark.parametrize(
    ("offers", "has"),
    [("amd64 arm/v7 amd64", "it has linux/amd64, linux/arm/v7"), ("", "it has no platform at all")],
)
def test_what_an_image_does_have_is_listed(offers: str, has: str) -> None:
    pairs = [(Platform("linux", *offer.split("/")), offer) for offer in offers.split()]
    with pytest.raises(NotFound, match=f"^x has nothing for linux/s390x; {has}$"):
        choose(pairs, Platform("linux", "s390x"), "x")
