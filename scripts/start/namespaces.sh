# chroot and userns: this script again, in private mount and PID namespaces; and chroot alone, for --no-namespace.
# Sets `id_count` (how many ids the user namespace has), `more_ids` (not empty if it has others than root's), `outer_ids`
# (the first of them, by its number outside), `is_machine_root` (not empty where root is the machine's), `nested` (not
# empty for a user other than root where there is one id), `start_guest` and `check_parent` (commands for `eval` and for
# another shell).

# Become this script with --inside, in a private mount namespace, and with a PID namespace for its children. $@ are the
# typed words.
make_namespaces() {
    map_auto=''
    [ "$ids" = one ] || map_auto=--map-auto
    append '' "$unshare"
    [ "$runtime" = chroot ] || append "$list" -U -r $map_auto
    # Many of Android's kernels have no IPC namespaces.
    [ ! -e /proc/self/ns/ipc ] || append "$list" -i
    [ ! -e /proc/self/ns/uts ] || append "$list" -u
    append "$list" -m -p "$sh" "$script" ${map_auto:+--ids many}
    eval "set -- $list $options --inside $runtime ${restore_sigint:+--restore-sigint \"\$restore_sigint\"} \
${pdeathsig:+--pdeathsig \"\$pdeathsig\"} ${helper:+--helper \"\$helper\"} \
${relayed:+--relayed \"\$relay_count \$relayed\"} -- \"\$@\""
    [ -z "$print_only" ] || print_words "$@"
    tell_ports
    [ -n "$relayed" ] || exec "$@"
    exec "$@" 5<&5
}

# Run the typed words $@ in a chroot without namespaces and mounts. A mount would stay after the command, and deleting
# DIR would delete what is in it.
run_bare() {
    [ -z "$default_binds$typed_binds$typed_dns$typed_devices$termux$desktop" ] ||
        fail "--no-namespace mounts nothing: it can't bind, nor take --dns or --device"
    prepare_guest $# "${1-}" "${2-}"
    filter='' more_ids='' nested='' is_machine_root=''
    [ -n "$print_only" ] || {
        enter /dev "can't make /dev in the rootfs" && copy_devices . && leave
        refresh_files
    }
    give_pipes
    make_directory "$workdir"
    find_entry "$rootfs"
    find_capabilities
    drop_capabilities
    guard - "$flag_die"
    eval "set -- $host_env $list $entry_words $guest_env $words_before \"\$@\" $words_after"
    [ -z "$print_only" ] || print_words "$@"
    tell_ports
    supervise ${pdeathsig:+"$pdeathsig" --pdeathsig KILL} \
        ${restore_sigint:+"$restore_sigint" --default-signal=INT,QUIT} "$@"
}

# As process 1: mount in the private namespace, then start the guest with the typed words $@.
enter_rootfs() {
    session_file='' relay_count=0 # the outer script empties it, and waits
    trap 'finish 129' HUP
    trap 'finish 130' INT
    trap 'finish 143' TERM
    read_pids
    case $pids in
        *[!0-9]1) ;;
        *) fail "--inside is for start.sh itself" ;; # in any other namespace everybody would see the mounts
    esac
    [ -z "$privileged" ] || say "--privileged: what runs inside can read and change all of this machine"
    prepare_guest $# "${1-}" "${2-}"
    find_ids
    [ -z "$privileged" ] || [ "$runtime" != chroot ] || host_devices=yes
    refresh_files
    remove_leftovers
    if [ -n "$is_machine_root" ]; then
        build_stage root
        fill_devices
    else
        build_stage user
        name_terminal
    fi
    [ "$typed_ids" != many ] || set_owners
    give_pipes
    fill_rootfs
    bind_all
    make_directory "$workdir"
    confine
    start_in_rootfs "$@"
}

# Set `id_count`, `more_ids`, `is_machine_root` and `nested`.
find_ids() {
    filter='' id_count=4294967295 more_ids='' is_machine_root='' nested='' nested_helper='' has_copies=''
    [ ! -e /proc/self/uid_map ] || { read -r _ _ id_count && read -r more_ids outer_ids _; } </proc/self/uid_map
    # Only in the namespace with all ids is root the machine's. Elsewhere the kernel allows fewer mounts, and no groups.
    if [ "$id_count" = 4294967295 ]; then
        is_machine_root=yes
    elif [ -z "$more_ids" ]; then
        groups=''
        [ "$uid:$gid" = 0:0 ] || nested=yes
    fi
}

# Start the guest with the typed words $@, in the rootfs whose mounts are all made.
start_in_rootfs() {
    find_entry "${keeps_root:+$real_rootfs}"
    drop_capabilities
    [ -z "$helper" ] || [ -z "$nested" ] || confine_nested
    seal_stage
    watch=''
    [ "$runtime$more_ids$nested$joined" != userns ] || find_watch
    guest_words="$guest_env $words_before \"\$@\" $words_after"
    if [ -n "$nested_helper$entry_helper" ] && [ -n "$host_env" ]; then
        # The helper doesn't look into PATH.
        find_guest_program
        eval "set -- $words_before \"\$@\" $words_after"
        shift
        set -- "${found_program:-$guest_program}" "$@"
        guest_words='"$@"'
    fi
    if [ -z "$joined" ]; then
        enter / "can't enter the rootfs"
        protect_rootfs
        announce_session
        [ -n "$keeps_root$moves_root" ] || move_root
    fi
    eval "set -- $filter ${restore_sigint:+\"\$restore_sigint\" --default-signal=INT,QUIT} $host_env $entry_words \
$guest_words"
    if [ -n "$nested_helper" ]; then
        start_process "$@" 7<"$nested_helper" 8<"$filter_file"
    elif [ -n "$entry_helper" ]; then
        exec 7<"$entry_helper"
        rm -f "$entry_helper"
        start_process "$@" 7<&7 8<"$entry_filter"
    else
        start_process "$@"
    fi
}

# Become the words $@, or as process 1 the parent of the process that does, unless that is an init.
start_process() {
    list=''
    ! is_in_background || leave_terminal
    eval "set -- $watch $list \"\$@\""
    # The kernel keeps from process 1 all signals that it has no handler for: only an init is made for that.
    end_with_parent
    { ! is_init && [ -z "$joined" ]; } || eval "exec $list \"\$@\""
    [ -z "$throwaway" ] || { find_program rm && quote "$throwaway" && start_guest="$start_guest
status=\$?
$program -rf $quoted
(exit \$status)
"; }
    [ -n "$list" ] || eval "$start_guest$end_guest"
    # This shell keeps all capabilities, so that a guest with fewer can't follow /proc/1/root to the host's files.
    find_program sh
    set -- "$program" -c "$check_parent$start_guest$end_guest" "$script" $$ "$@"
    eval "exec $list \"\$@\""
}

# Set `list` to words that keep the terminal with the shell that has started this in the background. Inside, no process
# group of the outside has a number, so that each shell takes its own for the one in the foreground, and the terminal.
leave_terminal() {
    if [ -n "$helper" ] && [ -r "$directory/.provision/background.bpf" ]; then
        append '' "$helper" "$directory/.provision/background.bpf" 0
    elif [ -t 0 ]; then
        exec </dev/null
    fi
}

# The last commands of process 1. Its traps let the guest's signals through, since the kernel drops those that process 1
# has none for; mksh always handles some.
# shellcheck disable=SC2016 # it is evaluated later
start_guest='
    case ${KSH_VERSION-} in
        "") trap - HUP TERM ;;
        *) trap : HUP TERM ;;
    esac
    trap : INT
    "$@"
'

# What follows them.
# shellcheck disable=SC2016 # it is evaluated later
end_guest='exit $?'

# Commands for the shell that replaces it as process 1, and that ends together with its parent, process $1: the parent
# may have ended before that was set up. It knows none of the functions here, and its name has no space.
# shellcheck disable=SC2016 # the other shell expands it
check_parent='
    { read -r _ _ _ parent _ </proc/self/stat && [ "$parent" = "$1" ]; } || exit 137
    shift
'
