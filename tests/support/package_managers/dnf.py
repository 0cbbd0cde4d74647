"""dnf and rpm, as Debian packages them, with real packages of rpm."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.support import builders
from tests.support.containers import need_user_namespaces, starter
from tests.support.host_packages import host_layer
from tests.support.package_managers import DEPENDENCIES, PackageManager, in_container, regular_files
from tests.support.tools import need, run

SPEC = """\
Name: {name}
Version: {version}
Release: 1
Summary: test package
License: MIT
BuildArch: noarch
{tags}
%description
A test package.
%install
mkdir -p %{{buildroot}}/usr/lib %{{buildroot}}/etc
echo {name} {version} >%{{buildroot}}/usr/lib/{name}
echo default {version} >%{{buildroot}}/etc/{name}.conf
echo default {version} >%{{buildroot}}/etc/{name}.edited
%files
/usr/lib/{name}
%config(noreplace) /etc/{name}.conf
%config(noreplace) /etc/{name}.edited
"""
MACROS = b"%_dbpath /var/lib/rpm\n%_db_backend sqlite\n"
REPOSITORY = "[mine]\nname=mine\nbaseurl=file:///repository\ngpgcheck=0\n"
SETTINGS = builders.layer(
    ("etc/rpm/macros", MACROS),
    ("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
    ("etc/group", b"root:x:0:\n"),
    ("etc/dnf/dnf.conf", b"[main]\ngpgcheck=0\n"),
)


class Dnf(PackageManager):
    install = f"mkdir -p /etc/yum.repos.d; printf %s '{REPOSITORY}' >/etc/yum.repos.d/mine.repo; dnf -y install mine"
    remove = "rpm -e dropped"

    def __init__(self, place: Path, _: Path) -> None:
        starter("proot")
        need("rpmbuild", "createrepo_c")
        self.programs = host_layer("dnf", "rpm", "dash", "coreutils", "libc-bin", "sed", "grep")
        super().__init__(place)

    def make_package(self, name: str, version: str) -> Path:
        spec = self.workshop / f"{name}.spec"
        tags = f"Requires: {DEPENDENCIES[name]}" if name in DEPENDENCIES else ""
        spec.write_text(SPEC.format(name=name, version=version, tags=tags))
        settings = {"_topdir": self.workshop / "build", "_rpmdir": self.workshop}
        defines = [f"--define={key} {value}" for key, value in settings.items()]
        run("rpmbuild", "-bb", "--quiet", *defines, spec, env={**os.environ, "HOME": str(self.workshop)})
        return self.workshop / f"noarch/{name}-{version}-1.noarch.rpm"

    def write_index(self, repository: Path) -> None:
        run("createrepo_c", "--quiet", repository)

    def make_image(self, packages: list[Path]) -> builders.Image:
        root = self.workshop / "root"
        root.mkdir()
        database = ("--dbpath", "/var/lib/rpm", "--define", "_db_backend sqlite")
        if os.geteuid() != 0:
            need_user_namespaces(by_root=False)  # in which rpm changes its root
        run("rpm", "--root", root, *database, "-i", "--nodeps", *packages)
        installed = regular_files(root)
        shutil.rmtree(root)
        return builders.image(self.programs, SETTINGS, installed, run={"Env": ["PATH=/usr/bin:/bin"]})

    def versions(self, directory: Path) -> dict[str, str]:
        lines = in_container(directory, "rpm -qa --queryformat '%{NAME} %{VERSION}\\n'").splitlines()
        return dict(line.split() for line in lines)

    def by_hand(self, directory: Path) -> set[str]:
        names = in_container(directory, "dnf -q -C repoquery --userinstalled --queryformat '%{name}\\n'")
        return set(names.split())

    def check(self, directory: Path) -> None:
        changed = in_container(directory, "rpm -Va --nomtime --nouser --nogroup || :").splitlines()
        assert [line.split()[-1] for line in changed] == ["/etc/base.edited", "/etc/mine.edited"]
        assert (directory / "rootfs/etc/yum.repos.d/mine.repo").read_text() == REPOSITORY
