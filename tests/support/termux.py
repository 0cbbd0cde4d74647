"""Termux's proot: a real one if PROVISION_TEST_PROOT names it, which is nowhere to be had as a package of Debian."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from tests.support.containers import Container, starter
from tests.support.tools import find_program, need, own_all


def need_termux_proot() -> Path:
    """Return the path of a build of Termux's proot. The test is skipped without one."""
    path = os.environ.get("PROVISION_TEST_PROOT")
    if not path:
        pytest.skip("PROVISION_TEST_PROOT doesn't name a build of Termux's proot")
    return Path(path)


def with_proot(place: Path, proot: Path) -> dict[str, str]:
    """Return an environment for start.sh in which `proot` is the first on PATH, by a link in `place`."""
    tools = place / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "proot").unlink(missing_ok=True)
    (tools / "proot").symlink_to(proot)
    return environment_with(tools)


def with_similar_proot(place: Path) -> dict[str, str]:
    """Return an environment with a proot that lists the options of Termux's, and runs Debian's.

    It writes its words and those of its variables that are for proot to `place`/words and `place`/variables.
    """
    need("proot")
    tools = place / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "proot").write_text(
        f"""#!/bin/sh
[ "$1" != --help ] || exec printf '  --link2symlink\\n  --sysvipc\\n  --kill-on-exit\\n  -p\\n\\n  -L\\n\\nEnd\\n'
printf '%s\\n' "$@" >{shlex.quote(str(place))}/words
{find_program("env")} | {find_program("grep")} ^PROOT_ >{shlex.quote(str(place))}/variables
for word; do
    shift
    case $word in --link2symlink | --sysvipc | --kill-on-exit | -p | -L) ;; *) set -- "$@" "$word" ;; esac
done
exec {find_program("proot")} "$@"
"""
    )
    (tools / "proot").chmod(0o755)
    return environment_with(tools)


def environment_with(tools: Path) -> dict[str, str]:
    """Return an environment for start.sh whose PATH starts with `tools`."""
    env = starter("proot")["env"]
    return {**env, "PATH": f"{tools}:{env['PATH']}"}


def make_hard_links(container: Container, name: str, *links: str, at: Path | None = None) -> None:
    """Put the file `name` and hard links to it into a rootfs as Termux's proot does where PROOT_L2S_DIR is rootfs/.l2s.

    They lead to the rootfs `at`, by default this one. The content is the name.
    """
    folder = container.rootfs / ".l2s"
    folder.mkdir(exist_ok=True)
    base, count = f".l2s.{Path(name).name}0001", 1 + len(links)
    there = (at or container.rootfs) / ".l2s"
    (folder / f"{base}.{count:04}").write_text(name)
    (folder / base).symlink_to(there / f"{base}.{count:04}")
    for link in (name, *links):
        path = container.rootfs / link
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(there / base)
    own_all(container.rootfs)
