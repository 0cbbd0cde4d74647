"""What start.sh knows of its image, and what its options default to."""

from __future__ import annotations

from dataclasses import dataclass

RUNTIMES = ("auto", "proot", "chroot", "userns")
"""What start.sh can start the image in."""


@dataclass(frozen=True)
class LaunchSettings:
    """What start.sh knows of its image, and what its options default to.

    Each field becomes the shell variable of its name: a word, or a list of words for `eval "set -- $list"`. Bytes that
    are no UTF-8 are surrogate escapes, as `os.fsdecode` gives them.
    """

    provision_version: str
    image_reference: str
    image_platform: str  # as in linux/arm64/v8
    image_entrypoint: tuple[str, ...]
    image_command: tuple[str, ...]
    image_env: tuple[str, ...]  # K=V; what env(1) can't set is left out
    image_user: str  # a name or uid, with :GROUP or without; empty for root
    image_workdir: str
    image_stop_signal: str
    image_ports: tuple[str, ...]  # as in 80/tcp
    default_runtime: str  # of RUNTIMES
    default_dns: tuple[str, ...]
    default_hostname: str  # empty for the machine's at each start
    default_binds: tuple[str, ...]  # SRC or SRC:DST
    default_env: tuple[str, ...]  # K=V
