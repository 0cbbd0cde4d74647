# Caller: the variables that the guest gets from the caller's environment: terminal, locale, timezone and proxies.
# Sets `passed` (a list of NAME=VALUE, and of NAME for secrets), `locale`, `zone` (empty for none).

# Set `passed`.
find_passed() {
    find_locale
    find_zone
    append '' ${TERM:+"TERM=$TERM"} ${COLORTERM:+"COLORTERM=$COLORTERM"} ${locale:+"LANG=$locale"} ${zone:+"TZ=$zone"}
    passed=$list
    [ -n "$no_proxy_env" ] || pass_proxies
}

# Set `locale`: the caller's LANG if the rootfs has that locale, else C.UTF-8 if the rootfs has that, else empty.
# Programs print warnings about a missing locale.
find_locale() {
    locale=''
    case ${LANG-} in
        '' | *[!A-Za-z0-9_.@-]*) return ;;
        C | POSIX) locale=$LANG && return ;;
    esac
    resolve /lib
    set +f
    for file in "$rootfs$resolved"/ld-musl-*; do
        set -f
        # musl accepts any name.
        [ ! -f "$file" ] || { locale=$LANG && return; }
    done
    set -f
    for locale in "$LANG" C.UTF-8; do
        ! has_locale || return 0
    done
    locale=''
}

# Succeed if the rootfs has `locale` for glibc: as a directory, or in the archive, whose first part has all names.
has_locale() {
    # On disk, the codeset in the name is in lower case and without punctuation.
    short_name=$locale
    case $locale in
        *.*)
            codeset=${locale#*.} modifier=''
            case $codeset in *@*) modifier=@${codeset#*@} codeset=${codeset%%@*} ;; esac
            make_lower "$codeset"
            IFS=-_.
            # shellcheck disable=SC2086 # split at the punctuation
            set -- $lower
            IFS=''
            short_name=${locale%%.*}.$*$modifier
            IFS=" 	$newline"
            ;;
    esac
    for file in "$locale" "$short_name"; do
        resolve "/usr/lib/locale/$file/LC_CTYPE"
        [ ! -f "$rootfs$resolved" ] || return 0
    done
    resolve /usr/lib/locale/locale-archive
    [ -f "$rootfs$resolved" ] && [ -r "$rootfs$resolved" ] || return
    { head -c 2000000 | tr '\000' '\n' | LC_ALL=C grep -aFqx -e "$short_name"; } <"$rootfs$resolved" 2>/dev/null
}

# Set `zone`: the caller's TZ, else the name of this machine's timezone, if the rootfs has that zone or it is a POSIX
# rule. It is empty if the rootfs's /etc/localtime was changed or isn't UTC, since that one takes precedence; and for
# UTC, which is the default of programs.
find_zone() {
    zone=''
    resolve /usr/share/zoneinfo
    zones=$rootfs$resolved
    if [ -n "${TZ+set}" ]; then
        zone=${TZ#:} zone=${zone#/usr/share/zoneinfo/}
        # Rules contain digits or commas; names of zones don't, except for those in directories such as Etc.
        case $zone in
            *,*) zones='' ;;
            */*) ;;
            *[0-9]*) zones='' ;;
        esac
    elif [ -d "$zones" ]; then
        find_machine_zone
    fi
    case $zone in
        /* | *..* | *[!A-Za-z0-9_+/:,.\<\>-]*) zone='' ;;
    esac
    ! is_utc "$zone" && { [ -z "$zones" ] || [ -f "$zones/$zone" ]; } && ! has_own_zone || zone=''
}

# Set `zone` to the name of this machine's timezone.
find_machine_zone() {
    file=${PROVISION_TEST_LOCALTIME:-/etc/localtime}
    if [ -L "$file" ]; then
        zone=$(readlink "$file")
        zone=${zone##*/zoneinfo/}
    elif [ -r /etc/timezone ]; then
        read -r zone </etc/timezone
    elif [ -n "${ANDROID_ROOT-}" ]; then
        zone=$(getprop persist.sys.timezone 2>/dev/null)
    fi
}

# Succeed if $1 is a name of UTC, or empty.
is_utc() {
    case ${1##*/zoneinfo/} in
        '' | UTC | UTC0 | UCT | Zulu | Universal | Etc/UTC | Etc/UCT | Etc/Zulu | Etc/Universal) ;;
        *) return 1 ;;
    esac
}

# Succeed if the rootfs's /etc/localtime differs from the image's, or isn't UTC.
has_own_zone() {
    resolve /etc
    file=$rootfs$resolved/localtime
    if [ -L "$file" ]; then
        # readlink fails if a guest has removed it meanwhile.
        link_target=$(readlink "$file")
        [ "$link_target" != "$image_localtime" ] || ! is_utc "$link_target"
    else
        [ -e "$file" ] || [ -n "$image_localtime" ]
    fi
}

# Add to `passed` the caller's proxies: NAME=VALUE, or only NAME where the value has a password.
pass_proxies() {
    for proxy in HTTP_PROXY HTTPS_PROXY FTP_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy ftp_proxy all_proxy no_proxy; do
        eval "proxy_address=\${$proxy-}"
        [ -n "$proxy_address" ] || continue
        case $proxy_address in
            *@*) passed="$passed $proxy" ;;
            *) append "$passed" "$proxy=$proxy_address" && passed=$list ;;
        esac
    done
}

# Add $1 to `typed_env`: NAME=VALUE, or NAME for the caller's value. If this script has changed the variable NAME, set
# `option` and `value` to the option that has the caller's value, for when this script runs again with --inside.
add_variable() {
    entry=$1
    case $1 in
        '' | =*) fail "--env needs NAME=VALUE, or NAME to pass the value that it has here, not $1" ;;
        *=*) ;;
        *)
            if is_changed "$1"; then
                [ "$option" = --env ] ||
                    fail "--env-file can't pass the value that $1 has here: write $1=VALUE there, or use --env $1"
                find_original_value "$1"
            fi
            ;;
    esac
    append_to typed_env "$entry"
}

# Add to `typed_env` the lines of the file `value`, in the format of docker's --env-file: NAME=VALUE, NAME, or a
# comment.
read_env_file() {
    { [ -f "$value" ] && [ -r "$value" ]; } || fail "--env-file: can't read $value"
    while
        line=''
        IFS= read -r line || [ -n "$line" ]
    do
        line=${line#"${line%%[! 	]*}"}
        case $line in
            '' | '#'*) ;;
            *) add_variable "$line" ;;
        esac
    done <"$value"
}

# Succeed if $1 may be the name of a variable of this script or of its shell.
is_changed() {
    case $1 in
        *_proxy) return 1 ;;
        *[!A-Z0-9_]* | [!A-Z]* | PATH | PWD | OLDPWD | LC_ALL | LD_PRELOAD | IFS | OPTIND | PPID | PS[124] | SHLVL | TMPDIR) ;;
        *) return 1 ;;
    esac
}

# For --env $1, set `entry`, `option` and `value` with the value that the variable had when this process was started.
find_original_value() {
    case $1 in
        *[!A-Za-z0-9_.-]*) fail "--env needs NAME=VALUE, or NAME to pass the value that it has here, not $1" ;;
    esac
    find_program tr || fail "can't read the value of $1 for --env: there is no tr on this machine, install coreutils"
    # sed works on lines: newlines in values become \001, and the NULs between variables become newlines.
    taken_value=$(tr '\000\n' '\n\001' <"/proc/$$/environ" | sed -n "s/^$1=/=/p" | tr '\001' '\n' && printf x)
    case $taken_value in
        =*) value=$1${taken_value%?x} entry=$value ;;
        *) option=--unsetenv value=$1 entry=-$1 ;;
    esac
}
