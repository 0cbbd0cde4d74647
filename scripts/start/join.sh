# The option --exec: run a command in a running session.
# Sets `joined` (the process number of that session), `entry_helper` (a copy of the helper that is executed last before
# the guest's program, or empty).
# shellcheck disable=SC2154 # sessions.sh sets containers, session_runtime and text

# Set `joined` to the session that --exec joins, and set the variables of all options as in that session, then by the
# typed `options`. $1 is the number of typed words.
choose_session() {
    [ -n "$inside" ] || [ -z "$start_option" ] ||
        fail "--exec takes $start_option from the session: leave it out, or use it when the session starts"
    [ -n "$joined" ] || find_session_to_join
    open_session
    read_session "$joined"
    wait_until_ready
    typed_words=$1
    eval "set -- ${text%" end=$newline"*}"
    while [ $# -gt 0 ]; do
        case ${1%%=*} in
            start_directory | user | workdir | typed_env | typed_binds | typed_dns | typed_devices | typed_hostname | \
                more_capabilities | no_new_privs | privileged | no_namespace | host_devices | termux | ephemeral | no_proxy_env | desktop)
                eval "${1%%=*}=\${1#*=}"
                ;;
        esac
        shift
    done
    entrypoint='' command=''
    chosen_session=$joined
    eval "set -- $options"
    options=''
    read_words "$@"
    end_options
    runtime=$session_runtime joined=$chosen_session
    [ "$ephemeral$runtime" != yesproot ] || rootfs=$directory/.provision/ephemeral/$joined/rootfs
    [ "$typed_words" -gt 0 ] || [ -n "$login" ] || fail "--exec needs a command, or --shell"
}

# Set `joined` to the session of --session, else to the only one. Exit if there is none, or if there are several.
find_session_to_join() {
    find_sessions
    joined=${typed_session:-${containers# }}
    case $joined in
        '')
            find_unrecorded
            [ -z "$unrecorded" ] ||
                fail "$directory is read-only, so that$unrecorded has no record and can't be joined: --stop stops it"
            quote_for_message "$script"
            fail "nothing runs from $directory: start it with $quoted --detach"
            ;;
        *\ *) explain_choice ;;
    esac
    case "$containers " in
        *" $joined "*) ;;
        *)
            quote_for_message "$script"
            fail "no session $joined runs from $directory: $quoted --list shows them"
            ;;
    esac
}

# Exit with a message that lists the running sessions.
explain_choice() {
    choices=''
    for pid in $containers; do
        read_session "$pid"
        choices="$choices${choices:+, }$pid ($printable)"
    done
    fail "several sessions run from here, choose one with --session: $choices"
}

# Open the session's directory in /proc as descriptor 7: it stays the directory of this process, even if its number is
# used again.
open_session() {
    # No program but start.sh may inherit the descriptor.
    [ -z "$inside" ] || { exec 7<&- && return; }
    # `command` keeps some shells from exiting without a message if the session has ended meanwhile.
    { command exec 7<"/proc/$joined" && read -r recorded_start <"$directory/.provision/run/$joined"; } 2>/dev/null
    { read_stat self/fd/7 && [ "$stat_start" = "$recorded_start" ]; } || fail "session $joined has ended"
    # shellcheck disable=SC3067 # all of our shells have it
    [ -O /proc/self/fd/7 ] || fail "session $joined belongs to another user"
}

# Wait until the session's guest can be joined.
wait_until_ready() {
    case $session_runtime in
        proot | bare) return ;;
        chroot | userns) ;;
        *) fail "session $joined has no namespaces that can be entered" ;;
    esac
    tries=100
    while :; do
        case $text in *" end=${newline}ready=yes"*) return ;; esac
        tries=$((tries - 1))
        { [ "$tries" -gt 0 ] && has_session "$joined"; } ||
            fail "session $joined has not started its command, or was started by an older start.sh: \
try again, or start another"
        sleep 0.1
        read_session "$joined"
    done
}

# Set `launch` to execute this script again with --inside, in the session's namespaces, and with its PID namespace for
# children.
join_namespaces() {
    nsenter_help=''
    ! find_program nsenter || nsenter_help=$("$program" --help 2>&1)
    case $nsenter_help in
        *--preserve-credentials*) ;; # toybox's has no -r either
        *) fail "--exec needs util-linux's nsenter here: apt install util-linux" ;;
    esac
    # shellcheck disable=SC3013 # all of our shells have it
    [ ! "/proc/self/fd/7/ns/mnt" -ef /proc/self/ns/mnt ] || fail "session $joined has no namespaces of its own"
    place=/proc/self/fd/7
    [ -z "$print_only" ] || place=/proc/$joined
    append '' "$program" -F --preserve-credentials "-r$place/root" "-w$place/root"
    for namespace in user:U ipc:i uts:u mnt:m; do
        # A namespace that this process is already in need not be entered, and the kernel refuses it for user
        # namespaces.
        # shellcheck disable=SC3013 # all of our shells have it
        [ "/proc/self/fd/7/ns/${namespace%:*}" -ef "/proc/self/ns/${namespace%:*}" ] ||
            [ ! -e "/proc/self/fd/7/ns/${namespace%:*}" ] ||
            append "$list" "-${namespace#*:}$place/ns/${namespace%:*}"
    done
    find_program sh || fail "there is no sh on PATH"
    append "$list" "-p$place/ns/pid_for_children" "$program" "$script"
    set_launch "$list $options --inside $runtime --joined $joined \
${restore_sigint:+--restore-sigint \"\$restore_sigint\"} ${pdeathsig:+--pdeathsig \"\$pdeathsig\"} \
${helper:+--helper \"\$helper\"} -- \"\$@\"" '7<&7'
}

# In a process of the session's namespaces, set `launch` to start the guest. $1 is the number of typed words, $2 and $3
# are the first two.
join_rootfs() {
    session_file='' # the outer script empties the session's file
    # shellcheck disable=SC3013 # all of our shells have it
    { [ "/proc/$joined/ns/mnt" -ef /proc/self/ns/mnt ] && find_process_1 "$joined"; } ||
        fail "--joined is for start.sh itself"
    # The working directory of process 1 is the rootfs, unless process 1 is the guest. If process 1 ends, the kernel
    # kills this process, too.
    rootfs=/proc/$first_child/cwd
    # shellcheck disable=SC3013 # all of our shells have it
    [ "/proc/$first_child/root" -ef / ] || rootfs=/proc/$first_child/root
    # If this machine is a chroot, the rootfs is outside of it, and shells print that they can't determine its path.
    cd -P "$rootfs" 2>/dev/null || fail "can't enter the rootfs of session $joined"
    real_rootfs=$PWD stage=$directory/.provision/shm can_mount_proc=''
    prepare_guest "$@"
    find_ids
    # The kernel makes no user namespace for a process whose root isn't the mount namespace's.
    [ -z "$nested" ] || [ "$real_rootfs" != / ] ||
        fail "session $joined has one id, which is root's: start another session with --user $user"
    give_pipes_to_user
    case "$privileged$nested $more_capabilities " in
        yes* | *" all "*) ;; # it has all capabilities, or none
        *) [ -z "$helper" ] || ! find_program setpriv || hides_entry=yes ;;
    esac
    confine
    start_in_rootfs
}

# Protect the programs that enter the rootfs from the guest: their root is the host's, and a process with the same
# capabilities could reach it by /proc/PID/root. So the setpriv(1) $1 gives them a capability that the guest lacks, and
# the helper drops it last.
hide_entry() {
    extra=sys_admin entry_filter=/dev/null
    case " $capability_set " in *" sys_admin "*) extra=sys_ptrace ;; esac
    append '' "$1" --inh-caps "-all,+$extra" && entry_words="$list $entry_words"
    # The helper is copied, since a guest's script could name /proc/self/exe as its interpreter, and then write to the
    # helper's file.
    { entry_helper=$(mktemp "$directory/.provision/run/helper.XXXXXX") && cp "$helper" "$entry_helper" &&
        chmod 755 "$entry_helper"; } || fail "can't copy $helper"
    case ${filter_file##*/} in
        seccomp.bpf)
            # This filter emulates capset(2), so that the helper installs it after dropping the capability.
            filter='' entry_filter=$filter_file hides_entry=''
            set_helper_words +/proc/self/fd/8
            append "$entry_words" /proc/self/fd/7 +/proc/self/fd/8 "$helper_flags" && entry_words=$list
            ;;
        *) append "$entry_words" /proc/self/fd/7 +- 1 && entry_words=$list ;;
    esac
}
