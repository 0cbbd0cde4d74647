"""Probes of what provision itself uses: Python, decompressors, libmagic, fakeroot."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from typing import Any

from provisioner.doctor.check import Finding, Site, no, ok
from provisioner.doctor.children import run_program
from provisioner.doctor.fixes import has_android_kernel, install_command
from provisioner.terminal.escaping import shell_word

_ISAL_MACHINES = ("x86_64", "aarch64")
"""The machines for which isal has wheels. They are 64-bit, but a 32-bit userland may run on their kernels."""
_OPTIONAL_CALLS = ("link", "setxattr", "mknod", "chroot")


def check_python(site: Site) -> Finding:
    """Report Python's version and path, and the optional functions of `os` that it lacks."""
    missing = [f"os.{name}" for name in _OPTIONAL_CALLS if not hasattr(os, name)]
    version = f"{platform.python_version()} at {os.path.realpath(sys.executable)}"
    return ok(f"{version}; without {', '.join(missing)}, which provision does without" if missing else version)


def check_gzip(site: Site) -> Finding:
    """Check whether the fast decompressor of gzip layers is installed."""
    others = [name for name in ("igzip", "pigz") if shutil.which(name)]
    beside = f"; {' and '.join(others)} for tar" if others else ""
    if _can_import("isal.isal_zlib"):
        return ok(f"by isal, the fastest way{beside}")
    if has_android_kernel() or platform.machine() not in _ISAL_MACHINES or sys.maxsize < 2**32:
        return ok(f"by zlib: isal has no wheels for this machine{beside}")
    gain = "isal would take less than half the processor time, and a pull three quarters of its time"
    return no(f"by zlib: {gain}{beside}", f"{shell_word(sys.executable)} -m pip install isal")


def check_zstd(site: Site) -> Finding:
    """Check whether layers in zstd can be decompressed."""
    if name := next((name for name in ("compression.zstd", "backports.zstd") if _can_import(name)), ""):
        return ok(f"by {name}")
    if program := shutil.which("zstd"):
        return ok(f"by {program}")
    return no("missing: images with zstd layers can't be unpacked", install_command("zstd"))


def check_libmagic(site: Site) -> Finding:
    """Check whether python-magic can recognise a file type."""
    try:
        magic: Any = importlib.import_module("magic")
        kind = magic.from_buffer(b"\x1f\x8b\x08" + bytes(20))
    except (ImportError, OSError, AttributeError) as error:
        return no(f"can't be loaded ({error}): errors say less about what a file is", install_command("libmagic1"))
    return (
        ok("works")
        if "gzip" in kind
        else no("doesn't recognise gzip: errors say less about what a file is", install_command("libmagic1"))
    )


def check_fakeroot(site: Site) -> Finding:
    """Check whether fakeroot works, for archives with the image's owners."""
    program = shutil.which("fakeroot")
    if not program:
        return no("missing: without root, owners in archives would be yours", install_command("fakeroot"))
    status, output = run_program(program, "id", "-u")
    return ok("works") if (status, output) == (0, "0") else no(f"fails: {output}", install_command("fakeroot"))


def _can_import(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
