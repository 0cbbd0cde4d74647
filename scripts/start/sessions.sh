# Sessions: what runs from this DIR. `.provision/run/PID` has three lines: when the process started (stat_start), the
# runtime, and the command. A file that is empty, or whose process has ended or has another start, is no session.
# Sets `session_file` (this process's, or empty), `sessions` (process numbers, as " N N").

# Write this process's file, for the typed words $@. Nothing happens if DIR can't be written to.
remember_session() {
    session_file=$directory/.provision/run/$$
    [ -z "$inside" ] || return 0
    [ -d "$directory/.provision/run" ] || mkdir "$directory/.provision/run" 2>/dev/null
    tidy_sessions
    join_command "$@"
    append "$words_before" "$@"
    list="$list $words_after"
    list=${list# }
    make_printable "${list% }"
    read_stat $$ && write_text "$stat_start$newline$runtime$newline$printable$newline" "$session_file" ||
        session_file=''
}

# Remove the files of earlier sessions if there are many.
tidy_sessions() {
    set +f
    set -- "$directory"/.provision/run/*
    set -f
    [ $# -lt 64 ] || find_sessions
}

# Set `sessions`, and remove the files of processes that have ended.
find_sessions() {
    sessions='' stale_files=''
    set +f
    for file in "$directory"/.provision/run/[0-9]*; do
        set -f
        { read -r recorded_start <"$file"; } 2>/dev/null && read_stat "${file##*/}" &&
            [ "$stat_start" = "$recorded_start" ] && sessions="$sessions ${file##*/}"
        if [ -e "$file" ] && [ ! -e "/proc/${file##*/}" ]; then
            append "$stale_files" "$file" && stale_files=$list
        fi
    done
    set -f
    [ -z "$stale_files" ] || eval "rm -f $stale_files" 2>/dev/null
}

# Print a line for each session: its process number, runtime and command.
list_sessions() {
    find_sessions
    for pid in $sessions; do
        {
            read -r _
            read -r runtime
            IFS= read -r session_command
        } <"$directory/.provision/run/$pid"
        make_printable "$runtime" && runtime=$printable
        make_printable "$session_command"
        printf '%s\t%s\t%s\n' "$pid" "$runtime" "$printable"
    done
}

# End all sessions: with the image's stop signal, and after ten seconds with SIGKILL.
stop_sessions() {
    find_sessions
    stop_signal=TERM
    case ${image_stop_signal#SIG} in
        HUP | INT | QUIT | USR1 | USR2) stop_signal=${image_stop_signal#SIG} ;;
        1) stop_signal=HUP ;;
        2) stop_signal=INT ;;
        3) stop_signal=QUIT ;;
    esac
    for pid in $sessions; do
        kill -s "$stop_signal" "$pid" 2>/dev/null || fail "can't stop $pid, which is somebody else's"
    done
    wait_for_sessions "${PROVISION_TEST_STOP_TENTHS:-100}" && return
    for pid in $sessions; do
        find_descendants "$pid"
        # The script itself exits when they have ended, and cleans up.
        [ -z "$descendants" ] || eval "kill -s KILL $descendants" 2>/dev/null
    done
    wait_for_sessions 20 && return
    eval "kill -s KILL $sessions" 2>/dev/null
    wait_for_sessions 20 || fail "can't stop$sessions"
}

# Wait up to $1 tenths of a second. Fails if sessions are left then.
wait_for_sessions() {
    tenths=$1
    while find_sessions && [ -n "$sessions" ]; do
        [ "$tenths" -gt 0 ] || return 1
        tenths=$((tenths - 1))
        sleep 0.1
    done
}
