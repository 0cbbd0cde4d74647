"""What the file system of DIR can do."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

from provisioner.doctor.check import Finding, Site, no, ok, unknown
from provisioner.doctor.children import attempt
from provisioner.doctor.fixes import as_root, is_android
from provisioner.filesystem.mounts import mount_of

_WITHOUT_LINKS = ("exfat", "fuse.sdcardfs", "msdos", "ntfs3", "sdcardfs", "vfat")
_LEAST_BYTES, _LEAST_INODES = 50 << 20, 5000
"""What a small distribution takes, with what is downloaded for it."""


def directory(site: Site) -> Finding:
    """Whether it can be written."""
    if site.scratch:
        return ok("can be written")
    return no(
        f"{site.directory} can't be written: {site.why}", f"choose another one, such as {shlex.quote(str(_home()))}"
    )


def file_system(site: Site) -> Finding:
    """Its type."""
    mount = mount_of(site.directory)
    if not mount:
        return unknown("its type is unknown")
    if mount.type in _WITHOUT_LINKS:
        return no(f"{mount.type} at {mount.point} can't hold a Linux distribution", _elsewhere())
    return ok(f"{mount.type} at {mount.point}")


def symlinks(site: Site) -> Finding:
    """No distribution does without."""
    reply = attempt(lambda: os.symlink("target", _at(site, "symlink")))
    return ok("work") if reply.worked else no(f"{reply.why}: a distribution can't live here", _elsewhere())


def execution(site: Site) -> Finding:
    """Whether a program that lies there can be started."""
    program = _at(site, "program")
    program.write_text(f"#!{shutil.which('sh') or '/bin/sh'}\nexit 0\n")
    program.chmod(0o700)
    if not program.stat().st_mode & stat.S_IXUSR:
        return no("files can't be made executable: nothing could be started", _elsewhere())
    try:
        subprocess.run([program], check=True, stdin=subprocess.DEVNULL, timeout=3)
    except (OSError, subprocess.SubprocessError) as error:
        if not os.statvfs(program).f_flag & os.ST_NOEXEC:
            return no(f"programs can't be started here: {error}", _elsewhere())
        mount = mount_of(site.directory)
        mend = as_root(f"mount -o remount,exec {shlex.quote(mount.point if mount else '/')}")
        return no("mounted noexec: nothing can be started here", f"{mend}; or choose another directory")
    return ok("programs can be started here")


def hard_links(site: Site) -> Finding:
    """Used where an image has them."""
    source = _at(site, "file")
    source.touch()
    if not hasattr(os, "link"):
        return no("this Python has no os.link: provision copies instead, which takes more space")
    reply = attempt(lambda: os.link(source, _at(site, "link")))
    return ok("work") if reply.worked else no(f"{reply.why}: provision copies instead, which takes more space")


def attributes(site: Site) -> Finding:
    """Extended attributes of the namespace `user`."""
    if not hasattr(os, "setxattr"):
        return no("this Python has no os.setxattr: extended attributes of images are left out")
    file = _at(site, "attributes")
    file.touch()
    reply = attempt(lambda: os.setxattr(file, "user.provision", b"probe"))
    if reply.worked:
        return ok("user.* can be set")
    return no(f"{reply.why}: extended attributes of images are left out")


def devices(site: Site) -> Finding:
    """Device nodes; start.sh doesn't need them."""
    instead = "devices of images are left out, start.sh shows the machine's"
    node = _at(site, "null")
    reply = attempt(lambda: os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 3)))
    if not reply.worked:
        return no(f"{reply.why}: {instead}")
    opened = attempt(lambda: os.close(os.open(node, os.O_WRONLY)))
    return ok("can be made") if opened.worked else no(f"can be made, but not opened ({opened.why}): {instead}")


def owners(site: Site) -> Finding:
    """Whether files can be given to other users."""
    file = _at(site, "owned")
    file.touch()
    reply = attempt(lambda: os.chown(file, 1, 1))
    if reply.worked:
        return ok("can be kept as in the image")
    return no(f"{reply.why}: all files will be yours, start.sh pretends the rest")


def space(site: Site) -> Finding:
    """Free bytes and inodes for this user."""
    found = os.statvfs(site.directory)
    free, inodes = found.f_bavail * found.f_frsize, found.f_favail
    detail = f"{free / 1e9:.1f} GB" if free >= 1e9 else f"{free / 1e6:.0f} MB"
    detail += f" and {inodes} inodes free" if found.f_files else " free"
    if free < _LEAST_BYTES or (found.f_files and inodes < _LEAST_INODES):
        return no(f"{detail}: too little for a distribution", "free some, or choose a directory elsewhere")
    return ok(detail)


def mask(site: Site) -> Finding:
    """The umask: of no importance, since modes are set explicitly."""
    current = os.umask(0o077)
    os.umask(current)
    return ok(f"{current:04o}; provision sets all modes itself")


def _elsewhere() -> str:
    return f"choose a directory in {shlex.quote(str(_home()))}" + (", not in shared storage" if is_android() else "")


def _home() -> Path:
    return Path(os.environ.get("HOME") or "/var/tmp")


def _at(site: Site, name: str) -> Path:
    assert site.scratch  # probes that need it aren't asked without
    return site.scratch / name
