"""Probes of the file system of DIR."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

from provisioner.container.place import check_new
from provisioner.doctor.check import Finding, Site, no, ok, unknown
from provisioner.doctor.children import attempt
from provisioner.doctor.fixes import has_android_kernel, root_command
from provisioner.errors import ProvisionError, machine_errors
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.mounts import mount_of
from provisioner.filesystem.space import UNLIMITED, free_space
from provisioner.ownership.policy import Ownership
from provisioner.sizes import size_text
from provisioner.terminal.escaping import shell_word

_WITHOUT_SYMLINKS = ("exfat", "fuse.sdcardfs", "msdos", "ntfs3", "sdcardfs", "vfat")
_LEAST_BYTES, _LEAST_INODES = 50 << 20, 5000
"""The space that a small distribution and its download need."""


def check_directory(site: Site) -> Finding:
    """Check whether the directory can be written to, and whether new files there have the owner and mode of
    provision."""
    if not site.scratch:
        return no(
            f"{site.directory} can't be written to: {site.scratch_error}",
            f"choose another one, such as {shell_word(str(_home()))}",
        )
    try:
        with machine_errors("try the directory"), closing_descriptor(os.open(site.scratch, DIRECTORY)) as scratch:
            check_new(scratch, site.scratch, site.trust)
    except ProvisionError as error:
        return no(error.message, error.hint)
    return ok("can be written to")


def check_type(site: Site) -> Finding:
    """Check whether the type of the file system can hold a distribution."""
    mount = mount_of(site.directory)
    if not mount:
        return unknown("its type is unknown")
    if mount.type in _WITHOUT_SYMLINKS:
        return no(f"{mount.type} at {mount.point} can't hold a Linux distribution", _other_directory())
    return ok(f"{mount.type} at {mount.point}")


def check_symlinks(site: Site) -> Finding:
    """Check whether symlinks can be made. Every distribution has some."""
    reply = attempt(lambda: os.symlink("target", _scratch_path(site, "symlink")))
    return ok("work") if reply.worked else no(f"{reply.reason}: a distribution needs them", _other_directory())


def check_execution(site: Site) -> Finding:
    """Check whether a program in the directory can be started."""
    program = _scratch_path(site, "program")
    program.write_text(f"#!{shutil.which('sh') or '/bin/sh'}\nexit 0\n")
    program.chmod(0o700)
    if not program.stat().st_mode & stat.S_IXUSR:
        return no("files can't be made executable: nothing could be started", _other_directory())
    try:
        subprocess.run([program], check=True, stdin=subprocess.DEVNULL, timeout=3)
    except (OSError, subprocess.SubprocessError) as error:
        if not os.statvfs(program).f_flag & os.ST_NOEXEC:
            return no(f"programs can't be started here: {error}", _other_directory())
        mount = mount_of(site.directory)
        fix = root_command(f"mount -o remount,exec {shell_word(mount.point if mount else '/')}")
        return no("mounted noexec: nothing can be started here", f"{fix}; or choose another directory")
    return ok("programs can be started here")


def check_hard_links(site: Site) -> Finding:
    """Check whether hard links can be made."""
    source = _scratch_path(site, "file")
    source.touch()
    if not hasattr(os, "link"):
        return no("this Python has no os.link: provision copies instead, which takes more space")
    reply = attempt(lambda: os.link(source, _scratch_path(site, "link")))
    return ok("work") if reply.worked else no(f"{reply.reason}: provision copies instead, which takes more space")


def check_attributes(site: Site) -> Finding:
    """Check whether extended attributes of the namespace `user` can be set (xattr(7))."""
    if not hasattr(os, "setxattr"):
        return no("this Python has no os.setxattr: extended attributes of images are left out")
    file = _scratch_path(site, "attributes")
    file.touch()
    reply = attempt(lambda: os.setxattr(file, "user.provision", b"probe"))
    if reply.worked:
        return ok("user.* can be set")
    return no(f"{reply.reason}: extended attributes of images are left out")


def check_devices(site: Site) -> Finding:
    """Check whether device nodes can be made and opened. start.sh doesn't need them."""
    instead = "devices of images are left out, start.sh shows this machine's"
    node = _scratch_path(site, "null")
    reply = attempt(lambda: os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 3)))
    if not reply.worked:
        return no(f"{reply.reason}: {instead}")
    opened = attempt(lambda: os.close(os.open(node, os.O_WRONLY)))
    return ok("can be made") if opened.worked else no(f"can be made, but not opened ({opened.reason}): {instead}")


def check_owners(site: Site) -> Finding:
    """Check whether the owner of files can be changed (chown(2))."""
    file = _scratch_path(site, "owned")
    file.touch()
    instead = "all files will belong to you, and proot emulates the image's owners"
    reply = attempt(lambda: os.chown(file, 1, 1))
    if not reply.worked:
        return no(f"{reply.reason}: {instead}")
    if not Ownership.in_directory(file.parent).exact:
        return no(f"they can be set, but CAP_FOWNER or CAP_DAC_OVERRIDE is missing: {instead}")
    return ok("can be kept as in the image")


def check_space(site: Site) -> Finding:
    """Check whether there are enough free bytes and inodes for this user."""
    free = free_space(site.directory)
    if free.size == UNLIMITED:
        return unknown("this file system doesn't report what is free")
    detail = size_text(free.size)
    detail += " free" if free.files == UNLIMITED else f" and {free.files:,} inodes free"
    if free.size < _LEAST_BYTES or free.files < _LEAST_INODES:
        return no(f"{detail}: too little for a distribution", "free some, or choose a directory elsewhere")
    return ok(detail)


def check_umask(site: Site) -> Finding:
    """Report the umask. It never fails, because provision sets all modes explicitly."""
    current = os.umask(0o077)
    os.umask(current)
    return ok(f"{current:04o}; provision sets all modes itself")


def _other_directory() -> str:
    return f"choose a directory in {shell_word(str(_home()))}" + (
        ", not in shared storage" if has_android_kernel() else ""
    )


def _home() -> Path:
    return Path(os.environ.get("HOME") or "/var/tmp")


def _scratch_path(site: Site, name: str) -> Path:
    assert site.scratch  # `needs_scratch` probes don't run without it
    return site.scratch / name
