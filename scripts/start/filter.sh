# The seccomp filters: one that emulates root in a user namespace with a single id, and one for all other containers in
# chroot and user namespaces. See provisioner/launch/seccomp.py.
# Sets `filter` (words before the program that runs under it, or empty), `keeps_root` (not empty where the rootfs can't
# be the namespace's root).

# Set `filter` and `keeps_root` for this container, which has nothing but the root of a user namespace if there are no
# `more_ids`.
confine() {
    filter_file=$directory/.provision/container.bpf
    # That one has all rules of the other.
    [ "$is_machine_root$uid:$gid$more_ids" != 0:0 ] || [ ! -r "$directory/.provision/seccomp.bpf" ] ||
        filter_file=$directory/.provision/seccomp.bpf
    [ -r "$filter_file" ] && [ -z "$privileged" ] || filter_file=-
    # The kernel makes no user namespace for a process that stands between two roots. A user without capabilities can't
    # chroot out of the rootfs.
    keeps_root=$nested
    [ -n "$nested$joined" ] || moves_root=$helper
    find_capabilities
    guard "$filter_file"
    filter=$list
    if [ -n "$nested" ]; then
        filter=''
    elif [ -z "$helper" ] && [ "${filter_file##*/}" = seccomp.bpf ]; then
        find_filter
    fi
}

# Add the filter to `entry_words` for a user other than root with a single id, whose namespace is yet to be made: no
# filter allows that. The helper comes behind it, and is found by its descriptor.
confine_nested() {
    program=$helper nested_filter=/proc/self/fd/8
    copy_program
    nested_helper=$program
    [ "$filter_file" != - ] || nested_filter=- filter_file=/dev/null
    no_new_privs=yes
    guard "$nested_filter"
    append "$entry_words" /proc/self/fd/7 "$nested_filter" "$helper_flags" && entry_words=$list
}

# Set `filter` without a helper, with util-linux's setpriv, else with bwrap. bwrap stays as the guest's parent, so that
# an init can't be process 1 below it.
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
    bwrap=$program keeps_root=yes
    # bwrap finds itself in /proc by its number in this namespace, this script by numbers of the outer one: it gets a
    # /proc of its own. It also gets the terminal's signals as the guest does, and must survive them.
    find_program unshare
    # shellcheck disable=SC2016 # the other shell expands it
    append '' "$program" -m \
        sh -c "${restore_sigint:+trap '' INT QUIT; }"'mount -t proc proc /proc && exec "$@" 8<"$0"' "$filter_file" \
        "$bwrap" --dev-bind / / --cap-add ALL --seccomp 8 -- && filter=$list
}
