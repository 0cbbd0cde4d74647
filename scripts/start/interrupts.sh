# Interrupts: repeated Ctrl-C ends a guest that ignores it. The kernel drops signals for process 1 of a PID namespace
# that it has no handler for.
# Sets `forced_status` (the exit status after this script has killed the guest, or empty), `interrupts` (the number of
# ignored interrupts), `main_process` and `main_parent`, `signals_ignored` and `signals_caught` (its masks, in hexadecimal).

# Handle a Ctrl-C at the terminal, which the terminal has sent to the guest, too. If the guest ignores it, print a hint
# the first time, send SIGTERM the second time, and kill the guest after that, or at once if it doesn't handle SIGTERM.
handle_interrupt() {
    { find_main_process && read_masks "$main_process"; } || return 0
    case $main_process/$signals_ignored in
        "$child"/*)
            # The guest is process 1 itself.
            case $signals_caught in *[2367abef]) return 0 ;; esac
            ;;
        */*[2367abef]) ;;
        *) return 0 ;;
    esac
    interrupts=$((interrupts + 1))
    case $interrupts/$signals_caught in
        1/*) say "the program ignores Ctrl-C: press it again to end it" ;;
        2/*[4567cdef]???) signal_process TERM "$main_process" "$main_parent" ;;
        *)
            forced_status=137
            if [ "$runtime" = proot ]; then
                find_descendants "$child"
                [ -z "$descendants" ] || eval "kill -s KILL $descendants" 2>/dev/null
            else
                # In a PID namespace, all processes end with process 1.
                signal_process KILL "$child" $$
            fi
            ;;
    esac
}

# Set `main_process`: the process of the guest's program, a descendant of start.sh's own programs; and `main_parent`: its
# parent.
find_main_process() {
    main_process=$child main_parent=$$
    case ${inside:+$joined}$runtime in
        bare) return 0 ;;
        proot)
            find_child "$child" || return 1
            main_process=$first_child main_parent=$child
            # The reporter is the parent of the guest's program.
            [ -z "$report" ] || ! find_child "$main_process" || main_parent=$main_process main_process=$first_child
            return 0
            ;;
    esac
    for _ in 1 2 3 4; do
        read_file "/proc/$main_process/comm" || return 1
        case $main_process/$text in
            "$child/sh" | "$child/start.sh" | "$child/setpriv" | "$child/env") [ -z "$joined" ] || return 0 ;;
            */helper | */bwrap) ;;
            *) return 0 ;;
        esac
        find_child "$main_process" || return 1
        main_parent=$main_process main_process=$first_child
    done
}

# Set `signals_ignored` and `signals_caught` to the masks of the process $1.
read_masks() {
    read_file "/proc/$1/status" || return 1
    find_field SigIgn && signals_ignored=$value
    find_field SigCgt && signals_caught=$value
    [ -n "$signals_caught" ]
}
