"""Every system call that takes a path, tried on two files: one that only the guest has, and one that only the host has.

Run by the host's Python inside of a guest: `path_calls.py GUEST_FILE HOST_FILE`. Prints JSON: for each call, how it
ended on the guest's file and on the host's, as the name of an error or "ok". For x86_64.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
import sys
from collections.abc import Callable

_C = ctypes.CDLL(None, use_errno=True)
_HERE = -100
_BUFFER = ctypes.create_string_buffer(1 << 16)
_ZEROS = ctypes.create_string_buffer(4096)
_HANDLE = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
_WORDS = tuple[object, ...]


def call(number: int, *arguments: object) -> str | int:
    """Make a system call; its answer, or the name of its error."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    answer = int(_C.syscall(ctypes.c_long(number), *words))
    return answer if answer >= 0 else errno.errorcode[ctypes.get_errno()]


# Number, and the arguments for a file P, which has a link Pl, a directory Pd and a socket Ps beside it.
CALLS: dict[str, tuple[int, Callable[[bytes], _WORDS]]] = {
    "access": (21, lambda p: (p, 0)),
    "acct": (163, lambda p: (p,)),
    "chmod": (90, lambda p: (p, 0o755)),
    "chown": (92, lambda p: (p, -1, -1)),
    "chroot": (161, lambda p: (p + b"d",)),
    "creat": (85, lambda p: (p, 0o644)),
    "execve": (59, lambda p: (p + b"d", 0, 0)),
    "execveat": (322, lambda p: (_HERE, p + b"d", 0, 0, 0)),
    "faccessat": (269, lambda p: (_HERE, p, 0)),
    "faccessat2": (439, lambda p: (_HERE, p, 0, 0)),
    "fchmodat": (268, lambda p: (_HERE, p, 0o755)),
    "fchmodat2": (452, lambda p: (_HERE, p, 0o755, 0)),
    "fchownat": (260, lambda p: (_HERE, p, -1, -1, 0)),
    "file_getattr": (468, lambda p: (_HERE, p, _BUFFER, 24, 0)),
    "file_setattr": (469, lambda p: (_HERE, p, _ZEROS, 24, 0)),
    "fspick": (433, lambda p: (_HERE, p, 0)),
    "futimesat": (261, lambda p: (_HERE, p, 0)),
    "getxattr": (191, lambda p: (p, b"user.x", _BUFFER, 9)),
    "getxattrat": (464, lambda p: (_HERE, p, 0, b"user.x", _ZEROS, 16)),
    "lchown": (94, lambda p: (p, -1, -1)),
    "lgetxattr": (192, lambda p: (p, b"user.x", _BUFFER, 9)),
    "link": (86, lambda p: (p, p + b"1")),
    "linkat": (265, lambda p: (_HERE, p, _HERE, p + b"2", 0)),
    "listxattr": (194, lambda p: (p, _BUFFER, 99)),
    "listxattrat": (465, lambda p: (_HERE, p, 0, _BUFFER, 99)),
    "llistxattr": (195, lambda p: (p, _BUFFER, 99)),
    "lremovexattr": (198, lambda p: (p, b"user.x")),
    "lsetxattr": (189, lambda p: (p, b"user.x", b"v", 1, 0)),
    "lstat": (6, lambda p: (p, _BUFFER)),
    "mkdir": (83, lambda p: (p + b"d/3", 0o755)),
    "mkdirat": (258, lambda p: (_HERE, p + b"d/4", 0o755)),
    "mknod": (133, lambda p: (p + b"d/5", 0o100644, 0)),
    "mknodat": (259, lambda p: (_HERE, p + b"d/6", 0o100644, 0)),
    "mount": (165, lambda p: (p, p, b"none", 0x1000, 0)),
    "mount_setattr": (442, lambda p: (_HERE, p, 0, _ZEROS, 32)),
    "move_mount": (429, lambda p: (_HERE, p, _HERE, p, 0)),
    "name_to_handle_at": (303, lambda p: (_HERE, p, _HANDLE, _BUFFER, 0)),
    "newfstatat": (262, lambda p: (_HERE, p, _BUFFER, 0)),
    "open": (2, lambda p: (p, 0)),
    "open_tree": (428, lambda p: (_HERE, p, 0)),
    "open_tree_attr": (467, lambda p: (_HERE, p, 0, _ZEROS, 32)),
    "openat": (257, lambda p: (_HERE, p, 0)),
    "openat2": (437, lambda p: (_HERE, p, _ZEROS, 24)),
    "pivot_root": (155, lambda p: (p, p)),
    "readlink": (89, lambda p: (p + b"l", _BUFFER, 99)),
    "readlinkat": (267, lambda p: (_HERE, p + b"l", _BUFFER, 99)),
    "removexattr": (197, lambda p: (p, b"user.x")),
    "removexattrat": (466, lambda p: (_HERE, p, 0, b"user.x")),
    "rename": (82, lambda p: (p, p)),
    "renameat": (264, lambda p: (_HERE, p, _HERE, p)),
    "renameat2": (316, lambda p: (_HERE, p, _HERE, p, 0)),
    "setxattr": (188, lambda p: (p, b"user.x", b"v", 1, 0)),
    "setxattrat": (463, lambda p: (_HERE, p, 0, b"user.x", _ZEROS, 16)),
    "stat": (4, lambda p: (p, _BUFFER)),
    "statfs": (137, lambda p: (p, _BUFFER)),
    "statx": (332, lambda p: (_HERE, p, 0, 0xFFF, _BUFFER)),
    "swapoff": (168, lambda p: (p,)),
    "swapon": (167, lambda p: (p, 0)),
    "symlink": (88, lambda p: (b"x", p + b"d/7")),
    "symlinkat": (266, lambda p: (b"x", _HERE, p + b"d/8")),
    "truncate": (76, lambda p: (p, 0)),
    "umount2": (166, lambda p: (p, 0)),
    "uselib": (134, lambda p: (p,)),
    "utime": (132, lambda p: (p, 0)),
    "utimensat": (280, lambda p: (_HERE, p, 0, 0)),
    "utimes": (235, lambda p: (p, 0)),
    # These delete what the ones above have made, or what nothing above needs.
    "rmdir": (84, lambda p: (p + b"d/3",)),
    "unlink": (87, lambda p: (p + b"d/5",)),
    "unlinkat": (263, lambda p: (_HERE, p + b"l", 0)),
    "chdir": (80, lambda p: (p + b"d",)),
    "quotactl": (179, lambda p: (0x80000700, p, 0, _BUFFER)),
}


def _more_calls() -> dict[str, tuple[int, Callable[[bytes], _WORDS]]]:
    """Return those that need a descriptor, or have the path in memory."""
    inotify, fanotify, unix = call(294, 0), call(300, 0x200, 0), call(41, 1, 2, 0)

    def address(path: bytes) -> _WORDS:
        text = struct.pack("H", 1) + path + b"s\0"
        return ctypes.create_string_buffer(text), len(text)

    def pinned(path: bytes) -> ctypes.Array[ctypes.c_char]:
        kept = ctypes.create_string_buffer(path)
        _keep.append(kept)
        return ctypes.create_string_buffer(struct.pack("Q", ctypes.addressof(kept)) + bytes(48))

    return {
        "inotify_add_watch": (254, lambda p: (inotify, p, 0x100)),
        "fanotify_mark": (301, lambda p: (fanotify, 1, 2, _HERE, p)),
        "connect": (42, lambda p: (unix, *address(p))),
        "bpf": (321, lambda p: (7, pinned(p), 16)),
    }


_keep: list[object] = []


def main() -> None:
    guest, host = (os.fsencode(word) for word in sys.argv[1:])
    found = {}
    for name, (number, arguments) in {**CALLS, **_more_calls()}.items():
        ends = [call(number, *arguments(path)) for path in (guest, host)]
        found[name] = [end if isinstance(end, str) else "ok" for end in ends]
        if name == "chdir":
            call(80, b"/")
    found["io_uring_setup"] = [str(call(425, 2, ctypes.create_string_buffer(200)))] * 2
    found["a call to come"] = [str(call(600))] * 2
    print(json.dumps(found))


if __name__ == "__main__":
    main()
