# Watch: with one id, a program that has become another user is still root. An entrypoint that starts itself again as that
# user, by gosu or su-exec, would never stop: this is seen, reported and ended.
# Sets `watch` (words before the program that may need it, or empty), `end_guest` (the last command of process 1).

# Set `watch`, and `end_guest` where no filter emulates root. What is typed, and no entrypoint, isn't watched: it costs a
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

# For another shell, with the session's file and the words of the program. The watch becomes a child of process 1, behind
# the program. It looks once a second, for a minute, at the program's place in memory, which is another one after each
# execve(2), and at the time that it has taken: who waits before it starts itself again takes little.
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
                echo "start.sh: it starts itself again without end, since it can'\''t become another user with one id:" \
                    "provision --ids many makes a DIR that has more (or: --entrypoint, past it)" >&2
                [ ! -s "$session" ] || true >"$session"
                kill -s KILL "$number"
                exit
            done
        ) </dev/null >/dev/null &
    )
    exec "$@"
'

# What ends process 1 where root can change neither owners nor users: whether the guest has tried can't be seen.
# shellcheck disable=SC2016 # it is evaluated later
explain_guest='
    case $? in
        0) exit ;;
        [1-9] | [1-9]? | 1[01]? | 12[0-7])
            set -- $?
            echo "start.sh: root with one id, and without a seccomp filter, can'\''t change owners and users;" \
                "if it failed by that: provision --ids many IMAGE DIR makes a DIR that has more" >&2
            exit "$1"
            ;;
        *) exit $? ;;
    esac
'
