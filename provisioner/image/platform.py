"""Platforms (OCI image-spec, image-index.md): this machine's, and which images run on which platform."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from provisioner.errors import MachineError, NotFound, UsageError

_MACHINES = {
    "aarch64": ("arm64", "v8"),
    "arm64": ("arm64", "v8"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "armv5tejl": ("arm", "v5"),
    "x86_64": ("amd64", ""),
    "amd64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "riscv64": ("riscv64", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "loongarch64": ("loong64", ""),
}
"""`uname -m` to (architecture, variant) as Go and the OCI spell them."""

_THIRTY_TWO_BIT = {"aarch64": "armv8l", "arm64": "armv8l", "x86_64": "i686", "amd64": "i686"}
"""The machine of a 32-bit userland, by `uname -m` of the 64-bit kernel."""

_ALIASES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm/v7",
    "armel": "arm/v6",
    "i386": "386",
}
_ALIASES |= {name: f"arm/{variant}" for name, (arch, variant) in _MACHINES.items() if arch == "arm"}
_ALIASES |= {"i686": "386", "loongarch64": "loong64"}
"""Other names of architectures (in lower case), with the variant that they imply: containerd's, and `uname -m`."""

_PORTS = {"386", "amd64", "arm", "arm64", "loong64", "ppc64", "ppc64le", "riscv64", "s390x"}
_PORTS |= {"mips", "mips64", "mips64le", "mipsle"}
"""The architectures for which Go has a port to Linux."""

_RESERVED = {"amd64p32", "arm64be", "armbe", "mips64p32", "mips64p32le", "ppc", "riscv", "s390", "sparc", "sparc64"}
"""Further names of architectures that Go reserves and containerd accepts."""

_IMPLIED = {"arm": "v7", "arm64": "v8", "amd64": "v1"}
"""The variant of an architecture if none is stated (containerd's normalisation)."""

_AMD64_LEVELS = (
    ("v2", {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}),
    ("v3", {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}),
    ("v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)
"""The x86-64 levels above v1, each with the processor flags that it adds (x86-64 psABI), in Linux's names."""


@dataclass(frozen=True)
class Platform:
    """`os/architecture[/variant]` in Go's names. An empty variant means the architecture's usual one."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Return the platform in a user's text: `linux/arm64/v8`, `arm/v7`, `aarch64`. Raises UsageError."""
        words = text.lower().split("/")
        if words[0] != "linux":
            words.insert(0, "linux")
        words[1:2] = _ALIASES.get(words[1], words[1]).split("/") if len(words) > 1 else []
        is_known = len(words) in (2, 3) and words[1] in _PORTS | _RESERVED
        if not is_known or not re.fullmatch(r"(v?[0-9]{1,2}(\.[0-9])?)?", (*words, "")[2], re.ASCII):
            hint = f"a platform looks like linux/arm64 or linux/arm/v7; known: {', '.join(sorted(_PORTS))}"
            raise UsageError(f"{text[:100]!r} is not a platform", hint)
        return cls.normalized(*words)

    @classmethod
    def normalized(cls, os: str, architecture: str, variant: str = "") -> Platform:
        """Return the platform for these fields of an image, normalised to Go's names as in containerd.

        An empty os is linux. An architecture that implies a variant (`armhf`) overrides the stated variant.
        """
        os, architecture, variant = os.lower() or "linux", architecture.lower(), variant.lower()
        architecture, _, implied = _ALIASES.get(architecture, architecture).partition("/")
        variant = implied or re.sub(r"^v?([0-9]+)(\.0)?$", r"v\1", variant)
        if architecture == "386" or (architecture, variant) == ("amd64", "v1"):
            variant = ""
        return cls(os, architecture, variant)

    @property
    def level(self) -> int:
        """Return the number of the variant, by default that of the implied one; 0 if the architecture has no variants.

        A revision of a variant, such as `v8.2`, counts as the variant.
        """
        match = re.fullmatch(r"v?([0-9]{1,3})(?:\.[0-9]{1,3})?", self.variant or _IMPLIED.get(self.architecture, ""))
        return int(match[1]) if match else 0

    def satisfies(self, host: Platform) -> bool:
        """Return whether an image for this platform runs on `host`: same architecture, and no newer variant.

        This is not equality: linux/arm/v6 satisfies linux/arm/v7, but not the other way round.
        """
        same = (self.os, self.architecture) == (host.os, host.architecture)
        return same and self.level <= host.level

    def __str__(self) -> str:
        """Return `os/architecture[/variant]`."""
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


def host_platform() -> Platform:
    """Return the platform of the running userland. Raises MachineError for a machine without images."""
    return platform_of(os.uname().machine, struct.calcsize("P") * 8, _processor_flags())


def platform_of(machine: str, bits: int, flags: frozenset[str] = frozenset()) -> Platform:
    """Return the platform for `uname -m`, the userland's pointer size in bits, and processor flags.

    The operating system is always linux, also if Python calls it android (since 3.13). On a 64-bit kernel with a 32-bit
    userland, `uname -m` may name the kernel's. Raises MachineError for an unknown machine.
    """
    if bits == 32:
        machine = _THIRTY_TWO_BIT.get(machine, machine)
    if machine not in _MACHINES:
        raise MachineError(
            f"no images are made for machines of type {machine!r}", "name a platform that it can emulate: --platform"
        )
    architecture, variant = _MACHINES[machine]
    if architecture == "amd64":
        for level, needed in _AMD64_LEVELS:
            if not needed <= flags:
                break
            variant = level
    return Platform("linux", architecture, variant)


def _processor_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return frozenset()
    match = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()


T = TypeVar("T")


def choose(offers: Sequence[tuple[Platform, T]], host: Platform, what: str) -> T:
    """Return the one of `offers` with the newest variant that runs on `host`; of equal ones the first.

    Raises NotFound that lists all platforms. `what` names the image in it.
    """
    fitting = [offer for offer in offers if offer[0].satisfies(host)]
    if not fitting:
        have = ", ".join(dict.fromkeys(str(platform) for platform, _ in offers)) or "no platform at all"
        raise NotFound(f"{what} has nothing for {host}; it has {have}", "choose one of these with --platform")
    return max(fitting, key=lambda offer: offer[0].level)[1]
