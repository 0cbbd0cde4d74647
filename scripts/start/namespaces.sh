# Namespaces: chroot and userns, which execute this script again in private mount and PID namespaces; and a plain
# chroot, for --no-namespace.
# Sets `id_count` (the number of ids in the first line of uid_map), `more_ids` (not empty if the user namespace has
# other ids than root's), `outer_ids` (the first of those ids, as a number outside), `is_machine_root` (not empty where
# root is the machine's), `has_roots_files` (not empty where root of the user namespace is root outside, too, so that
# file modes give it access), `nested` (not empty for a user other than root if there is only one id), `start_guest` and
# `check_parent` (commands for `eval` and for another shell).

# Set `launch` to execute the words $1 (a list that may contain "$@", the typed words) with the redirections $2; or with
# --print, to print them.
set_launch() {
    case $print_only in
        '') launch="$launch_first exec $1 ${2-}" ;;
        *) launch="$launch_first print_words $1" ;;
    esac
}

# Set `launch` to execute this script again with --inside, in a private mount namespace, and with a PID namespace for
# its children.
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
    [ -n "$print_only" ] || print_ports
}

# Set `launch` to run the guest in a chroot without namespaces and mounts. Without a namespace, a mount would stay after
# the command, and deleting DIR would delete the files in it. $1 is the number of typed words, $2 and $3 are the first
# two.
prepare_bare() {
    [ -z "$default_binds$typed_binds$typed_dns$typed_devices$termux$desktop" ] ||
        fail "--no-namespace mounts nothing: leave out binds, --dns and --device"
    prepare_guest "$@"
    filter='' more_ids='' nested='' is_machine_root=''
    [ -n "$print_only" ] || {
        enter /dev "can't make /dev in the rootfs" && copy_devices . && leave
        refresh_files
    }
    give_pipes_to_user
    make_directory "$workdir"
    find_entry "$rootfs"
    find_capabilities
    drop_capabilities
    set_helper_words - "$flag_die"
    set_watched_launch KILL "$host_env $list $entry_words $guest_env $words_before \"\$@\" $words_after"
    [ -n "$print_only" ] || print_ports
}

# Set `launch` to execute the words $2 with the redirections $3, so that the kernel sends the signal $1 when this script
# dies.
set_watched_launch() {
    [ -n "$print_only" ] || set -- "$1" "${pdeathsig:+\"\$pdeathsig\" --pdeathsig $1} \
${restore_sigint:+\"\$restore_sigint\" --default-signal=INT,QUIT} $2" "${3-}"
    set_launch "$2" "${3-}"
}

# As process 1: mount in the private namespace, then set `launch` to start the guest. $1 is the number of typed words, $2
# and $3 are the first two.
enter_rootfs() {
    session_file='' relay_count=0 # the outer script empties the session's file, and waits for relays
    trap 'finish 129' HUP
    trap 'finish 130' INT
    trap 'finish 143' TERM
    read_pids
    case $pids in
        *[!0-9]1) ;;
        *) fail "--inside is for start.sh itself" ;; # in another mount namespace, all processes would see the mounts
    esac
    [ -z "$privileged" ] || say "with --privileged, programs inside can read and change everything on this machine"
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
        [ -z "$has_roots_files" ] || { show_devices && make_sys_read_only; }
        name_terminal
    fi
    [ "$typed_ids" != many ] || set_owners
    give_pipes_to_user
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
    # Only in a user namespace with all ids, root is the machine's. In others the kernel allows fewer mounts, and with
    # one id no supplementary groups.
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

# Set `launch` to start the guest in the rootfs, after all mounts are made.
start_in_rootfs() {
    find_entry "${keeps_root:+$real_rootfs}"
    drop_capabilities
    [ -z "$helper" ] || [ -z "$nested" ] || confine_nested
    make_stage_read_only
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

# Set `guest_words`: the guest's program with its arguments, after the words that set its environment. If $1 isn't
# empty, a helper executes the program, which doesn't search PATH: where the image has no env(1), the program is then
# replaced by its path, and `launch_first` sets "$@" to its arguments.
set_guest_words() {
    guest_words="$guest_env $words_before \"\$@\" $words_after"
    [ -n "$1" ] && [ -n "$host_env" ] || return 0
    find_guest_program
    quote "${found_program:-$guest_program}"
    launch_first="set -- $guest_words; shift;"
    guest_words="$quoted \"\$@\""
}

# Set `launch` to execute the words $1 with the redirections $2. Unless the guest's program is an init, process 1 stays
# a shell that runs the words in a child.
start_process() {
    # The kernel drops signals for process 1 that it has no handler for: only an init is written for that.
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
    # The shell that stays process 1 has all capabilities, so that a guest with fewer can't reach the host's files by
    # /proc/1/root.
    find_program sh
    quote "$check_parent$start_guest$end_guest"
    set_launch "$list \"\$program\" -c $quoted \"\$script\" $$ $1" "$2"
}

# Set `list` to words that keep the guest from taking the terminal from the shell that has started this in the
# background. In the guest's PID namespace, the outer foreground process group has the number 0, so that a shell of the
# guest would take its own group for the foreground.
leave_terminal() {
    if [ -n "$helper" ] && [ -r "$directory/.provision/background.bpf" ]; then
        append '' "$helper" "$directory/.provision/background.bpf" 0
    elif [ -t 0 ]; then
        exec </dev/null
    fi
}

# The commands of process 1 that run the guest. With the default action, the kernel drops signals for process 1; with
# `:` as handler, the shell survives SIGINT, which is for the guest. mksh always has handlers for some signals.
# shellcheck disable=SC2016 # it is evaluated later
start_guest='
    case ${KSH_VERSION-} in
        "") trap - HUP TERM ;;
        *) trap : HUP TERM ;;
    esac
    trap : INT
    "$@"
'

# The commands of process 1 after the guest has ended.
# shellcheck disable=SC2016 # it is evaluated later
end_guest='exit $?'

# Commands for the shell that becomes process 1: exit if its parent isn't process $1 any more, because the parent may
# have ended before the kernel was asked to kill this shell with it. The shell has none of the functions of this script.
# shellcheck disable=SC2016 # the other shell expands it
check_parent='
    { read -r _ _ _ parent _ </proc/self/stat && [ "$parent" = "$1" ]; } || exit 137
    shift
'
