# The static helper: what shells can't do before a program starts, see provisioner/launch/static_helper.py.
# Sets `helper` (its path, or empty).

# Set `helper`, if DIR has one for this machine that can be executed.
find_helper() {
    helper=''
    # Android ends an app that calls keyctl(2), and older ones an app that calls close_range(2).
    [ -z "${ANDROID_ROOT-}" ] || [ "$host_uid" = 0 ] || return 0
    { read -r helper_machine <"$directory/.provision/machine"; } 2>/dev/null || return 0
    helper=$directory/.provision/helper magic=''
    ! runs_natively "$helper_machine" || { read -r magic <"$helper"; } 2>/dev/null
    # A shell would run what is no program for this machine as a script.
    case $magic in
        ?ELF*)
            # Behind the filter, it says with 127 that there is no such program.
            { "$helper" "$directory/.provision/container.bpf" 7 "$helper.none"; } 2>/dev/null
            [ $? != 127 ] || return 0
            ;;
    esac
    helper=''
    say "without a seccomp filter, because $directory/.provision/helper can't be executed here"
}

# Set `helper_flags`, and `list`: the helper with the filter $1, or `-`, as words before a program. It closes all
# descriptors above 2 and joins a new session keyring.
guard() {
    # CLOSE and KEYRING, and NO_NEW_PRIVS.
    list='' helper_flags=$((${hides_entry:+-1} + 1 + 2${no_new_privs:+ + 4}))
    [ -z "$helper" ] || append '' "$helper" "$1" "$helper_flags"
}
