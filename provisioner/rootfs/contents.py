"""What a root file system alone says of how to run it: root's login shell, and the processor of its programs."""

from __future__ import annotations

import struct

from provisioner.rootfs.tree import Tree

_USUAL = "/bin/sh"
_REFUSING = ("nologin", "false")
"""The names of programs that are the shell of those who may not log in."""
_PROGRAMS = (b"bin/sh", b"usr/bin/env", b"bin/cat", b"sbin/init", b"usr/bin/bash", b"bin/busybox")
_MACHINES = {
    3: "386",
    8: "mips",
    21: "ppc64le",
    22: "s390x",
    40: "arm",
    62: "amd64",
    183: "arm64",
    243: "riscv64",
    258: "loong64",
}
"""The field e_machine of elf(5) to the architecture as Go spells it."""


def login_shell(tree: Tree) -> str:
    """Return the program that root's line in /etc/passwd names, else /bin/sh; empty where neither is there."""
    for line in (tree.read(b"etc/passwd") or b"").splitlines():
        words = line.split(b":")
        if words[0] == b"root" and len(words) == 7:
            shell = words[6].strip().decode("utf-8", "replace")
            if shell.startswith("/") and not shell.endswith(_REFUSING) and _is_program(tree, shell):
                return shell
            break
    return _USUAL if _is_program(tree, _USUAL) else ""


def find_architecture(tree: Tree) -> str:
    """Return the architecture of the first usual program that is there, as Go spells it; empty where it is unknown."""
    for path in _PROGRAMS:
        head = tree.read(path, 20) or b""
        if len(head) == 20 and head[:4] == b"\x7fELF" and head[5] in (1, 2):
            (machine,) = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)
            return _MACHINES.get(machine, "")
    return ""


def _is_program(tree: Tree, path: str) -> bool:
    return "\ufffd" not in path and tree.read(path.encode(), 1) is not None
