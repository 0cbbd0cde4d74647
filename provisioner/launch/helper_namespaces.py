"""The steps of the static helper that make namespaces, set the hostname, drop capabilities and mount."""

from __future__ import annotations

from provisioner.launch.assembler import Assembler
from provisioner.launch.helper_flags import CAPABILITIES, HOSTNAME, MOUNTS, NAMESPACES, ROOT, read_number, unless

_AT_FDCWD, _EINVAL = -100, -22
_PR_CAPBSET_DROP = 24
_SOME_CAPABILITIES = 36
"""The number of capabilities that every kernel has. EINVAL after fewer means that the kernel can't drop any."""
_CLONE_NEWUSER, _CLONE_NEWNS, _CLONE_NEWPID = 0x10000000, 0x20000, 0x20000000
_MS_MOVE, _MS_REC, _MS_PRIVATE = 0x2000, 0x4000, 0x40000
_O_CLOEXEC, _O_PATH = 0o2000000, 0o10000000
_DEPTH = 1024
"""The number of `..` that leave every chroot. In `/` of the namespace, `..` is `/` itself."""
_TEXT = 64
"""An offset in the frame."""


def make_namespaces(p: Assembler) -> None:
    """Make a user namespace, then the others: some kernels allow the first, and then nothing in it."""
    unless(p, NAMESPACES, "namespaces are left")
    p.frame("text", _TEXT)
    p.write("text", 0, ord("/"), 2)
    p.call("unshare", _CLONE_NEWUSER)
    p.jump_if("result", "<", 0, "failed")
    p.call("unshare", _CLONE_NEWNS | _CLONE_NEWPID)
    p.jump_if("result", "<", 0, "failed")
    p.call("mount", 0, "text", 0, _MS_REC | _MS_PRIVATE, 0)
    p.jump_if("result", "<", 0, "failed")
    p.label("namespaces are left")


def set_hostname(p: Assembler) -> None:
    """Set the hostname to the next word. An error is ignored."""
    unless(p, HOSTNAME, "hostname is left")
    p.read("path", "next")
    p.add("next", p.word)
    p.copy("count", 0)
    p.copy("at", "path")
    p.label("letter")
    p.read("digit", "at", size=1)
    p.jump_if("digit", "==", 0, "name")
    p.add("at", 1)
    p.add("count", 1)
    p.jump("letter")
    p.label("name")
    p.call("sethostname", "path", "count")
    p.label("hostname is left")


def drop_capabilities(p: Assembler) -> None:
    """Drop the capabilities with a 0 in the next word, and all after its end, from the bounding set."""
    unless(p, CAPABILITIES, "bounded")
    p.read("at", "next")
    p.add("next", p.word)
    p.copy("count", 0)
    p.label("capability")
    p.read("digit", "at", size=1)
    p.jump_if("digit", "==", ord("1"), "keep")
    p.call("prctl", _PR_CAPBSET_DROP, "count", 0, 0, 0)
    p.jump_if("result", ">=", 0, "keep")
    p.jump_if("result", "!=", _EINVAL, "failed")
    p.jump_if("count", "<", _SOME_CAPABILITIES, "failed")
    p.jump("bounded")
    p.label("keep")
    p.add("count", 1)
    p.jump_if("digit", "==", 0, "capability")
    p.add("at", 1)
    p.jump("capability")
    p.label("bounded")


def mount(p: Assembler) -> None:
    """Make the mounts in the next words."""
    unless(p, MOUNTS, "move")
    p.label("mount")
    p.read("source", "next")
    p.jump_if("source", "==", 0, "failed")
    p.read("first", "source", size=1)
    p.jump_if("first", "==", ord("-"), "mounted")
    p.read("path", "next", p.word)
    p.read("type", "next", 2 * p.word)
    p.read("at", "next", 3 * p.word)
    read_number(p, "mount flags")
    p.read("data", "next", 4 * p.word)
    p.call("mkdirat", _AT_FDCWD, "path", 0o755)
    p.call("mount", "source", "path", "type", "mount flags", "data")
    p.jump_if("result", "<", 0, "failed")
    p.add("next", 5 * p.word)
    p.jump("mount")
    p.label("mounted")
    p.add("next", p.word)


def move_root(p: Assembler) -> None:
    """Move the mount at the working directory to `/` of the mount namespace. This process keeps its root directory."""
    p.label("move")
    unless(p, ROOT, "prepare")
    for name, offset, text in (("dot", 0, "."), ("slash", 4, "/"), ("dots", 8, "..")):
        p.frame(name, _TEXT + offset)
        p.write(name, 0, int.from_bytes(text.encode(), "little"), 2)
    p.write("dots", 2, 0, 2)
    for directory, name in (("rootfs", "dot"), ("root", "slash")):
        p.call("openat", _AT_FDCWD, name, _O_PATH | _O_CLOEXEC)
        p.copy(directory, "result")
        p.jump_if(directory, "<", 0, "failed")
    # Leave the chroot, if this process is in one: `..` is not limited if the working directory is outside of the root.
    p.call("chroot", "dot")
    p.call("fchdir", "root")
    p.copy("count", _DEPTH)
    p.label("climb")
    p.call("chdir", "dots")
    p.add("count", -1)
    p.jump_if("count", ">=", 1, "climb")
    p.call("chroot", "dot")
    # unshare(1) has made only the chroot's mounts private. If `/` were shared, the host would see the rootfs there.
    p.call("mount", 0, "slash", 0, _MS_REC | _MS_PRIVATE, 0)
    p.jump_if("result", "<", 0, "failed")
    p.call("fchdir", "rootfs")
    p.call("mount", "dot", "slash", 0, _MS_MOVE, 0)
    p.jump_if("result", "<", 0, "failed")
    p.call("fchdir", "root")
    p.call("chroot", "dot")
    p.call("fchdir", "rootfs")
    p.jump_if("result", "<", 0, "failed")
