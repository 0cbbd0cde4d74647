# Docker: options of `docker run` and `podman run` that start.sh spells differently, ignores or refuses.
# Sets `translated` (a list of this script's options) and `translated_count` (the number of words of the command line
# that they replace, or 0 where the option is none of those).

# Set `translated` and `translated_count` for the word $1 of the command line, which begins with a hyphen. $2 is the
# next word, and $3 the number of words left.
translate() {
    translated='' translated_count=0
    case $1 in
        --*) translate_long "$@" ;;
        -h)
            [ "$3" -gt 1 ] || { show_help && exit; }
            translate_short "$@"
            ;;
        *) translate_short "$@" ;;
    esac
}

# The same for a word of one-letter options, such as -itd, -eA=B or -p 80:80.
translate_short() {
    letters=${1#-} translated_count=1
    while [ -n "$letters" ]; do
        letter=${letters%"${letters#?}"} letters=${letters#?}
        case $letter in
            i | t | q) continue ;;
            d) translated="$translated --detach" && continue ;;
            P) continue ;; # all ports are published
            e) docker_option=--env ;;
            v) docker_option=--volume ;;
            w) docker_option=--workdir ;;
            u) docker_option=--user ;;
            h) docker_option=--hostname ;;
            p) docker_option=--publish ;;
            l) docker_option=--label ;;
            m) docker_option=--memory ;;
            c) docker_option=--cpu-shares ;;
            a) docker_option=--attach ;;
            *) fail "unknown option -$letter: start.sh --help lists them all" ;;
        esac
        if [ -n "$letters" ]; then
            docker_value=${letters#=}
        else
            [ "$3" -gt 1 ] || fail "-$letter needs a value: start.sh --help"
            docker_value=$2 translated_count=2
        fi
        translate_value
        return
    done
}

# The same for a word of one option in full.
translate_long() {
    docker_option=${1%%=*}
    case $docker_option in
        --interactive | --tty | --rm | --init | --quiet | --sig-proxy | --publish-all | --no-healthcheck | --oom-kill-disable)
            translated_count=1 && return
            ;;
        --disable-content-trust | --use-api-socket) translated_count=1 && return ;;
        --volume | --publish | --mount | --network | --net | --security-opt) ;;
        --name | --label | --label-file | --annotation | --pull | --cidfile | --log-driver | --log-opt | --attach | \
            --detach-keys | --expose | --shm-size | --stop-signal | --stop-timeout) ;;
        --health-* | --blkio-* | --cpu* | --memory | --memory-* | --kernel-memory | --device-* | --oom-score-adj | \
            --pids-limit | --ulimit | --storage-opt) ;;
        --add-host | --cap-drop | --cgroup-parent | --cgroupns | --dns-opt | --dns-option | --dns-search | --domainname | \
            --gpus | --group-add | --ip | --ip6 | --ipc | --isolation | --link | --link-local-ip | --mac-address | \
            --network-alias | --net-alias | --pid | --platform | --restart | --sysctl | --tmpfs | --userns | --uts | \
            --volume-driver | --volumes-from | --pod | --secret | --tz | --systemd | --pids) ;;
        *) return ;;
    esac
    case $1 in
        *=*) docker_value=${1#*=} translated_count=1 ;;
        *)
            [ "$3" -gt 1 ] || fail "$1 needs a value: start.sh --help"
            docker_value=$2 translated_count=2
            ;;
    esac
    translate_value
}

# Add to `translated` this script's option for `docker_option` with `docker_value`, or nothing if it is ignored. Exit if
# it is not supported.
translate_value() {
    case $docker_option in
        --env | --workdir | --user | --hostname) translated_word=$docker_option=$docker_value ;;
        --volume) translate_volume "$docker_value" ;;
        --mount) translate_mount ;;
        --publish) check_port && return ;;
        --security-opt)
            case $docker_value in
                no-new-privileges | no-new-privileges[:=]true) translated_word=--no-new-privs ;;
                *) refuse "the seccomp filter can only be turned off, by --privileged" ;;
            esac
            ;;
        --network | --net)
            case $docker_value in
                host) return ;;
                *) refuse "the network is always this machine's, as with --network host" ;;
            esac
            ;;
        --health-* | --name | --label | --label-file | --annotation | --pull | --cidfile | --log-* | --attach | \
            --detach-keys | --expose | --shm-size | --stop-signal | --stop-timeout | --oom-score-adj) return ;;
        --cpu* | --memory* | --kernel-memory | --blkio-* | --pids-limit | --device-* | --storage-opt | --ulimit)
            refuse "set limits outside, by ulimit or by systemd-run --user --scope -p MemoryMax=1G DIR/start.sh"
            ;;
        --add-host | --dns-* | --domainname) refuse "edit /etc/hosts or /etc/resolv.conf in rootfs" ;;
        --cap-drop) refuse "root has few capabilities anyway; --no-new-privs turns sudo and su off" ;;
        --gpus) refuse "use --device PATH, or --gpu virgl" ;;
        --group-add) refuse "use --user USER:GROUP, or add the user to a group in rootfs/etc/group" ;;
        --platform) refuse "choose it when DIR is made: provision --platform" ;;
        --restart) refuse "let a service manager start it again" ;;
        --tmpfs) refuse "use --ephemeral, which discards all changes" ;;
        --volumes-from) refuse "bind the directories with --bind" ;;
        --userns) refuse "use --runtime userns" ;;
        *) refuse "leave it out" ;;
    esac
    append "$translated" "$translated_word" && translated=$list
}

# Exit with the message that `docker_option` is not supported, and with the hint $1.
refuse() {
    fail "docker's $docker_option is not supported: $1"
}

# Set `translated_word` to a --bind for docker's -v SRC:DST[:OPTIONS]. Options without an effect here are left out. Exit
# if SRC is the name of a volume.
translate_volume() {
    volume=$1 volume_options=''
    case $volume in
        *:/*:*[!/]*)
            volume_options=${volume##*:}
            case $volume_options in
                */*) volume_options='' ;;
                *) volume=${volume%:*} ;;
            esac
            ;;
    esac
    case $volume in
        *:/*) ;;
        *) fail "-v needs SRC:DST; $volume needs no volume, since changes in the container are kept" ;;
    esac
    volume_mode='' IFS=,
    for volume_option in $volume_options; do
        case $volume_option in
            ro) volume_mode=:ro ;;
            rw | z | Z | U | cached | delegated | consistent | nocopy | rprivate | private | rslave | slave) ;;
            *) fail "-v has no option $volume_option here: leave it out" ;;
        esac
    done
    IFS=" 	$newline"
    case ${volume%:/*} in
        */* | . | ..) ;;
        *)
            if [ ! -e "${volume%:/*}" ]; then
                quote_for_message "${volume%:/*}"
                fail "there is no directory ${volume%:/*}, and volumes are directories here: mkdir $quoted"
            fi
            ;;
    esac
    translated_word=--bind=$volume$volume_mode
}

# Set `translated_word` to a --bind for docker's --mount type=bind,source=SRC,target=DST[,readonly].
translate_mount() {
    mount_type=volume mount_source='' mount_target='' mount_mode='' IFS=,
    for mount_field in $docker_value; do
        case $mount_field in
            type=*) mount_type=${mount_field#*=} ;;
            source=* | src=*) mount_source=${mount_field#*=} ;;
            target=* | dst=* | destination=*) mount_target=${mount_field#*=} ;;
            readonly | ro | readonly=true | ro=true | readonly=1 | ro=1) mount_mode=:ro ;;
        esac
    done
    IFS=" 	$newline"
    [ "$mount_type" = bind ] || refuse "bind a directory: --mount type=bind,source=SRC,target=DST"
    { [ -n "$mount_source" ] && [ -n "$mount_target" ]; } || fail "--mount needs source=SRC and target=DST"
    translated_word=--bind=$mount_source:$mount_target$mount_mode
}

# Exit if `docker_value`, the value of docker's -p, maps a port to another number.
check_port() {
    published=${docker_value%/*}
    case $published in *:*) ;; *) return 0 ;; esac
    inner_port=${published##*:} outer_port=${published%:*} outer_port=${outer_port##*:}
    case $outer_port in
        '' | "$inner_port") ;;
        *) fail "-p $docker_value: ports can't be mapped, $inner_port is the same port outside: leave -p out, or let the \
program listen at $outer_port" ;;
    esac
}
