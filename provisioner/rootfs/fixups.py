"""What a rootfs needs to be at home here: resolv.conf, hosts, hostname, Android's groups, a profile's files."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from provisioner.profile import Profile
from provisioner.rootfs.tree import Tree, tree_errors
from provisioner.terminal.escaping import printable

PUBLIC_DNS = ("1.1.1.1", "8.8.8.8", "2606:4700:4700::1111")
"""Servers for machines that don't say which ones they use, as phones don't. libc reads the first three."""

_AID_NAMES = {3003: "aid_inet", 9997: "aid_everybody"}


def apply_fixups(tree: Tree, profile: Profile, dns: Sequence[str]) -> dict[str, bytes]:
    """Write what makes `tree` usable on this machine; `dns` are the servers that the user asked for.

    Links that images ship in place of these files are replaced, not followed. Returns by name those files of /etc that
    start.sh may make anew: what depends on the machine, and no profile has fixed. Raises MalformedImage where the image
    has no room for them, and MachineError.
    """
    name = profile.hostname or socket.gethostname() or "localhost"
    files = {
        b"/etc/resolv.conf": resolv_conf(dns or profile.dns, _host_resolv_confs()).encode(),
        b"/etc/hosts": os.fsencode(hosts(name)),
        b"/etc/hostname": os.fsencode(f"{name}\n"),
    }
    passing = {path.decode().removeprefix("/etc/"): text for path, text in files.items()}
    if is_android():
        group = tree.read(b"etc/group") or b""
        files[b"/etc/group"] = group + missing_groups(group, os.getgroups())
    for path, content in profile.files:
        files[path] = content if content.endswith(b"\n") else content + b"\n"
        passing.pop(path.decode().removeprefix("/etc/"), None)
    for path, content in files.items():
        with tree_errors(f"write {printable(path)}"):
            tree.write(path, content)
    return passing


def resolv_conf(dns: Sequence[str], host_files: Iterable[Path]) -> str:
    """A resolv.conf(5): with `dns` where given, else as the first of the host's files that names a server.

    The container shares the host's network, so a server on the host's loopback is fine.
    """
    for file in () if dns else host_files:
        try:
            lines = [line.split() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
        except OSError:
            continue
        kept = [words for words in lines if words[1:] and words[0] in ("nameserver", "search", "domain", "options")]
        if any(words[0] == "nameserver" for words in kept):
            return "".join(" ".join(words) + "\n" for words in kept)
    return "".join(f"nameserver {ipaddress.ip_address(address)}\n" for address in dns or PUBLIC_DNS)


def hosts(name: str) -> str:
    """A hosts(5) for a container on a machine called `name`."""
    own = "" if name == "localhost" else f"127.0.1.1 {name}\n"
    return f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{own}"


def missing_groups(group: bytes, ids: Iterable[int]) -> bytes:
    """Lines for group(5) that name those of the process's group `ids` which `group` doesn't."""
    known = {line.split(b":")[2] for line in group.splitlines() if line.count(b":") >= 2}
    missing = [number for number in sorted(set(ids)) if str(number).encode() not in known]
    lines = "".join(f"{_AID_NAMES.get(number, f'aid_{number}')}:x:{number}:\n" for number in missing)
    unfinished = lines and group and not group.endswith(b"\n")
    return (b"\n" if unfinished else b"") + lines.encode()


def is_android() -> bool:
    """Whether this is Android, as Pythons before 3.13 and after tell it."""
    return sys.platform == "android" or hasattr(sys, "getandroidapilevel")


def _host_resolv_confs() -> list[Path]:
    prefix = os.environ.get("PREFIX")
    return [Path("/etc/resolv.conf"), *([Path(prefix, "etc/resolv.conf")] if prefix else [])]
