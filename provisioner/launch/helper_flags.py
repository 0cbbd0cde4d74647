"""The flags of the static helper, and functions that its steps share. See `static_helper`."""

from __future__ import annotations

from provisioner.launch.assembler import Assembler

CLOSE = 1
"""Close all descriptors above 2, or with KEEP above 5."""
KEYRING = 2
"""Join a new session keyring (keyrings(7)). A kernel without keyrings is not an error."""
NO_NEW_PRIVS = 4
"""Set no_new_privs (prctl(2)), which a process without CAP_SYS_ADMIN needs for a filter."""
WAIT = 8
"""Execute PROGRAM in a child, wait for it with all signals blocked, and end with its status."""
KEEP = 16
"""Don't close the descriptors 3 to 5: they are for a second helper, with REPORT."""
REPORT = 32
"""With WAIT, in proot: write the status to descriptor 3, as three digits and a newline, then send SIGQUIT to the
parent, proot, which ends with all processes that PROGRAM has left. PROGRAM doesn't get the descriptors 3 to 5. When
proot is killed, the kernel kills the helper and PROGRAM."""
GROUP = 64
"""Start a process group (setpgid(2)), so that PROGRAM can't signal the caller's group by `kill 0`."""
DEFAULT_SIGNALS = 128
"""Reset SIGINT and SIGQUIT to their default actions: shells ignore them in background jobs."""
DIE = 256
"""Let the kernel send SIGKILL to PROGRAM when its parent ends (PR_SET_PDEATHSIG)."""
QUIT = 512
"""The same with SIGQUIT, on which proot ends all processes that it traces."""
NAMESPACES = 1024
"""Make user, mount and PID namespaces, to find out whether the kernel allows them, and mounts in them."""
HOSTNAME = 2048
"""The next word is the hostname to set in this UTS namespace (sethostname(2))."""
CAPABILITIES = 4096
"""The next word has a digit for each capability, from number 0 on. Those with a 0, and all after the last digit, are
dropped from the bounding set (capabilities(7))."""
MOUNTS = 8192
"""The next words are five for each mount: source, target, type, flags in decimal, data (mount(2)). A `-` ends them. A
missing target is created as a directory."""
ROOT = 16384
"""Move the mount at the working directory to `/` of the mount namespace, even if this process runs in a chroot. Root
inside could leave a chroot for the directories above it; above `/` of the namespace there are none."""


def unless(p: Assembler, flag: int, label: str) -> None:
    """Jump to `label` unless FLAGS has this flag."""
    p.copy("flag", "flags")
    p.mask("flag", flag)
    p.jump_if("flag", "==", 0, label)


def read_number(p: Assembler, variable: str) -> None:
    """Set a variable to the decimal number in the text at the address `at`."""
    p.copy(variable, 0)
    p.label(f"digit of {variable}")
    p.read("digit", "at", size=1)
    p.jump_if("digit", "==", 0, f"{variable} is read")
    p.copy("once", variable)
    p.add(variable, variable)
    p.add(variable, variable)
    p.add(variable, "once")
    p.add(variable, variable)
    p.add(variable, "digit")
    p.add(variable, -ord("0"))
    p.add("at", 1)
    p.jump(f"digit of {variable}")
    p.label(f"{variable} is read")
