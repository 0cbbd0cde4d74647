# Processes: facts about this process and others from /proc, whose user ids fakeroot doesn't change.
# Sets `host_uid`, `host_gid`, `capabilities`, `ignored_signals`, `pids`, `tracer`; `stat_*`; `first_child`,
# `descendants`.

# Set `host_uid` and `host_gid`; `capabilities` and `ignored_signals`, as hexadecimal masks; and `tracer`, the name of the
# program that traces this process.
read_status() {
    host_uid='' host_gid='' capabilities=0 ignored_signals=0 tracer=''
    # Shells read one byte at a time, and no later line is needed.
    while read -r field value rest; do
        case $field in
            TracerPid:)
                # In a PID namespace, the tracer may be invisible.
                [ "$value" = 0 ] || { read -r tracer <"/proc/$value/comm"; } 2>/dev/null
                ;;
            Uid:) host_uid=${rest%%[!0-9]*} ;;
            Gid:) host_gid=${rest%%[!0-9]*} ;;
            SigIgn:) ignored_signals=$value ;;
            CapEff:) capabilities=$value && break ;;
        esac
    done </proc/self/status
}

# Set `pids`: this process's number in each PID namespace, from the outermost to its own.
read_pids() {
    pids=''
    while read -r field value; do
        [ "$field" != NSpid: ] || { pids=$value && break; }
    done </proc/self/status
}

# Set `stat_state` (Z for a process that has ended), `stat_parent`, `stat_group` (process group), `stat_terminal` (0 for
# none), `stat_foreground` (the process group in that terminal's foreground) and `stat_start` (in ticks since the system's
# start) of process $1: see proc_pid_stat(5).
read_stat() {
    read_file "/proc/$1/stat" || return 1
    # The second field, the program's name in parentheses, may hold anything. The third one becomes $1.
    # shellcheck disable=SC2086 # split into fields
    set -- ${text##*) }
    [ $# -ge 20 ] || return 1
    stat_state=$1 stat_parent=$2 stat_group=$3 stat_terminal=$5 stat_foreground=$6 stat_start=${20}
}

# Succeed if the process $1 has ended, or is none.
has_ended() {
    ! read_stat "$1" || [ "$stat_state" = Z ]
}

# Succeed if the caller of this script has SIGINT ignored, as in a script's background job.
ignores_interrupts() {
    case $ignored_signals in
        *[2367abef]) ;;
        *) return 1 ;;
    esac
}

# Succeed if this process is in its terminal's foreground.
in_foreground() {
    read_stat $$ && [ "$stat_group" = "$stat_foreground" ]
}

# Succeed if this process has a terminal, and is in its background.
is_in_background() {
    has_terminal && read_stat $$ && [ "$stat_group" != "$stat_foreground" ]
}

# Succeed if this process has a controlling terminal. The answer can't change, and is kept in `own_terminal`.
has_terminal() {
    [ -n "$own_terminal" ] || { read_stat $$ && own_terminal=$stat_terminal; }
    [ "${own_terminal:-0}" != 0 ]
}

# Set `first_child`: the first child of process $1, or empty.
find_child() {
    first_child=''
    # Of a process that has ended there is no list, but of this one there is if the kernel makes some.
    if [ -z "${PROVISION_TEST_NO_CHILDREN-}" ] && [ -e "/proc/$$/task/$$/children" ]; then
        ! read_file "/proc/$1/task/$1/children" || first_child=${text%% *}
    else
        set +f
        for process in /proc/[0-9]*; do
            set -f
            if read_stat "${process#/proc/}" && [ "$stat_parent" = "$1" ]; then
                first_child=${process#/proc/}
                break
            fi
        done
        set -f
    fi
    [ -n "$first_child" ]
}

# Set `first_child`: the child of the session $1 that is process 1 of its PID namespace. Other children are relays.
find_process_1() {
    find_child "$1" || return 1
    [ -e "/proc/$1/ns/pid_for_children" ] && [ -e "/proc/$1/task/$1/children" ] || return 0
    children=''
    { read -r children <"/proc/$1/task/$1/children"; } 2>/dev/null || [ -n "$children" ] || return 1
    for first_child in $children; do
        # shellcheck disable=SC3013 # all of our shells have it
        [ ! "/proc/$first_child/ns/pid" -ef "/proc/$1/ns/pid_for_children" ] || return 0
    done
    return 1
}

# Set `descendants`: all descendants of the processes $1 ("N N"), and all processes that they or their descendants
# trace.
find_descendants() {
    descendants='' family=" $1 " has_grown=yes
    set +f
    related=$(grep -hsE '^(Pid|PPid|TracerPid):' /proc/[0-9]*/status)
    set -f
    while [ -n "$has_grown" ]; do
        has_grown='' field=''
        for word in $related; do
            case $field in
                Pid:) pid=$word ;;
                PPid: | TracerPid:)
                    case $family in
                        *" $pid "*) ;;
                        *" $word "*) has_grown=yes descendants="$descendants $pid" family="$family$pid " ;;
                    esac
                    ;;
            esac
            field=$word
        done
    done
}

# Set `value` to the field $1 in the `text` of a status file, or to nothing.
find_field() {
    value=${text##*"$newline$1:	"}
    [ "$value" != "$text" ] || value=''
    value=${value%%"$newline"*}
}
