# The option --detach: start this script again in the background.
# Sets nothing that other parts read.

# Succeed if `log` is no link to another file and can be written to.
can_append() {
    [ ! -L "$log" ] || return
    if [ -e "$log" ]; then
        # shellcheck disable=SC2046 # split into words: mode, links
        set -- $(ls -ld "$log")
        [ -f "$log" ] && [ "${2-}" = 1 ] || return
    fi
    { true >>"$log"; } 2>/dev/null
}

# Start this script in the background with the typed words $@. Print its process number and the path of its log.
detach() {
    log=$directory/.provision/log
    # The log is never a link. Outside of DIR, its name can't be predicted.
    can_append || log=$(mktemp "${TMPDIR:-/tmp}/start.XXXXXX") || fail "can't make a log: set TMPDIR"
    launch_words=''
    # Shells ignore SIGINT in background jobs; without this it would not reach the guest.
    find_program env && "$program" --default-signal=INT,QUIT true 2>/dev/null &&
        append '' "$program" --default-signal=INT,QUIT && launch_words=$list
    # In a session of its own it gets no SIGHUP when the terminal closes, but kill(1) can still send it one.
    if find_program setsid; then
        append "$launch_words" "$program" && launch_words=$list
    else
        trap '' HUP
    fi
    find_program sh || fail "there is no sh on PATH"
    append "$launch_words" "$program" "$script"
    eval "set -- $list $options --detached -- \"\$@\""
    # On descriptor 6 it writes `started` when it is a session, or the reason why it can't start.
    answer=$(
        "$@" </dev/null 6>&1 >>"$log" 2>&1 &
        printf '%s\n' "$!"
    )
    pid='' started='' reason=''
    while read -r line; do
        case $line in
            started) started=yes ;;
            *[!0-9]*) reason=$line ;;
            *) pid=$line ;;
        esac
    done <<END
$answer
END
    [ -n "$started" ] || { printf '%s\n' "${reason:-start.sh: it ended at once, see $log}" >&2 && exit 125; }
    printf '%s\n' "$pid"
    say "it runs as process $pid, and its output goes to $log"
}
