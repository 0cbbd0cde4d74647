# Interrupts: Ctrl-C ends also what ignores it. The kernel keeps from process 1 each signal that it has no handler for.
# Sets `forced_status` (that of what this script has killed), `interrupts` (how many have had no effect), `main_process`,
# `signals_ignored` and `signals_caught` (its masks, in hexadecimal).

# After a Ctrl-C at the terminal, which the guest has got as well: end the guest if it has ignored the one before.
handle_interrupt() {
    { find_main_process && read_masks "$main_process"; } || return 0
    case $main_process/$signals_ignored in
        "$child"/*)
            # It is process 1 itself.
            case $signals_caught in *[2367abef]) return 0 ;; esac
            ;;
        */*[2367abef]) ;;
        *) return 0 ;;
    esac
    interrupts=$((interrupts + 1))
    case $interrupts/$signals_caught in
        1/*) say "what runs ignores Ctrl-C: press it again to end it" ;;
        2/*[4567cdef]???) kill -s TERM "$main_process" 2>/dev/null ;;
        *)
            forced_status=137
            # In a namespace all others end with process 1.
            if [ "$runtime" = proot ]; then find_descendants "$child"; else descendants=$child; fi
            [ -z "$descendants" ] || eval "kill -s KILL $descendants" 2>/dev/null
            ;;
    esac
}

# Set `main_process`: the guest's first program, below those of start.sh.
find_main_process() {
    main_process=$child
    case ${inside:+$joined}$runtime in
        bare) return 0 ;;
        proot)
            find_child "$child" || return 1
            main_process=$first_child
            # The one that waits for the command comes between.
            [ -z "$report" ] || ! find_child "$first_child" || main_process=$first_child
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
        main_process=$first_child
    done
}

# Set `signals_ignored` and `signals_caught` of the process $1.
read_masks() {
    read_file "/proc/$1/status" || return 1
    find_field SigIgn && signals_ignored=$value
    find_field SigCgt && signals_caught=$value
    [ -n "$signals_caught" ]
}
