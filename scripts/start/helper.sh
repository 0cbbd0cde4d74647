# The static helper: what shells can't do before a program starts, see provisioner/launch/static_helper.py.
# Sets `helper` (its path, or empty), `waiter` (its path where it can at least wait for a program, or empty),
# `proot_identity` (which file proot is, or empty).

# Set `helper` and `waiter`, if DIR has one for this machine that can be executed; and `proot_identity`, by the same
# process.
find_helper() {
    helper='' waiter='' proot_identity=''
    { read -r helper_machine <"$directory/.provision/machine"; } 2>/dev/null || return 0
    waiter=$directory/.provision/helper magic=''
    ! runs_natively "$helper_machine" || { read -r magic <"$waiter"; } 2>/dev/null
    # Android ends an app that calls keyctl(2), and older ones an app that calls close_range(2).
    if [ -z "${ANDROID_ROOT-}" ] || [ "$host_uid" = 0 ]; then
        helper=$waiter
        set -- "$directory/.provision/container.bpf" 7
        case $runtime in auto | proot) ! find_program proot || set -- "$@" "$directory/.provision/proot-probe" - ;; esac
    else
        set -- - 0
    fi
    # A shell would run what is no program for this machine as a script.
    case $magic in
        ?ELF*)
            # Behind the filter, it says with 127 that there is no such program.
            case $# in
                2) { "$waiter" "$@" "$waiter.none"; } 2>/dev/null ;;
                *) proot_identity=$("$waiter" "$@" "$program" 2>/dev/null) ;;
            esac
            case $? in 0 | 127) return 0 ;; esac
            ;;
    esac
    helper='' waiter=''
    say "without a seccomp filter, because $directory/.provision/helper can't be executed here"
}

# Set `helper_flags`, and `list`: the helper with the filter $1, or `-`, as words before a program. It closes all
# descriptors above 2, or above 5 if $2 is KEEP, and joins a new session keyring. Without a terminal it begins a process
# group: at a terminal the group is the caller's job, which Ctrl-C and Ctrl-Z are for. Without a helper, close those
# descriptors up to 9.
guard() {
    own_group=''
    has_terminal || [ "$runtime" = proot ] || own_group=yes
    # CLOSE and KEYRING, NO_NEW_PRIVS, KEEP, GROUP.
    list='' helper_flags=$((${hides_entry:+-1} + 1 + 2${no_new_privs:+ + 4}${2:+ + 16}${own_group:+ + 64}))
    if [ -n "$helper" ]; then
        append '' "$helper" "$1" "$helper_flags"
    else
        # Shells can close these.
        [ -n "${2-}" ] || exec 3<&- 4<&- 5<&-
        exec 6<&- 7<&- 8<&- 9<&-
    fi
}
