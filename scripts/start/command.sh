# Command: the image's ENTRYPOINT and CMD, and the typed words between them, joined as `docker run` does.
# Sets `found_program`; `runs_image` (not empty if the image's entrypoint or command is run); `words_before` and
# `words_after` (the lists before and after the typed words), `guest_program` (the first word of the joined command).

# Set `words_before` and `words_after` for $1 typed words. With --shell, `words_before` is `--shell`, because the user's
# shell is not known yet.
join_command() {
    words_before=$entrypoint words_after='' runs_image=$entrypoint
    if [ -n "$login" ]; then
        words_before=--shell
    elif [ "$1" = 0 ]; then
        words_after=$command runs_image=yes
        [ -n "$words_before$words_after" ] || words_after=/bin/sh
    fi
}

# Set `words_before`, `words_after` and `guest_program`, after find_user. $1 is the number of typed words, $2 and $3 are
# the first two.
find_command() {
    join_command "$1"
    if [ -n "$login" ]; then
        case $shell in
            */nologin | */false) shell=/bin/sh ;;
            /*[!/]) guest_has "$shell" || shell=/bin/sh ;;
            *) shell=/bin/sh ;;
        esac
        append '' "$shell" -l && words_before=$list
    fi
    case $1 in
        0) set -- ;;
        1) set -- "$2" ;;
        *) set -- "$2" "$3" ;;
    esac
    eval "set -- $words_before \"\$@\" $words_after"
    guest_program=$1
    refuse_systemd "${2-}"
}

# Exit if the guest's program is systemd, unless its first argument $1 is --version or --help. It would hang silently.
refuse_systemd() {
    case ${guest_program##*/}/$1 in
        systemd/--version | systemd/--help | systemd/-h) return ;;
        init/*)
            case $guest_program in
                */*) resolve "$guest_program" ;;
                *) resolve "/sbin/$guest_program" ;;
            esac
            case $resolved in */systemd) ;; *) return ;; esac
            ;;
        systemd/*) ;;
        *) return 0 ;;
    esac
    fail "systemd can't run in this container: start the program of a service instead, or use --shell"
}

# At a terminal, if the image's own command runs, print the image's ports and their numbers on this machine.
print_ports() {
    { [ -t 2 ] && [ -z "$login" ] && [ -n "$image_ports" ] && [ -n "$runs_image" ]; } || return 0
    eval "set -- $image_ports"
    port_list=''
    for port; do
        number=${port%%/*}
        port_list="$port_list${port_list:+, }$port"
        [ -z "$moves_ports" ] || ! is_number "$number" || [ "$number" -ge 1024 ] || port_list="$port_list (outside $((number + 2000)))"
    done
    say "ports of the image, on this machine's network: $port_list"
}

# Set `found_program`: the guest's path of its program, or empty; and `status`: 0, 126 if the program can't be executed,
# or 127 if it doesn't exist, as in shells. Relative and empty entries of the guest's PATH are relative to its working
# directory.
find_guest_program() {
    found_program='' status=127
    case $guest_program in
        */*) search_path=. ;;
        *) search_path=${guest_path:+$guest_path:} ;;
    esac
    case $guest_program in /*) search_path=/ ;; esac
    IFS=:
    for path_entry in $search_path; do
        IFS=" 	$newline"
        case $path_entry in /*) ;; *) path_entry=$workdir/$path_entry ;; esac
        normalize "$path_entry/$guest_program"
        guest_has "$normal" && found_program=$normal status=0 && return
        [ ! -e "$rootfs$resolved" ] || status=126
    done
    IFS=" 	$newline"
}

# Succeed if the guest's program expects to be process 1.
is_init() {
    case ${guest_program##*/} in
        init | tini | tini-* | docker-init | dumb-init | catatonit | s6-svscan | my_init | *-init | runit | dinit) ;;
        *) return 1 ;;
    esac
}
