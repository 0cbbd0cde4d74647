"""The seccomp filters (seccomp(2)) that start.sh installs for containers.

`container_filter` refuses system calls that administer the machine. `root_emulation` refuses the same, and emulates
root in user namespaces with one id by returning success for further calls.
"""

from __future__ import annotations

import errno
import stat

from provisioner.errors import MachineError
from provisioner.image.platform import Platform
from provisioner.launch.bpf import SUCCESS, Argument, Rule, program, refuse
from provisioner.launch.syscalls import abis

_CLONE_NEW = 0x7E020080
"""All flags CLONE_NEW* (clone(2))."""
_CLONE_NEWUSER = 0x10000000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_VSOCK = 40
_PERSONALITIES = (0x0000, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX and PER_LINUX32, both with UNAME26, and the query (personality(2))."""

_NO_PERMISSION, _NO_SUCH_CALL = refuse(errno.EPERM), refuse(errno.ENOSYS)

_CONTAINER = (
    Rule(
        _NO_PERMISSION,
        (
            # keyrings are shared by all processes with the same user id
            *("add_key", "keyctl", "request_key"),
            # the kernel's code and state
            *(
                "bpf",
                "create_module",
                "delete_module",
                "finit_module",
                "get_kernel_syms",
                "init_module",
                "kexec_file_load",
            ),
            *("kexec_load", "lookup_dcookie", "perf_event_open", "query_module", "syslog", "userfaultfd"),
            *("io_uring_enter", "io_uring_register", "io_uring_setup"),
            # the machine
            *("acct", "clock_settime", "clock_settime64", "ioperm", "iopl", "nfsservctl", "quotactl", "quotactl_fd"),
            *("reboot", "settimeofday", "stime", "swapoff", "swapon", "sysfs", "_sysctl", "uselib", "ustat", "vhangup"),
            *("vm86", "vm86old"),
            # files of the whole file system, other mounts and namespaces
            *("open_by_handle_at", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount"),
            *("open_tree", "open_tree_attr", "pivot_root", "setns", "umount", "umount2"),
            # events of all files of a file system
            "fanotify_init",
            # other processes' memory and descriptors
            *("kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev"),
            # placement of memory
            *("get_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy", "set_mempolicy_home_node"),
        ),
    ),
    # Its flags are in memory, which filters can't read. Libraries use clone(2) instead.
    Rule(_NO_SUCH_CALL, ("clone3",)),
    Rule(_NO_PERMISSION, ("unshare",), Argument(0, (0,), mask=_CLONE_NEW, among=False)),
    Rule(_NO_PERMISSION, ("clone",), Argument(0, (_CLONE_NEWUSER,), mask=_CLONE_NEWUSER)),
    Rule(_NO_PERMISSION, ("clone_s390",), Argument(1, (_CLONE_NEWUSER,), mask=_CLONE_NEWUSER)),
    Rule(_NO_PERMISSION, ("ioctl",), Argument(1, (_TIOCSTI, _TIOCLINUX))),
    Rule(_NO_PERMISSION, ("personality",), Argument(0, _PERSONALITIES, among=False)),
    Rule(_NO_PERMISSION, ("socket",), Argument(0, (_AF_VSOCK,))),
)
"""What Docker's default profile refuses to containers without more capabilities than the default ones."""

_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
_ROOT_EMULATION = (
    Rule(
        SUCCESS,
        (
            *("chown", "fchown", "lchown", "chown32", "fchown32", "lchown32", "fchownat"),
            *("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid"),
            *("setuid32", "setgid32", "setreuid32", "setregid32", "setresuid32", "setresgid32"),
            *("setfsuid32", "setfsgid32", "setgroups", "setgroups32", "capset"),
        ),
    ),
    Rule(SUCCESS, ("mknod",), Argument(1, _DEVICES, mask=stat.S_IFMT(0xFFFF))),
    Rule(SUCCESS, ("mknodat",), Argument(2, _DEVICES, mask=stat.S_IFMT(0xFFFF))),
)


_TIOCGPGRP, _TIOCSPGRP = 0x540F, 0x5410
_BACKGROUND = (Rule(refuse(errno.ENOTTY), ("ioctl",), Argument(1, (_TIOCGPGRP, _TIOCSPGRP))),)


def root_emulation(platform: Platform) -> bytes:
    """Return the filter that emulates root in a user namespace with one id, as an array of struct sock_filter.

    Calls that change owners, user and group ids or capabilities, and calls that make device nodes, return 0 and have no
    effect. A program that checks afterwards sees that it is still root and that root owns the file. The filter also has
    the rules of `container_filter`.

    `platform` is the machine's, not the image's: qemu-user makes the machine's system calls. The same bytes work on all
    machines with its byte order, also for their 32-bit ABIs. Raises MachineError for an unknown architecture.
    """
    return _compile((*_ROOT_EMULATION, *_CONTAINER), platform)


def container_filter(platform: Platform) -> bytes:
    """Return the filter for all other containers in chroot and user namespaces.

    It refuses with EPERM the calls that Docker's default profile refuses without additional capabilities: keyrings,
    kernel modules, mounts, other namespaces, input into a terminal (TIOCSTI). `platform` is the machine's, as for
    `root_emulation`. Raises MachineError for an unknown architecture.
    """
    return _compile(_CONTAINER, platform)


def background_filter(platform: Platform) -> bytes:
    """Return the filter that start.sh adds for a container in a terminal's background.

    tcgetpgrp(3) and tcsetpgrp(3) fail as if the file were no terminal: so shells turn job control off, and the kernel
    stops processes that read from the terminal. `platform` is the machine's. Raises MachineError for an unknown
    architecture.
    """
    return _compile(_BACKGROUND, platform)


def _compile(rules: tuple[Rule, ...], platform: Platform) -> bytes:
    if platform.architecture not in _LITTLE_ENDIAN + _BIG_ENDIAN:
        raise MachineError(f"no seccomp filter is known for {platform}", "use another runtime: proot")
    little_endian = platform.architecture in _LITTLE_ENDIAN
    return program(rules, [abi for abi in abis() if abi.little_endian == little_endian])


_LITTLE_ENDIAN = ("amd64", "386", "arm64", "arm", "riscv64", "ppc64le", "loong64")
_BIG_ENDIAN = ("s390x",)
