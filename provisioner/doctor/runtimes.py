"""Probes of what starts a container: proot, qemu, and the start.sh of a directory that exists."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from provisioner.container.record import Record
from provisioner.container_files import EMULATION_FILTER, HELPER, SCRIPT
from provisioner.doctor.check import Finding, Site, no, ok, unknown
from provisioner.doctor.children import run_program
from provisioner.doctor.fixes import emulator_fix, has_android_kernel, install_command, is_termux
from provisioner.doctor.proot import has_started, try_start
from provisioner.doctor.termux import runs_32_bit
from provisioner.errors import MachineError, ProvisionError
from provisioner.image.platform import Platform, host_platform
from provisioner.launch.renewal import find_outdated
from provisioner.launch.runtime_files import runtime_files
from provisioner.terminal.escaping import shell_word

QEMU = {
    "amd64": "x86_64",
    "386": "i386",
    "arm64": "aarch64",
    "arm": "arm",
    "riscv64": "riscv64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "loong64": "loongarch64",
    "mips64le": "mips64el",
    "mipsle": "mipsel",
}
"""qemu's names of architectures, by those of the OCI image-spec (GOARCH)."""

_MAYBE_NATIVE = {("386", "amd64"), ("arm", "arm64")}
"""Pairs of an image's and a machine's architecture for which many kernels need no qemu."""


def check_proot(site: Site) -> Finding:
    """Check whether proot is installed and can run a program, with or without its use of seccomp."""
    program = shutil.which("proot")
    if not program:
        return no("missing: it starts containers without root", install_command("proot"))
    status, output = _run_in_proot(program, site, no_seccomp=False)
    if status != 0:
        status, output = _run_in_proot(program, site, no_seccomp=True)
    if status != 0:
        what = "nested in another proot or debugger, it can't work" if _is_traced() else "it fails"
        return no(f"{what}: {output or f'status {status}'}", _proot_fix())
    help_text = run_program(program, "--help")[1]
    options = [o for o in ("--link2symlink", "--sysvipc", "--kill-on-exit") if o in help_text]
    version = re.search(r"proot v?([0-9.]+)", help_text, re.IGNORECASE)
    name = f"proot {version[1]}" if version else "proot"
    return ok(f"{name} works, with {', '.join(options)}" if options else f"{name} works; it is not Termux's")


def check_proot_seccomp(site: Site) -> Finding:
    """Check whether proot's own use of seccomp works, which makes it faster and fails on some phones."""
    program = shutil.which("proot")
    if not program:
        return unknown("there is no proot")
    status, output = _run_in_proot(program, site, no_seccomp=False)
    if status == 0:
        unused = "seccomp_filter = no" in run_program(program, "--version")[1]
        return ok("this build doesn't use it" if unused else "works")
    if _run_in_proot(program, site, no_seccomp=True)[0] != 0:
        return unknown("proot doesn't work in either way")
    fix = "export PROOT_NO_SECCOMP=1"
    if os.environ.get("PROOT_NO_SECCOMP"):
        return ok("fails, and PROOT_NO_SECCOMP is set: proot works without it")
    return no(f"fails ({output or f'status {status}'}): proot works without it, slower", fix)


def check_emulators(site: Site) -> Finding:
    """Check which architectures qemu can emulate: in proot by its programs, in chroot and userns by binfmt_misc."""
    foreign = [name for name in QEMU.values() if name != os.uname().machine]
    programs = [name for name in foreign if find_emulator(name)]
    kernel = [name for name in foreign if _has_binfmt(name)]
    fix = emulator_fix(foreign[0])
    if not programs and not kernel:
        return no("missing: images of other architectures can't be started", fix)
    by_proot = f"in proot: {', '.join(programs) or 'none'}"
    by_kernel = f"in chroot and userns (binfmt): {', '.join(kernel) or 'none'}"
    return ok(f"{by_proot}; {by_kernel}")


def check_platform(site: Site) -> Finding:
    """Check whether the image that was provisioned in DIR is for this machine."""
    try:
        record = Record.read(site.directory, site.trust)
        if record is None:
            return unknown("nothing was provisioned here")
        image, host = Platform.parse(record.platform), host_platform()
    except ProvisionError as error:
        return unknown(error.message, error.hint)
    if image.satisfies(host):
        return ok(f"{image} is for this machine")
    if image.architecture == host.architecture:
        return unknown(f"{image} is for a newer processor than {host}", "provision again, without --platform")
    is_narrow = (image.architecture, host.architecture) in _MAYBE_NATIVE
    if is_narrow and runs_32_bit(image.architecture, site):
        return ok(f"{image} runs on {host}")
    name = QEMU.get(image.architecture, image.architecture)
    if program := find_emulator(name):
        return ok(f"{image} runs on {host} by {Path(program).name}")
    if _has_binfmt(name):
        return ok(f"{image} runs on {host} by the kernel's binfmt")
    why = ", which runs no 32-bit programs" if is_narrow else ""
    return no(f"{image} needs qemu-{name} on {host}{why}", emulator_fix(name))


def check_start_script(site: Site) -> Finding:
    """Check whether DIR/start.sh finds a runtime: `--print` makes it print its command line and run nothing."""
    script = site.directory / SCRIPT
    if not script.is_file():
        return no("is missing", f"provision repair {shell_word(str(site.directory))}")
    temporary = {"TMPDIR": str(site.scratch)} if site.scratch else {}
    trusted = {"PROVISION_TRUST_DIR": "*"} if site.trust.covers(site.directory) else {}
    environment = {**os.environ, **temporary, **trusted}
    # An older start.sh has no --verbose.
    verbose = ["--verbose"] if b"--verbose)" in script.read_bytes() else []
    status, output = run_program(shutil.which("sh") or "/bin/sh", script, "--print", *verbose, env=environment)
    passed_over = re.findall(r"^start\.sh: (not (?:chroot|proot|userns): .*)$", output, re.MULTILINE)
    if status != 0:
        message, _, fix = output.rpartition("\n")[2].removeprefix("start.sh: ").rpartition(": ")
        return no(message or fix or f"ends with status {status}", fix if message else "")
    output = "\n".join(line for line in output.splitlines() if not line.startswith("start.sh: "))
    words = re.findall(r"(?:^|/|\s)(proot|bwrap|unshare -U|unshare)(?=\s|$)", output)
    names = {"unshare": "chroot", "unshare -U": "user namespaces", "bwrap": "user namespaces"}
    found = f"starts with {names.get(words[0], words[0])}" if words else "finds a runtime"
    found = "; ".join([found, *passed_over])
    with suppress(OSError, ProvisionError):
        if old := find_outdated(site.directory, host_platform()).names:
            return ok(f"{found}; older than this provision, which renews it: {', '.join(old)}")
    return ok(found)


def runtime_order(*, shows_host: bool) -> list[str]:
    """Return the runtimes in the order in which start.sh tries them on this machine, for a new DIR.

    `shows_host` says whether programs in proot can see files of the host, and no filter prevents that.
    """
    names = {file.name for file in runtime_files(host_platform())}
    # Files in root's containers may have several owners, and Android's apps can't make user namespaces.
    if os.geteuid() != 0 and not has_android_kernel() and {HELPER, EMULATION_FILTER} <= names:
        return ["chroot", "userns", "proot"]
    return ["chroot", "userns", "proot"] if shows_host else ["chroot", "proot", "userns"]


def find_emulator(name: str) -> str | None:
    """Return the path of the qemu for the architecture `name` (qemu's), or None if it is not installed."""
    return shutil.which(f"qemu-{name}-static") or shutil.which(f"qemu-{name}")


def _has_binfmt(name: str) -> bool:
    """Return whether binfmt_misc starts qemu with the flag F, so that qemu's file need not be in the rootfs."""
    try:
        text = Path(f"/proc/sys/fs/binfmt_misc/qemu-{name}").read_text()
    except OSError:
        return False
    return text.startswith("enabled") and bool(re.search(r"^flags:.*F", text, re.MULTILINE))


def _run_in_proot(program: str, site: Site, no_seccomp: bool) -> tuple[int, str]:
    """Run a program in proot, then chown(1) with emulated root; return exit status and first line of output.

    The chown works only if proot intercepts a system call before the kernel refuses it.
    """
    env = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "PROOT_NO_SECCOMP")}
    if no_seccomp:
        env["PROOT_NO_SECCOMP"] = "1"
    if not os.path.isdir("/tmp") and site.scratch:
        env.setdefault("PROOT_TMP_DIR", os.environ.get("TMPDIR") or str(site.scratch))
    # The same trial as start.sh's. An app on Android doesn't try: Android may kill a program for such a call.
    if not is_termux():
        with suppress(MachineError, OSError):
            status, output = try_start(program, site, env)
            if not has_started(status):
                return status or 1, output.partition("\n")[0]
    shell, chown = shutil.which("sh") or "/bin/sh", shutil.which("chown") or "/bin/chown"
    # Another probe changes the owner of a file there at the same time.
    script = 'true >"$1/owned-in-proot" && "$0" 1:1 "$1/owned-in-proot" && [ -e /proc/self ]'
    with ExitStack() as stack:
        # A predictable name in /tmp could be another user's symlink.
        directory = site.scratch or stack.enter_context(tempfile.TemporaryDirectory(prefix="provision-doctor-"))
        status, output = run_program(program, "-0", "-w", "/", shell, "-c", script, chown, directory, env=env)
    return status, output.partition("\n")[0]


def _proot_fix() -> str:
    if not os.access("/tmp", os.W_OK) and not is_termux():
        return "make /tmp a directory that can be written to"
    return "pkg upgrade proot" if is_termux() else "allow ptrace: in a container --cap-add SYS_PTRACE"


def _is_traced() -> bool:
    try:
        return bool(re.search(r"^TracerPid:\s+[1-9]", Path("/proc/self/status").read_text(), re.MULTILINE))
    except OSError:
        return False
