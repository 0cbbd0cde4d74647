# Environment of the guest: nothing of the host's but TERM, COLORTERM and LANG.
# Sets `guest_env` (the image's env(1), as words before the guest's program), or, if the image has none, `host_env` (the
# host's env(1), as words before the host's program that starts the guest) and `guest_path` (the guest's PATH).

# Set `guest_env`, or `host_env` and `guest_path`, from the user, the settings, --env and the caller's environment.
build_environment() {
    append '' PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "HOSTNAME=$hostname" \
        "HOME=${home:-/}" "SHELL=${shell:-/bin/sh}" ${name:+"USER=$name"} \
        ${TERM+"TERM=$TERM"} ${COLORTERM+"COLORTERM=$COLORTERM"} ${LANG+"LANG=$LANG"}
    environment="$list $image_env $default_env $typed_env" guest_env='' host_env=''
    case $guest_program in
        *=*) ;; # env(1) would take the name for a variable
        *)
            for place in /usr/bin/env /bin/env; do
                guest_has "$place" || continue
                guest_env="$place -i -- $environment"
                return
            done
            ;;
    esac
    filter_environment
}

# Set `host_env` and `guest_path` from `environment`, without the variables that change programs of the host or their
# loader.
filter_environment() {
    eval "set -- $environment"
    find_program env || fail "no env on this machine: install coreutils"
    append '' "$program" -i
    for variable; do
        case $variable in
            LD_* | PROOT_* | QEMU_* | MALLOC_* | GLIBC_TUNABLES=* | GCONV_PATH=* | GETCONF_DIR=* | HOSTALIASES=* | \
                LOCALDOMAIN=* | LOCPATH=* | NIS_PATH=* | NLSPATH=* | RES*_* | TMPDIR=* | TZDIR=*) continue ;;
            PATH=*) guest_path=${variable#*=} ;;
        esac
        append "$list" "$variable"
    done
    host_env=$list
}
