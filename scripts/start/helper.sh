# Helper: the static program that does what shells can't before a program starts, see
# provisioner/launch/static_helper.py.
# Sets `helper` (its path, or empty where it can't be executed or Android doesn't allow its system calls), `waiter` (its
# path, or empty; on Android, too, where it may only wait, report and reset signals), `proot_identity` (identifies the
# file of proot, or empty), `has_namespaces` (not empty where user namespaces can be made).

# The helper's flags.
flag_close=1 flag_keyring=2 flag_no_new_privs=4 flag_wait=8 flag_keep=16 flag_report=32 flag_group=64
flag_default_signals=128 flag_die=256 flag_quit=512 flag_namespaces=1024 flag_hostname=2048 flag_capabilities=4096
flag_mounts=8192 flag_root=16384

# Set all of them. If DIR has no helper that this machine can execute, set `restore_sigint` and `pdeathsig`.
find_helper() {
    helper='' waiter='' proot_identity='' has_namespaces='' magic=''
    if [ -n "$helper_machine" ] && runs_natively "$helper_machine"; then
        { read -r magic <"$directory/.provision/helper"; } 2>/dev/null
    fi
    # A shell would try to run a program of another machine as a script.
    case $magic in ?ELF*) waiter=$directory/.provision/helper ;; esac
    [ -z "$waiter" ] || ! choose_helper || return 0
    helper='' waiter=''
    find_tools
    [ -z "$helper_machine" ] ||
        say "no seccomp filter is used, because $directory/.provision/helper can't be executed here"
}

# Set `helper` and `has_namespaces`, and succeed if `waiter` can be executed.
choose_helper() {
    if [ -n "${ANDROID_ROOT-}" ] && [ "$host_uid" != 0 ]; then
        # Android kills an app that calls keyctl(2), and older versions one that calls close_range(2).
        try_helper - 0
        return
    fi
    helper=$waiter trial_filter=$directory/.provision/container.bpf
    trial_flags=$((flag_close + flag_keyring + flag_no_new_privs))
    if wants_namespaces && try_helper "$trial_filter" $((trial_flags + flag_namespaces)); then
        has_namespaces=yes
    else
        try_helper "$trial_filter" "$trial_flags"
    fi
}

# Succeed if the helper can be executed with the filter and flags $@. Set `proot_identity` with the same process, if
# proot may be used.
try_helper() {
    case $helper/$runtime in
        ?*/auto | ?*/proot)
            if find_program proot; then
                proot_identity=$("$waiter" "$@" "$directory/.provision/proot-probe" - "$program" 2>/dev/null)
                set -- $?
                [ "$1" = 0 ] || [ "$1" = 127 ]
                return
            fi
            ;;
    esac
    # If filter and flags work, the helper exits with 127, because there is no such program.
    { "$waiter" "$@" "$waiter.none"; } 2>/dev/null
    [ $? = 127 ]
}

# Set `list`: the words before a program that run it by the helper, with the filter $1 or `-`, and with the flags $2 in
# addition to those for all guests. Set `helper_flags` to all of these flags. The helper closes all descriptors above 2,
# or above 5 with flag_keep; joins a new session keyring; drops the capabilities that are 0 in `capability_digits`; and
# makes this shell's directory the root of the mount namespace if `moves_root` isn't empty. Without a terminal it starts
# a process group; at a terminal the guest stays in the caller's job, to which Ctrl-C and Ctrl-Z are sent. Without a
# helper, this shell closes the descriptors up to 9.
set_helper_words() {
    list='' helper_flags=$((${2:-0} + signal_flags))
    # The command that --print prints runs without this script.
    [ -z "$print_only" ] || helper_flags=$((helper_flags & flag_keep))
    if [ -n "$helper" ]; then
        helper_flags=$((helper_flags + flag_keyring))
        [ -n "$hides_entry" ] || helper_flags=$((helper_flags + flag_close))
        [ -z "$no_new_privs" ] || helper_flags=$((helper_flags + flag_no_new_privs))
        [ "$runtime" = proot ] || has_terminal || helper_flags=$((helper_flags + flag_group))
    else
        # Shells can close these.
        [ $((${2:-0} & flag_keep)) -ne 0 ] || exec 3<&- 4<&- 5<&-
        exec 6<&- 7<&- 8<&- 9<&-
    fi
    [ -n "$waiter" ] || return 0
    [ -z "$capability_digits" ] || {
        helper_flags=$((helper_flags + flag_capabilities))
        set -- "+$1" # the plus clears the inheritable capabilities
    }
    [ -z "$moves_root" ] || helper_flags=$((helper_flags + flag_root))
    append '' "$waiter" "$1" "$helper_flags" ${capability_digits:+"$capability_digits"}
}

# Set `list`: the words before a program that let the kernel kill it when this script ends, or empty if no tool can do
# that.
end_with_parent() {
    list=''
    if [ -n "$waiter" ]; then
        append '' "$waiter" - "$flag_die"
    elif [ -n "$pdeathsig" ]; then
        append '' "$pdeathsig" --pdeathsig KILL
    fi
}
