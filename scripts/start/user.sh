# User: the guest's user, looked up in the image's passwd(5) and group(5).
# Sets `uid`, `gid`, `groups` (the supplementary group ids, as " N N"), `name`, `home`, `shell`.

# Set all of them from `user`, which is USER[:GROUP].
find_user() {
    user_part=${user%%:*} group_part=''
    case $user in *:*) group_part=${user#*:} ;; esac
    user_part=${user_part:-0}
    uid='' gid='' groups='' name='' home='' shell=''
    read_accounts
    find_passwd
    if [ -z "$uid" ]; then
        is_number "$user_part" || fail_without "user $user_part"
        uid=$user_part gid=0
    fi
    find_groups
    if [ -n "$group_part" ]; then
        is_number "$group_part" || fail_without "group $group_part"
        gid=$group_part
    fi
    # Android's kernels allow the network to the groups inet, net_raw and net_admin.
    case $runtime/$uid/${ANDROID_ROOT-} in
        */0/* | proot/* | userns/* | */) ;;
        *) groups="$groups 3003 3004 3005" ;;
    esac
}

# Exit with the message that the image has no $1. Of long files, only the first 64 KiB were read.
fail_without() {
    [ ${#accounts} -lt 65536 ] || fail "no $1 in the first 64 KiB of the image's /etc/passwd and /etc/group: use --user"
    fail "no $1 in the image: use --user"
}

# Succeed if $1 is a user or group id below 4000000000. Programs take numbers from 2^32 on modulo 2^32, so that they
# could mean root.
is_number() {
    case $1 in
        '' | *[!0-9]* | ???????????* | [4-9]?????????) return 1 ;;
    esac
}

# Set `accounts`: the first 64 KiB of the image's passwd(5), the line `group_heading`, and the first 64 KiB of its
# group(5). A missing file counts as empty. head(1) reads them, since a shell would read whole files one byte at a time.
read_accounts() {
    find_readable /etc/passwd
    passwd_file=$readable
    find_readable /etc/group
    find_program head || fail "there is no head on this machine: install coreutils"
    group_heading='==> /proc/self/fd/8 <==' accounts=''
    {
        # A running guest may have put an endless device there meanwhile.
        [ -f /proc/self/fd/7 ] || exec 7</dev/null
        [ -f /proc/self/fd/8 ] || exec 8</dev/null
        # mksh closes descriptors above 2 for programs, unless they are redirected for them.
        accounts=$("$program" -c 65536 /proc/self/fd/7 /proc/self/fd/8 7<&7 8<&8)
    } 2>/dev/null 7<"$passwd_file" 8<"$readable" # bash complains about NULs
}

# Set `readable`: the path of the guest's file $1, or /dev/null if it is not a readable file.
find_readable() {
    resolve "$1"
    readable=$rootfs$resolved
    { [ -f "$readable" ] && [ -r "$readable" ]; } || readable=/dev/null
}

# Set `name`, `uid`, `gid`, `home` and `shell` from the first line of passwd(5) in `accounts` whose name or uid is
# `user_part`.
find_passwd() {
    IFS=$newline
    # shellcheck disable=SC2086 # split into lines
    set -- $accounts
    IFS=:
    for line; do
        [ "$line" != "$group_heading" ] || break
        # shellcheck disable=SC2086 # split into fields
        set -- $line
        { is_number "${3-}" && is_number "${4-}"; } || continue
        if [ "$1" = "$user_part" ] || [ "$3" = "$user_part" ]; then
            name=$1 uid=$3 gid=$4 home=${6-} shell=${7-}
            break
        fi
    done
    IFS=" 	$newline"
}

# In the lines of group(5) in `accounts`, look up `group_part` and set it to its id. If it is empty, add to `groups` all
# groups that list the user, as docker does.
find_groups() {
    IFS=$newline is_group=''
    # shellcheck disable=SC2086 # split into lines
    set -- $accounts
    IFS=:
    for line; do
        case $is_group$line in
            yes*) ;;
            "$group_heading") is_group=yes && continue ;;
            *) continue ;;
        esac
        # shellcheck disable=SC2086 # split into fields
        set -- $line
        is_number "${3-}" || continue
        if [ -n "$group_part" ]; then
            [ "$1" != "$group_part" ] || { group_part=$3 && break; }
        elif [ -n "$name" ]; then
            case ,${4-}, in *,"$name",*) groups="$groups $3" ;; esac
        fi
    done
    IFS=" 	$newline"
}
