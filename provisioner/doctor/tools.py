"""What provision itself runs on: Python, what inflates layers, libmagic, fakeroot."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from typing import Any

from provisioner.doctor.check import Finding, Site, no, ok
from provisioner.doctor.children import run_program
from provisioner.doctor.fixes import install, is_android

_CALLS = ("link", "setxattr", "mknod", "chroot")


def python(site: Site) -> Finding:
    """The version, and what this Python was built without; provision does without all of it."""
    missing = [f"os.{name}" for name in _CALLS if not hasattr(os, name)]
    version = f"{platform.python_version()} at {os.path.realpath(sys.executable)}"
    return ok(f"{version}; without {', '.join(missing)}, which provision does without" if missing else version)


def gzip(site: Site) -> Finding:
    """What inflates most layers."""
    others = [name for name in ("igzip", "pigz") if shutil.which(name)]
    beside = f"; {' and '.join(others)} for tar" if others else ""
    if _module("isal.isal_zlib"):
        return ok(f"by isal, the fastest way{beside}")
    if is_android():
        return ok(f"by zlib{beside}")
    return no(f"by zlib, slower than isal{beside}", "pip install 'provisioner[fast]'")


def zstd(site: Site) -> Finding:
    """What inflates layers of this kind."""
    if name := next((name for name in ("compression.zstd", "backports.zstd") if _module(name)), ""):
        return ok(f"by {name}")
    if program := shutil.which("zstd"):
        return ok(f"by {program}")
    return no("missing: images with zstd layers can't be unpacked", install("zstd"))


def libmagic(site: Site) -> Finding:
    """Whether python-magic can tell what a file is."""
    try:
        magic: Any = importlib.import_module("magic")
        kind = magic.from_buffer(b"\x1f\x8b\x08" + bytes(20))
    except (ImportError, OSError, AttributeError) as error:
        return no(f"can't be loaded ({error}): errors say less of what a file is", install("libmagic1"))
    return ok("works") if "gzip" in kind else no("takes gzip for something else", install("libmagic1"))


def fakeroot(site: Site) -> Finding:
    """Whether owners can be pretended while unpacking."""
    program = shutil.which("fakeroot")
    if not program:
        return no("missing: without root, owners in archives would be yours", install("fakeroot"))
    status, output = run_program(program, "id", "-u")
    return ok("works") if (status, output) == (0, "0") else no(f"fails: {output}", install("fakeroot"))


def _module(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
