# Watch: in a namespace with one id, a program that has switched to another user is still root. An entrypoint that
# executes itself again as that user, by gosu or su-exec, would do so forever: the watch detects this, prints a message
# and kills it.
# Sets `watch` (the words before a program that is watched, or empty), `end_guest` (the last commands of process 1).

# Set `watch`, and `end_guest` where no filter emulates root. Only entrypoints are watched, because the watch is a
# shell.
find_watch() {
    { [ "${filter_file##*/}" = seccomp.bpf ] && [ -n "$filter" ]; } || end_guest=$explain_guest
    [ -z "$login" ] || return 0
    case $entrypoint/${guest_program##*/} in
        ?*/* | /*.sh | /*entrypoint*) ;;
        *) return 0 ;;
    esac
    find_program sh && append '' "$program" -c "$watch_guest" "$script" "$directory/.provision/run/$$" && watch=$list
}

# Commands for another shell, whose arguments are the session's file and the words of the program. The watch is
# orphaned, so that it becomes a child of process 1. Once a second, for a minute, it reads the program's stack address,
# which changes with each execve(2), and its processor time, which stays low in a program that waits before it executes
# itself again.
# shellcheck disable=SC2016 # the other shell expands it
watch_guest='
    session=$1
    shift
    (
        (
            round=0 count=0 guest="" stack="" ticks=0
            while [ "$round" -lt 60 ] && sleep 1; do
                round=$((round + 1)) last="$guest $stack" last_ticks=$ticks guest=""
                read -r self _ _ init _ </proc/self/stat
                read -r children <"/proc/$init/task/$init/children"
                for child in $children; do
                    [ "$child" = "$self" ] || [ -n "$guest" ] || guest=$child
                done
                { [ -n "$guest" ] && read -r line <"/proc/$guest/stat"; } || exit
                set -- ${line##*) }
                stack=${26} ticks=$((${12} + ${13} + ${14} + ${15}))
                case $last in
                    "$guest $stack" | *" 0" | " ") count=0 && continue ;;
                    "$guest "*) [ $((ticks - last_ticks)) -ge 10 ] && count=$((count + 1)) || count=0 ;;
                    *) count=0 ;;
                esac
                [ "$count" -ge 5 ] || continue
                while read -r field numbers; do
                    [ "$field" != NSpid: ] || number=${numbers##*[!0-9]}
                done <"/proc/$guest/status"
                echo "start.sh: the entrypoint starts itself again without end, since it can'\''t switch to another" \
                    "user with one id: make a DIR with provision --ids many, or skip the entrypoint with --entrypoint" >&2
                [ ! -s "$session" ] || true >"$session"
                kill -s KILL "$number"
                exit
            done
        ) </dev/null >/dev/null &
    )
    exec "$@"
'

# The last commands of process 1 where root can change neither owners nor users: if the guest fails, print a hint,
# because whether the guest has tried that can't be found out.
# shellcheck disable=SC2016 # it is evaluated later
explain_guest='
    case $? in
        0) exit ;;
        [1-9] | [1-9]? | 1[01]? | 12[0-7])
            set -- $?
            echo "start.sh: root with one id, and without a seccomp filter, can'\''t change owners and users;" \
                "if that made it fail, make another DIR: provision --ids many IMAGE DIR" >&2
            exit "$1"
            ;;
        *) exit $? ;;
    esac
'
