# Filter: the seccomp filters. One also emulates root in a user namespace with one id, the other is for all other
# containers in chroot and user namespaces. See provisioner/launch/seccomp.py.
# Sets `filter` (the words before the program that runs under it, or empty), `keeps_root` (not empty where the rootfs
# can't become the mount namespace's root).

# Set `filter` and `keeps_root`. The filter that emulates root is for root of a namespace without `more_ids`.
confine() {
    filter_file=$directory/.provision/container.bpf
    # seccomp.bpf has all rules of container.bpf.
    [ "$is_machine_root$uid:$gid$more_ids" != 0:0 ] || [ ! -r "$directory/.provision/seccomp.bpf" ] ||
        filter_file=$directory/.provision/seccomp.bpf
    [ -r "$filter_file" ] && [ -z "$privileged" ] || filter_file=-
    # The kernel makes no user namespace for a process whose root isn't the mount namespace's, so that the rootfs can't
    # become that root before the second user namespace is made. A user without capabilities can't chroot out of the
    # rootfs anyway.
    keeps_root=$nested
    [ -n "$nested$joined" ] || moves_root=$helper
    find_capabilities
    set_helper_words "$filter_file"
    filter=$list
    if [ -n "$nested" ]; then
        filter=''
    elif [ -z "$helper" ] && [ "${filter_file##*/}" = seccomp.bpf ]; then
        find_filter
    fi
}

# Add the filter to `entry_words` for a user other than root in a namespace with one id. unshare(1) makes a second
# namespace, which the filters refuse: so the helper installs the filter after unshare, and is executed by its
# descriptor.
confine_nested() {
    program=$helper nested_filter=/proc/self/fd/8
    copy_program
    nested_helper=$program
    [ "$filter_file" != - ] || nested_filter=- filter_file=/dev/null
    no_new_privs=yes
    set_helper_words "$nested_filter"
    append "$entry_words" /proc/self/fd/7 "$nested_filter" "$helper_flags" && entry_words=$list
}

# Set `filter` without a helper: to util-linux's setpriv, else to bwrap. bwrap stays the guest's parent, so that an init
# below it could not be process 1.
find_filter() {
    filter=''
    if find_program setpriv; then
        case $("$program" --help 2>&1) in
            *--seccomp-filter*) append '' "$program" --seccomp-filter "$filter_file" && filter=$list && return ;;
        esac
    fi
    if [ -z "$can_mount_proc" ] || is_init || ! find_program bwrap; then
        return 1
    fi
    bwrap=$program keeps_root=yes
    # bwrap looks itself up in /proc by its number in this PID namespace, but /proc here is the outer one's: it gets its
    # own /proc. It must also survive SIGINT and SIGQUIT of the terminal, which are for the guest.
    find_program unshare
    # shellcheck disable=SC2016 # the other shell expands it
    append '' "$program" -m \
        sh -c "${restore_sigint:+trap '' INT QUIT; }"'mount -t proc proc /proc && exec "$@" 8<"$0"' "$filter_file" \
        "$bwrap" --dev-bind / / --cap-add ALL --seccomp 8 -- && filter=$list
}
