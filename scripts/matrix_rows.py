"""The rows of the matrix: each program with the script that runs it in the guest and checks that it works.

A script runs in the guest's sh as root with `set -e`. $TOKEN is new for every cell, so that no output of another run
and no file of the host can be taken for its result; $PORT is a free port, and $HOST_FILE a file of the host that a
guest must not see. A cell is a "yes" only if the script ends with 0 and prints each line of `proof`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """A program, and how the matrix finds out whether it works."""

    name: str
    script: str
    proof: tuple[str, ...] = ("yes-$TOKEN",)
    systems: tuple[str, ...] = ("debian", "alpine")
    version_of: tuple[str, ...] = ()
    status: int = 0
    seconds: int = 60
    words: tuple[str, ...] = field(default=())
    """The words for start.sh instead of a script."""
    error: str = ""
    """A regular expression for standard error, if start.sh should refuse the words."""


DEBIAN = ("debian",)
SMALL = ("debian-small",)
ALPINE = ("alpine",)

FILES = (
    Row(
        "ls",
        'echo "$TOKEN" >/opt/only-here\nmkdir /opt/only-dir\nln -s only-here /opt/only-link\n'
        '[ "$(ls -l /opt/only-here | awk "{print \\$5}")" = "$(cat /opt/only-here | wc -c)" ]\n'
        "case $(ls -l /opt/only-link) in l*only-here) ;; *) exit 1 ;; esac\n"
        "case $(ls -ld /opt/only-dir) in d*) ;; *) exit 1 ;; esac\n"
        'if ls "$HOST_FILE" 2>/dev/null; then echo "it shows a file of the host" && exit 1; fi\n'
        'echo "yes-$TOKEN"',
        version_of=("coreutils", "busybox"),
    ),
    Row(
        "test -x",
        "printf '#!/bin/sh\\necho ran\\n' >/opt/program\nchmod 755 /opt/program\ntouch /opt/plain\n"
        'for shell in sh "env test"; do\n'
        '    case $shell in sh) x="[" y="]" ;; *) x="env test" y="" ;; esac\n'
        '    $x -x /opt/program $y\n$x ! -x /opt/plain $y\n$x ! -e "$HOST_FILE" $y\n'
        "done\n"
        'if [ -x /bin/bash ]; then bash -c "[[ -x /opt/program && ! -x /opt/plain && ! -e $HOST_FILE ]]"; fi\n'
        'echo "yes-$TOKEN"',
        version_of=("coreutils", "busybox"),
    ),
    Row(
        "exit status",
        'sh -c "ls / >/dev/null; kill -SEGV \\$\\$" >/dev/null 2>&1 && exit 9\n'
        'echo "yes-$TOKEN"\nexec sh -c "ls / >/dev/null; kill -SEGV \\$\\$"',
        status=139,
        version_of=("dash", "busybox"),
    ),
    Row(
        "left-behind job",
        'sleep 600 </dev/null >/dev/null 2>&1 &\necho "yes-$TOKEN"',
        seconds=15,
        version_of=("dash", "busybox"),
    ),
    Row(
        "chown is seen",
        "touch /opt/owned\nchown 33:44 /opt/owned\nout=$(stat -c %u:%g /opt/owned)\n"
        '[ "$out" = 33:44 ] || { echo "stat says: $out" && exit 1; }\necho "yes-$TOKEN"',
        version_of=("coreutils", "busybox"),
    ),
    Row(
        "tar",
        "mkdir -p /opt/tar/in\ncd /opt/tar\necho $TOKEN >in/one\nln in/one in/two\nln -s one in/three\n"
        "mkfifo in/fifo\nchmod 6711 in/one\ntar -cf all.tar in\nmkdir out\ntar -xf all.tar -C out\n"
        '[ "$(stat -c %i out/in/one)" = "$(stat -c %i out/in/two)" ]\n[ -p out/in/fifo ]\n'
        '[ "$(readlink out/in/three)" = one ]\n[ "$(stat -c %a out/in/one)" = 6711 ]\n'
        'echo "yes-$(cat out/in/two)"',
        version_of=("tar", "busybox"),
    ),
    Row(
        "rsync",
        "mkdir -p /opt/rsync/in/deep\ncd /opt/rsync\necho $TOKEN >in/one\nln in/one in/deep/two\n"
        'rsync -aH in/ out/\n[ out/one -ef out/deep/two ]\n[ -z "$(rsync -aHi in/ out/)" ]\n'
        'echo "yes-$(cat out/deep/two)"',
        systems=DEBIAN,
        version_of=("rsync",),
    ),
    Row(
        "useradd",
        "useradd -m -G mail new\necho 'new:secret' | chpasswd\n[ -d /home/new ]\nid -nG new | grep -q mail\n"
        'userdel -r new 2>/dev/null\n[ ! -e /home/new ]\nif id new 2>/dev/null; then exit 1; fi\necho "yes-$TOKEN"',
        systems=DEBIAN,
        version_of=("passwd",),
    ),
    Row(
        "adduser",
        "adduser -D new\necho 'new:secret' | chpasswd\n[ -d /home/new ]\nid -u new >/dev/null\n"
        'deluser --remove-home new\n[ ! -e /home/new ]\nif id new 2>/dev/null; then exit 1; fi\necho "yes-$TOKEN"',
        systems=ALPINE,
        version_of=("busybox",),
    ),
)

LANGUAGES = (
    Row(
        "node",
        "mkdir /opt/node && cd /opt/node && echo $TOKEN >file && cat >a.js <<'END'\n"
        "const fs = require('fs'), child = require('child_process');\n"
        "const stat = fs.statSync('file');\n"
        "if (!stat.isFile() || stat.size !== fs.readFileSync('file').length) process.exit(3);\n"
        "if (fs.existsSync(process.env.HOST_FILE)) process.exit(4);\n"
        "fs.promises.stat('file').then(() => fs.promises.cp('file', 'copy')).then(() =>\n"
        "  console.log('yes-' + child.execSync('cat copy').toString().trim()));\n"
        "END\nnode a.js",
        version_of=("nodejs",),
    ),
    Row(
        "npm",
        "mkdir -p /opt/npm/part /opt/npm/whole\nexport npm_config_offline=true\n"
        "cd /opt/npm/part\nnpm init -y >/dev/null\n"
        'echo "module.exports = process.env.TOKEN" >index.js\nnpm pack --silent >/dev/null\n'
        "cd ../whole\nnpm init -y >/dev/null\nnpm install --loglevel=error ../part/part-1.0.0.tgz >/dev/null\n"
        "npm pkg set scripts.go=\"node -e \\\"console.log('yes-' + require('part'))\\\"\" && npm run --silent go",
        version_of=("npm",),
    ),
    Row(
        "python venv",
        'python3 -m venv /opt/venv\ncd /opt/venv\nbin/python -c "\n'
        "import os, pathlib, sys, sqlite3, multiprocessing\n"
        "assert sys.prefix == '/opt/venv' and not os.path.exists(os.environ['HOST_FILE'])\n"
        "print('yes-' + multiprocessing.Pool(2).map(str, [os.environ['TOKEN']])[0])\"",
        systems=DEBIAN,
        version_of=("python3",),
    ),
    Row(
        "pip",
        "mkdir /opt/pip && cd /opt/pip && python3 -m venv v && cat >wheel.py <<'END'\n"
        "import zipfile\n"
        "with zipfile.ZipFile('demo-1-py3-none-any.whl', 'w') as wheel:\n"
        "    wheel.writestr('demo.py', 'import os\\ndef main(): print(\"yes-\" + os.environ[\"TOKEN\"])\\n')\n"
        "    wheel.writestr('demo-1.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: demo\\nVersion: 1\\n')\n"
        "    wheel.writestr('demo-1.dist-info/WHEEL', 'Wheel-Version: 1.0\\nTag: py3-none-any\\n')\n"
        "    wheel.writestr('demo-1.dist-info/entry_points.txt', '[console_scripts]\\ndemo = demo:main\\n')\n"
        "    wheel.writestr('demo-1.dist-info/RECORD', '')\n"
        "END\nv/bin/python wheel.py\nv/bin/pip install -q --no-index ./demo-1-py3-none-any.whl\nv/bin/demo\n"
        "v/bin/pip uninstall -q -y demo && [ ! -e v/bin/demo ]",
        systems=DEBIAN,
        version_of=("python3-pip",),
    ),
    Row(
        "java",
        "mkdir /opt/java\ncd /opt/java\necho $TOKEN >file\n"
        'rhino -e \'var f = java.nio.file.Files, p = java.nio.file.Paths.get("/opt/java/file");'
        'if (f.exists(java.nio.file.Paths.get(java.lang.System.getenv("HOST_FILE")))) quit(3);'
        'f.copy(p, java.nio.file.Paths.get("/opt/java/copy"));'
        'print("yes-" + f.readAllLines(java.nio.file.Paths.get("/opt/java/copy")).get(0))\'',
        systems=DEBIAN,
        version_of=("openjdk-17-jre-headless",),
    ),
    Row(
        "go binary",
        "mkdir -p /opt/go/data\ncd /opt/go\necho $TOKEN >data/file\nexport RESTIC_PASSWORD=x\n"
        "restic -q -r repo init\nrestic -q -r repo backup data\nrestic -q -r repo check >/dev/null\n"
        'restic -q -r repo restore latest --target out >/dev/null && echo "yes-$(cat out/data/file)"',
        systems=DEBIAN,
        version_of=("restic",),
    ),
    Row(
        "rust binary",
        "mkdir -p /opt/rust/deep\ncd /opt/rust\ntouch deep/file-$TOKEN\nchmod 755 deep/file-$TOKEN\n"
        'fdfind --type x file -x echo yes-{/} | sed "s/file-//"',
        systems=DEBIAN,
        version_of=("fd-find",),
    ),
    Row(
        "gcc build",
        "mkdir /opt/gcc\ncd /opt/gcc\nprintf 'all: a\\na: a.o b.o\\n\\t$(CC) -o a a.o b.o\\n' >Makefile\n"
        "printf '#include <stdio.h>\\nvoid b(const char *);\\n"
        "int main(int n, char **a) { b(a[1]); return n != 2; }\\n' >a.c\n"
        "printf '#include <stdio.h>\\nvoid b(const char *t) { printf(\"yes-%%s\\\\n\", t); }\\n' >b.c\n"
        "make -s -j2 && ./a $TOKEN",
        systems=DEBIAN,
        version_of=("gcc",),
    ),
    Row(
        "gdb",
        "mkdir /opt/gdb\ncd /opt/gdb\nprintf 'int main(void) { return 42; }\\n' >a.c\ngcc -g a.c -o a\n"
        "gdb -q -batch -ex 'break main' -ex run -ex 'print 6 * 7' -ex continue ./a >out 2>&1 || :\n"
        "grep -q 'Breakpoint 1, main' out && grep -q 'exited with code 052' out && echo \"yes-$TOKEN\" ||"
        " { tail -1 out && exit 1; }",
        systems=DEBIAN,
        version_of=("gdb",),
    ),
    Row(
        "strace",
        "echo $TOKEN >/opt/traced\nstrace -f -o /opt/trace sh -c 'cat /opt/traced' >/dev/null\n"
        "grep -q 'openat(.*\"/opt/traced\"' /opt/trace && grep -q 'exited with 0' /opt/trace && echo \"yes-$TOKEN\"",
        systems=DEBIAN,
        version_of=("strace",),
    ),
)

GIT = "cd /opt/git\nexport GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a"
TOOLS = (
    Row(
        "git commit, clone, mv, gc",
        f"mkdir /opt/git\n{GIT}\ngit init -q one\ncd one\n"
        "for n in 1 2 3; do echo $TOKEN $n >file\ngit add .\ngit commit -q -m c$n; done\ncd ..\n"
        "git clone -q one two\nmv one moved\nmv two away\ngit -C away remote set-url origin /opt/git/moved\n"
        "git -C away pull -q\ngit -C moved gc -q\ngit -C away gc -q\ngit -C moved fsck --strict 2>&1\n"
        'git -C away fsck --strict\n[ "$(git -C away log --oneline | wc -l)" = 3 ]\n'
        '[ -z "$(git -C moved status --short)" ]\ncp -a moved copied\ngit -C copied fsck\nrm -rf moved away\n'
        "git -C copied checkout -q HEAD~1 && echo \"yes-$(cut -d' ' -f1 copied/file)\"",
        systems=DEBIAN,
        version_of=("git",),
    ),
    Row(
        "tmux",
        "tmux -f /dev/null new-session -d -x 80 -y 24 sh\nsleep 1\n"
        "tmux send-keys 'echo yes-'$TOKEN Enter\n"
        "for n in 1 2 3 4 5 6 7 8 9; do sleep 1; tmux capture-pane -p | grep '^yes-' && break; done\n"
        "tmux kill-server",
        systems=DEBIAN,
        version_of=("tmux",),
    ),
    Row(
        "top",
        "script -qec 'stty cols 80 rows 24; timeout 3 top' /dev/null </dev/null >/opt/top || :\n"
        "grep -q 'COMMAND' /opt/top && top -b -n 1 | grep -q ' top' && echo \"yes-$TOKEN\"",
        systems=DEBIAN,
        version_of=("procps",),
    ),
    Row("top", "top -b -n 1 | grep -q 'top -b' && echo \"yes-$TOKEN\"", systems=ALPINE, version_of=("busybox",)),
    Row(
        "less",
        "echo yes-$TOKEN >/opt/less && script -qec 'stty cols 80 rows 24; TERM=xterm less -E -X /opt/less'"
        ' /dev/null </dev/null | grep -o "yes-$TOKEN" | head -1',
        systems=DEBIAN,
        version_of=("less",),
    ),
    Row("less", "echo yes-$TOKEN >/opt/less && less /opt/less </dev/null", systems=ALPINE, version_of=("busybox",)),
    Row(
        "vim",
        "echo old >/opt/vim && script -qec \"vim.tiny -u NONE -c 's/old/yes-$TOKEN/' -c wq /opt/vim\" /dev/null"
        " </dev/null >/dev/null && cat /opt/vim",
        systems=DEBIAN,
        version_of=("vim-tiny",),
    ),
    Row(
        "man",
        "man -P cat ls | grep -q 'list directory contents' && echo \"yes-$TOKEN\"",
        systems=DEBIAN,
        version_of=("man-db",),
    ),
    Row(
        "locale",
        'localedef -i de_DE -f UTF-8 de_DE.UTF-8\n[ "$(LC_ALL=de_DE.UTF-8 date -d 2026-03-01 +%B)" = März ]\n'
        'echo "yes-$TOKEN"',
        systems=DEBIAN,
        version_of=("locales",),
    ),
    Row(
        "ping",
        "ping -c 1 -W 2 127.0.0.1 | grep -q ' 0% packet loss' && echo \"yes-$TOKEN\"",
        version_of=("iputils-ping", "busybox"),
    ),
)

USERS = (
    Row(
        "su",
        "echo seen >/opt/seen\nout=$(su joe -c 'id -un; cat /opt/seen; echo $HOME' | tr '\\n' ' ')\n"
        '[ "$out" = \'joe seen /home/joe \' ] || { echo "su joe -c id says: $out" && exit 1; }\n'
        'echo "yes-$TOKEN"',
        version_of=("util-linux", "busybox"),
    ),
    Row(
        "users are kept apart",
        "if su joe -c 'cat /etc/shadow' >/dev/null 2>&1; then echo 'joe reads /etc/shadow' && exit 1; fi\n"
        "if su joe -c 'touch /etc/of-joe' 2>/dev/null; then echo 'joe writes to /etc' && exit 1; fi\n"
        'su joe -c "touch /home/joe/file" && echo "yes-$TOKEN"',
        version_of=("util-linux", "busybox"),
    ),
    Row(
        "sudo",
        "out=$(sudo -u joe id -un 2>&1 | tail -n 1)\n"
        '[ "$out" = joe ] || { echo "sudo -u joe id says: $out" && exit 1; }\n'
        "out=$(su joe -c 'sudo -n id -un' 2>&1 | tail -n 1)\n"
        '[ "$out" = root ] || { echo "sudo id of joe: $out" && exit 1; }\n'
        'echo "yes-$TOKEN"',
        version_of=("sudo",),
    ),
    Row(
        "sshd login",
        "mkdir -p /run/sshd /root/.ssh /home/joe/.ssh\nssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519\n"
        "for home in /root /home/joe; do cp /root/.ssh/id_ed25519.pub $home/.ssh/authorized_keys; done\n"
        "chown -R joe: /home/joe/.ssh\n/usr/sbin/sshd -p $PORT -E /opt/sshd.log -o PidFile=/opt/sshd.pid\n"
        "sleep 1\nfor user in root joe; do\n"
        "    ssh -n -p $PORT -o StrictHostKeyChecking=no -o LogLevel=ERROR -o ConnectTimeout=9 $user@127.0.0.1"
        " 'echo in-$(id -un)' || { tail -3 /opt/sshd.log && exit 1; }\n"
        'done\nkill "$(cat /opt/sshd.pid)" && echo "yes-$TOKEN"',
        proof=("in-root", "in-joe", "yes-$TOKEN"),
        systems=DEBIAN,
        version_of=("openssh-server",),
    ),
    Row(
        "cron",
        "printf '@reboot root id -un >/opt/cron-ran\\n' >/etc/cron.d/matrix\nrm -f /run/crond.reboot\ncron\n"
        "for n in 1 2 3 4 5 6 7 8 9; do sleep 1; [ ! -s /opt/cron-ran ] || break; done\n"
        'kill "$(cat /run/crond.pid)"; [ "$(cat /opt/cron-ran)" = root ] && echo "yes-$TOKEN"',
        systems=DEBIAN,
        version_of=("cron",),
    ),
    Row(
        "dbus",
        "mkdir -p /run/dbus\ndbus-uuidgen --ensure\ndbus-daemon --system --fork --print-pid >/opt/dbus.pid\n"
        "dbus-send --system --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ListNames"
        " | grep -q org.freedesktop.DBus\nkill $(cat /opt/dbus.pid)\n"
        "dbus-run-session -- dbus-send --session --print-reply --dest=org.freedesktop.DBus /"
        ' org.freedesktop.DBus.ListNames | grep -q org.freedesktop.DBus && echo "yes-$TOKEN"',
        systems=DEBIAN,
        version_of=("dbus",),
    ),
)
