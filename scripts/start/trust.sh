# Trust: whose DIR is run. DIR, its `.provision`, what is in that, and this script must belong to a trusted user, and nobody
# else may write to them; for root also the directories above DIR. It is the rule of provisioner/container/access.py.
# Sets `trusted_users` and `trusted_groups` (as " N N "), `system_ids` (not empty where all ids below 10000 are trusted),
# `everybody` (not empty where all are), `places` (a line of ls for each file), `problem` (a message).

# Exit unless DIR is trusted, or the user has lifted the rule.
check_trust() {
    [ -z "$inside$trust_dir" ] && ! is_lifted || return 0
    # Inside of proot nothing is started, and Debian's shows ls another directory.
    case $tracer in proot*) return ;; esac
    list_places
    trusted_users=" 0 $host_uid " trusted_groups=' 0 ' system_ids='' everybody=''
    # Where both have one number, the group is the user's own.
    [ "$host_gid" != "$host_uid" ] || trusted_groups=" 0 $host_gid "
    for more in true trust_more trust_groups trust_creator; do
        "$more"
        ! are_trusted || return 0
    done
    fail "$problem, or --trust-dir"
}

# Succeed if PROVISION_TRUST_DIR names DIR, a directory above it, or all by `*`.
is_lifted() {
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

# Set `physical`: the directory $1 without links on the way. Fails if it can't be entered.
find_physical() {
    physical=$(cd -P "$1" 2>/dev/null && printf '%sx' "$PWD") && physical=${physical%x}
}

# Set `places`, by one program.
list_places() {
    find_program ls || fail "there is no ls on PATH, which tells whose $directory is: --trust-dir"
    # Another start may remove a file of its own meanwhile.
    tries=5
    until places=$(print_places 2>/dev/null); do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "can't look at $directory: start.sh must be allowed to enter it"
    done
}

# Print a line of ls for each place, and `link` with the name for a symlink in `.provision`, but for those that are never
# followed. Names are relative to DIR. Those with other characters are nobody's here, and would be read wrongly.
print_places() {
    cd -P "$directory" || exit
    set -- . /proc/self/fd/0
    [ ! -e .provision ] || set -- "$@" .provision
    # Commands about sessions evaluate what their files say, and signal the processes that they name.
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

# Succeed if all `places` are trusted, else set `problem`.
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

# Succeed if one place is trusted, else set `problem`. $@ are the words of its line: mode, links, owner, group, ..., name.
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
        link) explain "is a symlink" rm yes && return 1 ;;
        *) explain "can't be looked at" "start.sh needs an ls with -H" && return 1 ;;
    esac
    has_trusted "$3" "$trusted_users" || {
        # What is in a directory above belongs to whoever it belongs to.
        case $owned in none) owned='' change='sudo chown' ;; *) change='sudo chown -R' ;; esac
        explain "belongs to user $3, who is not trusted" "$change $host_uid" "${owned:-$shown}"
        return 1
    }
    case $name$1 in
        # There others can create files, but not touch those of others.
        ..*[tT] | ..*[tT][.+@] | .provision/shm?????????[tT]*) return ;;
    esac
    case $1 in
        ????????w*) explain "can be written to by everybody" "chmod o-w" yes ;;
        ?????w*+) explain "has an access list that lets others write" "setfacl -b" yes ;;
        ?????w*)
            has_trusted "$4" "$trusted_groups" && return
            explain "can be written to by group $4" "chmod g-w" yes
            ;;
        *) return 0 ;;
    esac
    return 1
}

# Set `problem`: what is wrong with the place `shown` ($1), and the command $2 for it, which takes a path if there is $3:
# that one, or its own for `yes`.
explain() {
    case $shown in ..*) find_physical "$directory/$shown" && shown=$physical ;; esac
    case ${3-} in /*) quote "$3" ;; *) quote "$shown" ;; esac
    problem="$shown $1: $2${3:+ $quoted}"
}

# Succeed if the id $1 is one of $2, or the system's.
has_trusted() {
    case $2 in *" $1 "*) return ;; esac
    [ -n "$system_ids" ] && [ "$1" -lt 10000 ]
}

# Trust all other users that can be known without creating a file.
trust_more() {
    [ -z "${ANDROID_ROOT-}" ] || system_ids=yes
    trust_unmapped
    [ "$host_uid" != 0 ] || trust_callers
}

# Trust the id by which a user namespace shows all users that it has no number for: the machine's root is one of them.
trust_unmapped() {
    overflow=65534 # overflowuid in /proc/sys can't be read byte by byte, as some shells do
    [ -r /proc/self/uid_map ] || return 0
    while read -r first _ count; do
        # Some shells count in 32 bits.
        [ ${#count} -lt 10 ] || count=1000000000
        [ "$overflow" -lt "$first" ] || [ $((overflow - first)) -ge "$count" ] || return 0
    done </proc/self/uid_map
    trust_user "$overflow"
    trusted_groups="$trusted_groups$overflow "
}

# Trust who has become root, by their own word, which could have said anything else to root as well.
trust_callers() {
    trust_user "${SUDO_UID-}"
    trust_user "${PKEXEC_UID-}"
    [ -z "${DOAS_USER-}" ] || trust_user "$(id -u -- "$DOAS_USER" 2>/dev/null)"
    login_uid=''
    { read -r login_uid </proc/self/loginuid; } 2>/dev/null
    [ "$login_uid" = 4294967295 ] || trust_user "$login_uid" # which is nobody
    # Termux's tsu leaves nothing else.
    case ${PREFIX-} in /data/*/files/usr) find_owner "$PREFIX" && trust_user "$owner" ;; esac
    # In a container of CI nobody else is at work, and a checkout has any owner.
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

# Trust the groups of `trusted_users` that have their names and no other member. Some users have a number alone.
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

# Trust the owner that a file beside DIR gets: NFS and file systems without owners give it another one than this user.
trust_creator() {
    beside=$(mktemp "$directory/../.start.XXXXXX" 2>/dev/null) || return 0
    find_owner "$beside" && trust_user "$owner"
    rm -f "$beside"
}

# Set `owner`: the number of the owner of $1.
find_owner() {
    # shellcheck disable=SC2046 # split into words
    set -- $(ls -ldn "$1" 2>/dev/null)
    owner=${3-}
    [ -n "$owner" ]
}
