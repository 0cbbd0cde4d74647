"""Probes for Termux: the limits of its proot, its symlinks for hard links, and 32-bit programs."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from provisioner.container.proot_links import LAST_NUMBER, find_links
from provisioner.container_files import SCRIPT
from provisioner.doctor.check import Finding, Site, no, ok, unknown
from provisioner.doctor.children import run_program
from provisioner.sizes import counted
from provisioner.terminal.escaping import printable, shell_line, shell_word

# exit(0): mov $1, %eax; xor %ebx, %ebx; int $0x80, and mov r7, #1; mov r0, #0; svc #0.
_PROGRAMS = {
    "386": (3, 0, bytes.fromhex("b801000000 31db cd80 000000")),
    "arm": (40, 5 << 24, bytes.fromhex("0170a0e3 0000a0e3 000000ef")),
}
"""By architecture: e_machine and e_flags of the ELF header, and machine code."""


def check_proot_limits(site: Site) -> Finding:
    """Describe the faults of Termux's proot itself, which aren't the container's."""
    program = shutil.which("proot")
    if not program:
        return unknown("there is no proot")
    if "--link2symlink" not in run_program(program, "--help")[1]:
        return ok("this is not Termux's")
    return ok(
        "Termux's: a program that writes to a pipe doesn't end when the reader ends (`yes | head -1`), chown has no"
        " effect, hard links seem to belong to another user; see docs/termux-proot.md"
    )


def check_proot_links(site: Site) -> Finding:
    """Check the hard links that Termux's proot has made in DIR: they are symlinks with absolute paths."""
    try:
        links = find_links(site.directory)
    except OSError as error:
        return unknown(f"can't be read: {error.strerror or error}")
    start = shell_word(str(site.directory / SCRIPT))
    if links.is_blocked:
        place = site.directory / "rootfs/.l2s"
        return no(
            "what is at /.l2s is no directory: start.sh refuses it with Termux's proot",
            shell_line(["mv", str(place), f"{place}.old"]),
        )
    if links.elsewhere_count:
        lead = counted(links.elsewhere_count, "link leads", "links lead")
        return no(f"{lead} to {links.elsewhere}, where DIR was", f"{start} true")
    if links.lost_count:
        names = ", ".join(map(printable, links.lost))
        more = f" and {links.lost_count - len(links.lost)} more" if links.lost_count > len(links.lost) else ""
        lost = counted(links.lost_count, "file has lost its content", "files have lost their content")
        return no(f"{lost}: {names}{more}", "reinstall what it belongs to")
    if links.used_up:
        names = ", ".join(map(printable, links.used_up))
        return no(
            f"proot counts to {LAST_NUMBER}, and no number is left for {names}: the next file of this name that gets a "
            "hard link is lost, with the content of another one",
            "inside, replace hard links by copies: cp FILE FILE.new && mv FILE.new FILE",
        )
    found = counted(links.count, "hard link is one", "hard links are links")
    return ok(f"{found} of Termux's proot" if links.count else "none is a link of proot")


def runs_32_bit(architecture: str, site: Site) -> bool:
    """Return whether the kernel runs programs for the 32-bit `architecture` (386 or arm), by running one."""
    machine, flags, code = _PROGRAMS[architecture]
    ident = b"\x7fELF\1\1\1".ljust(16, b"\0")
    start, size = 0x100000, 84 + len(code)
    header = struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, start + 84, 52, 0, flags, 52, 32, 1, 40, 0, 0)
    segment = struct.pack("<8I", 1, 0, start, start, size, size, 5, 0x1000)
    with ExitStack() as stack:
        directory = site.scratch or stack.enter_context(tempfile.TemporaryDirectory(prefix="provision-doctor-"))
        program = Path(directory) / f"program-{architecture}"
        with open(program, "wb") as file:
            file.write(ident + header + segment + code)
            os.fchmod(file.fileno(), 0o700)
        try:
            return subprocess.run([program], check=False, stdin=subprocess.DEVNULL, timeout=3).returncode == 0
        except (OSError, subprocess.SubprocessError):
            return False
