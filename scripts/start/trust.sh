# Trust: refuse to run a DIR that others control. DIR, its `.provision`, the files in it, and this script must belong to
# a trusted user, and no other user may write to them. If root starts it, that also holds for the directories above DIR.
# provisioner/container/access.py has the same rule.
# Sets `trusted_users` and `trusted_groups` (as " N N "), `system_ids` (not empty if all ids below 10000 are trusted),
# `everybody` (not empty if all ids are trusted), `places` (a line of ls for each file), `problem` (a message).

# Exit unless DIR is trusted, or an option or variable turns the check off.
check_trust() {
    [ -z "$inside$trust_dir" ] && ! is_trusted_by_name || return 0
    # Inside of proot, choose_runtime exits anyway, and Debian's proot makes ls list another directory.
    case $tracer in proot*) return ;; esac
    list_places
    trusted_users=" 0 $host_uid " trusted_groups=' 0 ' system_ids='' everybody=''
    # If uid and gid have the same number, the group is the user's own.
    [ "$host_gid" != "$host_uid" ] || trusted_groups=" 0 $host_gid "
    for more in true trust_other_users trust_groups trust_creator; do
        "$more"
        ! are_trusted || return 0
    done
    fail "$problem, or --trust-dir"
}

# Succeed if PROVISION_TRUST_DIR, a list like PATH, has DIR, a directory above it, or `*`.
is_trusted_by_name() {
    [ -n "${PROVISION_TRUST_DIR-}" ] || return
    find_physical "$directory"
    place=$physical IFS=:
    for trusted_place in $PROVISION_TRUST_DIR; do
        IFS=" 	$newline"
        case $trusted_place in
            \*) return ;;
            /*) find_physical "$trusted_place" || continue ;;
            *) continue ;;
        esac
        case $place/ in "${physical%/}/"*) return ;; esac
    done
    IFS=" 	$newline"
    return 1
}

# Set `physical`: the path of the directory $1 without symlinks. Fails if it can't be entered.
find_physical() {
    physical=$(cd -P "$1" 2>/dev/null && printf '%sx' "$PWD") && physical=${physical%x}
}

# Set `places`. One ls lists all of them.
list_places() {
    find_program ls || fail "can't check the owner of $directory, since there is no ls on PATH: install coreutils"
    # ls fails if another start removes one of its files meanwhile.
    tries=5
    until places=$(print_places 2>/dev/null); do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "can't list $directory: start.sh needs permission to enter it"
    done
}

# Print a line of ls for each place, and `link NAME` for each symlink in `.provision`, except for those that are never
# followed. Names are relative to DIR. Names with special characters are skipped: start.sh uses no such files, and their
# lines could be misread.
print_places() {
    cd -P "$directory" || exit
    set -- . /proc/self/fd/0
    [ ! -e .provision ] || set -- "$@" .provision
    # --exec and --stop evaluate the session files and send signals to the processes that they name.
    case $execute$session_action in '' | detach) sessions='' ;; *) sessions='.provision/run/[0-9]*' ;; esac
    set +f
    for file in .provision/* $sessions; do
        case $file in *[!A-Za-z0-9._/-]*) continue ;; .provision/links.* | .provision/log) [ ! -L "$file" ] || continue ;; esac
        if [ -L "$file" ]; then printf 'link %s\n' "$file"; else set -- "$@" "$file"; fi
    done
    set -f
    remaining=$PWD above=..
    [ "$host_uid" = 0 ] || remaining=''
    while [ -n "$remaining" ]; do
        set -- "$@" "$above"
        remaining=${remaining%/*} above=../$above
    done
    exec "$program" -ldnH "$@" <"$script"
}

# Succeed if all `places` are trusted, else set `problem` to a message about the first that isn't.
are_trusted() {
    [ -z "$everybody" ] || return 0
    IFS=$newline
    # shellcheck disable=SC2086 # split into lines
    set -- $places
    IFS=" 	$newline"
    for line; do
        # shellcheck disable=SC2086 # split into words
        is_trusted $line || return
    done
}

# Succeed if one place is trusted, else set `problem`. $@ are the words of its line of ls: mode, links, owner, group,
# ..., name.
is_trusted() {
    for name; do :; done
    owned=''
    case $name in
        .) shown=$directory ;;
        .provision/*) shown=$directory/$name owned=$directory/.provision ;;
        .provision) shown=$directory/$name ;;
        /*) shown=$script owned=none ;;
        *) shown=$name owned=none ;;
    esac
    case $1 in
        [dps-]?????????*) ;;
        link) explain_distrust "is a symlink" rm yes && return 1 ;;
        *) explain_distrust "can't be looked at" "start.sh needs an ls with -H" && return 1 ;;
    esac
    has_trusted "$3" "$trusted_users" || {
        # For directories above DIR, chown must not be recursive.
        case $owned in none) owned='' change='sudo chown' ;; *) change='sudo chown -R' ;; esac
        explain_distrust "belongs to user $3, who is not trusted" "$change $host_uid" "${owned:-$shown}"
        return 1
    }
    case $name$1 in
        # In a sticky directory, other users may create files, but not change this user's.
        ..*[tT] | ..*[tT][.+@] | .provision/shm?????????[tT]*) return ;;
    esac
    case $1 in
        ????????w*) explain_distrust "can be written to by everybody" "chmod o-w" yes ;;
        ?????w*+) explain_distrust "has an access list that lets others write" "setfacl -b" yes ;;
        ?????w*)
            has_trusted "$4" "$trusted_groups" && return
            explain_distrust "can be written to by group $4" "chmod g-w" yes
            ;;
        *) return 0 ;;
    esac
    return 1
}

# Set `problem` to a message: the place `shown`, what is wrong with it ($1), and a command that changes that ($2). If $3
# is a path, it is added to the command; if it is `yes`, `shown` is.
explain_distrust() {
    case $shown in ..*) find_physical "$directory/$shown" && shown=$physical ;; esac
    case ${3-} in /*) quote "$3" ;; *) quote "$shown" ;; esac
    problem="$shown $1: $2${3:+ $quoted}"
}

# Succeed if the id $1 is in the list $2, or is an id of the system and those are trusted.
has_trusted() {
    case $2 in *" $1 "*) return ;; esac
    [ -n "$system_ids" ] && [ "$1" -lt 10000 ]
}

# Trust the other users that can be found without creating a file.
trust_other_users() {
    [ -z "${ANDROID_ROOT-}" ] || system_ids=yes
    trust_unmapped
    [ "$host_uid" != 0 ] || trust_callers
}

# In a user namespace, trust the overflow id, as which all unmapped users appear: the machine's root is one of them.
trust_unmapped() {
    overflow=65534 # some shells read byte by byte, which /proc/sys/kernel/overflowuid doesn't support
    [ -r /proc/self/uid_map ] || return 0
    while read -r first _ count; do
        # Some shells count in 32 bits.
        [ ${#count} -lt 10 ] || count=1000000000
        [ "$overflow" -lt "$first" ] || [ $((overflow - first)) -ge "$count" ] || return 0
    done </proc/self/uid_map
    trust_user "$overflow"
    trusted_groups="$trusted_groups$overflow "
}

# If this is root, trust the user that has become root. The variables can be forged only by a user that may run anything
# as root anyway.
trust_callers() {
    trust_user "${SUDO_UID-}"
    trust_user "${PKEXEC_UID-}"
    [ -z "${DOAS_USER-}" ] || trust_user "$(id -u -- "$DOAS_USER" 2>/dev/null)"
    login_uid=''
    { read -r login_uid </proc/self/loginuid; } 2>/dev/null
    [ "$login_uid" = 4294967295 ] || trust_user "$login_uid" # 4294967295: not set
    # Termux's tsu sets no such variable: trust the owner of Termux's PREFIX.
    case ${PREFIX-} in /data/*/files/usr) find_owner "$PREFIX" && trust_user "$owner" ;; esac
    # A container of CI has no other users, and a checkout there may have any owner.
    case ${CI-} in
        '' | 0 | [Ff][Aa][Ll][Ss][Ee] | [Nn][Oo]) ;;
        *)
            case $(readlink /proc/self/ns/pid) in
                '' | 'pid:[4026531836]') ;; # the machine's own
                *) everybody=yes ;;
            esac
            ;;
    esac
}

# Trust the user $1, if it is a number.
trust_user() {
    is_number "$1" || return 0
    case $trusted_users in
        *" $1 "*) ;;
        *) trusted_users="$trusted_users$1 " ;;
    esac
}

# Trust the groups of `trusted_users` that have the user's name and no other member; and for users without an entry in
# passwd(5), the group with the user's number if it has none in group(5).
trust_groups() {
    nameless=$trusted_users own_groups=' '
    [ ! -r /etc/passwd ] || while IFS=: read -r name _ uid gid _; do
        case $trusted_users in
            *" $uid "*)
                own_groups="$own_groups$name:$gid "
                case $nameless in *" $uid "*) nameless="${nameless%%" $uid "*} ${nameless#*" $uid "}" ;; esac
                ;;
        esac
    done </etc/passwd
    [ ! -r /etc/group ] || while IFS=: read -r name _ gid members; do
        case $own_groups/$members in *" $name:$gid "*/ | *" $name:$gid "*"/$name" | *" $name:$gid "*/root)
            trusted_groups="$trusted_groups$gid "
            ;;
        esac
        case $nameless in *" $gid "*) nameless="${nameless%%" $gid "*} ${nameless#*" $gid "}" ;; esac
    done </etc/group
    trusted_groups="$trusted_groups$nameless"
}

# Trust the owner that a new file beside DIR gets: on NFS and on file systems without owners, it may be another than
# this user.
trust_creator() {
    beside=$(mktemp "$directory/../.start.XXXXXX" 2>/dev/null) || return 0
    find_owner "$beside" && trust_user "$owner"
    rm -f "$beside"
}

# Set `owner`: the user id of the owner of $1.
find_owner() {
    # shellcheck disable=SC2046 # split into words
    set -- $(ls -ldn "$1" 2>/dev/null)
    owner=${3-}
    [ -n "$owner" ]
}
