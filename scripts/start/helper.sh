# The static helper: what shells can't do before a program starts, see provisioner/launch/static_helper.py.
# Sets `helper` (its path, or empty).

# Set `helper`, if DIR has one for this machine that can be executed.
find_helper() {
    helper=''
    { read -r helper_machine <"$directory/.provision/machine"; } 2>/dev/null || return 0
    helper=$directory/.provision/helper
    # Without its words it exits with 125. A shell would run what isn't for this machine as a script.
    if runs_natively "$helper_machine" && [ -f "$helper" ] && [ -x "$helper" ]; then
        "$helper" 2>/dev/null
        [ $? != 125 ] || return 0
    fi
    helper=''
    say "without a seccomp filter, because $directory/.provision/helper can't be executed here"
}

# Set `helper_flags`, and `list`: the helper with the filter $1, or `-`, as words before a program. It closes all descriptors above 2 and
# joins a new session keyring.
guard() {
    # CLOSE and KEYRING, and NO_NEW_PRIVS.
    list='' helper_flags=$((1 + 2${no_new_privs:+ + 4}))
    [ -z "$helper" ] || append '' "$helper" "$1" "$helper_flags"
}
