# Entry: the last step into the rootfs, by chroot(1), unshare(1) and setpriv(1).
# Sets `entry_words` (the list of words before the guest's command).

# Set `entry_words`: what changes the root, the user and the working directory.
find_entry() {
    if [ "$runtime" = userns ] && [ -z "$more_ids" ] && [ "$uid:$gid" != 0:0 ]; then
        # One more namespace, in which the id that is root in this one is the user's.
        find_program unshare
        append '' "$program" -U "--map-user=$uid" "--map-group=$gid" "--root=$rootfs" "--wd=$workdir" --
    elif [ "$workdir" = / ]; then
        find_chroot
    elif guest_has /bin/sh; then
        find_chroot
        # shellcheck disable=SC2016 # the guest's shell expands it
        append "$list" /bin/sh -c 'cd -- "$0" || exit 125; exec "$@"' "$workdir"
    else
        find_program unshare
        append '' "$program" "--root=$rootfs" "--wd=$workdir"
        [ "$uid:$gid" = 0:0 ] || append "$list" "--setgid=$gid" "--setuid=$uid"
        [ -z "$groups" ] || say "without a shell in the image, user $uid has no other groups"
    fi
    entry_words=$list
}

# Set `list`: a chroot(1) that becomes the user. Only GNU's can do that; with another one, root has no other groups.
find_chroot() {
    find_program chroot
    append '' "$program" "$rootfs"
    [ "$uid:$gid$groups" != 0:0 ] || return 0
    case $("$program" --help 2>&1) in
        *--userspec*)
            other_groups=''
            for group in $groups; do
                other_groups="$other_groups${other_groups:+,}+$group"
            done
            # With a plus it doesn't look up the numbers as names, by the guest's libraries.
            append '' "$program" "--userspec=+$uid:+$gid" "--groups=$other_groups" "$rootfs"
            ;;
        *) [ "$uid:$gid" = 0:0 ] || fail "this chroot can't become user $uid: install GNU coreutils" ;;
    esac
}

# Add to `entry_words`, at the front, what leaves root the capabilities that it has in docker's containers.
drop_capabilities() {
    [ -z "$privileged" ] || return 0
    capability_set=''
    for capability in chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot \
        mknod audit_write setfcap; do
        capability_set=$capability_set,+$capability
    done
    # busybox's setpriv is a symlink, and has other options.
    if find_program setpriv && { [ ! -L "$program" ] || "$program" --bounding-set -all true 2>/dev/null; }; then
        append '' "$program" --bounding-set "-all$capability_set" --inh-caps -all
        entry_words="$list $entry_words"
    else
        say "root keeps all capabilities inside: install util-linux's setpriv, or use --privileged if you want that"
    fi
}
