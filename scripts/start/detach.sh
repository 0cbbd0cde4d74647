# Detach, for --detach: this script once more, in the background.
# Sets nothing that other parts read.

# Start it with the typed words $@, and print its process number and where its output goes.
detach() {
    log=$directory/.provision/log
    { true >>"$log"; } 2>/dev/null || log=${TMPDIR:-/tmp}/start.$$.log
    launch_words=''
    # Shells ignore SIGINT in background jobs; without this it would not reach the guest.
    find_program env && "$program" --default-signal=INT,QUIT true 2>/dev/null &&
        append '' "$program" --default-signal=INT,QUIT && launch_words=$list
    # In a session of its own it gets no SIGHUP from a terminal, but can get it from others.
    if find_program setsid; then
        append "$launch_words" "$program" && launch_words=$list
    else
        trap '' HUP
    fi
    find_program sh || fail "there is no sh on PATH"
    append "$launch_words" "$program" "$script"
    eval "set -- $list $options -- \"\$@\""
    "$@" </dev/null >>"$log" 2>&1 &
    printf '%s\n' "$!"
    say "it runs as process $!, and writes to $log"
}
