"""Words of docker, podman, proot-distro, distrobox, apt and pip, and what to type instead of them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence

from provisioner.terminal.escaping import shell_line, shell_word

_PROVISION = "provision {image} {directory}"
_LIST = "provision list"
_IMAGES = "provision list, and provision cache for what was downloaded"
_REMOVE = "provision remove {container}"
_COPY = "provision copy {container} NEW"
_MOVE = "provision move {container} NEW"
_SHELL = "provision shell {container}"
_STOP = "provision stop {container}"
_PRUNE = "provision cache prune"
_UPDATE = "provision update {container}"
_LOAD = "provision {file} DIR"
_LOCAL_TAGS = "nothing has local names here; provision push {container} REFERENCE names an image"
_MOUNTED = "a container's files are in DIR/rootfs"
_ONE_BY_ONE = "each container is started by itself: provision start NAME"
_NETWORK = "containers use this machine's network, and nothing has to be set up"
_VOLUMES = "volumes are directories of this machine: provision run -v SRC:/DST IMAGE"

IN_CONTAINER = re.compile(r"([^:/]+|(?:\.{0,2}/)[^:]*):/*(.*)", re.DOTALL)
"""docker's name of a file in a container, CONTAINER:PATH."""

INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(("pull", "create", "get", "add", "download", "fetch", "launch", "new", "unpack"), _PROVISION),
    **dict.fromkeys(("assemble", "extract", "init", "make"), _PROVISION),
    **dict.fromkeys(("ls", "ps", "status", "freeze", "stats", "events"), _LIST),
    "images": _IMAGES,
    **dict.fromkeys(("rm", "delete", "del", "uninstall", "purge", "destroy", "erase"), _REMOVE),
    **dict.fromkeys(("cp", "clone", "sync"), _COPY),
    **dict.fromkeys(("mv", "rename"), _MOVE),
    **dict.fromkeys(("enter", "sh", "login-shell", "console", "ssh"), _SHELL),
    **dict.fromkeys(("kill", "down", "shutdown", "terminate"), _STOP),
    **dict.fromkeys(("rmi", "prune", "clean", "autoremove", "autoclean", "clear-cache", "reclaim"), _PRUNE),
    "clear": "provision cache clear",
    "df": "provision cache",
    **dict.fromkeys(("upgrade", "full-upgrade", "dist-upgrade", "auto-update"), _UPDATE),
    **dict.fromkeys(("reset", "reinstall"), "provision --force {image} {directory}"),
    **dict.fromkeys(("load", "import"), _LOAD),
    "save": "provision export --format oci-archive {container} image.tar",
    "commit": "provision push {container} REFERENCE, or provision export --format oci-archive {container} image.tar",
    **dict.fromkeys(("tag", "untag"), _LOCAL_TAGS),
    **dict.fromkeys(("history", "show"), "provision inspect {image}"),
    "manifest": "provision inspect --raw {image}",
    "build": "provision doesn't build images; a rootfs of your own: provision ./rootfs.tar DIR",
    **dict.fromkeys(("buildx", "builder", "bake"), "provision doesn't build images; buildah and kaniko do"),
    "attach": "provision exec {container} COMMAND",
    "top": "provision exec {container} ps",
    "restart": "provision stop {container}, then provision start {container}",
    **dict.fromkeys(("pause", "unpause", "wait"), "provision stop {container} ends it; provision list shows what runs"),
    **dict.fromkeys(("mount", "umount", "unmount", "unshare"), _MOUNTED),
    "snapshot": "provision backup {container} FILE",
    "dump": "provision backup {container} FILE",
    "port": _NETWORK,
    **dict.fromkeys(("info", "check", "diagnose"), "provision doctor"),
    "version": "provision --version",
    "man": "provision help",
    **dict.fromkeys(("compose", "docker-compose", "podman-compose", "service", "up"), _ONE_BY_ONE),
    **dict.fromkeys(("pod", "kube", "play", "stack"), _ONE_BY_ONE),
    **dict.fromkeys(("edit", "set", "settings"), "provision config {container} --set K=V"),
    "network": _NETWORK,
    "volume": _VOLUMES,
    "container": _LIST,
    "image": _IMAGES,
    "system": "provision doctor, and provision cache",
    **dict.fromkeys(("machine", "context", "plugin"), "there is no daemon and no virtual machine: provision doctor"),
}
"""What to type instead of a word. `{image}`, `{directory}`, `{container}` and `{file}` stand for the next word."""

_TOOLS = """
docker podman nerdctl buildah udocker proot-distro chroot-distro pd proot distrobox toolbox lxc lxd
apt apt-get pip pkg sudo provision provisioner
"""
TOOLS = frozenset(_TOOLS.split())
"""Programs whose subcommand may follow, from a command line that was copied."""

_GROUPS: Mapping[str, Mapping[str, str]] = {
    "container": {"prune": _REMOVE},
    "image": {"ls": _IMAGES, "list": _IMAGES, "rm": _PRUNE, "remove": _PRUNE, "inspect": "provision inspect {image}"},
    "system": {"df": "provision cache", "prune": _PRUNE, "info": "provision doctor", "reset": "provision cache clear"},
}
"""Words of docker that a second word follows, with what that means where it isn't what it means alone."""


def what_to_type(words: Sequence[str], names: Collection[str]) -> str:
    """Return what to type instead of a command line of INSTEAD, without its options. `names` are our subcommands."""
    word, *others = words
    if word == "cp" and any(IN_CONTAINER.fullmatch(other) for other in others):
        paths = (IN_CONTAINER.sub(r"\1/rootfs/\2", other) for other in others)
        return f"{_MOUNTED}: {shell_line(['cp', '-a', *paths])}"
    group = _GROUPS.get(word)
    if group is None or not others:
        return _filled(INSTEAD[word], others)
    second, *rest = others
    if second in group:
        return _filled(group[second], rest)
    if second in names:
        return shell_line(["provision", second, *rest])
    return _filled(INSTEAD.get(second, INSTEAD[word]), rest)


def _filled(text: str, others: Sequence[str]) -> str:
    """Return a text of INSTEAD with the word that follows on the command line, or what stands for one."""
    first = others[0] if others else ""
    name = first.rpartition("/")[2].partition("@")[0].partition(":")[0]
    image, directory = first or "IMAGE", f"./{name}" if name else "DIR"
    is_path = first.startswith(("/", "./", "../"))
    if is_path and "{image}" in text and not os.path.isfile(first):
        image, directory = "IMAGE", first
    words = {
        "image": image,
        "directory": directory,
        "container": first or "NAME",
        "file": first if is_path else f"./{first or 'image.tar'}",
    }
    return text.format(**{key: shell_word(word) for key, word in words.items()})
