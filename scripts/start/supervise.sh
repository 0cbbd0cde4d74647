# Supervise: run the guest, forward signals to it, and exit with its status.
# Sets `child`, `status`, `last_signal` (the number of the last signal, or empty), `interrupted` (not empty after a
# signal), and `killed_status` (the exit status that the child has if this script has killed it, or empty).

# Set handlers that forward signals to the guest.
begin_supervision() {
    killed_status='' interrupts=0 forced_status='' pending_signals='' is_forwarding=''
    for signal in HUP:1 INT:2 QUIT:3 USR1:10 USR2:12 TERM:15; do
        # shellcheck disable=SC2064 # expanded here
        trap "forward ${signal%:*} ${signal#*:}" "${signal%:*}"
    done
}

# Succeed if the guest must not be a background job, in which it would ignore SIGINT of the terminal.
is_in_job_control() {
    ! can_interrupt && ! ignores_interrupts && has_terminal
}

# Exit with the `status` of the guest, which has ended.
end_supervision() {
    # From here on, handlers forward nothing, and can't change the variables of the functions that they interrupt.
    is_forwarding=yes
    read_report
    # The reporter has been killed, together with the command, but proot exits with 0.
    [ -z "$report" ] || [ -n "$reported" ] || [ "$status" != 0 ] || status=137
    # Without a report, proot exits with 255 if a signal has ended the guest.
    case $last_signal/${reported:-$status}/$runtime/${reported:+yes} in
        */137/proot/)
            end_orphans
            [ -z "$last_signal" ] || [ "$killed_status" != 137 ] || status=$((128 + last_signal))
            ;;
        */proot/yes) [ "$last_signal/$status" != /159 ] || explain_failure ;;
        [0-9]*/"$killed_status/$runtime/" | [0-9]*/255/proot/) status=$((128 + last_signal)) ;;
        /*/proot/) [ -n "$inside" ] || explain_failure ;;
    esac
    finish "${forced_status:-$status}"
}

# Wait for the background job $!, set `child` to its process number and `status` to its exit status. A shell runs
# handlers of signals at once only while it waits for a background job.
wait_for_guest() {
    early_signal=$last_signal child=$!
    # An earlier signal could not be forwarded. kill_child is for handlers: one may interrupt it here, and change its variables.
    [ -z "$early_signal" ] || { killed_status=137 && kill -s KILL "$child"; }
    status=127
    while :; do
        interrupted=''
        wait "$child"
        code=$?
        case $code in
            127) ;; # after a signal: the child had been waited for before
            -1) status=$((128 + last_signal)) ;; # bash lost the status, because a signal came at the same moment
            *) status=$code ;;
        esac
        [ -n "$interrupted" ] || break
    done
}

# Handle the signal with the name $1 and the number $2: forward it to the guest, once there is a child. Another signal
# may interrupt this handler between any two commands. Its handler only adds it to `pending_signals` then, and this one
# forwards it afterwards.
forward() {
    interrupted=yes last_signal=$2
    [ -n "$child" ] || return 0
    pending_signals="$pending_signals $1"
    while [ -n "$pending_signals" ] && [ -z "$is_forwarding" ]; do
        is_forwarding=yes taken_signals=$pending_signals pending_signals=''
        for taken_signal in $taken_signals; do
            forward_one "$taken_signal"
        done
        is_forwarding=''
    done
}

# Forward the signal $1.
forward_one() {
    case $1 in
        INT | QUIT)
            if in_foreground; then
                # The terminal has sent the signal to the guest, too.
                [ "$1" != INT ] || handle_interrupt
                return 0
            fi
            ;;
    esac
    if [ "$1" != INT ] || can_interrupt; then signal_guest "$1"; else signal_guest TERM; fi
}

# Send the signal $1 to the guest. The child's name shows which program it executes.
signal_guest() {
    read_file "/proc/$child/comm"
    case ${inside:+$joined}$runtime/$text in
        proot/ | proot/proot*) signal_guest_of_proot "$1" ;;
        proot/*) kill_child KILL 137 ;; # the child has not executed proot yet
        chroot/sh | userns/sh | chroot/helper | userns/helper | chroot/setpriv | userns/setpriv)
            signal_guest_of_process_1 "$1"
            ;;
        *) signal_process "$1" "$child" $$ ;; # the child is the guest
    esac
}

# Send the signal $1 to the guest of proot, which is the child. proot itself ignores signals, except for SIGQUIT, on which
# it ends the processes that its first guest has left.
signal_guest_of_proot() {
    # With a report, proot has a child until it ends. Before its first child exists, it ignores SIGQUIT, too.
    if [ -n "$report" ]; then wait_for_child "$child" 10; else find_child "$child"; fi || {
        kill_child QUIT 131
        return
    }
    if [ -n "$report" ]; then
        signal_reported_command "$1" "$first_child"
    else
        signal_process "$1" "$first_child" "$child"
    fi
}

# Send the signal $1 to the command of the reporter $2, proot's child. A reporter without a command may be just starting
# it, and then the command would not get the signal.
signal_reported_command() {
    find_child "$2" || {
        signal_process "$1" "$2" "$child"
        wait_for_child "$2" 10 || return 0
    }
    signal_process "$1" "$first_child" "$2"
}

# Send the signal $1 to the guest and to its parent, which is the child and process 1 of a PID namespace.
signal_guest_of_process_1() {
    find_child "$child" || {
        kill_child KILL 137
        return
    }
    signaled_child=$first_child parent_pid=$child guest_pid=$first_child
    # Without a helper, bwrap may be the guest's parent.
    [ -n "$helper" ] || ! is_bwrap "$guest_pid" || ! find_child "$guest_pid" ||
        parent_pid=$guest_pid guest_pid=$first_child
    # Process 1 must get its signal before its child ends.
    signal_process "$1" "$child" $$
    signal_process "$1" "$guest_pid" "$parent_pid"
    # With --ephemeral, the next child may be the program that removes the changes.
    [ -n "$ephemeral" ] || signal_next_child "$1"
}

# Send the signal $1 again if process 1 has another child than `signaled_child` now. The former one was a program that
# prepares the guest, and process 1 may have had no handler yet.
signal_next_child() {
    wait_for_child "$child" 0 || return 0
    [ "$first_child" = "$signaled_child" ] || signal_guest "$1"
}

# Set `first_child` to the first child of the process $1, and wait for it. Fail if the process ends without one, or has
# still none after $2 seconds.
wait_for_child() {
    tries=100 seconds=$2
    until find_child "$1"; do
        if has_ended "$1"; then return 1; fi
        if [ "$tries" -gt 0 ]; then
            tries=$((tries - 1))
        elif [ "$seconds" -gt 0 ]; then
            seconds=$((seconds - 1))
            sleep 1
        else
            return 1
        fi
    done
}

# Send the signal $1 to the child, which ends by it, with the exit status $2.
kill_child() {
    killed_status=$2
    signal_process "$1" "$child" $$
}

# Send the signal $1 to the process $2, which was found as a child of the process $3. It may have ended since, and another
# process may have got its number. But an open directory of /proc stays that of one process, and is empty after its end.
signal_process() {
    if { true 6<"/proc/$2"; } 2>/dev/null; then
        signal_opened "$@" 6<"/proc/$2"
    else
        # It has ended, or is invisible, because /proc is mounted with hidepid and the process can't be traced.
        kill -s "$1" "$2"
    fi 2>/dev/null
}

# Send the signal $1 to the process $2, whose directory is open as descriptor 6, if it is a child of the process $3.
signal_opened() {
    read_stat self/fd/6 && [ "$stat_parent" = "$3" ] && [ -e /proc/self/fd/6/stat ] && kill -s "$1" "$2"
}

# Succeed if the process $1 is bwrap.
is_bwrap() {
    read_file "/proc/$1/comm" && [ "$text" = bwrap ]
}

# Succeed if a guest in a background job can get SIGINT: shells ignore it there, and only some shells and tools can
# reset that.
can_interrupt() {
    [ -n "$restore_sigint${BASH_VERSION-}${KSH_VERSION-}" ] || [ "${waiter:+$signal_flags}" = "$flag_default_signals" ]
}
