# chroot and userns: this script again, in private mount and PID namespaces; and chroot alone, for --no-namespace.
# Sets `id_count` (how many ids the user namespace has), `more_ids` (not empty if it has others than root's), `outer_ids`
# (the first of them, by its number outside), `is_machine_root` (not empty where root is the machine's), `has_roots_files` (not
# empty where root of a user namespace may still use files of the root outside), `nested` (not empty for a user other than
# root where there is one id), `start_guest` and `check_parent` (commands for `eval` and for
# another shell).

# Set `launch` to become the words $1 (a list in which "$@" are the typed ones), with the redirections $2; or to print them.
set_launch() {
    case $print_only in
        '') launch="$launch_first exec $1 ${2-}" ;;
        *) launch="$launch_first print_words $1" ;;
    esac
}

# Set `launch` to become this script with --inside, in a private mount namespace, and with a PID namespace for its children.
make_namespaces() {
    map_auto=''
    [ "$ids" = one ] || map_auto=--map-auto
    append '' "$unshare"
    [ "$runtime" = chroot ] || append "$list" -U -r $map_auto
    # Many of Android's kernels have no IPC namespaces.
    [ ! -e /proc/self/ns/ipc ] || append "$list" -i
    [ ! -e /proc/self/ns/uts ] || append "$list" -u
    append "$list" -m -p "$sh" "$script" ${map_auto:+--ids many}
    set_launch "$list $options --inside $runtime ${restore_sigint:+--restore-sigint \"\$restore_sigint\"} \
${pdeathsig:+--pdeathsig \"\$pdeathsig\"} ${helper:+--helper \"\$helper\"} \
${relayed:+--relayed \"\$relay_count \$relayed\"} -- \"\$@\"" "${relayed:+5<&5}"
    [ -n "$print_only" ] || tell_ports
}

# Set `launch` to run the guest in a chroot without namespaces and mounts. A mount would stay after the command, and
# deleting DIR would delete what is in it. $1 is the number of typed words, $2 and $3 are the first two.
prepare_bare() {
    [ -z "$default_binds$typed_binds$typed_dns$typed_devices$termux$desktop" ] ||
        fail "--no-namespace mounts nothing: it can't bind, nor take --dns or --device"
    prepare_guest "$@"
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
    set_watched_launch KILL "$host_env $list $entry_words $guest_env $words_before \"\$@\" $words_after"
    [ -n "$print_only" ] || tell_ports
}

# Set `launch` to become the words $2, with the redirections $3, and to get the signal $1 when this script dies.
set_watched_launch() {
    [ -n "$print_only" ] || set -- "$1" "${pdeathsig:+\"\$pdeathsig\" --pdeathsig $1} \
${restore_sigint:+\"\$restore_sigint\" --default-signal=INT,QUIT} $2" "${3-}"
    set_launch "$2" "${3-}"
}

# As process 1: mount in the private namespace, then set `launch` to start the guest. $1 is the number of typed words, $2
# and $3 are the first two.
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
    prepare_guest "$@"
    find_ids
    [ -z "$privileged" ] || [ "$runtime$has_roots_files" = userns ] || host_devices=yes
    refresh_files
    remove_leftovers
    if [ -n "$is_machine_root" ]; then
        build_stage root
        fill_devices
    else
        build_stage user
        [ -z "$has_roots_files" ] || { show_devices && seal_sys; }
        name_terminal
    fi
    [ "$typed_ids" != many ] || set_owners
    give_pipes
    fill_rootfs
    bind_all
    make_directory "$workdir"
    confine
    start_in_rootfs
}

# Set `id_count`, `more_ids`, `is_machine_root`, `has_roots_files` and `nested`.
find_ids() {
    filter='' id_count=4294967295 more_ids='' is_machine_root='' has_roots_files='' outer_root='' nested='' nested_helper='' has_copies=''
    [ ! -e /proc/self/uid_map ] || { read -r _ outer_root id_count && read -r more_ids outer_ids _; } </proc/self/uid_map
    # Only in the namespace with all ids is root the machine's. Elsewhere the kernel allows fewer mounts, and no groups.
    if [ "$id_count" = 4294967295 ]; then
        is_machine_root=yes
        return
    fi
    [ "$outer_root" != 0 ] || has_roots_files=yes
    [ -n "$more_ids" ] || {
        groups=''
        [ "$uid:$gid" = 0:0 ] || nested=yes
    }
}

# Set `launch` to start the guest in the rootfs, whose mounts are all made.
start_in_rootfs() {
    find_entry "${keeps_root:+$real_rootfs}"
    drop_capabilities
    [ -z "$helper" ] || [ -z "$nested" ] || confine_nested
    seal_stage
    watch=''
    [ "$runtime$more_ids$nested$joined" != userns ] || find_watch
    set_guest_words "${nested_helper}${entry_helper}"
    if [ -z "$joined" ]; then
        enter / "can't enter the rootfs"
        protect_rootfs
        announce_session
        [ -n "$keeps_root$moves_root" ] || move_root
    fi
    opened=''
    if [ -n "$nested_helper" ]; then
        append '' "$nested_helper" && opened="7<${list# }"
        append '' "$filter_file" && opened="$opened 8<${list# }"
    elif [ -n "$entry_helper" ]; then
        exec 7<"$entry_helper"
        rm -f "$entry_helper"
        append '' "$entry_filter" && opened="7<&7 8<${list# }"
    fi
    list=''
    ! is_in_background || leave_terminal
    start_process "$watch $list $filter ${restore_sigint:+\"\$restore_sigint\" --default-signal=INT,QUIT} $host_env \
$entry_words $guest_words" "$opened"
}

# Set `guest_words`, the guest's program and what comes before it, and `launch_first`, what makes them. If $1 isn't empty,
# that is a helper, which doesn't look into PATH.
set_guest_words() {
    guest_words="$guest_env $words_before \"\$@\" $words_after"
    [ -n "$1" ] && [ -n "$host_env" ] || return 0
    find_guest_program
    quote "${found_program:-$guest_program}"
    launch_first="set -- $guest_words; shift;"
    guest_words="$quoted \"\$@\""
}

# Set `launch` to become the words $1 with the redirections $2, or as process 1 the parent of the process that does, unless
# that is an init.
start_process() {
    # The kernel keeps from process 1 all signals that it has no handler for: only an init is made for that.
    end_with_parent
    { ! is_init && [ -z "$joined" ]; } || {
        set_launch "$list $1" "$2"
        return
    }
    [ -z "$throwaway" ] || { find_program rm && quote "$throwaway" && start_guest="$start_guest
status=\$?
[ \$\$ != 1 ] || kill -KILL -1 2>/dev/null
$program -rf $quoted
(exit \$status)
"; }
    [ -n "$list" ] || {
        launch="$launch_first set -- $1; { $start_guest$end_guest$newline} $2"
        return
    }
    # This shell keeps all capabilities, so that a guest with fewer can't follow /proc/1/root to the host's files.
    find_program sh
    quote "$check_parent$start_guest$end_guest"
    set_launch "$list \"\$program\" -c $quoted \"\$script\" $$ $1" "$2"
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
