"""Fixups: the files that make a rootfs usable on this machine: resolv.conf, hosts, hostname, mtab, Android's groups,
and a profile's files.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from provisioner.filesystem.users import has_android_ids
from provisioner.profile import Profile
from provisioner.rootfs.tree import Tree, tree_errors
from provisioner.terminal.escaping import printable

PUBLIC_DNS = ("1.1.1.1", "8.8.8.8", "2606:4700:4700::1111")
"""Servers for machines without a resolv.conf, such as phones. libc reads the first three."""

_AID_NAMES = {3003: "aid_inet", 9997: "aid_everybody"}


def apply_fixups(
    tree: Tree, profile: Profile, dns: Sequence[str], directory: Path, hostname: str = ""
) -> dict[str, bytes]:
    """Write the fixups into `tree` and return the files of /etc that start.sh may generate again, by name.

    These are the files that depend on the machine and that the profile doesn't have. `dns` are the servers that the
    user asked for, `hostname` is the name that is wanted, and `directory` is where the container will be. Symlinks of
    the image in place of a file are replaced; mtab is made where there is none, as docker does. Raises MalformedImage
    where something in the image is in the way of a file, and MachineError.
    """
    generated = generated_files(profile, dns, directory, hostname)
    files = {f"/etc/{path}".encode(): content for path, content in generated.items()}
    if has_android_ids():
        group = tree.read(b"etc/group") or b""
        files[b"/etc/group"] = group + format_missing_groups(group, os.getgroups())
    for path, content in profile.files:
        files[path] = content if content.endswith(b"\n") else content + b"\n"
    for path, content in files.items():
        with tree_errors(f"write {printable(path)}"):
            tree.write(path, content)
    with tree_errors("write /etc/mtab"):
        tree.symlink(b"/etc/mtab", b"/proc/mounts")
    return generated


def generated_files(profile: Profile, dns: Sequence[str], directory: Path, hostname: str = "") -> dict[str, bytes]:
    """Return the files of /etc that depend on the machine and that the profile doesn't have, by name.

    The arguments are those of `apply_fixups`.
    """
    name = hostname or profile.hostname or format_hostname(directory)
    files = {
        "resolv.conf": format_resolv_conf(dns or profile.dns, host_resolv_confs()).encode(),
        "hosts": os.fsencode(format_hosts(name, socket.gethostname())),
        "hostname": os.fsencode(f"{name}\n"),
    }
    own = {path.decode() for path, _ in profile.files}
    return {name: content for name, content in files.items() if f"/etc/{name}" not in own}


def format_resolv_conf(dns: Sequence[str], host_files: Iterable[Path]) -> str:
    """Return a resolv.conf(5) with the servers `dns`, else that of the first of the host's files that has a server.

    The container shares the host's network, so servers on the host's loopback are fine. Without any server,
    PUBLIC_DNS are used.
    """
    for file in () if dns else host_files:
        try:
            lines = [line.split() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
        except OSError:
            continue
        valid = [words for words in lines if words[1:] and words[0] in ("nameserver", "search", "domain", "options")]
        if any(words[0] == "nameserver" for words in valid):
            return "".join(" ".join(words) + "\n" for words in valid)
    return "".join(f"nameserver {ipaddress.ip_address(address)}\n" for address in dns or PUBLIC_DNS)


def format_hostname(directory: Path) -> str:
    """Return the hostname of the container in `directory`: its name as a label of RFC 1123, in lower case."""
    words = re.findall("[A-Za-z0-9]+", os.path.basename(os.path.realpath(directory)))
    return "-".join(words).lower()[:63].rstrip("-") or "container"


def format_hosts(name: str, machine: str) -> str:
    """Return a hosts(5) for a container with the hostname `name`, on a `machine` of that name: proot can't hide it."""
    names = " ".join(dict.fromkeys(each for each in (name, machine) if each not in ("", "localhost")))
    line = f"127.0.1.1 {names}\n" if names else ""
    return f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{line}"


def format_missing_groups(group: bytes, ids: Iterable[int]) -> bytes:
    """Return the lines to append to the group(5) file `group`, so that all group `ids` have a name."""
    known = {line.split(b":")[2] for line in group.splitlines() if line.count(b":") >= 2}
    missing = [number for number in sorted(set(ids)) if str(number).encode() not in known]
    lines = "".join(f"{_AID_NAMES.get(number, f'aid_{number}')}:x:{number}:\n" for number in missing)
    unfinished = lines and group and not group.endswith(b"\n")
    return (b"\n" if unfinished else b"") + lines.encode()


def host_resolv_confs() -> list[Path]:
    """Return where the host may have a resolv.conf: in /etc, and on Termux below $PREFIX."""
    prefix = os.environ.get("PREFIX")
    return [Path("/etc/resolv.conf"), *([Path(prefix, "etc/resolv.conf")] if prefix else [])]
