"""The numbers of system calls, for all machines that containers run on."""

from __future__ import annotations

from functools import cache

from provisioner.launch.bpf import Abi

_ARCHES = {
    0xC000003E: "x86_64",
    0x40000003: "i386",
    0xC00000B7: "generic",  # aarch64
    0x40000028: "arm",
    0xC00000F3: "generic",  # riscv64
    0xC0000102: "generic",  # loongarch64
    0xC0000015: "ppc64",  # ppc64le
    0x80000016: "s390x",
    0x00000016: "s390",
}
"""By AUDIT_ARCH, the column of the table below."""

_NUMBERS = """
                  x86_64    i386     arm generic   ppc64   s390x    s390
_sysctl              156     149     149       -     149     149     149
acct                 163      51      51      89      51      51      51
add_key              248     286     309     217     269     278     278
bpf                  321     357     386     280     361     351     351
capset               126     185     185      91     184     185     185
chown                 92     182     182       -     181     212     182
chown32                -     212     212       -       -       -     212
clock_settime        227     264     262     112     245     259     259
clock_settime64        -     404     404       -       -       -     404
clone                 56     120     120     220     120       -       -
clone_s390             -       -       -       -       -     120     120
clone3               435     435     435     435     435     435     435
create_module        174     127       -       -     127     127     127
delete_module        176     129     129     106     129     129     129
fanotify_init        300     338     367     262     323     332     332
fchown                93      95      95      55      95     207      95
fchown32               -     207     207       -       -       -     207
fchownat             260     298     325      54     289     291     291
finit_module         313     350     379     273     353     344     344
fsconfig             431     431     431     431     431     431     431
fsmount              432     432     432     432     432     432     432
fsopen               430     430     430     430     430     430     430
fspick               433     433     433     433     433     433     433
get_kernel_syms      177     130       -       -     130     130     130
get_mempolicy        239     275     320     236     260     269     269
init_module          175     128     128     105     128     128     128
io_uring_enter       426     426     426     426     426     426     426
io_uring_register     427     427     427     427     427     427     427
io_uring_setup       425     425     425     425     425     425     425
ioctl                 16      54      54      29      54      54      54
ioperm               173     101       -       -     101       -     101
iopl                 172     110       -       -     110       -       -
kcmp                 312     349     378     272     354     343     343
kexec_file_load      320       -     401     294     382     381     381
kexec_load           246     283     347     104     268     277     277
keyctl               250     288     311     219     271     280     280
lchown                94      16      16       -      16     198      16
lchown32               -     198     198       -       -       -     198
lookup_dcookie       212     253     249      18     235     110     110
mbind                237     274     319     235     259     268     268
migrate_pages        256     294     400     238     258     287     287
mknod                133      14      14       -      14      14      14
mknodat              259     297     324      33     288     290     290
mount                165      21      21      40      21      21      21
mount_setattr        442     442     442     442     442     442     442
move_mount           429     429     429     429     429     429     429
move_pages           279     317     344     239     301     310     310
nfsservctl           180     169     169      42     168     169     169
open_by_handle_at     304     342     371     265     346     336     336
open_tree            428     428     428     428     428     428     428
open_tree_attr       467     467     467     467     467     467     467
perf_event_open      298     336     364     241     319     331     331
personality          135     136     136      92     136     136     136
pidfd_getfd          438     438     438     438     438     438     438
pivot_root           155     217     218      41     203     217     217
process_madvise      440     440     440     440     440     440     440
process_vm_readv     310     347     376     270     351     340     340
process_vm_writev     311     348     377     271     352     341     341
query_module         178     167       -       -     166     167     167
quotactl             179     131     131      60     131     131     131
quotactl_fd          443     443     443     443     443     443     443
reboot               169      88      88     142      88      88      88
request_key          249     287     310     218     270     279     279
set_mempolicy        238     276     321     237     261     270     270
set_mempolicy_home_node  450     450     450     450     450     450     450
setfsgid             123     139     139     152     139     216     139
setfsgid32             -     216     216       -       -       -     216
setfsuid             122     138     138     151     138     215     138
setfsuid32             -     215     215       -       -       -     215
setgid               106      46      46     144      46     214      46
setgid32               -     214     214       -       -       -     214
setgroups            116      81      81     159      81     206      81
setgroups32            -     206     206       -       -       -     206
setns                308     346     375     268     350     339     339
setregid             114      71      71     143      71     204      71
setregid32             -     204     204       -       -       -     204
setresgid            119     170     170     149     169     210     170
setresgid32            -     210     210       -       -       -     210
setresuid            117     164     164     147     164     208     164
setresuid32            -     208     208       -       -       -     208
setreuid             113      70      70     145      70     203      70
setreuid32             -     203     203       -       -       -     203
settimeofday         164      79      79     170      79      79      79
setuid               105      23      23     146      23     213      23
setuid32               -     213     213       -       -       -     213
socket                41     359     281     198     326     359     359
stime                  -      25       -       -      25       -      25
swapoff              168     115     115     225     115     115     115
swapon               167      87      87     224      87      87      87
sysfs                139     135     135       -     135     135     135
syslog               103     103     103     116     103     103     103
umount                 -      22       -       -      22      22      22
umount2              166      52      52      39      52      52      52
unshare              272     310     337      97     282     303     303
uselib               134      86      86       -      86      86      86
userfaultfd          323     374     388     282     364     355     355
ustat                136      62      62       -      62      62      62
vhangup              153     111     111      58     111     111     111
vm86                   -     166       -       -     113       -       -
vm86old                -     113       -       -       -       -       -
"""
"""The kernel's syscall tables: `generic` is include/uapi/asm-generic/unistd.h, others are their arch's syscall.tbl.

`clone_s390` is clone(2) of that architecture, whose first two arguments are swapped. The socket(2) of i386, ppc64 and
s390 is also a part of socketcall(2), whose arguments no filter can see.
"""

_NEWEST = 469
"""The last number of Linux 6.18, file_setattr(2). Calls have had the same number everywhere since 403."""

_X32 = 0x40000000
"""Set in the numbers of x32 calls, which have the AUDIT_ARCH of x86_64."""
_X32_OWN = {"ioctl": 514, "kexec_load": 528, "move_pages": 533, "process_vm_readv": 539, "process_vm_writev": 540}
"""Calls with another number in x32. Some kernels accept x86_64's numbers of them, too."""
_X32_NEWEST = _X32 | 547
"""pwritev2(2), the highest number: x32's own numbers are above those of the other calls."""


@cache
def abis() -> tuple[Abi, ...]:
    """Return all ABIs of the table."""
    (_, *names), *rows = (line.split() for line in (f"call {_NUMBERS.strip()}").splitlines())
    columns = {name: {row[0]: int(row[i]) for row in rows if row[i] != "-"} for i, name in enumerate(names, start=1)}
    x32 = Abi(0xC000003E, {call: number | _X32 for call, number in columns["x86_64"].items()}, newest=_X32_NEWEST)
    x32_own = Abi(0xC000003E, {call: number | _X32 for call, number in _X32_OWN.items()})
    return (*(Abi(arch, columns[name], newest=_NEWEST) for arch, name in _ARCHES.items()), x32, x32_own)
