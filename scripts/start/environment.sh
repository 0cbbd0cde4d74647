# Environment of the guest, from these sources in this order: defaults, the caller (see caller.sh), the image, the
# profile and `provision --env`, the desktop options, and --env. If a name occurs twice, the last value is used, at the
# position of the first.
# Sets `guest_env` (the image's env(1), as words before the guest's program), or, if the image has none, `host_env` (the
# host's env(1), as words before the host's program that starts the guest); `guest_path` (the guest's PATH); and
# `variable_NAME` (=NAME=VALUE) for variables.

# Set `guest_env` or `host_env`, and `guest_path`.
build_environment() {
    find_passed
    find_desktop
    append '' PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "HOSTNAME=$hostname" \
        "HOME=${home:-/}" "SHELL=${shell:-/bin/sh}" ${name:+"USER=$name"}
    secret_names='' environment="$list $passed $image_env $default_env $desktop_env $typed_env"
    eval "join_variables $environment"
    guest_env='' host_env=''
    case $guest_program in
        *=*) ;; # env(1) would take the program for a variable
        *)
            for place in /usr/bin/env /bin/env; do
                guest_has "$place" || continue
                find_env_flags
                guest_env="$place $env_flags -- $environment"
                return
            done
            ;;
    esac
    find_program env || fail "no env on this machine: install coreutils"
    env_program=$program
    eval "filter_environment $environment"
    find_env_flags
    quote "$env_program"
    host_env="$quoted $env_flags -- $environment"
}

# Set `environment` (a list), `secret_names` and `guest_path` from the words $@: NAME=VALUE; NAME for the caller's
# value, which may be a secret; or -NAME to unset NAME. Duplicates are resolved by env(1), which also uses the last
# value, where there are hundreds of variables or a name isn't valid in shells.
join_variables() {
    if [ $# -gt 400 ]; then
        for variable; do
            case $variable in
                PATH=*) guest_path=${variable#*=} ;;
                *=*) ;;
                *) break ;;
            esac
        done
        case $variable in *=*) return ;; esac
    fi
    environment='' names='' known=''
    for variable; do
        variable_name=${variable%%=*}
        case $variable_name in
            -*) case $variable in *=*) ;; *) variable='' variable_name=${variable_name#-} ;; esac ;;
        esac
        case $variable_name in
            '' | [0-9]* | *[!A-Za-z0-9_]*)
                # env(1) would take a word without `=` for the program.
                case $variable in *=*) append_to environment "$variable" ;; esac
                continue
                ;;
        esac
        case $variable in '' | *=*) ;; *) find_variable ;; esac
        eval "known=\${variable_$variable_name-}"
        case $known in
            =*) ;; # the variable was set by this function; one of the caller's with this name hardly begins with `=`
            *) append_to names "$variable_name" ;;
        esac
        eval "variable_$variable_name==\$variable"
    done
    flush_list names
    for variable_name in $names; do
        eval "variable=\${variable_$variable_name#=}"
        case $variable in
            '') ;;
            +*) add_secret ;;
            *) append_to environment "$variable" ;;
        esac
    done
    flush_list environment
    eval "guest_path=\${variable_PATH#=PATH=}"
    guest_path=${guest_path#=}
}

# Set `variable` to `+NAME=VALUE`, the caller's variable with the name `variable_name`, or to empty if it is unset.
find_variable() {
    variable=''
    ! eval "[ -n \"\${$variable_name+set}\" ]" || eval "variable=+\$variable_name=\$$variable_name"
}

# Pass `variable`, as find_variable has set it, to the guest. All users can read a program's arguments, so that its
# value stays in the environment instead. --print prints its name, not its value.
add_secret() {
    if [ -n "$print_only" ] || ! find_program tr; then
        variable=${variable#+}
        append_to environment "$variable"
        secret_words=${secret_words:-$newline}$variable$newline
    else
        secret_names="$secret_names $variable_name "
    fi
}

# Set `env_flags`: the options of env(1) that remove the caller's environment except for the variables in
# `secret_names`.
find_env_flags() {
    env_flags=-i
    [ -n "$secret_names" ] || return 0
    # /proc/PID/environ lacks the variables that this script or its shell has exported.
    env_flags='-u PWD -u OLDPWD -u _ -u SHLVL -u PROOT_TMP_DIR -u PROOT_LOADER -u PROOT_LOADER_32' IFS=$newline
    for variable_name in $(tr '\000' '\n' <"/proc/$$/environ" | sed -n 's/^\([^=]\{1,\}\)=.*/\1/p'); do
        case $secret_names in *" $variable_name "*) continue ;; esac
        quote "$variable_name"
        env_flags="$env_flags -u $quoted"
    done
    IFS=" 	$newline"
}

# Remove from `environment`, whose words are $@, the variables that affect programs of the host or their loader.
filter_environment() {
    for variable; do
        ! is_harmful || { remove_harmful "$@" && break; }
    done
}

# Set `environment` to the words $@ without the harmful ones.
remove_harmful() {
    environment=''
    for variable; do
        is_harmful || append_to environment "$variable"
    done
    flush_list environment
}

# Succeed if `variable` affects programs of the host or their loader.
is_harmful() {
    case $variable in
        LD_* | PROOT_* | QEMU_* | MALLOC_* | GLIBC_TUNABLES=* | GCONV_PATH=* | GETCONF_DIR=* | HOSTALIASES=* | \
            LOCALDOMAIN=* | LOCPATH=* | NIS_PATH=* | NLSPATH=* | RES*_* | TMPDIR=* | TZDIR=*) ;;
        *) return 1 ;;
    esac
}
