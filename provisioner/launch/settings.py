"""The settings of start.sh: facts about its image, and the defaults of its options."""

from __future__ import annotations

from dataclasses import dataclass

RUNTIMES = ("auto", "proot", "chroot", "userns")
"""The values of start.sh's option --runtime."""

IDS = ("one", "many")
"""The values of start.sh's option --ids."""


@dataclass(frozen=True)
class LaunchSettings:
    """Facts about the image, and the defaults of start.sh's options.

    Each field becomes the shell variable of its name: a word, or a list of words for `eval "set -- $list"`. Bytes that
    are not UTF-8 are surrogate escapes, as `os.fsdecode` returns them.
    """

    provision_version: str
    image_reference: str
    image_platform: str  # such as linux/arm64/v8
    image_entrypoint: tuple[str, ...]
    image_command: tuple[str, ...]  # CMD
    image_env: tuple[str, ...]  # K=V; entries that env(1) can't set are left out
    image_user: str  # USER[:GROUP], names or numbers; empty for root
    image_workdir: str
    image_localtime: str  # the target of the link /etc/localtime; empty if there is none
    image_stop_signal: str
    image_ports: tuple[str, ...]  # such as 80/tcp
    default_runtime: str  # one of RUNTIMES
    default_dns: tuple[str, ...]  # IP addresses; empty for those of the machine at each start
    default_hostname: str  # empty for the name of DIR
    default_binds: tuple[str, ...]  # SRC or SRC:DST
    default_env: tuple[str, ...]  # K=V, or K for what the caller of start.sh has
    image_kernel: str = ""  # the oldest release of the kernel that the image's libc runs on; empty where any will do
    default_proot_options: tuple[str, ...] = ()  # words
