# Command: the image's ENTRYPOINT and CMD, and the typed words between them, joined as `docker run` does.
# Sets `words_before` and `words_after` (lists around the typed words), `guest_program` (the first word of all).

# Set `words_before` and `words_after` for the typed words $@. With --shell, `words_before` is that option: the user's
# shell is not known yet.
join_command() {
    words_before=$entrypoint words_after=''
    if [ -n "$login" ]; then
        words_before=--shell
    elif [ $# -eq 0 ]; then
        words_after=$command
        [ -n "$words_before$words_after" ] || words_after=/bin/sh
    fi
}

# Set `words_before`, `words_after` and `guest_program` for the typed words $@ and the user that find_user has found.
find_command() {
    join_command "$@"
    if [ -n "$login" ]; then
        case $shell in
            */nologin | */false) shell=/bin/sh ;;
            /*[!/]) guest_has "$shell" || shell=/bin/sh ;;
            *) shell=/bin/sh ;;
        esac
        append '' "$shell" -l && words_before=$list
    fi
    eval "set -- $words_before \"\$@\" $words_after"
    guest_program=$1
    refuse_systemd "${2-}"
}

# Exit if the guest's program is systemd, with the first argument $1. It would stop in silence, without an end.
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
    fail "systemd can't run here, it needs a machine of its own: start the program of a service, or --shell"
}

# Succeed if the guest's program expects to be process 1.
is_init() {
    case ${guest_program##*/} in
        init | tini | tini-* | docker-init | dumb-init | catatonit | s6-svscan | my_init | *-init | runit | dinit) ;;
        *) return 1 ;;
    esac
}
