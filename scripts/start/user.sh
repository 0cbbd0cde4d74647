# User: the guest's user, looked up in the image's passwd(5) and group(5).
# Sets `uid`, `gid`, `groups` (the supplementary ones, as " N N"), `name`, `home`, `shell`.

# Set all of them from `user`, which is USER[:GROUP].
find_user() {
    user_part=${user%%:*} group_part=''
    case $user in *:*) group_part=${user#*:} ;; esac
    user_part=${user_part:-0}
    uid='' gid='' groups='' name='' home='' shell=''
    resolve /etc/passwd
    if [ -f "$rootfs$resolved" ] && [ -r "$rootfs$resolved" ]; then
        { [ ! -f /proc/self/fd/8 ] || find_passwd <&8; } 8<"$rootfs$resolved"
    fi
    if [ -z "$uid" ]; then
        is_number "$user_part" || fail "no user $user_part in the image's /etc/passwd: see --user"
        uid=$user_part gid=0
    fi
    resolve /etc/group
    if [ -f "$rootfs$resolved" ] && [ -r "$rootfs$resolved" ]; then
        { [ ! -f /proc/self/fd/8 ] || find_groups <&8; } 8<"$rootfs$resolved"
    fi
    if [ -n "$group_part" ]; then
        is_number "$group_part" || fail "no group $group_part in the image's /etc/group: see --user"
        gid=$group_part
    fi
    # Android's kernels allow the network to the groups inet, net_raw and net_admin.
    case $runtime/$uid/${ANDROID_ROOT-} in
        */0/* | proot/* | userns/* | */) ;;
        *) groups="$groups 3003 3004 3005" ;;
    esac
}

# Succeed if $1 is a user or group id below 4000000000. Programs take larger numbers, from 2^32 on, for
# other ids, such as root's.
is_number() {
    case $1 in
        '' | *[!0-9]* | ???????????* | [4-9]?????????) return 1 ;;
    esac
}

# Set `name`, `uid`, `gid`, `home` and `shell` from the first line on standard input, passwd(5), with the name or the
# uid `user_part`.
find_passwd() {
    while IFS=: read -r a_name _ a_uid a_gid _ a_home a_shell || [ -n "$a_name" ]; do
        { is_number "$a_uid" && is_number "$a_gid"; } || continue
        if [ "$a_name" = "$user_part" ] || [ "$a_uid" = "$user_part" ]; then
            name=$a_name uid=$a_uid gid=$a_gid home=$a_home shell=$a_shell
            return
        fi
    done
}

# Read group(5) from standard input: set `group_part` to its id if a group was asked for; else add to `groups` all that
# list the user, as docker does.
find_groups() {
    while IFS=: read -r a_name _ a_gid a_members || [ -n "$a_name" ]; do
        is_number "$a_gid" || continue
        if [ -n "$group_part" ]; then
            [ "$a_name" = "$group_part" ] && group_part=$a_gid && return
        elif [ -n "$name" ]; then
            case ,$a_members, in *,"$name",*) groups="$groups $a_gid" ;; esac
        fi
    done
}
