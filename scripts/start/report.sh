# Report: the command's exit status, written to descriptor 3. proot itself exits with the status of the process that
# ended last.
# Sets `reporter` (the words before the guest's command that report its status, or empty), `report` (not empty if a
# report is expected), `reported` (the report, or empty).

# Set `reporter`: the static helper, executed inside of proot, or else the image's shell. It installs `proot_filter`,
# waits for the command, writes its status and ends proot with all processes that the command has left. The helper is
# executed by its descriptor, so that it needs no file in the rootfs.
find_reporter() {
    reporter='' report=yes redirections=''
    if [ -n "$waiter" ]; then
        inner_filter=- inner_flags=$((flag_wait + flag_report))
        [ -z "$helper" ] || inner_flags=$((inner_flags + flag_close))
        if [ -n "$proot_filter" ]; then
            inner_filter=/proc/self/fd/5
            # Without CAP_SYS_ADMIN (bit 21), the kernel requires no_new_privs for a filter. proot's guests can't use
            # setuid programs anyway.
            low=0x${capabilities#??????????}
            [ $((low >> 21 & 1)) -eq 1 ] || [ -n "$no_new_privs" ] || inner_flags=$((inner_flags + flag_no_new_privs))
        fi
        if [ -n "$print_only" ]; then
            # With --print, no process reads a report.
            inner_flags=$((inner_flags - flag_report)) report=''
            append '' "$waiter" && redirections=" 4<${list# }"
            append '' "${proot_filter:-/dev/null}" && redirections="$redirections 5<${list# }"
        fi
        append '' /proc/self/fd/4 "$inner_filter" "$inner_flags"
        reporter=$list
    elif [ -z "$print_only" ] && guest_has /bin/sh; then
        # The handlers keep the shell alive until the command has ended. The command doesn't inherit them.
        # shellcheck disable=SC2016 # the guest's shell expands it
        append '' /bin/sh -c 'trap : HUP INT QUIT USR1 USR2 TERM; "$@" 3>&-; echo "$?" >&3; kill -s QUIT "$PPID"' sh
        reporter=$list
    else
        report=''
    fi
}

# Open the descriptors of `reporter`: 3 (report), 4 (helper) and 5 (filter); and 8, from which this script reads the
# report. The report is appended to this process's session file, or to a temporary file.
open_report() {
    [ -n "$report" ] || return 0
    report_file=$session_file
    if [ -z "$report_file" ] || [ -L "$report_file" ]; then
        make_temporary
        report_file=$temporary/report
        write_text '' "$report_file"
    fi
    exec 3>>"$report_file" 4<"${waiter:-/dev/null}" 5<"${proot_filter:-/dev/null}"
    exec 8<"$report_file"
    while read -r _; do :; done <&8
}

# Set `reported` to the report, and `status` to the exit status in it.
read_report() {
    reported=''
    [ -n "$report" ] || return 0
    read_text <&8
    reported=${text%"$newline"}
    reported=${reported##*"$newline"}
    case $reported in
        [0-9] | [0-9][0-9] | [0-9][0-9][0-9])
            status=${reported#0}
            status=${status#0}
            status=${status:-0}
            ;;
    esac
}

# After proot was killed, kill its guests: the kernel doesn't, and they would continue untraced, with the host's files.
# Each of them executes a temporary file of proot's, with proot's process number in its name. One that another one is
# just making is found when they are listed again.
end_orphans() {
    rounds=20
    while [ -n "$child" ] && [ "$rounds" -gt 0 ] && find_orphans; do
        eval "kill -s KILL $orphans" 2>/dev/null
        rounds=$((rounds - 1))
    done
}

# Set `orphans` to the guests of the proot that was the child. Fail if there are none.
find_orphans() {
    orphans=''
    set +f
    orphan_list=$(ls -l /proc/[0-9]*/exe 2>/dev/null)
    set -f
    while [ -n "$orphan_list" ]; do
        line=${orphan_list%%"$newline"*}
        case $orphan_list in
            *"$newline"*) orphan_list=${orphan_list#*"$newline"} ;;
            *) orphan_list='' ;;
        esac
        case $line in
            *" /proc/"*"/exe -> "*"/prooted-$child-"*)
                pid=${line#*" /proc/"}
                orphans="$orphans ${pid%%/*}"
                ;;
        esac
    done
    [ -n "$orphans" ]
}
