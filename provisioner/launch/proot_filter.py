"""The seccomp filter for a proot that doesn't translate all paths, such as upstream's 5.1.0.

proot translates the paths in system calls. Calls that it doesn't know reach the kernel unchanged, and act on the host's
files. The filter answers them with ENOSYS, as an older kernel would, so that libraries use a call that proot knows. The
tables were made by trying each call in a guest. docs/security.md lists the paths that no filter can check.
"""

from __future__ import annotations

import errno

from provisioner.errors import MachineError
from provisioner.image.platform import Platform
from provisioner.launch.bpf import ALLOW, SUCCESS, Abi, Argument, Rule, program, refuse

_ARCHES = {0xC000003E: "x86_64", 0x40000003: "i386", 0xC00000B7: "aarch64", 0x40000028: "arm"}
"""By AUDIT_ARCH, the column of the table below, for the processors that proot 5.1.0 supports.

x32 has none. Its calls have higher numbers than the last one of x86_64, so that the filter refuses all of them.
"""

_NUMBERS = """
                             x86_64    i386 aarch64     arm
fanotify_init                   300     338     262     367
fanotify_mark                   301     339     263     368
quotactl                        179     131      60     131
prctl                           157     172     167     172
socket                           41       -     198     281
kcmp                            312     349     272     378

arch_prctl                        -     384       -       -
cachestat                       451     451     451     451
clock_adjtime64                   -     405       -     405
clock_getres_time64               -     406       -     406
clock_gettime64                   -     403       -     403
clock_nanosleep_time64            -     407       -     407
clock_settime64                   -     404       -     404
clone3                          435     435     435     435
close_range                     436     436     436     436
copy_file_range                 326     377     285     391
epoll_pwait2                    441     441     441     441
futex_requeue                   456     456     456     456
futex_time64                      -     422       -     422
futex_wait                      455     455     455     455
futex_waitv                     449     449     449     449
futex_wake                      454     454     454     454
getrandom                       318     355     278     384
map_shadow_stack                453     453     453     453
membarrier                      324     375     283     389
memfd_create                    319     356     279     385
mlock2                          325     376     284     390
mq_timedreceive_time64            -     419       -     419
mq_timedsend_time64               -     418       -     418
mseal                           462     462     462     462
pidfd_open                      434     434     434     434
pidfd_send_signal               424     424     424     424
pkey_alloc                      330     381     289     395
pkey_free                       331     382     290     396
pkey_mprotect                   329     380     288     394
ppoll_time64                      -     414       -     414
preadv2                         327     378     286     392
process_madvise                 440     440     440     440
pselect6_time64                   -     413       -     413
pwritev2                        328     379     287     393
recvmmsg_time64                   -     417       -     417
rseq                            334     386     293     398
rt_sigtimedwait_time64            -     421       -     421
sched_getattr                   315     352     275     381
sched_rr_get_interval_time64      -     423       -     423
sched_setattr                   314     351     274     380
seccomp                         317     354     277     383
semtimedop_time64                 -     420       -     420
timer_gettime64                   -     408       -     408
timer_settime64                   -     409       -     409
timerfd_gettime64                 -     410       -     410
timerfd_settime64                 -     411       -     411
"""
"""The kernel's syscall tables. After the empty line are newer calls that have no path.

clone3 is allowed: without it, a C library starts programs by clone(2), after which proot 5.1.0 loses the heap of the
parent process, which then crashes (such as PostgreSQL's initdb).
"""

_LAST = "kcmp"
"""The newest call of proot's table, on all processors."""
_UNTRANSLATED = ("fanotify_init", "fanotify_mark", "quotactl")
"""Calls in proot's table whose path it doesn't translate."""
_PR_SET_DUMPABLE, _NETLINK_AUDIT = 4, 9
_ARM_PRIVATE = 0xF0000
"""The lowest number of ARM's private calls, such as cacheflush (arch/arm/include/uapi/asm/unistd.h)."""


def proot_filter(platform: Platform) -> bytes:
    """Return the filter for such a proot on machines of `platform`, also for their 32-bit programs.

    It answers ENOSYS to all calls whose path proot doesn't translate, and to all calls that are newer than its table
    (statx, openat2, io_uring and future ones), except for those that are known to have no path. A call by which a
    process makes itself undumpable (prctl(2), as sudo does) returns success without an effect: otherwise proot could
    not read its memory, and calls with paths would fail with EFAULT. Audit sockets are refused, because only the
    machine's root may write to them, and sudo and login would print errors. Under qemu-user, the filter applies to
    qemu, which makes this machine's calls.

    Raises MachineError for machines without such a proot.
    """
    if platform.architecture not in ("amd64", "386", "arm64", "arm"):
        raise MachineError(f"no filter for proot is known for {platform}", "use another runtime: userns")
    abis = _abis()
    older = (*_UNTRANSLATED, "prctl", "socket", _LAST)
    rules = (
        Rule(ALLOW, tuple(name for name in {**abis[0].numbers, **abis[1].numbers} if name not in older)),
        Rule(refuse(errno.ENOSYS), _UNTRANSLATED, newer_than=_LAST),
        Rule(SUCCESS, ("prctl",), Argument(0, (_PR_SET_DUMPABLE,))),
        Rule(refuse(errno.EPROTONOSUPPORT), ("socket",), Argument(2, (_NETLINK_AUDIT,))),
    )
    return program(rules, abis)


def _abis() -> tuple[Abi, ...]:
    (_, *names), *rows = (line.split() for line in f"call {_NUMBERS.strip()}".splitlines() if line)
    columns = {name: {row[0]: int(row[i]) for row in rows if row[i] != "-"} for i, name in enumerate(names, start=1)}
    private = {"arm": _ARM_PRIVATE}
    return tuple(Abi(arch, columns[name], private.get(name)) for arch, name in _ARCHES.items())
