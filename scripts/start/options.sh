# Options of the command line.
# Sets a variable for each option, and `options` (the list to repeat with --inside).

# Set the variables of all options to their defaults.
set_defaults() {
    inside='' restore_sigint='' pdeathsig='' new_terminal=''
    login='' print_only='' termux='' privileged='' no_namespace='' host_devices='' session_action=''
    no_new_privs='' trust_dir='' verbose='' more_capabilities='' typed_devices=''
    typed_hostname='' no_writes='' ephemeral='' detached='' stop_timeout='' execute='' typed_session='' joined='' start_option=''
    options='' typed_env='' typed_ids='' typed_runtime='' no_proxy_env='' desktop=''
    has_own_files='' typed_umask='' typed_proot_options='' typed_dns='' typed_binds='' user=$image_user workdir=$image_workdir
    entrypoint=$image_entrypoint command=$image_command runtime=${PROVISION_RUNTIME:-$default_runtime}
    normalize "/$workdir" && workdir=$normal
}

# Flush the lists `options` and `typed_env`, to which read_option appends.
end_options() {
    flush_list options
    flush_list typed_env
}

# Set the variables of the options that the words $@ begin with.
read_words() {
    while read_option $# "${1-}" "${2-}"; do
        shift "$width"
    done
}

# Set the variables of the next option, which is $2, or $2 and its value $3; $1 is the number of words left. Set `width`
# to the number of words that the option has. Where no option follows, fail and set `width` to 1 for `--`, else to 0. An
# option of docker is replaced by those of this script that `translate` returns, which are read at once.
read_option() {
    width=0
    [ "$1" -gt 0 ] || return
    case $2 in
        --) width=1 && return 1 ;;
        -?*)
            translate "$2" "$3" "$1"
            if [ "$translated_count" -gt 0 ]; then
                docker_words=$translated_count
                eval "read_words $translated"
                width=$docker_words
                return 0
            fi
            ;;
    esac
    case $2 in
        --help) show_help && exit ;;
        --shell | --root | --print | --termux | --privileged | --no-namespace | --no-new-privs | --trust-dir | \
            --here | --list | --stop | --detach | --exec | --detached | --read-only | --ephemeral | --no-proxy-env | --x11 | --sound | \
            --verbose)
            option=$2 value='' width=1
            ;;
        --shell=* | --root=* | --print=* | --termux=* | --privileged=* | --no-namespace=* | --no-new-privs=* | \
            --here=* | --trust-dir=* | --list=* | --stop=* | --detach=* | --exec=* | --read-only=* | --ephemeral=* | --help=* | \
            --no-proxy-env=* | --x11=* | --sound=* | --verbose=*)
            fail "${2%%=*} takes no value: start.sh --help"
            ;;
        --?*=*) option=${2%%=*} value=${2#*=} width=1 ;;
        -?*) option=$2 value=$3 width=2 ;;
        *) return 1 ;;
    esac
    parse_option "$1"
    keep_option "$2"
    return 0
}

# Add `option`, which the word $1 begins, to `options` with its value. Set `start_option` to it if --exec refuses it.
keep_option() {
    case $option in
        --bind | --here | --dns | --device | --dev | --cap-add | --privileged | --no-new-privs | --no-namespace | --termux | \
            --hostname | --read-only | --ephemeral | --entrypoint | --runtime) start_option=$option ;;
    esac
    case $option in
        --print | --detach | --detached) ;;
        *)
            append_to options "$option"
            [ "$width$option" = "1$1" ] || append_to options "$value"
            ;;
    esac
}

# Set the variable of one `option` from its `value`. $1 is the number of words left on the command line.
parse_option() {
    case $option in
        --shell) login=yes ;;
        --root) user=0:0 ;;
        --here) bind_here ;;
        --print) print_only=yes ;;
        --list | --stop | --detach) session_action=${option#--} ;;
        --exec) execute=yes ;;
        --detached) detached=yes ;; # internal, see detach
        --read-only) no_writes=yes ;;
        --ephemeral) ephemeral=yes ;;
        --privileged) privileged=yes ;;
        --no-namespace) no_namespace=yes ;;
        --no-proxy-env) no_proxy_env=yes ;;
        --x11 | --sound) desktop="$desktop ${option#--}" ;;
        --no-new-privs) no_new_privs=yes ;;
        --trust-dir) trust_dir=yes ;;
        --verbose) verbose=yes ;;
        --termux)
            is_termux || fail "--termux works in Termux only, where PREFIX ends in /files/usr"
            termux=yes
            ;;
        --entrypoint | --user | --workdir | --env | --env-file | --unsetenv | --gpu | --bind | --dns | --dev | --device | \
            --cap-add | --runtime | --ids | --hostname | --umask | --session | --timeout | --joined | --proot-option | \
            --inside | --restore-sigint | --pdeathsig | --helper | --relayed | --new-terminal)
            [ "$width" -le "$1" ] || fail "$option needs a value: start.sh --help"
            parse_value
            ;;
        *) fail "unknown option $option: start.sh --help lists them all" ;;
    esac
}

# Set the variable of an `option` that has a `value`.
parse_value() {
    typed_value=${value:-an empty word}
    case $option in
        --entrypoint) append '' "$value" && entrypoint=${value:+$list} command='' ;;
        --user) user=$value ;;
        --workdir)
            case $value in
                /*) normalize "$value" && workdir=$normal ;;
                *) fail "--workdir needs an absolute path, not $typed_value" ;;
            esac
            ;;
        --runtime) runtime=$value typed_runtime=$value ;;
        --ids)
            case $value in one | many) typed_ids=$value ;; *) fail "--ids can be one or many, not $typed_value" ;; esac
            ;;
        --umask)
            case $value in
                '' | *[!0-7]* | ?????*) fail "--umask needs up to four digits from 0 to 7, not $typed_value" ;;
            esac
            typed_umask=$value
            ;;
        --proot-option) append "$typed_proot_options" "$value" && typed_proot_options=$list ;;
        --dev)
            [ "$value" = host ] || fail "--dev can only be host, not $value"
            host_devices=yes
            ;;
        --cap-add) add_capability ;;
        --device) add_device ;;
        --bind) add_bind ;;
        --session | --hostname | --timeout) parse_session_value ;;
        --joined | --inside | --restore-sigint | --pdeathsig | --helper | --new-terminal | --relayed) parse_internal_value ;;
        --env) add_variable "$value" ;;
        --env-file) read_env_file ;;
        --unsetenv) append_to typed_env "-$value" ;;
        --gpu)
            [ "$value" = virgl ] || fail "--gpu can only be virgl, not $value"
            desktop="$desktop gpu"
            ;;
        --dns)
            case $value in
                '' | *[!0-9A-Za-z.:%]*) fail "--dns needs an IP address, not $typed_value" ;;
                *) typed_dns="$typed_dns $value" ;;
            esac
            ;;
    esac
}

# Set the variable of an `option` of sessions and their names from its `value`.
parse_session_value() {
    case $option in
        --session) typed_session=$value ;;
        --hostname)
            case $value in
                *[!A-Za-z0-9.-]* | [.-]* | *[.-] | '') fail "--hostname needs letters, digits, dots and hyphens, not $typed_value" ;;
            esac
            [ ${#value} -le 64 ] || fail "--hostname takes 64 characters at most"
            typed_hostname=$value
            ;;
        --timeout)
            case $value in
                '' | *[!0-9]* | ?????*) fail "--timeout needs a number of seconds, not $typed_value" ;;
            esac
            stop_timeout=$value
            ;;
    esac
}

# Set the variable of an `option` from its `value` that this script gives itself, see make_namespaces, join_namespaces and
# relay_terminal.
parse_internal_value() {
    case $option in
        --joined) joined=$value ;;
        --inside) runtime=$value inside=yes ;;
        --restore-sigint) restore_sigint=$value ;;
        --pdeathsig) pdeathsig=$value ;;
        --helper) helper=$value waiter=$value ;;
        --new-terminal) new_terminal=$value ;;
        --relayed) relay_count=${value%% *} relayed=${value#* } ;;
    esac
}

# Add `value`, SRC[:DST[:ro]], to `typed_binds`.
add_bind() {
    case $value in
        '' | :*) fail "--bind needs SRC or SRC:DST, not $typed_value" ;;
    esac
    split_bind "$value"
    if [ ! -e "$source" ]; then
        quote_for_message "$source"
        fail "--bind: there is no $source: mkdir -p $quoted"
    fi
    append "$typed_binds" "$value" && typed_binds=$list
}

# Add `value`, PATH[:DST], to `typed_devices`.
add_device() {
    split_bind "$value"
    [ -e "$source" ] || fail "--device: there is no $source"
    case $destination/ in
        */../* | /dev/./*) fail "--device needs a destination below /dev, not $destination" ;;
        /dev/?*) append "$typed_devices" "$source:$destination" && typed_devices=$list ;;
        *) fail "--device needs a destination below /dev: $source:/dev/${source##*/}" ;;
    esac
}

# Add `value` to `more_capabilities`: a name as in capabilities(7), with or without CAP_, or ALL.
add_capability() {
    make_lower "$value"
    capability=${lower#cap_}
    # shellcheck disable=SC2086 # split into words, which several lines have
    set -- all $capability_names
    case " $* " in
        *" $capability "*) more_capabilities="$more_capabilities $capability" ;;
        *) fail "--cap-add: there is no capability $value: use a name such as NET_ADMIN, or ALL" ;;
    esac
}

# Set `lower`: the word $1 in lower case, without a program: with --inside the first one would be process 1.
make_lower() {
    lower='' remaining=$1
    while [ -n "$remaining" ]; do
        letter=${remaining%"${remaining#?}"} remaining=${remaining#?}
        case $letter in
            [ABCDEFGHIJKLMNOPQRSTUVWXYZ])
                before=ABCDEFGHIJKLMNOPQRSTUVWXYZ alphabet=abcdefghijklmnopqrstuvwxyz
                before=${before%%"$letter"*}
                while [ -n "$before" ]; do
                    before=${before#?} alphabet=${alphabet#?}
                done
                letter=${alphabet%"${alphabet#?}"}
                ;;
        esac
        lower=$lower$letter
    done
}

# Print the help, in 40 columns for narrow terminals.
show_help() {
    cat <<END
Usage: start.sh [OPTION]... [COMMAND...]
Runs COMMAND in this container, else the
image's own command.

--shell         login shell, without the
                image's entrypoint
--entrypoint E  run E instead of the
                image's entrypoint
--user U[:G]    names or numbers
--root          as root: --user 0:0
--workdir D     start in D
--here          bind this directory at
                its path, and start in
                it
--umask M       umask of the command,
                else 022
--env K=V       set a variable; K alone
                passes its value here
--env-file F    the same from a file
--unsetenv K    unset a variable
--no-proxy-env  don't pass the proxy
                variables of this shell
--bind SRC[:DST[:ro]]  bind a path, with
                :ro read-only
--dns IP        use this name server
--termux        bind Termux's files and
                the shared storage
--proot-option W  pass W to proot
--x11 --sound   use this machine's X and
                sound servers
--gpu virgl     use this machine's virgl
                server
END
    show_more_help
}

# Print the second half of the help.
show_more_help() {
    cat <<END
--runtime R     auto, proot, chroot or
                userns
--ids many      userns with your ids of
                /etc/subuid, for su,
                sshd, postgres; from the
                first start of DIR on
--verbose       say why other runtimes
                are not used
--device PATH[:DST]  add a device of the
                host to /dev
--dev=host      all devices, for root
--cap-add CAP   keep a capability, or
                ALL
--no-new-privs  turn off sudo and su
--privileged    all devices and capa-
                bilities: programs can
                change this machine
--trust-dir     run it although others
                own it or can change it
--no-namespace  only chroot, without
                namespaces and mounts
--hostname NAME  instead of the name of
                DIR
--read-only     the image's files can't
                be changed
--ephemeral     discard all changes at
                the end
--print         show the command line
                and stop
--detach        run in the background,
                with a log
--list          list running sessions
--exec          run COMMAND in a running
                session
--session PID   which one, for --exec
--stop          stop all sessions
--timeout SEC   within SEC seconds, else
                10
--help          this text
--              end of the options

--env, --bind, --dns, --device and
--cap-add can be repeated.
-it -e -v -w -u -d --rm: as in docker.
Exit status: the command's; 125 when it
can't be started, 126 when it can't be
run, 127 when it doesn't exist.
END
}
