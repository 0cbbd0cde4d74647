# The seccomp filter that emulates root in a user namespace with a single id: see provisioner/launch/seccomp.py.
# Sets `filter` (words before the program that runs under it, or empty).

# Set `filter`, with util-linux's setpriv, else with bwrap. bwrap stays as the guest's parent, so that an init can't be
# process 1 below it.
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
    # bwrap finds itself in /proc by its number in this namespace, this script by numbers of the outer one: it gets a
    # /proc of its own. It also gets the terminal's signals as the guest does, and must survive them.
    find_program unshare
    # shellcheck disable=SC2016 # the other shell expands it
    append '' "$program" -m \
        sh -c "${restore_sigint:+trap '' INT QUIT; }"'mount -t proc proc /proc && exec "$@" 8<"$0"' "$filter_file" \
        "$bwrap" --dev-bind / / --cap-add ALL --seccomp 8 -- && filter=$list
}
