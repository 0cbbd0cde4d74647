# Streams: let a user other than root open /dev/stdin, /dev/stdout and /dev/stderr in chroot and with many ids, as in
# docker.
# Sets `relayed` (those of the descriptors 1 and 2 that lead to a relay), `relay_count` (the number of relays that this
# process waits for). `new_terminal`, from --new-terminal, says which descriptors are a terminal that the relay of
# terminal_relay.py has made: `yes` (all), 1, 2 or 12; or `no` if it couldn't make one.

# Succeed if the command's user will be another than the one that runs this script.
has_other_owner() {
    case $runtime/$ids in
        chroot/* | userns/many) ;;
        *) return 1 ;;
    esac
    case $user in
        '' | 0 | 0:* | root | root:*) return 1 ;;
    esac
}

# Succeed if standard output or error is a terminal that the command's user can't open, and a relay can be started. Set
# `relay` to the relay's path, and `answer` to the later value of `new_terminal`.
# shellcheck disable=SC3013 # all of our shells have -ef
needs_terminal() {
    [ -z "$inside$print_only" ] || return
    relay=$directory/.provision/terminal-relay
    case $new_terminal in
        '') ;;
        yes | [12]*)
            [ "/proc/$PPID/exe" -ef "$relay" ] || fail "--new-terminal is for start.sh itself"
            return 1
            ;;
        *) return 1 ;;
    esac
    has_other_owner && [ -n "$waiter" ] && [ -x "$relay" ] || return
    answer=''
    [ ! -t 1 ] || answer=1
    [ ! -t 2 ] || answer=${answer}2
    [ "$answer" != 12 ] || [ /proc/self/fd/1 -ef /proc/self/fd/2 ] || return
    [ -n "$answer" ] || return
    # Standard input is relayed only from this process's controlling terminal.
    [ "$answer" != 12 ] || [ ! -t 0 ] || [ ! /proc/self/fd/0 -ef /proc/self/fd/1 ] || ! has_terminal || answer=yes
}

# Set `launch` to execute the relay, which runs this script again on a new terminal.
relay_terminal() {
    find_program sh || fail "there is no sh on PATH"
    # With --runtime, --verbose doesn't explain the choice twice.
    [ "$joined$runtime" != chroot ] || set -- --runtime chroot
    set_launch "\"\$relay\" $answer \"\$program\" \"\$script\" --new-terminal no $options $* -- \"\$@\""
}

# If the command's user won't be root, and standard output or error is a file, replace it by a pipe to a relay, a cat(1)
# that writes the file. The pipe's owner can be changed to the user; the file's owner never changes.
relay_files() {
    has_other_owner || return 0
    { [ -f /proc/self/fd/1 ] || [ -f /proc/self/fd/2 ]; } || return 0
    find_program mkfifo && find_program cat || return 0
    make_temporary
    # A relay writes a line to descriptor 5 when it has written everything.
    { mkfifo "$temporary/end" "$temporary/1" "$temporary/2" && exec 5<>"$temporary/end"; } || fail "can't make a pipe"
    # shellcheck disable=SC3013 # a shell without -ef starts two relays
    if [ /proc/self/fd/7 -ef /proc/self/fd/8 ] 7>&1 8>&2 2>/dev/null; then
        start_relay 1 && exec >"$temporary/1" 2>&1 && relayed='1 2'
    else
        [ ! -f /proc/self/fd/1 ] || { start_relay 1 && exec >"$temporary/1" && relayed=1; }
        [ ! -f /proc/self/fd/2 ] || { start_relay 2 && exec 2>"$temporary/2" && relayed="$relayed 2"; }
    fi
    rm -rf "$temporary"
    temporary=''
}

# Start the relay from the pipe `temporary`/$1 to descriptor $1. It ends when no process has the pipe open for writing.
start_relay() {
    relay_count=$((relay_count + 1))
    (
        trap '' HUP INT QUIT TERM
        # --detach waits until descriptor 6 is closed.
        "$program" 5>&- 6>&-
        echo >&5
    ) <"$temporary/$1" >&"$1" 6>&- &
}

# Exit with status $1 when the relays have written everything. All processes of the container, which had the pipes open,
# have ended. This shell may be unable to read (see read_text) and to start a program (see finish), so it becomes another
# one, which can read.
end_with_relays() {
    find_program sh || exit "$1"
    # shellcheck disable=SC2016 # the other shell expands it
    exec "$program" -c '
        trap "exit $1" HUP INT QUIT USR1 USR2 TERM
        count=$2
        while [ "$count" -gt 0 ] && read -r _; do count=$((count - 1)); done
        exit "$1"
    ' sh "$1" "$relay_count" <&5 >/dev/null 2>&1
}

# Change the owner of those standard streams that are pipes, or the new terminal, to the user, as docker does: otherwise
# the user can't open /dev/stdout. Files, other terminals and named pipes keep their owner, except for pipes to relays.
give_pipes_to_user() {
    [ "$uid$nested" != 0 ] && [ -z "$nested" ] || return 0
    pipes=${new_terminal#no}
    for descriptor in 0 1 2; do
        [ ! -p "/proc/self/fd/$descriptor" ] || pipes=yes
    done
    [ -n "$pipes" ] || return 0
    change_pipe_owners 7<&0 8>&1 9>&2
}

# Change the owner of those of the descriptors 7 to 9 that are unnamed pipes, pipes to relays, or the new terminal. mksh
# closes descriptors above 2 for programs, unless they are redirected for them.
change_pipe_owners() {
    set --
    for descriptor in 7 8 9; do
        number=$((descriptor - 7))
        case "$new_terminal/ $relayed " in
            yes/* | *$number*/* | */*" $number "*) stream=pipe: ;;
            *) stream=$(readlink "/proc/self/fd/$descriptor" 7<&7 8>&8 9>&9) ;;
        esac
        case $stream in pipe:*) set -- "$@" "/proc/self/fd/$descriptor" ;; esac
    done
    [ $# != 0 ] || return 0
    # In a user namespace, root can't change the owner of a file whose group has no id there.
    case $runtime/$new_terminal in
        userns/yes | userns/[12]*) { chmod 600 "$@" && chgrp 0 "$@"; } 7<&7 8>&8 9>&9 2>/dev/null || : ;;
    esac
    chown "$uid" "$@" 7<&7 8>&8 9>&9 2>/dev/null || :
}
