# Main: the steps of a start, in order. Each step sets variables that later steps read.
# POSIX sh. Builtins are preferred, because starting a program takes a millisecond. See docs/start-sh.md.
# The rootfs is untrusted: outside of the container, no path in it is used before `resolve` has resolved it.
# The typed words are those of the command line that are left after the options. They may be long, and a shell takes
# milliseconds to pass them to a function. So only `main` has all of them, in "$@": functions get their number and the
# first two, and set `launch`, which holds commands for `eval` that contain "$@".
# shellcheck disable=SC2154 # image_* and default_* are assigned above, by provisioner/launch/launcher.py

main() {
    prepare_shell
    find_directory "$0"
    set_defaults
    while read_option $# "${1-}" "${2-}"; do
        shift "$width"
    done
    shift "$width"
    end_options
    read_status
    signal_flags=$flag_default_signals
    ! ignores_interrupts || signal_flags=0 # the guest ignores SIGINT too
    check_trust
    [ -z "$execute" ] || [ "$session_action" = detach ] || choose_session $#
    case ${print_only:-$session_action} in
        list) list_sessions && exit ;;
        stop) stop_sessions && exit ;;
        detach) detach "$@" && exit ;;
    esac
    find_runtime
    ! needs_terminal || { relay_terminal && eval "$launch"; }
    [ -n "$joined$inside" ] || check_write_options
    if [ -z "$print_only$inside" ]; then
        begin_description $#
        while describes_more; do
            eval "describe_word \"\${$described}\""
        done
    fi
    [ -n "$print_only" ] || remember_session
    [ -n "$print_only$inside$joined" ] || relay_files
    prepare_outside $# "${1-}" "${2-}"
    case $print_only/$inside$runtime in
        ?*/* | /chroot | /userns) eval "$launch" ;;
        *)
            # With --inside the next child is process 1 of the PID namespace, and the namespace ends with it: no program may
            # be started before it.
            if is_in_job_control; then
                begin_supervision
                (
                    [ -z "$last_signal" ] || exit $((128 + last_signal)) # it came before, and has reached nothing
                    prepare_inside $# "${1-}" "${2-}"
                    [ -z "$typed_umask" ] || umask "$typed_umask"
                    eval "$launch"
                )
                status=$?
            else
                begin_supervision
                exec 9<&0
                (
                    trap - INT QUIT
                    prepare_inside $# "${1-}" "${2-}"
                    [ -z "$typed_umask" ] || umask "$typed_umask"
                    eval "$launch"
                ) <&9 9<&- &
                wait_for_guest
            fi
            end_supervision
            ;;
    esac
}

# Without --inside, set `launch` to start the guest, or to run this script again with --inside. $1 is the number of typed
# words, $2 and $3 are the first two.
prepare_outside() {
    case $inside$runtime$joined in
        yes*) ;;
        proot*) prepare_proot "$@" ;;
        bare*) prepare_bare "$@" ;;
        *[0-9]) join_namespaces ;;
        *) make_namespaces ;;
    esac
}

# Set `runtime`, `ids` and what choose_runtime sets, unless --inside or --joined has set them.
find_runtime() {
    case $inside$joined/$runtime in
        yes*) ;;
        [0-9]*/chroot | [0-9]*/userns) find_machine && find_helper ;;
        *)
            choose_ids
            choose_runtime
            [ "$ids" = one ] || remember_ids
            ;;
    esac
}

# Set the shell's options, PATH and the standard streams as all functions expect them, and the variables that `finish`
# reads.
prepare_shell() {
    set -fu
    IFS=' 	
'
    newline='
'
    umask 022
    # If one of these were closed, the next file to be opened would get its number.
    { true 9<&0; } 2>/dev/null || exec </dev/null
    { true 9>&1; } 2>/dev/null || exec >/dev/null
    { true 9>&2; } 2>/dev/null || exec 2>/dev/null
    preloaded=${LD_PRELOAD+yes}
    # Termux preloads a library that breaks proot and guests. An empty value would break them as well.
    unset LD_PRELOAD
    LC_ALL=C
    clean_path "${PATH-}"
    # TMPDIR appears in messages, and programs inherit it.
    case ${TMPDIR-} in
        /*//* | /?*/ | */./*) normalize "$TMPDIR" host && TMPDIR=$normal ;;
    esac
    PATH=$PATH${PROVISION_TEST_SBIN-:/usr/sbin:/sbin}
    detached='' secret_words='' moves_ports='' relayed='' relay_count=0 ids=one
    temporary='' child='' alias_count=0 guest_program='' session_file='' inside=''
    links_directory='' has_roots_files='' stage='' etc_binds='' real_rootfs='' helper='' waiter='' start_directory=$PWD
    view_count=0 throwaway='' upper='' hides_entry='' entry_helper='' mount_words='' capability_digits='' moves_root='' own_terminal='' tar_kind=''
    last_signal='' report='' reported='' redirections='' features='' launch='' launch_first=''
}

# Set PATH to the absolute directories of $1: a program in a relative one may belong to anybody. ~/.local/bin comes
# last, because `provision expose` puts programs of containers there, which may have the names of the machine's
# programs.
clean_path() {
    absolute_words='' exposed_words='' IFS=:
    for path_entry in $1; do
        case $path_entry in
            /*//* | //* | /?*/) normalize "$path_entry" host && path_entry=$normal ;;
        esac
        case $path_entry in
            "${HOME-}/.local/bin") exposed_words=:$path_entry ;;
            /*) absolute_words=$absolute_words:$path_entry ;;
        esac
    done
    IFS=" 	$newline"
    absolute_words=$absolute_words$exposed_words
    PATH=${absolute_words#:}
    PATH=${PATH:-/usr/bin:/bin}
}

# With --inside, in the process that becomes the guest or the guest's parent: set `launch`. $1 is the number of typed
# words, $2 and $3 are the first two.
prepare_inside() {
    case $inside$joined in
        yes?*) join_rootfs "$@" ;;
        yes) enter_rootfs "$@" ;;
    esac
}

# Find the guest's user, command and environment, for the typed words: $1 is their number, $2 and $3 are the first two.
prepare_guest() {
    find_user
    find_hostname
    find_command "$@"
    build_environment
}

# Print the error message $1, which ends with its hint, and exit with 125, as `docker run` does when docker itself
# fails.
fail() {
    say "$1"
    [ -z "$detached" ] || { printf 'start.sh: %s\n' "$printable" >&6; } 2>/dev/null
    finish 125
}

# Exit with status $1, and remove the temporary files.
finish() {
    # If the session's file is empty, watch.sh has ended the guest: 125.
    [ "$1" != 137 ] || [ ! -e "$session_file" ] || [ -s "$session_file" ] || set -- 125
    # The session's file is emptied, not removed: no program can be started after process 1 has ended. Later starts
    # remove it.
    [ ! -e "$session_file" ] || write_text '' "$session_file"
    [ -z "$throwaway" ] || [ -n "$inside" ] || remove_throwaway "$throwaway"
    # Files in the stage vanish with the mount namespace.
    [ -z "$temporary" ] || [ -n "$stage" ] || rm -rf "$temporary"
    [ "$relay_count" = 0 ] || end_with_relays "$1"
    exit "$1"
}
