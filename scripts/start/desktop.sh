# Desktop: the options --x11, --sound and --gpu, which bind sockets of programs that run on this machine.
# Sets nothing that other parts read.

# What each option does, see docs/start-sh.md. The first socket that exists is used; its words may be patterns.
#   OPTION directory PLACE SOCKET...  bind the socket's directory on PLACE
#   OPTION socket PLACE SOCKET...     bind the socket on PLACE
#   OPTION unless NAME PATTERN        if the caller's NAME matches, set NAME to its value, and bind no socket
#   OPTION set NAME=VALUE             set a variable; $found is the name of the socket, without its directory
#   OPTION file NAME PLACE FILE...    bind the first FILE that exists on PLACE, and set NAME to PLACE
#   OPTION run COMMAND                the command that the message names if there is no socket
#   OPTION termux COMMAND             the same in Termux
# shellcheck disable=SC2016 # expanded for each row
desktop_table='
x11 run Xvfb :1 -screen 0 1280x800x24 &
x11 termux termux-x11 :0 &
x11 unless DISPLAY *[a-z]*:*
x11 directory /tmp/.X11-unix $TMPDIR/.X11-unix/X$display $PREFIX/tmp/.X11-unix/X$display /tmp/.X11-unix/X$display
x11 set DISPLAY=:${found#X}
x11 file XAUTHORITY /tmp/.Xauthority.host $XAUTHORITY $HOME/.Xauthority
sound run pulseaudio --start
sound termux pulseaudio --start
sound unless PULSE_SERVER tcp:*
sound directory /tmp/.pulse.host ${PULSE_SERVER#unix:} $PULSE_RUNTIME_PATH/native $XDG_RUNTIME_DIR/pulse/native $TMPDIR/pulse-*/native /tmp/pulse-*/native
sound set PULSE_SERVER=unix:/tmp/.pulse.host/$found
sound file PULSE_COOKIE /tmp/.pulse-cookie.host $PULSE_COOKIE $HOME/.config/pulse/cookie
gpu run virgl_test_server --use-egl-surfaceless &
gpu termux virgl_test_server_android &
gpu socket /tmp/.virgl_test $TMPDIR/.virgl_test $PREFIX/tmp/.virgl_test /tmp/.virgl_test
gpu set GALLIUM_DRIVER=virpipe
gpu set MESA_GL_VERSION_OVERRIDE=4.0
'

# Set `desktop_env` (a list of NAME=VALUE) and `desktop_binds` (a list of SRC:DST) for the options named in `desktop`.
find_desktop() {
    desktop_env='' desktop_binds=''
    display=${DISPLAY-} display=${display#*:} display=${display%%.*}
    case $display in '' | *[!0-9]*) display='[0-9]*' ;; esac
    for desktop_option in $desktop; do
        found='' needs_socket=yes advice='' IFS=$newline
        for row in $desktop_table; do
            IFS=" 	$newline"
            case $row in
                "$desktop_option "*)
                    # shellcheck disable=SC2086 # words
                    set -- $row
                    shift
                    read_row "$@"
                    ;;
            esac
        done
        IFS=" 	$newline"
    done
}

# Apply one row of the table to `desktop_env` and `desktop_binds`. $@ is the row without the option.
read_row() {
    action=$1
    shift
    case $action in
        run) advice=$* ;;
        termux) ! is_termux || advice=$* ;;
        unless)
            wanted=''
            eval "wanted=\${$1-}"
            # shellcheck disable=SC2254 # a pattern
            case $wanted in
                $2) append "$desktop_env" "$1=$wanted" && desktop_env=$list needs_socket='' ;;
            esac
            ;;
        directory | socket)
            [ -n "$needs_socket" ] || return 0
            find_existing socket "$@" ||
                fail "--$desktop_option: no socket of its server was found on this machine. Run: $advice"
            # shellcheck disable=SC2034 # for the table
            found=${source##*/}
            [ "$action" = socket ] || source=${source%/*}
            append "$desktop_binds" "$source:$1" && desktop_binds=$list
            ;;
        set)
            [ -n "$needs_socket" ] || return 0
            eval "append \"\$desktop_env\" \"$1\"" && desktop_env=$list
            ;;
        file)
            name_of_file=$1
            shift
            find_existing file "$@" || return 0
            append "$desktop_binds" "$source:$1" && desktop_binds=$list
            append "$desktop_env" "$name_of_file=$1" && desktop_env=$list
            ;;
    esac
}

# Set `source` to the first of the words from the third on that is a socket, or a pattern that matches one; also a file,
# if $1 is `file`. Fail if there is none.
find_existing() {
    kind=$1
    shift 2
    for candidate; do
        # In the table, unset variables count as empty.
        set +u
        eval "candidate=\"$candidate\""
        set -u
        IFS=''
        set +f
        for source in $candidate; do
            set -f
            { [ -S "$source" ] || { [ "$kind" = file ] && [ -f "$source" ]; }; } && IFS=" 	$newline" && return
        done
        set -f
        IFS=" 	$newline"
    done
    return 1
}

# Bind the sockets and files in `desktop_binds`.
bind_desktop() {
    eval "set -- $desktop_binds"
    for bind; do
        split_bind "$bind"
        bind_one
    done
}
