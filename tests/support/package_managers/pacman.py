"""pacman, as Debian packages it, with packages that are made as by makepkg(8)."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path

from tests.support import builders
from tests.support.containers import starter
from tests.support.host_packages import host_layer
from tests.support.package_managers import (
    DEPENDENCIES,
    PackageManager,
    configuration,
    contents,
    in_container,
    regular_files,
)
from tests.support.tools import need, run

CONFIGURATION = "[options]\nArchitecture = auto\nSigLevel = Never\n"
REPOSITORY = "[mine]\nServer = file:///repository\n"
SETTINGS = builders.layer(
    ("etc/pacman.conf", f"{CONFIGURATION}Include = /etc/pacman.d/*.conf\n".encode()),
    ("etc/pacman.d/none.conf", b""),
    ("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
    ("etc/group", b"root:x:0:\n"),
)


class Pacman(PackageManager):
    install = f"printf %s '{REPOSITORY}' >/etc/pacman.d/mine.conf; pacman -Sy --noconfirm mine"
    remove = "pacman -R --noconfirm dropped"

    def __init__(self, place: Path, _: Path) -> None:
        starter("proot")
        need("fakeroot", "pacman", "repo-add")
        self.programs = host_layer("pacman-package-manager", "dash", "coreutils", "libc-bin", "grep", "bash")
        super().__init__(place)

    def make_package(self, name: str, version: str) -> Path:
        """Make a package as makepkg(8) does, which root can't run."""
        fields = [
            ("pkgname", name),
            ("pkgbase", name),
            ("pkgver", f"{version}-1"),
            ("pkgdesc", "test"),
            ("size", "1"),
            ("arch", "any"),
            ("packager", "tests"),
            *([("depend", DEPENDENCIES[name])] if name in DEPENDENCIES else []),
            *(("backup", path) for path in configuration(name)),
        ]
        information = "".join(f"{key} = {value}\n" for key, value in fields)
        package = self.workshop / f"{name}-{version}-1-any.pkg.tar.gz"
        with tarfile.open(package, "w:gz") as archive:
            for path, text in {".PKGINFO": information, **contents(name, version)}.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(text), 0o644
                archive.addfile(entry, io.BytesIO(text.encode()))
        return package

    def write_index(self, repository: Path) -> None:
        run("repo-add", "-q", repository / "mine.db.tar.gz", *sorted(repository.glob("*.pkg.tar.gz")))

    def make_image(self, packages: list[Path]) -> builders.Image:
        root = self.workshop / "root"
        (root / "var/lib/pacman").mkdir(parents=True)
        settings = self.workshop / "pacman.conf"
        settings.write_text(CONFIGURATION)
        as_root = [] if os.geteuid() == 0 else ["fakeroot"]
        run(*as_root, "pacman", "--root", root, "--config", settings, "--noconfirm", "-U", *packages)
        installed = regular_files(root)
        shutil.rmtree(root)
        return builders.image(self.programs, SETTINGS, installed, run={"Env": ["PATH=/usr/bin:/bin"]})

    def versions(self, directory: Path) -> dict[str, str]:
        found = dict(line.split() for line in in_container(directory, "pacman -Q").splitlines())
        return {name: version.removesuffix("-1") for name, version in found.items()}

    def by_hand(self, directory: Path) -> set[str]:
        return set(in_container(directory, "pacman -Qqe").split())

    def check(self, directory: Path) -> None:
        in_container(directory, "pacman -Qkq")
        assert (directory / "rootfs/etc/pacman.d/mine.conf").read_text() == REPOSITORY
