# Supervise: run the guest, forward signals to it, and exit with its status.
# Sets `child`, `status`, `last_signal` (the number of the last signal, or empty), `interrupted`, and `killed_status`
# (the status of a child that this script has killed itself, or empty).

# Forward signals from now on.
begin_supervision() {
    killed_status='' interrupts=0 forced_status=''
    for signal in HUP:1 INT:2 QUIT:3 USR1:10 USR2:12 TERM:15; do
        # shellcheck disable=SC2064 # expanded now
        trap "forward ${signal%:*} ${signal#*:}" "${signal%:*}"
    done
}

# Succeed if the guest must not be a background job: it has to have SIGINT at a terminal.
is_in_job_control() {
    ! can_interrupt && ! ignores_interrupts && has_terminal
}

# Exit with the `status` of the guest, which has ended.
end_supervision() {
    read_report
    # What would have reported has been killed, together with the command: proot doesn't know.
    [ -z "$report" ] || [ -n "$reported" ] || [ "$status" != 0 ] || status=137
    # Without a report: proot exits with 255 for each guest that a signal ended.
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

# Wait for the background job $! and set `child`, and `status`. A shell reacts to signals at once only while it waits for one.
wait_for_guest() {
    child=$!
    # A signal that came before could not be forwarded.
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
            # The terminal has sent it to the guest as well.
            ! in_foreground || { [ "$1" != INT ] || handle_interrupt && return; }
            ;;
    esac
    guest_signal=$1 guest_pid=$child child_signal='' direct_child=''
    [ "$1" != INT ] || can_interrupt || guest_signal=TERM
    read_file "/proc/$child/comm"
    case ${inside:+$joined}$runtime/$text in
        proot/ | proot/proot*)
            # proot itself ignores signals, except for SIGQUIT, which ends what its first guest has left running.
            # With a report there is one until the end. Before, proot neither heeds signals nor ends its first child.
            tries=${report:+100}
            until find_child "$child" || [ "${tries:-0}" -eq 0 ] || has_ended "$child"; do tries=$((tries - 1)); done
            if [ -n "$first_child" ]; then guest_pid=$first_child; else child_signal=QUIT; fi
            # The one that waits for the command comes between.
            [ -z "$report" ] || ! find_child "$guest_pid" || guest_pid=$first_child
            ;;
        proot/*) child_signal=KILL ;; # it has not become proot yet
        chroot/sh | userns/sh | chroot/helper | userns/helper | chroot/setpriv | userns/setpriv)
            # Process 1, with the guest, or with a program that prepares it, below.
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
    # Process 1 has to get its signal before it sees the program below it end.
    [ -z "$child_signal" ] || kill -s "$child_signal" "$child" 2>/dev/null
    kill -s "$guest_signal" "$guest_pid" 2>/dev/null
    # That was a program that prepares the guest if there is another one now, and process 1 may have had no handler yet. With
    # --ephemeral, it may be the one that removes the changes.
    [ -n "$direct_child" ] && [ -z "$ephemeral" ] || return 0
    tries=100
    until find_child "$child" || [ "$tries" -eq 0 ] || has_ended "$child"; do tries=$((tries - 1)); done
    case $first_child in '' | "$direct_child") ;; *) forward "$1" "$2" ;; esac
}

# Succeed if the guest can have SIGINT: shells ignore it in background jobs, and only some can reset it.
can_interrupt() {
    [ -n "$restore_sigint${BASH_VERSION-}${KSH_VERSION-}" ] || [ "${waiter:+$signal_flags}" = "$flag_default_signals" ]
}
