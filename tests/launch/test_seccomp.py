"""The filters: installed for real where this machine can, interpreted for the machines that aren't here."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import MachineError
from provisioner.image.platform import Platform, host_platform
from provisioner.launch.bpf import ALLOW, SUCCESS, TRAP, Abi, Argument, Rule, program, refuse
from provisioner.launch.seccomp import container_filter, root_emulation
from provisioner.launch.syscalls import abis
from tests.support.libseccomp import native_arch, number
from tests.support.seccomp_filters import answer_of, install
from tests.support.tools import as_user, need_bwrap, provision, user_id

pytestmark = pytest.mark.slow

# The calls that have a 32-bit name too, where ids once had 16 bits.
WIDENED = [
    *("chown", "fchown", "lchown", "setgroups", "setuid", "setgid", "setreuid", "setregid"),
    *("setresuid", "setresgid", "setfsuid", "setfsgid"),
]
FAKED = [*WIDENED, *(f"{call}32" for call in WIDENED), "fchownat", "capset"]

ARCHES = {
    "x86_64": 0xC000003E,
    "i386": 0x40000003,
    "aarch64": 0xC00000B7,
    "arm": 0x40000028,
    "riscv64": 0xC00000F3,
    "ppc64le": 0xC0000015,
    "s390x": 0x80000016,
    "s390": 0x00000016,
    "loongarch64": 0xC0000102,
    "x32": 0xC000003E,
}
"""AUDIT_ARCH_* of linux/audit.h."""
# libseccomp's own names for what it doesn't call by its AUDIT_ARCH, or doesn't know yet: loongarch64 and riscv64
# have the numbers of asm-generic/unistd.h.
TOKENS = {**ARCHES, "x32": 0x4000003E, "loongarch64": ARCHES["riscv64"]}


def numbers(calls: Iterable[str], arch: str) -> set[int]:
    """The numbers of those calls that there are."""
    return {known for call in calls if (known := number(call, TOKENS[arch])) is not None}


def emulation(arch: str) -> bytes:
    return root_emulation(Platform("linux", "s390x" if arch.startswith("s390") else "amd64"))


def confinement(arch: str) -> bytes:
    return container_filter(Platform("linux", "s390x" if arch.startswith("s390") else "amd64"))


REFUSED = [
    *("acct", "add_key", "bpf", "clock_settime", "clock_settime64", "create_module", "delete_module", "finit_module"),
    *("fsconfig", "fsmount", "fsopen", "fspick", "get_kernel_syms", "init_module", "io_uring_enter", "ioperm", "iopl"),
    *("io_uring_register", "io_uring_setup", "kcmp", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie"),
    *("mount", "mount_setattr", "move_mount", "nfsservctl", "open_by_handle_at", "open_tree", "perf_event_open"),
    *("pivot_root", "process_vm_readv", "process_vm_writev", "query_module", "quotactl", "quotactl_fd", "reboot"),
    *("request_key", "setns", "settimeofday", "stime", "swapoff", "swapon", "sysfs", "_sysctl", "syslog", "umount"),
    *("umount2", "uselib", "userfaultfd", "ustat", "vhangup", "vm86", "vm86old"),
    *("fanotify_init", "get_mempolicy", "mbind", "migrate_pages", "move_pages", "pidfd_getfd", "process_madvise"),
    *("set_mempolicy", "set_mempolicy_home_node"),
]
SOCKET = {"i386": 359, "ppc64le": 326, "s390x": 359, "s390": 359}
"""The numbers of socket(2) where there is socketcall(2) too."""
CONDITIONAL = ["clone", "clone3", "unshare", "ioctl", "personality", "socket"]


# What each machine is answered


@pytest.mark.parametrize("arch", ARCHES)
def test_what_only_root_may_do_is_answered_with_success_or_refused_and_all_else_by_the_kernel(arch: str) -> None:
    faked, refused = numbers(FAKED, arch), numbers(REFUSED, arch)
    conditional = numbers(["mknod", "mknodat", *CONDITIONAL], arch)
    base = 0x40000000 if arch == "x32" else 0
    if base:  # some kernels take the numbers of x86_64 there, too
        refused |= {base | call for call in numbers(REFUSED, "x86_64")}
        conditional |= {base | call for call in numbers(CONDITIONAL, "x86_64")}
    assert len(faked) >= 12, "libseccomp knows the ABI"
    assert len(refused) >= 30, "libseccomp knows the ABI"
    refused.add(base | 467)  # open_tree_attr, which libseccomp may not know yet
    newest = base | (547 if base else 469)
    conditional.add(SOCKET.get(arch, -1))  # libseccomp has a number of its own for what socketcall(2) can do as well
    for call in {*range(base, newest + 1)} - conditional:
        denied = refuse(errno.EPERM) if call in refused else ALLOW
        assert answer_of(confinement(arch), call, ARCHES[arch], 1, 2, 3) == denied, f"call {call}"
        expected = SUCCESS if call in faked else denied
        assert answer_of(emulation(arch), call, ARCHES[arch], 1, 2, 3) == expected, f"call {call}"


@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        ("clone", (0x00010F00,), ALLOW),  # a thread
        ("clone", (17,), ALLOW),  # fork
        ("clone", (0x10000000 | 17,), refuse(errno.EPERM)),  # CLONE_NEWUSER
        ("clone3", (0, 88), refuse(errno.ENOSYS)),
        ("unshare", (0x400,), ALLOW),  # CLONE_FILES
        ("unshare", (0x10000000,), refuse(errno.EPERM)),
        ("unshare", (0x20000,), refuse(errno.EPERM)),  # CLONE_NEWNS
        ("unshare", (0x80,), refuse(errno.EPERM)),  # CLONE_NEWTIME
        ("ioctl", (0, 0x5401), ALLOW),  # TCGETS
        ("ioctl", (0, 0x5412), refuse(errno.EPERM)),  # TIOCSTI
        ("ioctl", (0, 0xFFFFFFFF_00005412), refuse(errno.EPERM)),  # the kernel takes 32 bits of it
        ("ioctl", (0, 0x541C), refuse(errno.EPERM)),  # TIOCLINUX
        ("personality", (0xFFFFFFFF,), ALLOW),
        ("personality", (8,), ALLOW),  # PER_LINUX32
        ("personality", (0x0040000,), refuse(errno.EPERM)),  # ADDR_NO_RANDOMIZE
        ("socket", (2, 1, 0), ALLOW),
        ("socket", (40, 1, 0), refuse(errno.EPERM)),  # AF_VSOCK
    ],
)
@pytest.mark.parametrize("arch", ARCHES)
def test_calls_are_refused_by_their_arguments(arch: str, call: str, arguments: tuple[int, ...], expected: int) -> None:
    if call == "clone" and arch.startswith("s390"):
        arguments = (0, *arguments)  # the stack comes first there
    for number_ in numbers([call], arch):
        assert answer_of(confinement(arch), number_, ARCHES[arch], *arguments) == expected
        assert answer_of(emulation(arch), number_, ARCHES[arch], *arguments) == expected


@pytest.mark.parametrize("arch", ARCHES)
def test_calls_that_nobody_knows_yet_do_not_exist(arch: str) -> None:
    base, newest = (0x40000000, 547) if arch == "x32" else (0, 469)
    for filter_ in (confinement(arch), emulation(arch)):
        for call in (newest + 1, newest + 2, 600, 1000, 0xFFFF):
            assert answer_of(filter_, base | call, ARCHES[arch]) == refuse(errno.ENOSYS), f"call {call}"
        for own in range(0xF0001, 0xF0007):  # __ARM_NR_breakpoint to __ARM_NR_get_tls
            assert answer_of(filter_, own, ARCHES[arch]) == ALLOW


@pytest.mark.parametrize("arch", SOCKET)
def test_sockets_of_the_machine_below_are_refused_beside_socketcall(arch: str) -> None:
    for filter_ in (confinement(arch), emulation(arch)):
        assert answer_of(filter_, SOCKET[arch], ARCHES[arch], 40, 1, 0) == refuse(errno.EPERM)
        assert answer_of(filter_, SOCKET[arch], ARCHES[arch], 2, 1, 0) == ALLOW


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (stat.S_IFCHR | 0o666, SUCCESS),
        (stat.S_IFBLK | 0o660, SUCCESS),
        (stat.S_IFIFO | 0o600, ALLOW),
        (stat.S_IFREG | 0o600, ALLOW),
        (stat.S_IFSOCK | 0o777, ALLOW),
        (0o644, ALLOW),
        # The kernel takes 16 bits of the mode.
        (0xFFFFFFFF_FFFF0000 | stat.S_IFCHR, SUCCESS),
    ],
)
@pytest.mark.parametrize("arch", ARCHES)
def test_device_nodes_seem_to_be_made_and_other_nodes_are(arch: str, mode: int, expected: int) -> None:
    filter_ = emulation(arch)
    device = stat.S_IFCHR  # in the arguments that are not the mode
    for mknod in numbers(["mknod"], arch):
        assert answer_of(filter_, mknod, ARCHES[arch], device, mode, device) == expected
    (mknodat,) = numbers(["mknodat"], arch)
    assert answer_of(filter_, mknodat, ARCHES[arch], device, device, mode, device) == expected


def test_an_abi_that_is_not_known_is_left_to_the_kernel() -> None:
    (chown,) = numbers(["chown"], "x86_64")
    assert answer_of(emulation("x86_64"), chown, 0xC0000033) == ALLOW


@pytest.mark.parametrize("architecture", ["amd64", "386", "arm64", "arm", "riscv64", "ppc64le", "s390x", "loong64"])
def test_every_platform_with_images_has_a_filter_that_the_kernel_takes_in_size(architecture: str) -> None:
    filter_ = root_emulation(Platform("linux", architecture))
    assert 0 < len(filter_) // 8 <= 4096, "BPF_MAXINSNS"
    assert len(filter_) % 8 == 0


def test_a_platform_without_known_numbers_is_refused_with_a_hint() -> None:
    with pytest.raises(MachineError, match="linux/mips64le") as error:
        root_emulation(Platform("linux", "mips64le"))
    assert "proot" in error.value.hint


# The compiler

ABIS = [Abi(0xC000003E, {"one": 1, "two": 2, "three": 3}), Abi(0x40000003, {"one": 11, "two": 12})]


def test_each_abi_is_answered_by_its_own_numbers() -> None:
    filter_ = program([Rule(refuse(errno.EACCES), ("one", "three"))], ABIS)
    answers = [answer_of(filter_, call, abi.arch) for abi in ABIS for call in (1, 2, 3, 11, 12)]
    denied = 0x0005000D  # SECCOMP_RET_ERRNO, and EACCES
    assert answers == [denied, ALLOW, denied, ALLOW, ALLOW, ALLOW, ALLOW, ALLOW, denied, ALLOW]


def test_the_first_rule_that_fits_counts_and_a_condition_that_fails_leads_to_the_next() -> None:
    rules = [
        Rule(refuse(1), ("one",), Argument(0, (5, 7))),
        Rule(refuse(2), ("one", "two"), Argument(1, (0, 9), among=False)),
        Rule(TRAP, ("one",)),
    ]
    filter_ = program(rules, ABIS)
    cases = [(1, 5, 1), (1, 7, 0), (1, 6, 1), (1, 6, 9), (1, 6, 0), (2, 5, 9), (2, 5, 8), (3, 5, 1)]
    answers = [answer_of(filter_, call, ABIS[0].arch, first, second) for call, first, second in cases]
    assert answers == [refuse(1), refuse(1), refuse(2), TRAP, TRAP, ALLOW, refuse(2), ALLOW]


CALLS, WORDS = st.integers(0, 6), st.integers(0, 4).map(lambda value: value | 0xFFFF0000)
ARGUMENTS = st.builds(
    Argument,
    position=st.integers(0, 1),
    values=st.lists(WORDS, max_size=3, unique=True).map(tuple),
    mask=st.sampled_from([0xFFFFFFFF, 0xFFFF0003]),
    among=st.booleans(),
)
RULES = st.builds(
    Rule,
    answer=st.integers(1, 200).map(refuse),
    calls=st.lists(CALLS.map(str), max_size=4, unique=True).map(tuple),
    argument=st.none() | ARGUMENTS,
)


@given(st.lists(RULES, max_size=6), CALLS, st.tuples(WORDS, WORDS), st.sampled_from([0xC000003E, 0x80000016]))
def test_a_program_answers_as_its_rules_read(
    rules: list[Rule], call: int, arguments: tuple[int, int], arch: int
) -> None:
    def fits(rule: Rule) -> bool:
        if str(call) not in rule.calls or rule.argument is None:
            return str(call) in rule.calls
        value = arguments[rule.argument.position] & rule.argument.mask
        return (value in rule.argument.values) == rule.argument.among

    expected = next((rule.answer for rule in rules if fits(rule)), ALLOW)
    abi = Abi(arch, {str(number): number for number in range(4)})  # and no more
    assert answer_of(program(rules, [abi]), call, arch, *arguments) == (expected if call < 4 else ALLOW)


def test_a_program_has_one_byte_order() -> None:
    with pytest.raises(ValueError, match="too many values"):
        program([], abis())


# The kernel of this machine

Answer = tuple[int, int]
"""What a system call returned, and errno where that is -1."""


def in_child(work: Callable[[], Any], filter_: bytes = b"") -> Any:
    """What `work` returns, through JSON, in a child of the unprivileged user that is under `filter_`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(user_id(), user_id(), user_id())
                os.setresuid(user_id(), user_id(), user_id())
            if filter_:
                install(filter_)
            os.write(writing, json.dumps(work()).encode())
        finally:
            # Nothing of pytest may go on in the child.
            if sys.exc_info()[0]:
                traceback.print_exc()
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        result = pipe.read()
    os.waitpid(child, 0)
    return json.loads(result)


def attempts(place: Path) -> dict[str, Answer]:
    """The answer to each call, made in a way that the kernel refuses to all but root."""
    libc = ctypes.CDLL(None, use_errno=True)
    file, at_cwd = os.open(place / "file", os.O_RDWR | os.O_CREAT, 0o600), ctypes.c_long(-100)
    path, group = ctypes.c_char_p(bytes(place / "file")), (ctypes.c_uint * 1)(0)
    # _LINUX_CAPABILITY_VERSION_3 for this process, and all capabilities in all sets.
    header, everything = (ctypes.c_uint * 2)(0x20080522, 0), (ctypes.c_uint * 6)(*[0xFFFFFFFF] * 6)
    new, null = ctypes.c_char_p(bytes(place / "device")), ctypes.c_long(os.makedev(1, 3))
    arguments: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(("chown", "lchown"), (path, 0, 0)),
        "fchown": (file, 0, 0),
        "fchownat": (at_cwd, path, 0, 0, 0),
        **dict.fromkeys(("setuid", "setgid", "setfsuid", "setfsgid"), (0,)),
        **dict.fromkeys(("setreuid", "setregid"), (0, 0)),
        **dict.fromkeys(("setresuid", "setresgid"), (0, 0, 0)),
        "setgroups": (1, group),
        "capset": (header, everything),
        "mknod": (new, stat.S_IFCHR | 0o600, null),
        "mknodat": (at_cwd, new, stat.S_IFBLK | 0o600, null),
    }
    arguments |= {f"{call}32": words for call, words in arguments.items() if call in WIDENED}
    answers: dict[str, Answer] = {}
    for call, words in arguments.items():
        known = number(call, native_arch())
        if known is not None:
            ctypes.set_errno(0)
            answers[call] = (libc.syscall(ctypes.c_long(known), *words), ctypes.get_errno())
    os.close(file)
    return answers


def test_the_kernel_answers_every_call_so_and_nothing_happens(place: Path) -> None:
    refused = in_child(lambda: attempts(place))
    assert {call: reply for call, reply in refused.items() if reply[1] != errno.EPERM} == {
        # They return the id as it was, whatever happens.
        call: [user_id(), 0]
        for call in refused
        if call.startswith("setfs")
    }, "without the filter"
    faked = in_child(lambda: attempts(place), root_emulation(host_platform()))
    assert faked == {call: [0, 0] for call in refused}
    assert sorted(os.listdir(place)) == ["file"], "no device was made"
    assert (place / "file").stat().st_uid == user_id()


def test_what_a_process_is_and_fifos_stay_real(place: Path) -> None:
    def work() -> list[int]:
        os.setuid(0)
        os.mkfifo(place / "fifo")
        (place / "file").touch()
        os.chown(place / "nothing", 0, 0)
        return [os.getuid(), os.geteuid()]

    assert in_child(work, root_emulation(host_platform())) == [user_id(), user_id()]
    assert stat.S_ISFIFO((place / "fifo").stat().st_mode)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="this is about x86_64 machines")
def test_the_32_bit_calls_of_a_64_bit_process_are_answered_too(place: Path) -> None:
    # push rbx; mov eax, edi; mov ebx, esi; xchg edx, ecx; int 0x80; pop rbx; cdqe; ret
    code = bytes.fromhex("53 89f8 89f3 87ca cd80 5b 4898 c3")

    def work() -> list[int]:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        function = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * 4)
        call = function(ctypes.addressof(ctypes.c_char.from_buffer(page)))
        file = os.open(place / "file", os.O_RDWR | os.O_CREAT, 0o600)
        words = {"fchown": (file, 0), "fchown32": (file, 0), "setuid": (0, 0), "setuid32": (0, 0)}
        return [call(number(name, ARCHES["i386"]), *two, 0) for name, two in words.items()]

    refused = in_child(work)
    if set(refused) == {-errno.ENOSYS}:
        pytest.skip("this kernel has no 32-bit calls")
    assert set(refused) == {-errno.EPERM}
    assert set(in_child(work, root_emulation(host_platform()))) == {0}


# What it is for


def enter(rootfs: Path, *command: str, filter_: Path = Path(os.devnull)) -> subprocess.CompletedProcess[str]:
    """Run a command as root, the only user of its namespace, in a rootfs of the unprivileged user."""
    inside = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}
    bwrap = ["bwrap", "--unshare-user", "--unshare-pid", "--die-with-parent", "--clearenv"]
    # Without capabilities, which reach no further than the user's own files, root can't write where a mode says no.
    bwrap += ["--uid", "0", "--gid", "0", "--cap-add", "ALL"]
    for name, value in inside.items():
        bwrap += ["--setenv", name, value]
    bwrap += ["--bind", str(rootfs), "/", "--proc", "/proc", "--dev", "/dev"]
    with filter_.open("rb") as file:
        if filter_ != Path(os.devnull):
            bwrap += ["--seccomp", str(file.fileno())]
        return subprocess.run(
            [*bwrap, "--", *command],
            **as_user(),
            pass_fds=[file.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


def test_apt_installs_daemons_with_owners_of_their_own(debian: str, place: Path) -> None:
    need_bwrap()
    provision(debian, place / "debian", **as_user(), status=0)
    rootfs, filter_ = place / "debian" / "rootfs", place / "filter"
    filter_.write_bytes(root_emulation(host_platform()))
    install = ("apt-get", "install", "--yes", "--no-install-recommends")
    updated = enter(rootfs, "apt-get", "update", filter_=filter_)
    assert updated.returncode == 0, updated.stderr
    assert enter(rootfs, *install, "dbus").returncode != 0, "without the filter"
    done = enter(rootfs, *install, "--fix-broken", "dbus", "openssh-server", "sudo", filter_=filter_)
    assert done.returncode == 0, done.stdout + done.stderr
    audit = enter(rootfs, "dpkg", "--audit")
    assert (audit.returncode, audit.stdout) == (0, ""), "a package is half installed"
    users = (rootfs / "etc/passwd").read_text()
    assert "\nsshd:" in users
    assert "\nmessagebus:" in users
