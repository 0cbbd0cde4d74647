# The launch body. `provisioner/launcher.py` puts a shebang and quoted assignments (image_*, default_*) in front of it.
# POSIX sh, and builtins wherever they do: each program that it runs costs a millisecond. See docs/start-sh.md.
# The rootfs is hostile: no path of it is used on the host's side but through `resolve`.
# shellcheck disable=SC2154 # those assignments

# The whole story. Each step leaves what it found in variables for the next ones.
main() {
    settle
    locate "$0"
    parse "$@"
    shift "$parsed"
    case ${printing:-$session} in
        list) list_sessions && exit ;;
        stop) stop_sessions && exit ;;
        detach) detach "$@" && exit ;;
    esac
    read_status
    [ -n "$inside" ] || choose_runtime
    [ -n "$printing" ] || remember_session "$@"
    case $inside$runtime in
        proot) run_proot "$@" ;;
        bare) run_bare "$@" ;;
        chroot | userns) make_namespaces "$@" ;; # which runs this script again, --inside
        # The next child is process 1 and all ends with it: no program may be run before.
        *) supervise enter_rootfs "$@" ;;
    esac
}

# What the shell and the programs of the host start from.
settle() {
    set -fu
    IFS=' 	
'
    newline='
'
    umask 022
    # With one of them closed, any file that is opened would become it.
    { true 9<&0; } 2>/dev/null || exec </dev/null
    { true 9>&1; } 2>/dev/null || exec >/dev/null
    { true 9>&2; } 2>/dev/null || exec 2>/dev/null
    preloaded=${LD_PRELOAD+yes}
    # Termux preloads a library that breaks proot and guests; an empty value would break them as well.
    unset LD_PRELOAD
    LC_ALL=C
    PATH=${PATH:-/usr/bin:/bin}:/usr/sbin:/sbin
    temporary='' child='' aliases=0 guest_program='' state='' inside=''
}

# Say what is wrong and what to do, and end with docker's status for a launcher's own failures.
fail() {
    tell "$1"
    finish 125
}

# One line for people; control characters that came from an image don't reach the terminal.
tell() {
    make_printable "$1"
    printf 'start.sh: %s\n' "$printable" >&2
}

# Set `printable`: a text without control characters.
make_printable() {
    printable=$1
    while :; do
        case $printable in
            *[[:cntrl:]]*) printable="${printable%%[[:cntrl:]]*}?${printable#*[[:cntrl:]]}" ;;
            *) break ;;
        esac
    done
}

# End with a status, and leave no temporary file.
finish() {
    # Emptied, since no program can be started after process 1 has ended; others remove it.
    [ ! -e "$state" ] || write_text '' "$state"
    [ -z "$temporary" ] || rm -rf "$temporary"
    exit "$1"
}

# Set `quoted`: the word as a shell reads it.
quote() {
    case $1 in
        '' | *[!A-Za-z0-9_/.:,@%+=-]*) ;;
        *) quoted=$1 && return ;;
    esac
    quoted='' unquoted=$1
    while :; do
        case $unquoted in
            *\'*) quoted="$quoted${unquoted%%\'*}'\\''" unquoted=${unquoted#*\'} ;;
            *) break ;;
        esac
    done
    quoted="'$quoted$unquoted'"
}

# Set `list`: a list of words with more words added, quoted for `eval "set -- $list"`.
append() {
    list=$1
    shift
    for word; do
        quote "$word"
        list="$list $quoted"
    done
}

# Set `program`: where PATH has it, or empty. Relative places on PATH don't count.
find_program() {
    program='' IFS=:
    for place in $PATH; do
        case $place in
            /*) [ -f "$place/$1" ] && [ -x "$place/$1" ] && program=$place/$1 && break ;;
        esac
    done
    IFS=" 	$newline"
    [ -n "$program" ]
}

# Set `target`: what a symlink holds.
read_link() {
    target=$(readlink "$1") || fail "can't read the link $1"
}

# Set `resolved`: a guest's path with all links followed as the guest would, so that it never leads out of the rootfs.
resolve() {
    resolved='' remaining=$1/ links=0
    while [ -n "$remaining" ]; do
        part=${remaining%%/*} remaining=${remaining#*/}
        case $part in
            '' | .) continue ;;
            ..) resolved=${resolved%/*} && continue ;;
        esac
        if [ -L "$rootfs$resolved/$part" ]; then
            links=$((links + 1))
            [ "$links" -le 40 ] || fail "too many links at $1 in the image"
            read_link "$rootfs$resolved/$part"
            case $target in /*) resolved='' ;; esac
            remaining=$target/$remaining
        else
            resolved=$resolved/$part
        fi
    done
}

# Whether the guest could execute a path.
guest_has() {
    resolve "$1"
    [ -f "$rootfs$resolved" ] && [ -x "$rootfs$resolved" ]
}

# Make a private directory that lasts for this run.
make_temporary() {
    [ -n "$temporary" ] && return
    temporary=$(mktemp -d "${TMPDIR:-/tmp}/start.XXXXXX") || fail "can't make a temporary directory: set TMPDIR"
}

# 1. Locate. Set `directory` from $0: any working directory, symlinks to this script, odd names.
locate() {
    script=$1
    while :; do
        case $script in
            /*) ;;
            *) script=$PWD/$script ;;
        esac
        [ -L "$script" ] || break
        read_link "$script"
        case $target in
            /*) script=$target ;;
            *) script=${script%/*}/$target ;;
        esac
    done
    directory=${script%/*} rootfs=${script%/*}/rootfs
    if [ ! -f "$script" ] || [ ! -d "$rootfs" ]; then
        fail "there is no rootfs beside $script: keep this script in the directory that provision made"
    fi
}

# 2. Parse. Set the options, and `parsed`: how many words they took.
parse() {
    parsed=0 options='' inside='' restore_sigint='' pdeathsig=''
    login='' printing='' termux='' privileged='' no_namespace='' devices='' session='' dns='''' binds='' typed_env='' user=$image_user workdir=$image_workdir
    entrypoint=$image_entrypoint command=$image_command runtime=${PROVISION_RUNTIME:-$default_runtime}
    case $workdir in
        /*) ;;
        *) workdir=/$workdir ;;
    esac
    while [ $# -gt 0 ]; do
        case $1 in
            --) parsed=$((parsed + 1)) && return ;;
            --help) show_help && exit ;;
            --shell | --root | --print | --termux | --privileged | --no-namespace | --list | --stop | --detach) option=$1 value='' width=1 ;;
            --shell=* | --root=* | --print=* | --termux=* | --privileged=* | --no-namespace=* | --list=* | --stop=* | \
                --detach=* | --help=*) fail "${1%%=*} takes no value: start.sh --help" ;;
            --?*=*) option=${1%%=*} value=${1#*=} width=1 ;;
            -?*) option=$1 value=${2-} width=2 ;;
            *) return ;;
        esac
        parse_option $#
        case $option in
            --print | --detach) ;;
            *)
                append "$options" "$1"
                [ "$width" = 1 ] || append "$list" "$2"
                options=$list
                ;;
        esac
        parsed=$((parsed + width))
        shift "$width"
    done
}

# Take one `option` with its `value`; the words that are left are counted in $1.
parse_option() {
    case $option in
        --shell) login=yes ;;
        --root) user=0:0 ;;
        --print) printing=yes ;;
        --list | --stop | --detach) session=${option#--} ;;
        --privileged) privileged=yes ;;
        --no-namespace) no_namespace=yes ;;
        --termux)
            is_termux || fail "--termux is for Termux, whose PREFIX ends in /files/usr"
            termux=yes
            ;;
        --entrypoint | --user | --workdir | --env | --bind | --dns | --dev | --runtime | --inside | --restore-sigint | \
            --pdeathsig)
            [ "$width" -le "$1" ] || fail "$option needs a value: start.sh --help"
            parse_value
            ;;
        *) fail "unknown option $option: start.sh --help lists them all" ;;
    esac
}

# Take the value of an option that has one.
parse_value() {
    case $option in
        --entrypoint) append '' "$value" && entrypoint=${value:+$list} command='' ;;
        --user) user=$value ;;
        --workdir)
            case $value in
                /*) workdir=$value ;;
                *) fail "--workdir needs a path from the root, not $value" ;;
            esac
            ;;
        --runtime) runtime=$value ;;
        --dev)
            [ "$value" = host ] || fail "--dev can be host, and nothing else"
            devices=host
            ;;
        --inside) runtime=$value inside=yes ;;
        --restore-sigint) restore_sigint=$value ;;
        --pdeathsig) pdeathsig=$value ;;
        --bind)
            case $value in
                '' | :*) fail "--bind needs SRC or SRC:DST, not $value" ;;
                *:/*:ro | *:/*:rw) fail "--bind has no :${value##*:}, what it shows can be written to: leave it out" ;;
            esac
            split_bind "$value"
            [ -e "$source" ] || fail "--bind: there is no $source"
            append "$binds" "$value" && binds=$list
            ;;
        --env)
            case $value in
                [!=]*=*) append "$typed_env" "$value" && typed_env=$list ;;
                *) fail "--env needs NAME=VALUE, not $value" ;;
            esac
            ;;
        --dns)
            case $value in
                '' | *[!0-9A-Za-z.:%]*) fail "--dns needs an IP address, not $value" ;;
                *) dns="$dns $value" ;;
            esac
            ;;
    esac
}

# What a narrow terminal can show.
show_help() {
    cat <<END
Usage: start.sh [OPTION]... [COMMAND...]
Runs a command in this container, else
what the image starts by itself.

--shell         login shell, past the
                entrypoint
--entrypoint E  run E, not the image's
--user U[:G]    names or numbers
--root          as root: --user 0:0
--workdir D     start in D
--env K=V       set a variable
--bind SRC[:DST]  show a path inside
--dns IP        ask this name server
--termux        show /sdcard and the
                home of Termux inside
--runtime R     auto, proot, chroot or
                userns
--dev=host      in chroot, all devices
--privileged    and all capabilities
--no-namespace  chroot alone: nothing
                private, nothing mounted
--print         show the command line
                and stop
--detach        in the background, with
                a log
--list          what runs from here
--stop          end it
--help          this text
--              end of the options

--env, --bind and --dns can be repeated.
Exit status: the command's; 125 when it
can't be started, 126 when it can't be
run, 127 when it doesn't exist.
END
}

# Set `source` and `destination` from SRC[:DST]. The last ":/" divides them, so that SRC may hold colons.
split_bind() {
    case $1 in
        *:/*) source=${1%:/*} destination=/${1##*:/} ;;
        *) source=$1 destination=$1 ;;
    esac
    case $source in /*) ;; *) source=$PWD/$source ;; esac
    case $destination in /*) ;; *) destination=$source ;; esac
}

# 3. Runtime. Settle `runtime` on proot, chroot or userns, or say in one line what is missing here.
choose_runtime() {
    case $tracer_name in
        proot*) fail "this is inside of proot already, and proot can't be nested: leave it first (exit)" ;;
    esac
    find_machine
    [ -z "$no_namespace" ] || runtime=bare
    case $runtime in
        auto)
            if can_chroot; then
                runtime=chroot
            elif can_proot; then
                runtime=proot
            elif can_userns; then
                runtime=userns
            else
                refuse "neither proot nor user namespaces work here" proot
            fi
            ;;
        proot) can_proot || refuse "proot is missing" proot ;;
        chroot)
            [ "$host_uid" = 0 ] || fail "chroot needs root: use sudo, or --runtime proot"
            can_chroot || {
                root_is_mounted || fail "chroot needs a / that is a mount, and this is a chroot already: use --runtime proot"
                refuse "chroot needs unshare, mount and root's capabilities: or --runtime proot, or --no-namespace, for those \
who know" util-linux
            }
            ;;
        bare)
            { has_chroot && find_program chroot; } || fail "--no-namespace needs chroot and root: use sudo"
            [ -z "$emulated" ] || has_binfmt || refuse '' ''
            ;;
        userns) can_userns || refuse "user namespaces don't work here; --runtime proot may" util-linux ;;
        *) fail "unknown runtime $runtime: it is auto, proot, chroot or userns" ;;
    esac
}

# End with a reason, or the better one that the image is for another machine, and what to install.
refuse() {
    case ${PREFIX-} in
        */com.termux/*) install='pkg install' qemu_package="qemu-user-$emulated" ;;
        *) install='apt install' qemu_package=qemu-user-static ;;
    esac
    if [ -n "$emulated" ] && [ -z "$qemu" ]; then
        fail "the image is for $image_platform, this machine is $machine: $install proot $qemu_package"
    elif [ -n "$emulated" ] && [ "$runtime" != proot ] && ! has_binfmt; then
        fail "the image is for $image_platform, the kernel has no binfmt for it: $install binfmt-support $qemu_package"
    fi
    fail "$1: $install $2"
}

# Set `host_uid`, `capabilities` and `ignored` (signals), in hex, as the kernel knows them: fakeroot can't pretend here.
# Set `ids_here`, this process's number in each PID namespace from the outermost to its own, and `tracer_name`.
read_status() {
    host_uid='' capabilities=0 ignored=0 ids_here='' tracer_name=''
    while read -r field value rest; do
        case $field in
            TracerPid:)
                # Not each guest sees its tracer.
                [ "$value" = 0 ] || { read -r tracer_name <"/proc/$value/comm"; } 2>/dev/null
                ;;
            Uid:) host_uid=${rest%%[!0-9]*} ;;
            NSpid:) ids_here="$value $rest" ;;
            SigIgn:) ignored=$value ;;
            CapEff:) capabilities=$value && break ;;
        esac
    done </proc/self/status
}

# Whether whoever started this script wants SIGINT to be ignored: a script's background job, for instance.
ignores_interrupts() {
    case $ignored in
        *[2367abef]) ;;
        *) return 1 ;;
    esac
}

# Set `machine`; `emulated`, qemu's name of the image's processor where this machine's can't run it, and `qemu`.
find_machine() {
    qemu='' emulated=''
    # busybox's and toybox's setpriv are links, and know nothing of this.
    ! find_program setpriv || [ -L "$program" ] || pdeathsig=$program
    { find_program env && ask_machine "$program" --default-signal=INT,QUIT; } || { pdeathsig='' && machine=$(uname -m); }
    processor=${image_platform#*/} processor=${processor%%/*}
    case $processor in
        amd64) processor=x86_64 ;;
        386) processor=i386 ;;
        arm64) processor=aarch64 ;;
        loong64) processor=loongarch64 ;;
        mips64le) processor=mips64el ;;
        mipsle) processor=mipsel ;;
    esac
    case $processor/$machine in
        "$machine/$machine" | i386/i?86 | i386/x86_64 | arm/arm* | arm/aarch64) ;;
        *)
            emulated=$processor
            find_program "qemu-$emulated-static" || find_program "qemu-$emulated" && qemu=$program
            ;;
    esac
}

# Set `machine` by way of what is tried out with it: `restore_sigint`, an env(1) that lets a program have SIGINT and SIGQUIT
# again, which shells take from background jobs; and `pdeathsig`, a setpriv(1) that lets it die with its parent.
ask_machine() {
    if [ -z "$pdeathsig" ] || ! machine=$("$pdeathsig" --pdeathsig KILL "$@" uname -m 2>/dev/null); then
        pdeathsig=''
        machine=$("$@" uname -m 2>/dev/null) || return
    fi
    ignores_interrupts || restore_sigint=$1
}

# Whether the kernel itself starts qemu for the image's programs, also where the guest doesn't see qemu's file.
has_binfmt() {
    binfmt_state='' binfmt_flags=''
    [ -r "/proc/sys/fs/binfmt_misc/qemu-$emulated" ] || return
    while read -r field value; do
        case $field in
            enabled) binfmt_state=$field ;;
            flags:) binfmt_flags=$value ;;
        esac
    done <"/proc/sys/fs/binfmt_misc/qemu-$emulated"
    case $binfmt_state/$binfmt_flags in enabled/*F*) ;; *) return 1 ;; esac
}

can_proot() {
    find_program proot || return
    proot=$program
    [ -z "$emulated" ] || [ -n "$qemu" ]
}

can_chroot() {
    has_chroot && can_unshare && root_is_mounted
}

# Whether / is where something is mounted. It isn't for who is in a chroot already, and its mounts can't be made private.
root_is_mounted() {
    while read -r _ _ _ _ place _; do
        [ "$place" != / ] || return 0
    done </proc/self/mountinfo
    return 1
}

# Whether this is a root with the power for it.
has_chroot() {
    [ "$host_uid" = 0 ] || return
    # CAP_SYS_CHROOT is bit 18, CAP_SYS_ADMIN bit 21; the lower digits alone, for shells that count in 32 bits.
    low=0x${capabilities#??????????}
    [ $((low >> 18 & low >> 21 & 1)) -eq 1 ]
}

can_userns() {
    # Some kernels make user namespaces and then allow nothing in them.
    can_unshare && "$unshare" -U -r -m true 2>/dev/null
}

# Set `filter`: the words that put a program of a namespace with a single user under the filter that emulates root.
# bwrap stays as a parent, which is no place for an init: process 1.
find_filter() {
    filter='' filter_file=$directory/.provision/seccomp.bpf
    [ -r "$filter_file" ] || return
    if find_program setpriv; then
        case $("$program" --help 2>&1) in
            *--seccomp-filter*) append '' "$program" --seccomp-filter "$filter_file" && filter=$list && return ;;
        esac
    fi
    if [ -z "$can_mount_proc" ] || is_init || ! find_program bwrap; then
        return 1
    fi
    bwrap=$program
    # It looks for itself in /proc by its number in here, and this script by others. It gets the terminal's signals as
    # the guest does, and must outlive them.
    find_program unshare
    # shellcheck disable=SC2016 # the other shell expands it
    append '' "$program" -m sh -c "${restore_sigint:+trap '' INT QUIT; }"'mount -t proc proc /proc && exec "$@" 8<"$0"' \
        "$filter_file" "$bwrap" --dev-bind / / --cap-add ALL --seccomp 8 -- && filter=$list
}

# Whether the guest's program wants to be process 1.
is_init() {
    case ${guest_program##*/} in
        init | systemd | tini | docker-init | dumb-init | catatonit | s6-svscan) ;;
        *) return 1 ;;
    esac
}

can_unshare() {
    find_program mount && find_program chroot && find_program sh && sh=$program && find_program unshare || return
    unshare=$program
    [ -z "$emulated" ] || has_binfmt
}

# 4. User. Set `uid`, `gid`, `groups` (the other ones, as " N N"), `name`, `home` and `shell` from the guest's passwd.
find_user() {
    wanted=${user%%:*} wanted_group=''
    case $user in *:*) wanted_group=${user#*:} ;; esac
    wanted=${wanted:-0}
    uid='' gid='' groups='' name='' home='' shell=''
    resolve /etc/passwd
    if [ -f "$rootfs$resolved" ] && [ -r "$rootfs$resolved" ]; then
        find_passwd <"$rootfs$resolved"
    fi
    if [ -z "$uid" ]; then
        is_number "$wanted" || fail "no user $wanted in the image's /etc/passwd: see --user"
        uid=$wanted gid=0
    fi
    resolve /etc/group
    if [ -f "$rootfs$resolved" ] && [ -r "$rootfs$resolved" ]; then
        find_groups <"$rootfs$resolved"
    fi
    if [ -n "$wanted_group" ]; then
        is_number "$wanted_group" || fail "no group $wanted_group in the image's /etc/group: see --user"
        gid=$wanted_group
    fi
    # Android's kernels give the network to the groups inet, net_raw and net_admin.
    case $runtime/$uid/${ANDROID_ROOT-} in
        */0/* | proot/* | userns/* | */) ;;
        *) groups="$groups 3003 3004 3005" ;;
    esac
}

# Whether a word is a user's or group's id, and below 4000000000: programs take those from 2^32 on for others, say root's.
is_number() {
    case $1 in
        '' | *[!0-9]* | ???????????* | [4-9]?????????) return 1 ;;
    esac
}

# Read passwd(5) up to the wanted user.
find_passwd() {
    while IFS=: read -r a_name _ a_uid a_gid _ a_home a_shell || [ -n "$a_name" ]; do
        { is_number "$a_uid" && is_number "$a_gid"; } || continue
        if [ "$a_name" = "$wanted" ] || [ "$a_uid" = "$wanted" ]; then
            name=$a_name uid=$a_uid gid=$a_gid home=$a_home shell=$a_shell
            return
        fi
    done
}

# Read group(5): the wanted group's id where one was asked for, else all groups that list the user, as docker does.
find_groups() {
    while IFS=: read -r a_name _ a_gid a_members || [ -n "$a_name" ]; do
        is_number "$a_gid" || continue
        if [ -n "$wanted_group" ]; then
            [ "$a_name" = "$wanted_group" ] && wanted_group=$a_gid && return
        elif [ -n "$name" ]; then
            case ,$a_members, in *,"$name",*) groups="$groups $a_gid" ;; esac
        fi
    done
}

# 5. Command. Set `before` and `after`, the words around the typed ones $@ as `docker run` joins them, and
# `guest_program`, the first of all.
find_command() {
    before=$entrypoint after=''
    if [ -n "$login" ]; then
        case $shell in
            */nologin | */false) shell=/bin/sh ;;
            /*[!/]) guest_has "$shell" || shell=/bin/sh ;;
            *) shell=/bin/sh ;;
        esac
        append '' "$shell" -l && before=$list
    elif [ $# -eq 0 ]; then
        after=$command
        [ -n "$before$after" ] || after=/bin/sh
    fi
    eval "set -- $before \"\$@\" $after"
    guest_program=$1
}

# 6. Environment. Set `wrapper`, the words before the guest's program that give it its environment and nothing else, or
# `outside`, words before the program of the host that starts the guest.
build_environment() {
    append '' PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        "HOME=${home:-/}" "SHELL=${shell:-/bin/sh}" ${name:+"USER=$name"} \
        ${TERM+"TERM=$TERM"} ${COLORTERM+"COLORTERM=$COLORTERM"} ${LANG+"LANG=$LANG"}
    environment="$list $image_env $default_env $typed_env" wrapper='' outside=''
    case $guest_program in
        *=*) ;; # env(1) would take the name for a variable
        *)
            for place in /usr/bin/env /bin/env; do
                guest_has "$place" || continue
                wrapper="$place -i -- $environment"
                return
            done
            ;;
    esac
    filter_environment
}

# Set `outside` where the image has no env: what would act on programs of the host or on their loader is left out.
filter_environment() {
    eval "set -- $environment"
    find_program env || fail "no env on this machine: install coreutils"
    append '' "$program" -i
    for variable; do
        case $variable in
            LD_* | PROOT_* | QEMU_* | MALLOC_* | GLIBC_TUNABLES=* | GCONV_PATH=* | GETCONF_DIR=* | HOSTALIASES=* | \
                LOCALDOMAIN=* | LOCPATH=* | NIS_PATH=* | NLSPATH=* | RES*_* | TMPDIR=* | TZDIR=*) continue ;;
            PATH=*) guest_path=${variable#*=} ;;
        esac
        append "$list" "$variable"
    done
    outside=$list
}

# Steps 4 to 6, for the typed words $@.
prepare() {
    find_user
    find_command "$@"
    build_environment
}

# 7. Run in proot. Its option -b splits at the first colon, so sources that have one get another name.
run_proot() {
    prepare "$@"
    [ -d /tmp ] || export PROOT_TMP_DIR="${PROOT_TMP_DIR:-${TMPDIR:-$directory/.provision}}"
    # Where Termux's packages are, in case that its proot was built for another place.
    for place in PROOT_LOADER:loader PROOT_LOADER_32:loader32; do
        loader=${PREFIX-}/libexec/proot/${place#*:}
        ! is_termux || [ ! -x "$loader" ] || eval "export ${place%:*}=\"\${${place%:*}:-\$loader}\""
    done
    if [ -n "$outside" ]; then
        check_program
        # These are for proot, from whoever starts it.
        append "$outside" ${PROOT_TMP_DIR+"PROOT_TMP_DIR=$PROOT_TMP_DIR"} \
            ${PROOT_LOADER+"PROOT_LOADER=$PROOT_LOADER"} ${PROOT_LOADER_32+"PROOT_LOADER_32=$PROOT_LOADER_32"} \
            ${PROOT_NO_SECCOMP+"PROOT_NO_SECCOMP=$PROOT_NO_SECCOMP"} && outside=$list
    fi
    append '' "$proot" -v -1 -r "$rootfs" -i "$uid:$gid"
    [ -z "$emulated" ] || append "$list" -q "$qemu"
    add_proot_features
    for place in /dev /proc /sys; do
        [ ! -e "$place" ] || append "$list" -b "$place:$place"
    done
    for place in fd:fd fd/0:stdin fd/1:stdout fd/2:stderr; do
        [ -e "/dev/${place#*:}" ] || append "$list" -b "/proc/self/${place%:*}:/dev/${place#*:}"
    done
    words=$list
    source=$directory/.provision/shm destination=/dev/shm
    if [ ! -w "$source" ]; then
        make_temporary
        source=$temporary/shm
        mkdir -m 1777 "$source"
    fi
    bind_in_proot
    fake_proc
    bind_all
    resolve "$workdir"
    if [ -d "$rootfs$resolved" ]; then
        append "$words" -w "$workdir"
    elif guest_has /bin/sh; then
        append "$words" -w / /bin/sh -c "$make_workdir" "$workdir"
    else
        find_target "$workdir"
        append "$words" -w "$workdir"
    fi
    eval "set -- $outside $list $wrapper $before \"\$@\" $after"
    [ -z "$printing" ] || print_words "$@"
    # SIGQUIT is the one by which proot ends all that it traces.
    supervise ${pdeathsig:+"$pdeathsig" --pdeathsig QUIT} ${restore_sigint:+"$restore_sigint" --default-signal=INT,QUIT} "$@"
}

# Whether this runs in Termux, or as root that Termux's user has become.
is_termux() {
    case ${PREFIX-} in /*/files/usr) ;; *) return 1 ;; esac
}

# Stand in for those files of /proc that apps can't read on Android. The time since the system's start is known from
# this process's own.
fake_proc() {
    uptime=''
    for file in stat loadavg uptime version vmstat; do
        [ ! -r "/proc/$file" ] || continue
        make_temporary
        [ -n "$uptime" ] || find_uptime
        source=$temporary/$file destination=/proc/$file
        case $file in
            stat) describe_processors ;;
            loadavg) printf '0.00 0.00 0.00 1/1 %s\n' "$$" ;;
            uptime) printf '%s %s\n' "$uptime" "$uptime" ;;
            version) printf '%s version %s\n' "$(uname -s)" "$(uname -r) (provision) $(uname -v)" ;;
            vmstat) describe_memory ;;
        esac >"$source"
        bind_in_proot
    done
}

# Set `ticks` since the system's start, and `uptime`, the same in seconds; Linux shows users 100 ticks a second.
find_uptime() {
    read -r line <"/proc/$$/stat"
    # shellcheck disable=SC2086 # split into fields
    set -- ${line##*) }
    shift 19
    ticks=$1 hundredths=0$((ticks % 100))
    uptime=$((ticks / 100)).${hundredths#"${hundredths%??}"}
}

# All processors idle since the start.
describe_processors() {
    last=0
    { read -r last </sys/devices/system/cpu/possible; } 2>/dev/null
    last=${last##*-} number=0
    is_number "$last" || last=0
    printf 'cpu  0 0 0 %s 0 0 0 0 0 0\n' "$((ticks * (last + 1)))"
    while [ "$number" -le "$last" ]; do
        printf 'cpu%s 0 0 0 %s 0 0 0 0 0 0\n' "$number" "$ticks"
        number=$((number + 1))
    done
    printf 'intr 0\nctxt 0\nbtime %s\n' "$(($(date +%s) - ticks / 100))"
    printf 'processes %s\nprocs_running 1\nprocs_blocked 0\n' "$$"
}

# What meminfo says, in pages of 4 KiB.
describe_memory() {
    while read -r field value _; do
        case $field in
            MemFree:) field=nr_free_pages ;;
            AnonPages:) field=nr_anon_pages ;;
            Mapped:) field=nr_mapped ;;
            Cached:) field=nr_file_pages ;;
            Dirty:) field=nr_dirty ;;
            Writeback:) field=nr_writeback ;;
            *) continue ;;
        esac
        printf '%s %s\n' "$field" "$((value / 4))"
    done </proc/meminfo
    printf '%s 0\n' pgpgin pgpgout pswpin pswpout pgfault pgmajfault
}

# Android's own directories, for its programs, and with --termux the user's: add them to what is bound.
bind_android() {
    [ -z "${ANDROID_ROOT-}" ] || [ "$runtime" != proot ] ||
        for source in /system /system_ext /vendor /product /odm /apex /linkerconfig/ld.config.txt; do
            destination=$source
            [ ! -r "$source" ] || bind_one
        done
    [ -n "$termux" ] || return 0
    for source in /sdcard "${PREFIX%/usr}/home"; do
        destination=$source
        if [ -e "$source" ]; then
            bind_one
        else
            tell "not bound, since it isn't there or may not be seen (termux-setup-storage asks): $source"
        fi
    done
}

# After a quick end in proot: where that is what proot's use of seccomp looks like, say what helps.
explain_failure() {
    [ -z "${PROOT_NO_SECCOMP-}" ] || return 0
    case $status/${ANDROID_ROOT-} in
        159/* | 255/?*)
            tell "a system call seems to be blocked here (SIGSYS): try PROOT_NO_SECCOMP=1, in the environment"
            ;;
        1/* | 126/* | 127/* | 255/*)
            # One of the host's programs: none of the image's runs but as it was asked to.
            find_program true || return 0
            case $("$proot" -w / "$program" 2>&1) in
                *"unction not implemented"*)
                    tell "proot says 'Function not implemented' here: try PROOT_NO_SECCOMP=1, in the environment"
                    ;;
            esac
            ;;
    esac
}

# What the guest's shell runs to get into a working directory that the rootfs lacks, or that lies in a bind.
# shellcheck disable=SC2016 # the guest's shell expands it
make_workdir='(PATH=$PATH:/usr/bin:/bin && mkdir -p -- "$0") && cd -- "$0" || exit 125; exec "$@"'

# Add to `list` those options that help and that this proot knows. Upstream's 5.1.0 has none of them.
add_proot_features() {
    features=$("$proot" --help 2>&1)
    case $features in *--kill-on-exit*) append "$list" --kill-on-exit ;; esac
    case $features in *--sysvipc*) append "$list" --sysvipc ;; esac
    case $features in *"$newline  -L$newline"*) append "$list" -L ;; esac
    case $features in *"$newline  -p$newline"*) [ "$host_uid" = 0 ] || move_ports ;; esac
    case $features in
        *--link2symlink*)
            # Android refuses hard links to apps.
            if ln "$script" "$directory/.provision/link.$$" 2>/dev/null; then
                rm -f "$directory/.provision/link.$$"
            else
                append "$list" --link2symlink
            fi
            ;;
    esac
}

# Let a user's daemons have ports below 1024, at others that are 2000 higher, and say so of those that the image names.
move_ports() {
    append "$list" -p
    moved_words=$list
    eval "set -- $image_ports"
    for port; do
        protocol=${port#*/} port=${port%%/*}
        is_number "$port" && [ "$port" -lt 1024 ] && tell "port $port/$protocol is at $((port + 2000)) from outside"
    done
    list=$moved_words
}

# Bind what the options and defaults ask for. What was asked for at provision time may be missing on this machine.
bind_all() {
    [ -n "$printing" ] || refresh_files
    bind_android
    eval "set -- $default_binds"
    for bind; do
        split_bind "$bind"
        if [ -e "$source" ]; then
            bind_one
        else
            tell "not bound, since it doesn't exist: $source"
        fi
    done
    eval "set -- $binds"
    for bind; do
        split_bind "$bind"
        bind_one
    done
    if [ -n "$dns" ]; then
        make_temporary
        source=$temporary/resolv.conf destination=/etc/resolv.conf
        for server in $dns; do
            printf 'nameserver %s\n' "$server"
        done >"$source"
        bind_one
    fi
}

# Make the files of /etc anew that depend on this machine and its network, but for those that somebody has edited: they
# differ from what was made the last time. A DIR that can't be written gets them by binds.
refresh_files() {
    find_hostname
    for file in resolv.conf hosts hostname; do
        generated=$directory/.provision/generated/$file
        resolve "/etc/$file"
        { [ -f "$generated" ] && [ -f "$rootfs$resolved" ]; } || continue
        { read_text <"$generated" && before_this=$text && read_text <"$rootfs$resolved"; } 2>/dev/null || continue
        [ "$text" = "$before_this" ] || continue
        case $file in
            resolv.conf) make_resolv_conf ;;
            hosts) make_hosts ;;
            hostname) text=$hostname$newline ;;
        esac
        [ "$text" != "$before_this" ] || continue
        if write_text "$text" "$generated"; then
            write_text "$text" "$rootfs$resolved" && continue
            write_text "$before_this" "$generated"
        fi
        make_temporary
        source=$temporary/$file destination=/etc/$file
        write_text "$text" "$source" && bind_one
    done
}

# Set `text` to standard input.
read_text() {
    text=''
    while IFS= read -r line || [ -n "$line" ]; do
        text=$text$line$newline
    done
}

write_text() {
    { printf '%s' "$1" >"$2"; } 2>/dev/null
}

# Set `hostname`: the profile's, else this machine's.
find_hostname() {
    hostname=$default_hostname
    [ -n "$hostname" ] || { read -r hostname </proc/sys/kernel/hostname; } 2>/dev/null || hostname=$(uname -n)
    hostname=${hostname:-localhost}
}

make_hosts() {
    text="127.0.0.1 localhost${newline}::1 localhost ip6-localhost ip6-loopback$newline"
    [ "$hostname" = localhost ] || text="${text}127.0.1.1 $hostname$newline"
}

# The profile's name servers, else what this machine says, else public ones.
make_resolv_conf() {
    eval "set -- $default_dns"
    if [ $# -eq 0 ]; then
        for host_file in /etc/resolv.conf ${PREFIX:+"$PREFIX/etc/resolv.conf"}; do
            { [ -r "$host_file" ] && read_servers <"$host_file"; } && return
        done
        set -- 1.1.1.1 8.8.8.8 2606:4700:4700::1111
    fi
    text=''
    for server; do
        text="${text}nameserver $server$newline"
    done
}

# Set `text` to what matters of a resolv.conf, and fail where it names no server.
read_servers() {
    text='' servers=''
    while read -r line || [ -n "$line" ]; do
        # shellcheck disable=SC2086 # split into words
        set -- $line
        case ${1-} in
            nameserver) servers=$servers${2-} ;;
            search | domain | options) ;;
            *) continue ;;
        esac
        [ $# -eq 1 ] || text="$text$*$newline"
    done
    [ -n "$servers" ]
}

# Bind `source` on `destination`. On the root it would take the container's place: the command would run in there.
bind_one() {
    resolve "$destination"
    [ -n "$resolved" ] || fail "can't bind $source on the root, $destination: name a place below it"
    case $runtime in
        proot) bind_in_proot ;;
        *) bind_in_namespace ;;
    esac
}

# Add one bind to `words`.
bind_in_proot() {
    case $source in
        *:*)
            make_temporary
            aliases=$((aliases + 1))
            ln -s "$source" "$temporary/$aliases" || fail "can't bind $source"
            source=$temporary/$aliases
            ;;
    esac
    # proot takes one exclamation mark from the end for an order not to follow a link there.
    case $destination in *!) destination=$destination! ;; esac
    append "$words" -b "$source:$destination" && words=$list
}

# End as shells do where the guest's program is missing; proot itself would end with 1.
check_program() {
    # What is bound can't be seen from here.
    [ -z "$default_binds$binds" ] || return 0
    case $guest_program in */*) guest_path=/ ;; esac
    status=127 IFS=:
    for place in $guest_path; do
        IFS=" 	$newline"
        ! guest_has "$place/$guest_program" || return 0
        [ ! -e "$rootfs$resolved" ] || status=126
    done
    IFS=" 	$newline"
    case $status in
        126) tell "the image's $guest_program can't be executed" ;;
        127) tell "the image has no $guest_program" ;;
    esac
    finish "$status"
}

# 7. Or run in namespaces: become this script again, in a private mount namespace, with a PID namespace for children.
make_namespaces() {
    map_auto=''
    [ "$runtime" = chroot ] || ! can_map_more || map_auto=--map-auto
    append '' "$unshare"
    [ "$runtime" = chroot ] || append "$list" -U -r $map_auto
    append "$list" -m -p "$sh" "$script"
    eval "set -- $list $options --inside $runtime ${restore_sigint:+--restore-sigint \"\$restore_sigint\"} \
${pdeathsig:+--pdeathsig \"\$pdeathsig\"} -- \"\$@\""
    [ -z "$printing" ] || print_words "$@"
    exec "$@"
}

# Whether the user has more ids (/etc/subuid), and needs them for want of a filter. What they own, only they can delete.
can_map_more() {
    can_mount_proc=yes # which is found out later
    find_filter
    [ -z "$filter" ] && find_program newuidmap && "$unshare" -U -r --map-auto -m true 2>/dev/null
}

# Or run in a chroot and no more: what was mounted would stay, and be deleted together with DIR.
run_bare() {
    [ -z "$default_binds$binds$dns$termux" ] || fail "--no-namespace mounts nothing: it can't bind, nor take --dns"
    prepare "$@"
    filter='' more_ids=''
    [ -n "$printing" ] || { find_target /dev && copy_devices "$target"; }
    [ -n "$printing" ] || refresh_files
    find_target "$workdir"
    find_entry
    keep_capabilities
    eval "set -- $outside $list $wrapper $before \"\$@\" $after"
    [ -z "$printing" ] || print_words "$@"
    supervise ${pdeathsig:+"$pdeathsig" --pdeathsig KILL} ${restore_sigint:+"$restore_sigint" --default-signal=INT,QUIT} "$@"
}

# What process 1 does: mount in the private namespace, then start the guest.
enter_rootfs() {
    state='' # which is the parent's to empty
    trap 'finish 129' HUP
    trap 'finish 130' INT
    trap 'finish 143' TERM
    read_status
    case $ids_here in
        *[!0-9]1) ;;
        *) fail "--inside is for start.sh itself" ;; # anywhere else its mounts would be seen by all
    esac
    # Some unshares have done it; toybox's doesn't, and spells it in its own way.
    mount --make-rprivate / 2>/dev/null || mount -o rprivate none / || fail "can't make the mounts private"
    prepare "$@"
    # Where this root is not the machine's, the kernel lets it mount less.
    filter='' ids=4294967295 more_ids=''
    [ ! -e /proc/self/uid_map ] || { read -r _ _ ids && read -r more_ids _; } </proc/self/uid_map
    if [ "$ids" = 4294967295 ]; then
        mount_for_root
    else
        mount_for_user
        # Nor does it set groups.
        [ -n "$more_ids" ] || groups=''
        [ "$uid:$gid$more_ids" != 0:0 ] || find_filter
    fi
    bind_all
    [ -z "$temporary" ] || rm -rf "$temporary"
    temporary=''
    find_target "$workdir"
    find_entry
    [ "$ids" != 4294967295 ] || keep_capabilities
    eval "set -- $outside $list $wrapper $before \"\$@\" $after"
    eval "set -- $filter ${restore_sigint:+\"\$restore_sigint\" --default-signal=INT,QUIT} \"\$@\""
    # The kernel keeps from process 1 each signal that it doesn't handle: only an init wants that place.
    ! is_init || exec ${pdeathsig:+"$pdeathsig" --pdeathsig KILL} "$@"
    [ -n "$pdeathsig" ] || eval "$start_guest"
    # It keeps all capabilities, so that a guest with less can't follow /proc/1/root to the host's files.
    find_program sh
    exec "$pdeathsig" --pdeathsig KILL "$program" -c "$stay_with_parent$start_guest" "$script" $$ "$@"
}

# What process 1 does at last. Signals are the guest's to answer now: the kernel keeps them from a process 1 that has no
# trap; mksh always has.
# shellcheck disable=SC2016 # it is evaluated later
start_guest='
    case ${KSH_VERSION-} in
        "") trap - HUP TERM ;;
        *) trap : HUP TERM ;;
    esac
    trap : INT
    "$@"
    exit $?
'

# Before that, another shell, which dies with the process $1, makes sure that this one lived so far.
# shellcheck disable=SC2016 # the other shell expands it
stay_with_parent='
    { read -r _ _ _ parent _ </proc/self/stat && [ "$parent" = "$1" ]; } || exit 137
    shift
'

# Set `target`: a directory of the guest's as the host sees it, made where it is missing.
find_target() {
    resolve "$1"
    target=$rootfs$resolved
    [ -d "$target" ] || mkdir -p "$target" || fail "can't make $1 in the rootfs"
}

# Mount on the guest's directory $1, with the words that follow.
mount_on() {
    find_target "$1"
    shift
    mount "$@" "$target" || fail "can't mount $target"
}

# The host's /dev and /sys, as in proot: a user has no power over them anyway. In containers a new /proc is refused.
mount_for_user() {
    find_target /proc
    can_mount_proc=yes
    mount -t proc proc "$target" 2>/dev/null || { can_mount_proc='' && mount_on /proc -o rbind /proc; }
    mount_on /sys -o rbind /sys
    mount_on /dev -o rbind /dev
    [ ! -d /dev/shm ] || mount_on /dev/shm -t tmpfs -o nosuid,nodev,mode=1777 tmpfs
}

# Everything private: /proc, a /sys that can't be written, and a /dev with the few devices that containers have.
mount_for_root() {
    if [ -n "${ANDROID_ROOT-}" ]; then
        # Its /data lets nobody become another user.
        { mount -o bind "$rootfs" "$rootfs" && mount -o remount,bind,suid,dev,exec "$rootfs"; } ||
            tell "setuid programs such as sudo may not work inside"
    fi
    mount_on /proc -t proc -o nosuid,nodev,noexec proc
    mount_on /sys -t sysfs -o ro,nosuid,nodev,noexec sysfs
    mount_run
    if [ -n "$devices" ]; then
        mount_on /dev -o rbind /dev
        mount_on /dev/shm -t tmpfs -o nosuid,nodev,mode=1777 tmpfs
        return
    fi
    mount_on /dev -t tmpfs -o nosuid,mode=755 tmpfs
    dev=$target
    copy_devices "$dev"
    # A mount for pts comes below; shm is in memory as all of this.
    mkdir -m 1777 "$dev/pts" "$dev/shm" || fail "can't fill $dev"
    ln -s pts/ptmx "$dev/ptmx"
    mount_on /dev/pts -t devpts -o newinstance,nosuid,noexec,ptmxmode=0666,mode=620,gid=5 devpts
    # The terminal has no name among the private ones, and ttyname(3) looks for it here too.
    if [ -t 0 ] && touch_file "$dev/console"; then
        read_link /proc/self/fd/0
        mount -o bind "$target" "$dev/console" || tell "this terminal has no name inside"
    fi
}

# Copy the few devices that containers have, by one program: devices become devices, links become links.
copy_devices() {
    (
        umask 0
        exec cp -RP /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty \
            /dev/fd /dev/stdin /dev/stdout /dev/stderr "$1/"
    ) || tell "some devices are missing inside"
}

# A /run in memory, with what the image has put there.
mount_run() {
    find_target /run
    (
        cd "$target" && mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs "$target" || exit
        set +f
        # The working directory is still the one below.
        for file in ./* ./.[!.]*; do
            { [ -e "$file" ] || [ -L "$file" ]; } && exec cp -RPp . "$target/"
        done
        exit 0
    ) || fail "can't mount $target"
}

# Put before the `list` what leaves root the powers that it has in containers.
keep_capabilities() {
    [ -z "$privileged" ] || return 0
    entry=$list kept=''
    for capability in chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot \
        mknod audit_write setfcap; do
        kept=$kept,+$capability
    done
    # busybox has another setpriv, and is found by a link.
    if find_program setpriv && { [ ! -L "$program" ] || "$program" --bounding-set -all true 2>/dev/null; }; then
        append '' "$program" --bounding-set "-all$kept" --inh-caps -all
        list="$list $entry"
    else
        tell "root keeps all capabilities inside, for want of util-linux's setpriv (--privileged: without this line)"
    fi
}

touch_file() {
    true >"$1"
}

# Bind `source` on `destination`, made where it is missing.
bind_in_namespace() {
    target=$rootfs$resolved
    if [ -d "$source" ]; then
        [ -d "$target" ] || mkdir -p "$target"
    elif [ ! -e "$target" ]; then
        mkdir -p "${target%/*}" && touch_file "$target"
    fi
    mount -o rbind "$source" "$target" || fail "can't bind $source on $destination"
}

# Set `list` to the words that lead into the rootfs: its root, the user, the working directory.
find_entry() {
    if [ "$runtime" = userns ] && [ -z "$more_ids" ] && [ "$uid:$gid" != 0:0 ]; then
        # One more namespace, in which the user that is root here is the wanted one.
        find_program unshare
        append '' "$program" -U "--map-user=$uid" "--map-group=$gid" "--root=$rootfs" "--wd=$workdir" --
    elif [ "$workdir" = / ]; then
        find_chroot
    elif guest_has /bin/sh; then
        find_chroot
        # shellcheck disable=SC2016 # the guest's shell expands it
        append "$list" /bin/sh -c 'cd -- "$0" || exit 125; exec "$@"' "$workdir"
    else
        find_program unshare
        append '' "$program" "--root=$rootfs" "--wd=$workdir"
        [ "$uid:$gid" = 0:0 ] || append "$list" "--setgid=$gid" "--setuid=$uid"
        [ -z "$groups" ] || tell "without a shell in the image, user $uid has no other groups"
    fi
}

# Set `list` to a chroot that becomes the user. Only GNU's can; root does without its other groups then.
find_chroot() {
    find_program chroot
    append '' "$program" "$rootfs"
    [ "$uid:$gid$groups" != 0:0 ] || return 0
    case $("$program" --help 2>&1) in
        *--userspec*)
            others=''
            for group in $groups; do
                others="$others${others:+,}+$group"
            done
            # A plus keeps it from asking the guest's libraries for names.
            append '' "$program" "--userspec=+$uid:+$gid" "--groups=$others" "$rootfs"
            ;;
        *) [ "$uid:$gid" = 0:0 ] || fail "this chroot can't become user $uid: install GNU coreutils" ;;
    esac
}

# 8. Supervise. Run the words, hand on signals, and end with their status.
supervise() {
    caught='' ended_by=''
    for signal in HUP:1 INT:2 QUIT:3 USR1:10 USR2:12 TERM:15; do
        # shellcheck disable=SC2064 # now is right
        trap "forward ${signal%:*} ${signal#*:}" "${signal%:*}"
    done
    if can_interrupt || ignores_interrupts || ! has_terminal; then
        run_in_background "$@"
    else
        # At a terminal SIGINT is the one that counts.
        ("$@")
        status=$?
    fi
    # proot says 255 of each guest that a signal ended.
    case $caught/$status/$runtime in
        [0-9]*/"$ended_by/$runtime" | [0-9]*/255/proot) status=$((128 + caught)) ;;
        /*/proot) [ -n "$inside" ] || explain_failure ;;
    esac
    finish "$status"
}

# Print the words so that they can be pasted, and end. What they need for this run is left in place.
print_words() {
    append '' "$@"
    settings=''
    for setting in ${PROOT_TMP_DIR:+"PROOT_TMP_DIR=$PROOT_TMP_DIR"} ${PROOT_LOADER:+"PROOT_LOADER=$PROOT_LOADER"} \
        ${PROOT_LOADER_32:+"PROOT_LOADER_32=$PROOT_LOADER_32"}; do
        quote "$setting"
        settings="${settings}export $quoted; "
    done
    [ -z "$preloaded" ] || settings="unset LD_PRELOAD; $settings"
    case $settings in
        '') printf '%s\n' "${list# }" ;;
        *) printf '(%s%s)\n' "$settings" "${list# }" ;;
    esac
    exit
}

# Set `status`. Only while it waits for a background job a shell reacts to signals at once.
run_in_background() {
    exec 9<&0
    (
        trap - INT QUIT
        case $1 in
            enter_rootfs) "$@" ;;
            *) exec "$@" ;;
        esac
    ) <&9 9<&- &
    child=$!
    # A signal that came before this could not be handed on.
    [ -z "$caught" ] || { ended_by=137 && kill -s KILL "$child"; }
    status=127
    while :; do
        interrupted=''
        wait "$child"
        code=$?
        case $code in
            127) ;; # after an interruption: it had been collected before
            -1) status=$((128 + caught)) ;; # bash lost it, for a signal that came in the same moment
            *) status=$code ;;
        esac
        [ -n "$interrupted" ] || break
    done
}

# Hand on a signal, by name and number.
forward() {
    interrupted=yes caught=$2
    [ -n "$child" ] || return 0
    case $1 in
        INT | QUIT)
            # The terminal has sent it to the guest as well.
            ! in_foreground || return 0
            ;;
    esac
    sent=$1 guest=$child also='' its_name=''
    [ "$1" != INT ] || can_interrupt || sent=TERM
    { read -r its_name <"/proc/$child/comm"; } 2>/dev/null
    case $runtime/$its_name in
        proot/ | proot/proot*)
            # proot itself ignores signals, but for the one that ends all that its first guest left behind.
            if find_child "$child"; then guest=$found; else also=QUIT; fi
            ;;
        proot/*) also=KILL ;; # it is no proot yet
        chroot/sh | userns/sh | chroot/setpriv | userns/setpriv)
            # Process 1, with the guest below or still at work for it.
            if find_child "$child"; then guest=$found also=$sent; else also=KILL; fi
            { read -r its_name <"/proc/$guest/comm"; } 2>/dev/null
            [ "$its_name" != bwrap ] || ! find_child "$guest" || guest=$found
            ;;
    esac
    case $also in
        KILL) ended_by=137 ;;
        QUIT) ended_by=131 ;;
    esac
    # Process 1 has to know before it sees its helper die.
    [ -z "$also" ] || kill -s "$also" "$child" 2>/dev/null
    kill -s "$sent" "$guest" 2>/dev/null
}

# Whether the guest can have SIGINT, which shells take from background jobs, and only some can give back.
can_interrupt() {
    [ -n "$restore_sigint${BASH_VERSION-}${KSH_VERSION-}" ]
}

# 9. Sessions. `.provision/run/PID` has a line each for when that process started, the runtime, and the command. What
# has ended and emptied its file, or has another start, counts for nothing.

# Write down that this process runs from here; nothing where DIR can't be written.
remember_session() {
    state=$directory/.provision/run/$$
    [ -z "$inside" ] || return 0
    [ -d "$directory/.provision/run" ] || mkdir "$directory/.provision/run" 2>/dev/null
    tidy_sessions
    append "${login:+ --shell}$entrypoint" "$@"
    [ $# -gt 0 ] || list=$list$command
    make_printable "${list# }"
    find_start $$ && write_text "$started$newline$runtime$newline$printable$newline" "$state" || state=''
}

# Remove what sessions have left, once there is much of it.
tidy_sessions() {
    set +f
    set -- "$directory"/.provision/run/*
    set -f
    [ $# -lt 64 ] || find_sessions
}

# Set `started`: when a process did, in ticks since the system's start.
find_start() {
    { read -r line <"/proc/$1/stat"; } 2>/dev/null || return
    # shellcheck disable=SC2086 # split into fields
    set -- ${line##*) }
    shift 19
    started=$1
}

# Set `sessions`, the processes that run from here, and remove what others have left.
find_sessions() {
    sessions='' left=''
    set +f
    for file in "$directory"/.provision/run/[0-9]*; do
        set -f
        { read -r was_started <"$file"; } 2>/dev/null && find_start "${file##*/}" && [ "$started" = "$was_started" ] &&
            sessions="$sessions ${file##*/}"
        if [ -e "$file" ] && [ ! -e "/proc/${file##*/}" ]; then
            append "$left" "$file" && left=$list
        fi
    done
    set -f
    [ -z "$left" ] || eval "rm -f $left" 2>/dev/null
}

# Print a line for each session: its process, runtime and command.
list_sessions() {
    find_sessions
    for pid in $sessions; do
        {
            read -r _
            read -r runtime
            IFS= read -r printable
        } <"$directory/.provision/run/$pid"
        printf '%s\t%s\t%s\n' "$pid" "$runtime" "$printable"
    done
}

# End all sessions: by the image's signal, and what is left after ten seconds by SIGKILL.
stop_sessions() {
    find_sessions
    polite=TERM
    case ${image_stop_signal#SIG} in
        HUP | INT | QUIT | USR1 | USR2) polite=${image_stop_signal#SIG} ;;
        1) polite=HUP ;;
        2) polite=INT ;;
        3) polite=QUIT ;;
    esac
    for pid in $sessions; do
        kill -s "$polite" "$pid" 2>/dev/null || fail "can't stop $pid, which is somebody else's"
    done
    wait_for_sessions 100 && return
    for pid in $sessions; do
        find_descendants "$pid"
        # The script itself ends when they do, and cleans up.
        [ -z "$descendants" ] || eval "kill -s KILL $descendants" 2>/dev/null
    done
    wait_for_sessions 20 && return
    eval "kill -s KILL $sessions" 2>/dev/null
    wait_for_sessions 20 || fail "can't stop$sessions"
}

# Wait for all sessions to end, for so many tenths of a second.
wait_for_sessions() {
    tenths=$1
    while find_sessions && [ -n "$sessions" ]; do
        [ "$tenths" -gt 0 ] || return 1
        tenths=$((tenths - 1))
        sleep 0.1
    done
}

# Set `descendants`: the processes that a process has started or traces, and theirs.
find_descendants() {
    descendants='' family=" $1 " grown=yes
    while [ -n "$grown" ]; do
        grown=''
        set +f
        for status_file in /proc/[0-9]*/status; do
            set -f
            pid=${status_file#/proc/} pid=${pid%/status}
            case $family in *" $pid "*) continue ;; esac
            { is_related <"$status_file"; } 2>/dev/null || continue
            grown=yes descendants="$descendants $pid" family="$family$pid "
        done
        set -f
    done
}

# Whether a process's status names one of the `family` as its parent or tracer.
is_related() {
    while read -r field value; do
        case $field in
            PPid: | TracerPid:) case $family in *" $value "*) return ;; esac ;;
            Uid:) return 1 ;;
        esac
    done
    return 1
}

# Start this script once more, in the background, and tell where.
detach() {
    log=$directory/.provision/log
    { true >>"$log"; } 2>/dev/null || log=${TMPDIR:-/tmp}/start.$$.log
    words=''
    # Else SIGINT, which shells take from what they put in the background, would not reach the guest.
    find_program env && "$program" --default-signal=INT,QUIT true 2>/dev/null &&
        append '' "$program" --default-signal=INT,QUIT && words=$list
    # In a session of its own no terminal sends it SIGHUP, and others may.
    if find_program setsid; then
        append "$words" "$program" && words=$list
    else
        trap '' HUP
    fi
    find_program sh || fail "there is no sh on PATH"
    append "$words" "$program" "$script"
    eval "set -- $list $options -- \"\$@\""
    "$@" </dev/null >>"$log" 2>&1 &
    printf '%s\n' "$!"
    tell "it runs as process $!, and writes to $log"
}

# Set `found`: the first child of a process.
find_child() {
    found=''
    if [ -e "/proc/$1/task/$1/children" ]; then
        { read -r found _ <"/proc/$1/task/$1/children"; } 2>/dev/null
    else
        set +f
        for status_file in /proc/[0-9]*/stat; do
            { read -r line <"$status_file"; } 2>/dev/null || continue
            line=${line##*) }
            line=${line#* }
            if [ "${line%% *}" = "$1" ]; then
                found=${status_file#/proc/} found=${found%/stat}
                break
            fi
        done
        set -f
    fi
    [ -n "$found" ]
}

# Whether this process is in a terminal's foreground: process group and the terminal's are equal in its stat file.
in_foreground() {
    read -r line <"/proc/$$/stat" || return
    # shellcheck disable=SC2086 # split into fields
    set -- ${line##*) }
    [ "$3" = "$6" ]
}

# Whether there is a terminal at all.
has_terminal() {
    read -r line <"/proc/$$/stat" || return
    # shellcheck disable=SC2086 # split into fields
    set -- ${line##*) }
    [ "$5" != 0 ]
}

main "$@"
