# Environment of the guest: a few variables of its own, the caller's that it gets (see caller.sh), the image's, those of
# the profile and of `provision --env`, and those of --env. The last one with a name wins, at the place of the first.
# Sets `guest_env` (the image's env(1), as words before the guest's program), or, if the image has none, `host_env` (the
# host's env(1), as words before the host's program that starts the guest); `guest_path` (the guest's PATH), and
# `variable_NAME` (NAME=VALUE, or empty) for each variable.

# Set `guest_env`, or `host_env`, and `guest_path`, from the user, the settings, --env and the caller's environment.
build_environment() {
    find_passed
    find_desktop
    append '' PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        "HOME=${home:-/}" "SHELL=${shell:-/bin/sh}" ${name:+"USER=$name"}
    eval "join_variables $list $passed $image_env $default_env $desktop_env $typed_env$typed_env_end"
    guest_path=${variable_PATH#*=} guest_env='' host_env=''
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

# Set `environment` (a list) and `variable_NAME` from the words $@: NAME=VALUE, or NAME for the value that the caller has,
# or to unset it. Names that no shell can have are left to env(1).
join_variables() {
    environment='' environment_end='' names='' names_end=''
    for variable; do
        variable_name=${variable%%=*}
        case $variable_name in
            '' | [0-9]* | *[!A-Za-z0-9_]*)
                case $variable in *=*) collect environment "$variable" ;; esac
                continue
                ;;
        esac
        case $variable in *=*) ;; *) take_variable ;; esac
        eval "known=\${variable_$variable_name-}"
        case $known in
            "$variable_name"*) ;;
            *) collect names "$variable_name" ;;
        esac
        eval "variable_$variable_name=\$variable"
    done
    for variable_name in $names$names_end; do
        eval "variable=\$variable_$variable_name"
        case $variable in
            *=*) collect environment "$variable" ;;
            *) eval "variable_$variable_name=''" ;;
        esac
    done
    environment=$environment$environment_end
}

# Set `variable` to what the caller's environment has for `variable_name`, if it has it. It may be a secret.
take_variable() {
    ! eval "[ -n \"\${$variable_name+set}\" ]" || eval "variable=\$variable_name=\$$variable_name"
    secret_words=${secret_words:-$newline}$variable$newline
}

# Set `host_env` from `environment`, without the variables that change programs of the host or their loader.
filter_environment() {
    eval "set -- $environment"
    find_program env || fail "no env on this machine: install coreutils"
    append '' "$program" -i
    host_env=$list host_env_end=''
    for variable; do
        case $variable in
            LD_* | PROOT_* | QEMU_* | MALLOC_* | GLIBC_TUNABLES=* | GCONV_PATH=* | GETCONF_DIR=* | HOSTALIASES=* | \
                LOCALDOMAIN=* | LOCPATH=* | NIS_PATH=* | NLSPATH=* | RES*_* | TMPDIR=* | TZDIR=*) continue ;;
        esac
        collect host_env "$variable"
    done
    host_env=$host_env$host_env_end
}
