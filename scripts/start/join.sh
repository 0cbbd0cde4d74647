# The option --exec: run a command in what runs already.
# Sets `joined` (the process number of that session), `entry_helper` (the helper as the last program before the guest's, or
# empty).
# shellcheck disable=SC2154 # sessions.sh sets containers, session_runtime and text

# Choose the session that --exec is about, and set all options as it has them; the typed `options` come after those. $1 is
# the number of other typed words.
choose_session() {
    [ -z "$start_option$inside" ] || [ -n "$inside" ] ||
        fail "$start_option has to be given when a session starts: --exec goes by the session's"
    if [ -z "$joined" ]; then
        find_sessions
        joined=$typed_session
        [ -n "$joined" ] || joined=${containers# }
        case $joined in
            '')
                find_unrecorded
                [ -z "$unrecorded" ] ||
                    fail "$directory is read-only: nothing says how$unrecorded can be joined, and --stop stops it"
                fail "nothing runs from $directory: start it first, $script --detach"
                ;;
            *\ *) explain_choice ;;
        esac
        case "$containers " in
            *" $joined "*) ;;
            *) fail "no session $joined runs from $directory: $script --list shows them" ;;
        esac
    fi
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

# Exit with the sessions that there are to choose from.
explain_choice() {
    choices=''
    for pid in $containers; do
        read_session "$pid"
        choices="$choices${choices:+, }$pid ($printable)"
    done
    fail "several run from here, choose one by --session: $choices"
}

# Open the directory of the session's process in /proc, which then is about no other process, whatever number it has.
open_session() {
    # Nothing but start.sh may have it.
    [ -z "$inside" ] || { exec 7<&- && return; }
    { exec 7<"/proc/$joined" && read -r recorded_start <"$directory/.provision/run/$joined"; } 2>/dev/null
    { read_stat self/fd/7 && [ "$stat_start" = "$recorded_start" ]; } || fail "session $joined has ended"
    # shellcheck disable=SC3067 # all of our shells have it
    [ -O /proc/self/fd/7 ] || fail "session $joined is somebody else's"
}

# Wait until the session has started its guest.
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
            fail "session $joined has not started, or an older start.sh has"
        sleep 0.1
        read_session "$joined"
    done
}

# Set `launch` to become this script with --inside, in the namespaces of the session, and with its PID namespace for
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
        # One that is this process's can't be entered, or needs not.
        # shellcheck disable=SC3013 # all of our shells have it
        [ "/proc/self/fd/7/ns/${namespace%:*}" -ef "/proc/self/ns/${namespace%:*}" ] ||
            [ ! -e "/proc/self/fd/7/ns/${namespace%:*}" ] ||
            append "$list" "-${namespace#*:}$place/ns/${namespace%:*}"
    done
    find_program sh || fail "there is no sh on PATH"
    append "$list" "-p$place/ns/pid_for_children" "$program" "$script"
    set_launch "$list $options --inside $runtime --joined $joined \
${restore_sigint:+--restore-sigint \"\$restore_sigint\"} ${pdeathsig:+--pdeathsig \"\$pdeathsig\"} \
${helper:+--helper \"\$helper\"} ${relayed:+--relayed \"\$relay_count \$relayed\"} -- \"\$@\"" \
        "${relayed:+6<&6} 7<&7"
}

# As a process in the session's namespaces: set `launch` to start the guest. $1 is the number of typed words, $2 and $3 are
# the first two.
join_rootfs() {
    session_file='' relay_count=0 # the outer script empties it, and waits
    # shellcheck disable=SC3013 # all of our shells have it
    { [ "/proc/$joined/ns/mnt" -ef /proc/self/ns/mnt ] && find_process_1 "$joined"; } ||
        fail "--joined is for start.sh itself"
    # Process 1 stands in the rootfs, or it is the guest. It exists as long as this process, which would end with it.
    rootfs=/proc/$first_child/cwd
    # shellcheck disable=SC3013 # all of our shells have it
    [ "/proc/$first_child/root" -ef / ] || rootfs=/proc/$first_child/root
    # Where this machine is a chroot, the rootfs is not below its root, and shells say that it has no name.
    cd -P "$rootfs" 2>/dev/null || fail "can't enter the rootfs of session $joined"
    real_rootfs=$PWD stage=$directory/.provision/shm can_mount_proc=''
    prepare_guest "$@"
    find_ids
    # The kernel makes no user namespace for a process whose root has another one above.
    [ -z "$nested" ] || [ "$real_rootfs" != / ] ||
        fail "session $joined has the one id of root: start it with --user $user to have that user inside"
    give_pipes
    case "$privileged$nested $more_capabilities " in
        yes* | *" all "*) ;; # nothing can be hidden from it, or needs to be
        *) [ -z "$helper" ] || ! find_program setpriv || hides_entry=yes ;;
    esac
    confine
    start_in_rootfs
}

# Keep from the guest the programs that enter the rootfs: their root is the host's, and whoever has their capabilities can
# follow it in /proc. They inherit one that the guest lacks, by the setpriv(1) $1, and the helper drops it at the end.
hide_entry() {
    extra=sys_admin entry_filter=/dev/null
    case " $capability_set " in *" sys_admin "*) extra=sys_ptrace ;; esac
    append '' "$1" --inh-caps "-all,+$extra" && entry_words="$list $entry_words"
    # A copy, since the guest could name /proc/self/exe as an interpreter, and then write to its file.
    { entry_helper=$(mktemp "$directory/.provision/run/helper.XXXXXX") && cp "$helper" "$entry_helper" &&
        chmod 755 "$entry_helper"; } || fail "can't copy $helper"
    case ${filter_file##*/} in
        seccomp.bpf)
            # It answers capset(2) itself, and so comes last.
            filter='' entry_filter=$filter_file hides_entry=''
            guard +/proc/self/fd/8
            append "$entry_words" /proc/self/fd/7 +/proc/self/fd/8 "$helper_flags" && entry_words=$list
            ;;
        *) append "$entry_words" /proc/self/fd/7 +- 1 && entry_words=$list ;;
    esac
}
