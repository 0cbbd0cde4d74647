# Streams: a user other than root can open the standard streams in chroot, as in docker, where /dev/stdout leads to them.
# Sets `relayed` (the descriptors, of 1 and 2, that lead to a relay), `relay_count` (how many relays this process waits
# for). `new_terminal` says which descriptors are a terminal that terminal_relay.py has made: `yes` (all), 1, 2 or 12; or `no`
# where it couldn't make one.

# Succeed if the command's user is neither root nor the one that runs this script.
has_other_owner() {
    case $runtime/$ids in
        chroot/* | userns/many) ;;
        *) return 1 ;;
    esac
    case $user in
        '' | 0 | 0:* | root | root:*) return 1 ;;
    esac
}

# Succeed if standard output or error is a terminal, which the command's user can't open, and a relay can be started. Set
# `relay`, and `answer`, what `new_terminal` will be.
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
    # The terminal of another session is not to be read from.
    [ "$answer" != 12 ] || [ ! -t 0 ] || [ ! /proc/self/fd/0 -ef /proc/self/fd/1 ] || ! has_terminal || answer=yes
}

# Set `launch` to become this script again on a new terminal, below a relay that stays.
relay_terminal() {
    find_program sh || fail "there is no sh on PATH"
    # It says once why it takes this runtime.
    [ "$joined$runtime" != chroot ] || set -- --runtime chroot
    set_launch "\"\$relay\" $answer \"\$program\" \"\$script\" --new-terminal no $options $* -- \"\$@\""
}

# Where the command's user won't be root, have the files behind standard output and error written by relays. A relay is a
# cat(1) that reads from a pipe: that can be given to the user, while the files never change their owner.
relay_files() {
    has_other_owner || return 0
    { [ -f /proc/self/fd/1 ] || [ -f /proc/self/fd/2 ]; } || return 0
    find_program mkfifo && find_program cat || return 0
    make_temporary
    # A relay writes a line to descriptor 5 when all is written.
    { mkfifo "$temporary/end" "$temporary/1" "$temporary/2" && exec 5<>"$temporary/end"; } || fail "can't make a pipe"
    # shellcheck disable=SC3013 # a shell that has no -ef relays both
    if [ /proc/self/fd/7 -ef /proc/self/fd/8 ] 7>&1 8>&2 2>/dev/null; then
        start_relay 1 && exec >"$temporary/1" 2>&1 && relayed='1 2'
    else
        [ ! -f /proc/self/fd/1 ] || { start_relay 1 && exec >"$temporary/1" && relayed=1; }
        [ ! -f /proc/self/fd/2 ] || { start_relay 2 && exec 2>"$temporary/2" && relayed="$relayed 2"; }
    fi
    rm -rf "$temporary"
    temporary=''
}

# Start the relay from the pipe `temporary`/$1 to descriptor $1. It ends when nobody has the pipe open any more.
start_relay() {
    relay_count=$((relay_count + 1))
    (
        trap '' HUP INT QUIT TERM
        # Descriptor 6 is what --detach waits for.
        "$program" 5>&- 6>&-
        echo >&5
    ) <"$temporary/$1" >&"$1" 6>&- &
}

# Exit with status $1 when the relays have written all. Nothing that is inside has their pipes open any more. This shell
# may be one that can't read, see read_text, nor start a program, see finish. It becomes another one that can read.
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

# Give the pipes among the standard streams to the user, as docker does: otherwise /dev/stdout, which leads to them,
# can't be opened; and the new terminal. Files, other terminals and named pipes are the caller's, and stay so, but
# for those of relays.
give_pipes() {
    [ "$uid$nested" != 0 ] && [ -z "$nested" ] || return 0
    pipes=${new_terminal#no}
    for descriptor in 0 1 2; do
        [ ! -p "/proc/self/fd/$descriptor" ] || pipes=yes
    done
    [ -n "$pipes" ] || return 0
    change_pipe_owners 7<&0 8>&1 9>&2
}

# Make the user the owner of those of the descriptors 7 to 9 that are pipes without a name, lead to relays, or to the terminal
# that a relay has made. mksh closes them for programs that don't get them by a redirection of their own.
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
    # In a user namespace root can't change what has the group of terminals.
    case $runtime/$new_terminal in
        userns/yes | userns/[12]*) { chmod 600 "$@" && chgrp 0 "$@"; } 7<&7 8>&8 9>&9 2>/dev/null || : ;;
    esac
    chown "$uid" "$@" 7<&7 8>&8 9>&9 2>/dev/null || :
}
