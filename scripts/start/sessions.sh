# Sessions: the starts of this DIR that are running. The start.sh that is process PID writes `.provision/run/PID`. Its
# lines: the process's start time (stat_start); the runtime, after `exec PID` if it has joined that session; the
# command; the options that --exec inherits, quoted for the shell; `ready=yes`, once the guest can be joined; and in
# proot the exit status. A file is no session if it is empty, or if no process has its number and start time. Where DIR
# can't be written to, sessions have no file. They are found because their shells have this script open.
# Sets `session_file` (this process's, or empty), `sessions` (their process numbers, as " N N"), `containers` (those
# that have not joined another session), `unrecorded` (those without a file).

# Set `description` to the words of the command before the typed words, for remember_session, and `described`, the
# number of typed words in it, to 0. $1 is the number of typed words.
begin_description() {
    join_command "$1"
    description='' described=0 typed_words=$1
    eval "set -- $words_before $words_after"
    for word; do
        [ "${#description}" -lt 2000 ] || { description="$description ..." && break; }
        describe_word "$word"
    done
}

# Set `described` to the number of the next typed word. Fail if there is none or the description is long enough.
describes_more() {
    [ "$described" -lt "$typed_words" ] || return
    described=$((described + 1))
    [ "${#description}" -lt 2000 ] || { description="$description ..." && return 1; }
}

# Add the first 2000 characters of the word $1 to the description.
describe_word() {
    case ${#1} in
        ? | ?? | ??? | 1???) quote "$1" ;;
        *) quote "$(printf %.2000s "$1")..." ;;
    esac
    description="$description $quoted"
}

# Write this process's session file, with the `description`. Do nothing if DIR can't be written to.
remember_session() {
    session_file=$directory/.provision/run/$$
    [ -z "$inside" ] || return 0
    make_printable "${description# }"
    [ -d "$directory/.provision/run" ] || mkdir "$directory/.provision/run" 2>/dev/null
    limit_session_files
    # shellcheck disable=SC2154 # find_directory and others set them
    append '' "start_directory=$start_directory" "user=$user" "workdir=$workdir" "typed_env=$typed_env" \
        "typed_binds=$typed_binds" "typed_dns=$typed_dns" "typed_devices=$typed_devices" \
        "typed_hostname=$typed_hostname" "more_capabilities=$more_capabilities" "no_new_privs=$no_new_privs" \
        "privileged=$privileged" "no_namespace=$no_namespace" "host_devices=$host_devices" "termux=$termux" \
        "ephemeral=$ephemeral" "no_proxy_env=$no_proxy_env" "desktop=$desktop" end=
    read_stat $$ && write_text "$stat_start$newline${joined:+exec $joined }$runtime$newline$printable$newline$list$newline" \
        "$session_file" || session_file=''
    # The start.sh with --detach waits for this line.
    [ -z "$detached" ] || { printf 'started\n' >&6 && exec 6>&-; } 2>/dev/null
}

# Add `ready=yes` to this session's file.
announce_session() {
    session_record=$directory/.provision/run/$$
    [ ! -f "$session_record" ] || [ -L "$session_record" ] ||
        { printf 'ready=yes\n' >>"$session_record"; } 2>/dev/null
}

# If there are 64 session files, remove those of processes that have ended.
limit_session_files() {
    set +f
    set -- "$directory"/.provision/run/*
    set -f
    [ $# -lt 64 ] || find_sessions
}

# Succeed if the process $1 is a session.
has_session() {
    { read -r recorded_start <"$directory/.provision/run/$1"; } 2>/dev/null && read_stat "$1" &&
        [ "$stat_start" = "$recorded_start" ] && [ "$stat_state" != Z ]
}

# Read the file of the session $1: set `session_runtime`, `printable` (the command), and `text` (the remaining lines).
read_session() {
    session_runtime='' printable='' text=''
    {
        read -r _
        read -r session_runtime
        IFS= read -r printable
        read_text
    } 2>/dev/null <"$directory/.provision/run/$1"
}

# Set `sessions` and `containers`, and remove the files of processes that have ended.
find_sessions() {
    sessions='' containers='' stale_files=''
    set +f
    for file in "$directory"/.provision/run/[0-9]*; do
        set -f
        if has_session "${file##*/}"; then
            sessions="$sessions ${file##*/}"
            { read -r _ && read -r session_runtime _; } <"$file" && [ "$session_runtime" != exec ] &&
                containers="$containers ${file##*/}"
        elif [ -e "$file" ] && [ ! -e "/proc/${file##*/}" ]; then
            append "$stale_files" "$file" && stale_files=$list
        fi
    done
    set -f
    [ -z "$stale_files" ] || eval "rm -f $stale_files" 2>/dev/null
}

# Set `unrecorded` to the sessions without a file, if DIR can't be written to.
find_unrecorded() {
    unrecorded='' candidates=''
    # In some shells, -w is always true for root, also on a read-only file system.
    { [ -w "$directory/.provision/run" ] && true >>"$script"; } 2>/dev/null && return
    set +f
    for process in /proc/[0-9]*; do
        set -f
        # shellcheck disable=SC3067 # all of our shells have it
        { [ -O "$process" ] && reads_this_script "$process" && forwards_signals <"$process/status"; } 2>/dev/null &&
            candidates="$candidates ${process#/proc/}"
    done
    set -f
    # Children of a session's shell run the same script until they execute a program.
    for pid in $candidates; do
        read_stat "$pid" || continue
        case "$candidates $sessions " in *" $stat_parent "*) continue ;; esac
        case "$sessions " in *" $pid "*) ;; *) unrecorded="$unrecorded $pid" ;; esac
    done
}

# Succeed if the process with the directory $1 in /proc is a shell that runs this start.sh: shells open a script as
# descriptor 10 or later with O_CLOEXEC, unlike pagers and editors.
reads_this_script() {
    set +f
    for opened in "$1"/fd/[1-9][0-9]*; do
        set -f
        # shellcheck disable=SC3013 # all of our shells have it
        [ "$opened" -ef "$script" ] || continue
        while read -r field value; do
            # O_CLOEXEC, in octal
            case $field$value in flags:*[2367]??????) return 0 ;; esac
        done <"$1/fdinfo/${opened##*/}"
    done
    set -f
    return 1
}

# Succeed if the status file on standard input is of a process with a handler for SIGUSR1, which begin_supervision sets.
# mksh itself has handlers for other signals.
forwards_signals() {
    while read -r field value; do
        case $field$value in SigCgt:*[2367abef]??) return 0 ;; esac
    done
    return 1
}

# Print a line for each session: its process number, runtime and command.
list_sessions() {
    find_sessions
    find_unrecorded
    for pid in $containers $unrecorded; do
        read_session "$pid"
        [ -n "$session_runtime" ] || session_runtime='?' printable='not recorded, since DIR is read-only'
        session_command=$printable
        make_printable "$session_runtime" && session_runtime=$printable
        make_printable "$session_command"
        printf '%s\t%s\t%s\n' "$pid" "$session_runtime" "$printable"
    done
}

# Stop all sessions: send the image's stop signal, and SIGKILL early enough that all have ended at the timeout.
stop_sessions() {
    find_sessions
    find_unrecorded
    sessions=$sessions$unrecorded
    stop_signal=TERM
    case ${image_stop_signal#SIG} in
        HUP | INT | QUIT | USR1 | USR2) stop_signal=${image_stop_signal#SIG} ;;
        1) stop_signal=HUP ;;
        2) stop_signal=INT ;;
        3) stop_signal=QUIT ;;
    esac
    tenths=${PROVISION_TEST_STOP_TENTHS:-$((${stop_timeout:-10} * 10))}
    # After SIGKILL, processes take a moment to end, and start.sh to remove its files.
    grace=$((tenths / 10 + 2))
    find_time
    deadline=$((now + tenths))
    for pid in $sessions; do
        kill -s "$stop_signal" "$pid" 2>/dev/null || [ ! -e "/proc/$pid" ] ||
            fail "can't stop $pid, which belongs to another user"
    done
    wait_for_sessions $((deadline - grace)) && return
    kill_sessions
    wait_for_sessions $((deadline - grace / 2)) && return
    find_descendants "${sessions# }"
    eval "kill -s KILL $descendants $sessions" 2>/dev/null
    # Reading /proc may have taken the remaining time, and processes end late on a busy machine.
    find_time
    [ $((deadline - now)) -ge 50 ] || deadline=$((now + 50))
    wait_for_sessions "$deadline" || fail "can't stop$sessions"
}

# Kill the guests of all `sessions`. Their start.sh then removes its files and exits.
kill_sessions() {
    for pid in $sessions; do
        read_session "$pid"
        case $session_runtime in
            # All processes of a PID namespace end with its process 1.
            chroot | userns) ! find_process_1 "$pid" || kill -s KILL "$first_child" 2>/dev/null ;;
            # On SIGQUIT proot ends everything that it traces.
            *proot) ! find_child "$pid" || kill -s QUIT "$first_child" 2>/dev/null ;;
            *)
                find_child "$pid" || continue
                { read -r process_name <"/proc/$first_child/comm"; } 2>/dev/null
                kill_signal=KILL
                [ "$session_runtime$process_name" != proot ] || kill_signal=QUIT
                kill -s "$kill_signal" "$first_child" 2>/dev/null
                ;;
        esac
    done
}

# Wait until all sessions have ended. Fail if some are still running at the time $1, in tenths of a second.
wait_for_sessions() {
    while find_sessions && update_unrecorded && [ -n "$sessions" ]; do
        find_time
        [ "$now" -lt "$1" ] || return 1
        sleep 0.1
    done
}

# Remove from `unrecorded` the sessions that have ended, and add the others to `sessions`.
update_unrecorded() {
    remaining=$unrecorded unrecorded=''
    for pid in $remaining; do
        has_ended "$pid" || unrecorded="$unrecorded $pid"
    done
    sessions=$sessions$unrecorded
}

# Set `now`: the time since an arbitrary moment, in tenths of a second.
find_time() {
    if { read -r now _ </proc/uptime; } 2>/dev/null; then
        fraction=${now#*.} now=${now%%.*}${fraction%"${fraction#?}"}
        now=${now#0}
    else
        now=$(date +%s)
        # Some shells have 32-bit arithmetic.
        now=${now#???}0
        while :; do case $now in 0?*) now=${now#0} ;; *) break ;; esac done
    fi
}
