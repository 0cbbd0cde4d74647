# Runtimes: which of proot, chroot and user namespaces works here, and qemu for images of another architecture.
# Sets `runtime` (proot, chroot, userns, or bare for --no-namespace), `machine`, `emulated_cpu`, `qemu`, `proot`,
# `unshare`, `sh`, `restore_sigint`, `pdeathsig`.

# Set `runtime`, or exit with one line that says what is missing on this machine.
choose_runtime() {
    case $tracer in
        proot*) fail "this is inside of proot already, and proot can't be nested: leave it first (exit)" ;;
    esac
    find_machine
    # On a noexec mount no program of DIR can be executed, and `test -x`, which calls access(2), fails for all files.
    [ -x "$script" ] || ! is_noexec || fail "$directory is on a file system that is mounted noexec, so that no program \
in it can run: move DIR to another one, or mount -o remount,exec"
    find_helper
    [ -z "$no_namespace" ] || runtime=bare
    case $runtime in
        auto) choose_best ;;
        proot) can_proot || explain_missing "proot is missing" proot ;;
        chroot)
            [ "$host_uid" = 0 ] || fail "chroot needs root: use sudo, or --runtime proot"
            can_chroot || {
                root_is_mounted ||
                    fail "chroot needs a / that is a mount point, and this is a chroot already: use --runtime proot"
                explain_missing "chroot needs unshare, mount and root's capabilities (else use --runtime proot, or \
--no-namespace)" util-linux
            }
            ;;
        bare)
            { has_chroot && find_program chroot; } || fail "--no-namespace needs chroot and root: use sudo"
            [ -z "$emulated_cpu" ] || has_binfmt || explain_missing '' ''
            ;;
        userns) can_userns || explain_missing "user namespaces don't work here; --runtime proot may" util-linux ;;
        *) fail "unknown runtime $runtime: it is auto, proot, chroot or userns" ;;
    esac
}

# Set `runtime` to the best one that works here, by trying them in order. docs/runtimes.md explains the order.
choose_best() {
    no_binfmt='' namespaces='' proot_state=''
    can_chroot && runtime=chroot && return
    [ -z "$emulated_cpu" ] || has_binfmt || no_binfmt="the kernel has no binfmt for $emulated_cpu"
    if [ "$host_uid" = 0 ]; then
        report_skipped chroot "${no_binfmt:-it needs the capabilities of root, unshare, mount, and a / that is a mount point}"
    elif [ -n "${ANDROID_ROOT-}" ]; then
        report_skipped userns "Android gives apps no user namespaces"
    elif ! can_userns; then
        report_skipped userns "${no_binfmt:-the kernel refuses user namespaces, or unshare or mount is missing}"
    else
        namespaces=yes
        { needs_mounts || { emulates_root && ! needs_more_ids; }; } && runtime=userns && return
    fi
    find_proot_state
    case $proot_state/$namespaces in
        good/*) runtime=proot ;;
        */yes) runtime=userns ;;
        */) can_userns && runtime=userns && return ;;
    esac
    case $proot_state/$runtime in
        shows/auto) runtime=proot ;;
        fails/auto) fail "proot can't start here, and user namespaces don't work: run provision doctor" ;;
        */auto) explain_missing "neither proot nor user namespaces work here" proot ;;
    esac
}

# Succeed if the guest's root in a user namespace can do what root does: it has many ids, or a filter emulates it.
emulates_root() {
    [ "$ids" = many ] || { [ -n "$helper" ] && [ -r "$directory/.provision/seccomp.bpf" ]; }
}

# Succeed if the image has gosu or su-exec, by which entrypoints switch to another user: a namespace with one id can't.
needs_more_ids() {
    [ "$ids" != many ] || return 1
    for place in /usr/local/bin /usr/local/sbin /usr/bin /usr/sbin /sbin; do
        # A directory that is a symlink is skipped: resolving it would start readlink(1).
        [ ! -L "$rootfs$place" ] || continue
        for name in gosu su-exec; do
            ! guest_has "$place/$name" || { report_skipped userns "the image's $name needs more ids: --ids many" && return; }
        done
    done
    return 1
}

# Set `proot_state`: missing, fails (it can't start programs), shows (programs see files of the host), or good.
find_proot_state() {
    if ! can_proot; then
        proot_state=missing
        report_skipped proot "it is missing, or qemu for the image is"
    elif ! starts_proot; then
        proot_state=fails
        report_skipped proot "it can't start"
    elif ! hides_host; then
        proot_state=shows
        report_skipped proot "programs inside could see files of this machine, and DIR has no filter for that"
    else
        proot_state=good
    fi
}

# With --verbose, print that the runtime $1 is not used, and the reason $2.
report_skipped() {
    [ -z "$verbose" ] || say "not $1: $2"
}

# Succeed if the rootfs is on a file system that is mounted noexec.
is_noexec() {
    mount_id='' no_exec=''
    while read -r field value; do
        [ "$field" != mnt_id: ] || mount_id=$value
    done 8<"$rootfs" </proc/self/fdinfo/8
    while read -r id _ _ _ _ options _; do
        [ "$id" = "$mount_id" ] || continue
        case ,$options, in *,noexec,*) no_exec=yes ;; esac
    done </proc/self/mountinfo
    [ -n "$no_exec" ]
}

# Exit with the message $1 and the command that installs the package $2. If the runtime fails because the image is for
# another architecture, exit with the message and the command for that instead.
explain_missing() {
    install='apt install' package=$2 qemu_package=qemu-user-static
    case ${PREFIX-} in
        */com.termux/*)
            install='pkg install'
            [ "$2" != util-linux ] || package='util-linux mount-utils'
            case $emulated_cpu in
                x86_64) qemu_package='qemu-user-x86-64' ;;
                aarch64 | arm | i386 | riscv64) qemu_package=qemu-user-$emulated_cpu ;;
                *) qemu_package='' ;;
            esac
            ;;
    esac
    if [ -n "$emulated_cpu" ] && [ -z "$qemu" ]; then
        [ -n "$qemu_package" ] ||
            fail "the image is for $image_platform, and Termux has no qemu-user for that: provision it for $machine"
        fail "the image is for $image_platform, this machine is $machine: $install proot $qemu_package"
    elif [ -n "$emulated_cpu" ] && [ "$runtime" != proot ] && ! has_binfmt; then
        [ "$install" = 'apt install' ] ||
            fail "the image is for $image_platform, the kernel has no binfmt for it: use --runtime proot"
        fail "the image is for $image_platform, the kernel has no binfmt for it: $install binfmt-support $qemu_package"
    fi
    fail "$1: $install $package"
}

# Set `machine` to this machine's name in uname(1); `emulated_cpu` to qemu's name of the image's architecture, if this
# machine can't run it, else empty; `qemu` to the path of the qemu for it, or empty; and `helper_machine` to the machine
# that the helper was assembled for, or empty.
find_machine() {
    qemu='' emulated_cpu='' machine='' helper_machine=''
    { read -r helper_machine <"$directory/.provision/machine"; } 2>/dev/null
    # Under qemu, /proc/sys/kernel/arch names the kernel's processor, and uname(1) the emulated one.
    { [ -n "$helper_machine" ] && read -r machine </proc/sys/kernel/arch && [ "$machine" = "$helper_machine" ]; } \
        2>/dev/null || machine=$(uname -m)
    processor=${image_platform#*/} processor=${processor%%/*}
    case $processor in
        amd64) processor=x86_64 ;;
        386) processor=i386 ;;
        arm64) processor=aarch64 ;;
        loong64) processor=loongarch64 ;;
        mips64le) processor=mips64el ;;
        mipsle) processor=mipsel ;;
    esac
    runs_natively "$processor" || {
        emulated_cpu=$processor
        find_program "qemu-$emulated_cpu-static" || find_program "qemu-$emulated_cpu" && qemu=$program
    }
    return 0
}

# Succeed if this machine runs programs for the processor $1 without emulation.
runs_natively() {
    case $1/$machine in
        "$machine/$machine" | i386/i?86 | arm/arm*) ;;
        # Some 64-bit processors have no 32-bit instructions, and some kernels refuse 32-bit programs.
        i386/x86_64 | arm/aarch64) try_program "$1" ;;
        *) return 1 ;;
    esac
}

# Succeed if this machine can execute a program for the 32-bit processor $1. The program only calls exit(0).
try_program() {
    case $1 in
        # mov $1, %eax; xor %ebx, %ebx; int $0x80
        i386) machine_code='\3\0 \0\0\0\0 \270\1\0\0\0\61\333\315\200\0\0\0' ;;
        # mov r7, #1; mov r0, #0; svc #0
        arm) machine_code='\50\0 \0\0\0\5 \1\160\240\343\0\0\240\343\0\0\0\357' ;;
    esac
    # shellcheck disable=SC2086 # split into the ELF header's e_machine, its e_flags, and the code
    set -- $machine_code
    tried=$directory/.provision/tried.$$
    { true >"$tried"; } 2>/dev/null || tried=$(mktemp "${TMPDIR:-/tmp}/start.XXXXXX") ||
        fail "can't make a temporary file: set TMPDIR"
    # One segment: the whole file, 96 bytes, loaded at 0x100000.
    # shellcheck disable=SC2059 # octal numbers
    printf "\177ELF\1\1\1\0\0\0\0\0\0\0\0\0\2\0$1\1\0\0\0\124\0\20\0\64\0\0\0\0\0\0\0$2\64\0\40\0\1\0\50\0\0\0\0\0\
\1\0\0\0\0\0\0\0\0\0\20\0\0\0\20\0\140\0\0\0\140\0\0\0\5\0\0\0\0\20\0\0$3" >"$tried"
    chmod 700 "$tried"
    { "$tried"; } 2>/dev/null
    set -- $?
    rm -f "$tried"
    return "$1"
}

# Without a helper, set the programs that can do a part of its work, after trying them:
# `restore_sigint`, an env(1) that resets SIGINT and SIGQUIT, which background jobs of shells ignore; and `pdeathsig`, a
# setpriv(1) that ends a program together with its parent. The setpriv of busybox and toybox is a symlink, and has no
# --pdeathsig.
find_tools() {
    find_program env || return 0
    set -- "$program"
    ignores_interrupts || ! "$1" --default-signal=INT,QUIT >/dev/null 2>&1 || restore_sigint=$1
    ! find_program setpriv || [ -L "$program" ] || ! "$program" --pdeathsig KILL "$1" >/dev/null 2>&1 ||
        pdeathsig=$program
}

# Succeed if --runtime asks for user namespaces, or `auto` tries them first.
wants_namespaces() {
    case $runtime/$host_uid/${ANDROID_ROOT-} in
        userns/* | auto/[1-9]*/) ;;
        *) return 1 ;;
    esac
}

# Succeed if binfmt_misc starts qemu for the image's programs, with the flag F, so that qemu's file need not be in the
# rootfs.
has_binfmt() {
    binfmt_state='' binfmt_flags=''
    [ -r "/proc/sys/fs/binfmt_misc/qemu-$emulated_cpu" ] || return
    while read -r field value; do
        case $field in
            enabled) binfmt_state=$field ;;
            flags:) binfmt_flags=$value ;;
        esac
    done <"/proc/sys/fs/binfmt_misc/qemu-$emulated_cpu"
    case $binfmt_state/$binfmt_flags in enabled/*F*) ;; *) return 1 ;; esac
}

# Succeed if an option needs mounts, which proot doesn't have.
needs_mounts() {
    case "$no_writes$ephemeral $default_binds $typed_binds " in
        yes* | *:ro\ * | *:ro\'*) ;;
        *) return 1 ;;
    esac
}

# Set `proot` to its path. Succeed if it is installed and can run programs of the image's architecture.
can_proot() {
    proot='' starts=''
    find_program proot || return
    proot=$program
    [ -z "$emulated_cpu" ] || [ -n "$qemu" ]
}

# Succeed if root can chroot in private namespaces.
can_chroot() {
    has_chroot && can_unshare && root_is_mounted
}

# Succeed if / is a mount point. Inside of a chroot it isn't, and its mounts can't be made private.
root_is_mounted() {
    while read -r _ _ _ _ place _; do
        [ "$place" != / ] || return 0
    done </proc/self/mountinfo
    return 1
}

# Succeed if this is root with CAP_SYS_CHROOT (bit 18) and CAP_SYS_ADMIN (bit 21).
has_chroot() {
    [ "$host_uid" = 0 ] || return
    # Only the lower digits are read, for shells whose arithmetic has 32 bits.
    low=0x${capabilities#??????????}
    [ $((low >> 18 & low >> 21 & 1)) -eq 1 ]
}

# Succeed if user namespaces work. Some kernels create them and then allow nothing in them.
can_userns() {
    can_unshare && { [ -n "$has_namespaces" ] || "$unshare" -U -r -m true 2>/dev/null; }
}

# Set `unshare` and `sh`, and succeed if the programs for namespaces are installed.
can_unshare() {
    [ -n "$helper" ] || find_program mount || return
    find_program chroot && find_program sh && sh=$program && find_program unshare || return
    unshare=$program
    [ -z "$emulated_cpu" ] || has_binfmt
}
