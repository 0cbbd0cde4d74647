# Environment of the guest: a few variables of its own, the caller's that it gets (see caller.sh), the image's, those of
# the profile and of `provision --env`, and those of --env. The last one with a name wins, at the place of the first.
# Sets `guest_env` (the image's env(1), as words before the guest's program), or, if the image has none, `host_env` (the
# host's env(1), as words before the host's program that starts the guest); `guest_path` (the guest's PATH); and
# `variable_NAME` (=NAME=VALUE) for variables.

# Set `guest_env`, or `host_env`, and `guest_path`, from the user, the settings, --env and the caller's environment.
build_environment() {
    find_passed
    find_desktop
    append '' PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "HOSTNAME=$hostname" \
        "HOME=${home:-/}" "SHELL=${shell:-/bin/sh}" ${name:+"USER=$name"}
    secret_names='' environment="$list $passed $image_env $default_env $desktop_env $typed_env"
    eval "join_variables $environment"
    guest_env='' host_env=''
    case $guest_program in
        *=*) ;; # env(1) would take the name for a variable
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

# Set `environment` (a list), `secret_names` and `guest_path` from the words $@: NAME=VALUE, or NAME for the value that the
# caller has, which may be a secret, or -NAME to unset it. Names that no shell can have, and hundreds of variables, are left to env(1), which keeps the last
# one of each name too.
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
                # Without a value, env(1) would take it for the program.
                case $variable in *=*) collect environment "$variable" ;; esac
                continue
                ;;
        esac
        case $variable in '' | *=*) ;; *) take_variable ;; esac
        eval "known=\${variable_$variable_name-}"
        case $known in
            =*) ;; # the caller's environment may have anything, but hardly that
            *) collect names "$variable_name" ;;
        esac
        eval "variable_$variable_name==\$variable"
    done
    collected names
    for variable_name in $names; do
        eval "variable=\${variable_$variable_name#=}"
        case $variable in
            '') ;;
            +*) add_secret ;;
            *) collect environment "$variable" ;;
        esac
    done
    collected environment
    eval "guest_path=\${variable_PATH#=PATH=}"
    guest_path=${guest_path#=}
}

# Set `variable` to what the caller's environment has for `variable_name`, behind a plus, or to nothing.
take_variable() {
    variable=''
    ! eval "[ -n \"\${$variable_name+set}\" ]" || eval "variable=+\$variable_name=\$$variable_name"
}

# Let the guest have `variable`, which take_variable has found. Everybody can see a program's words: it stays in the
# environment, or is named in what --print shows.
add_secret() {
    if [ -n "$print_only" ] || ! find_program tr; then
        variable=${variable#+}
        collect environment "$variable"
        secret_words=${secret_words:-$newline}$variable$newline
    else
        secret_names="$secret_names $variable_name "
    fi
}

# Set `env_flags`: the options of env(1) that take all of the caller's environment away, but the `secret_names`.
find_env_flags() {
    env_flags=-i
    [ -n "$secret_names" ] || return 0
    # Those that this script or its shell exports are not in what the kernel knows.
    env_flags='-u PWD -u OLDPWD -u _ -u SHLVL -u PROOT_TMP_DIR -u PROOT_LOADER -u PROOT_LOADER_32' IFS=$newline
    for variable_name in $(tr '\000' '\n' <"/proc/$$/environ" | sed -n 's/^\([^=]\{1,\}\)=.*/\1/p'); do
        case $secret_names in *" $variable_name "*) continue ;; esac
        quote "$variable_name"
        env_flags="$env_flags -u $quoted"
    done
    IFS=" 	$newline"
}

# Take out of `environment`, whose words are $@, what changes programs of the host or their loader.
filter_environment() {
    for variable; do
        ! is_harmful || { drop_harmful "$@" && break; }
    done
}

# Set `environment` to those of the words $@ that aren't harmful.
drop_harmful() {
    environment=''
    for variable; do
        is_harmful || collect environment "$variable"
    done
    collected environment
}

# Succeed if `variable` changes programs of the host or their loader.
is_harmful() {
    case $variable in
        LD_* | PROOT_* | QEMU_* | MALLOC_* | GLIBC_TUNABLES=* | GCONV_PATH=* | GETCONF_DIR=* | HOSTALIASES=* | \
            LOCALDOMAIN=* | LOCPATH=* | NIS_PATH=* | NLSPATH=* | RES*_* | TMPDIR=* | TZDIR=*) ;;
        *) return 1 ;;
    esac
}
