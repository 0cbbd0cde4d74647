# Supervise: run the guest, forward signals to it, and exit with its status.
# Sets `child`, `status`, `last_signal` (the number of the last signal, or empty), `interrupted` (not empty after a
# signal), and `killed_status` (the exit status that the child has if this script has killed it, or empty).

# Set handlers that forward signals to the guest.
begin_supervision() {
    killed_status='' interrupts=0 forced_status=''
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
    child=$!
    # An earlier signal could not be forwarded.
    [ -z "$last_signal" ] || { killed_status=137 && kill -s KILL "$child"; }
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

# Forward the signal with the name $1 and the number $2.
forward() {
    interrupted=yes last_signal=$2
    [ -n "$child" ] || return 0
    case $1 in
        INT | QUIT)
            # The terminal has sent the signal to the guest, too.
            ! in_foreground || { [ "$1" != INT ] || handle_interrupt && return; }
            ;;
    esac
    guest_signal=$1 guest_pid=$child child_signal='' direct_child=''
    [ "$1" != INT ] || can_interrupt || guest_signal=TERM
    read_file "/proc/$child/comm"
    case ${inside:+$joined}$runtime/$text in
        proot/ | proot/proot*)
            # proot itself ignores signals, except for SIGQUIT, on which it ends the processes that its first guest has
            # left. With a report, proot has a child until it ends. Before its first child exists, it ignores signals.
            tries=${report:+100}
            until find_child "$child" || [ "${tries:-0}" -eq 0 ] || has_ended "$child"; do tries=$((tries - 1)); done
            if [ -n "$first_child" ]; then guest_pid=$first_child; else child_signal=QUIT; fi
            # The reporter is the parent of the command.
            [ -z "$report" ] || ! find_child "$guest_pid" || guest_pid=$first_child
            ;;
        proot/*) child_signal=KILL ;; # the child has not executed proot yet
        chroot/sh | userns/sh | chroot/helper | userns/helper | chroot/setpriv | userns/setpriv)
            # The child is process 1, and its child is the guest or a program that prepares it.
            if find_child "$child"; then
                guest_pid=$first_child child_signal=$guest_signal direct_child=$first_child
            else
                child_signal=KILL
            fi
            [ -n "$helper" ] || { read_file "/proc/$guest_pid/comm" && [ "$text" = bwrap ] && find_child "$guest_pid" &&
                guest_pid=$first_child; }
            ;;
    esac
    case $child_signal in
        KILL) killed_status=137 ;;
        QUIT) killed_status=131 ;;
    esac
    # Process 1 must get its signal before its child ends.
    [ -z "$child_signal" ] || kill -s "$child_signal" "$child" 2>/dev/null
    kill -s "$guest_signal" "$guest_pid" 2>/dev/null
    # That was a program that prepares the guest if there is another one now, and process 1 may have had no handler yet. With
    # --ephemeral, it may be the one that removes the changes.
    [ -n "$direct_child" ] && [ -z "$ephemeral" ] || return 0
    tries=100
    until find_child "$child" || [ "$tries" -eq 0 ] || has_ended "$child"; do tries=$((tries - 1)); done
    case $first_child in '' | "$direct_child") ;; *) forward "$1" "$2" ;; esac
}

# Succeed if a guest in a background job can get SIGINT: shells ignore it there, and only some shells and tools can
# reset that.
can_interrupt() {
    [ -n "$restore_sigint${BASH_VERSION-}${KSH_VERSION-}" ] || [ "${waiter:+$signal_flags}" = "$flag_default_signals" ]
}
