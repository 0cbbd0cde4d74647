# Entry: the last step into the rootfs, by chroot(1), unshare(1) and setpriv(1).
# Sets `entry_words` (the list of words before the guest's command).

# Set `entry_words`: what changes the root to $1, or to the working directory if it is empty, the user and the working
# directory. `nested` says that the user is no root, and that there is one id alone.
find_entry() {
    set -- "${1:-.}"
    if [ -n "$nested" ]; then
        # One more namespace, in which the id that is root in this one is the user's.
        find_program unshare
        [ -n "$helper" ] || copy_program
        append '' "$program" -U "--map-user=$uid" "--map-group=$gid" "--root=$1" "--wd=$workdir" --
    elif [ "$workdir" = / ]; then
        find_chroot "$1"
    elif guest_has /bin/sh; then
        find_chroot "$1"
        # shellcheck disable=SC2016 # the guest's shell expands it
        append "$list" /bin/sh -c 'cd -- "$0" || exit 125; exec "$@"' "$workdir"
    else
        find_program unshare
        copy_program
        append '' "$program" "--root=$1" "--wd=$workdir"
        [ "$uid:$gid" = 0:0 ] || append "$list" "--setgid=$gid" "--setuid=$uid"
        [ -z "$groups" ] || say "without a shell in the image, user $uid has no other groups"
    fi
    entry_words=$list
}

# Set `list`: a chroot(1) to $1 that becomes the user. Only GNU's can do that; with another one, root has no other
# groups.
find_chroot() {
    find_program chroot
    copy_program
    append '' "$program" "$1"
    [ "$uid:$gid$groups" != 0:0 ] || return 0
    case $("$program" --help 2>&1) in
        *--userspec*)
            other_groups=''
            for group in $groups; do
                other_groups="$other_groups${other_groups:+,}+$group"
            done
            # With a plus it doesn't look up the numbers as names, by the guest's libraries.
            append '' "$program" "--userspec=+$uid:+$gid" "--groups=$other_groups" "$1"
            ;;
        *) [ "$uid:$gid" = 0:0 ] || fail "this chroot can't become user $uid: install GNU coreutils" ;;
    esac
}

# Set `program`: a copy of it in memory, for this run alone. A guest's script can name /proc/self/exe as its
# interpreter, which is then the program that executes it, and could write to its file. In a user namespace nobody can
# write to a program of the machine's root.
copy_program() {
    # The helper comes after it, see hide_entry.
    [ -z "$hides_entry" ] || return 0
    [ -n "$is_machine_root" ] || [ -w "$program" ] || return 0
    [ -n "$stage" ] || return 0
    copy=$stage/${program##*/}
    if [ ! -e "$copy" ]; then
        # What a session has there can't be added to any more.
        [ -z "$joined" ] || mount -t tmpfs -o nosuid,mode=700 tmpfs "$stage" || fail "can't mount $stage"
        has_copies=yes
        cp "$program" "$copy" || fail "can't copy $program"
    fi
    program=$copy
}

# Set `capability_set`: the capabilities that root keeps, as in docker's containers, but mknod, since the rootfs has no
# devices; or empty where it keeps all. In a user namespace they keep root from following /proc/1/root, too. Where the
# helper takes the others away, set `capability_digits`, a digit for each capability.
find_capabilities() {
    capability_set='' capability_digits=''
    [ -z "$privileged$nested" ] || return 0
    case " $more_capabilities " in
        *" all "*) return ;;
        *" sys_ptrace "*) say "--cap-add SYS_PTRACE: root inside can leave the rootfs, by /proc/1/root" ;;
    esac
    capability_set="chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot \
audit_write setfcap $more_capabilities"
    [ -n "$helper" ] && [ -z "$hides_entry" ] || return 0
    for capability in $capability_names; do
        case " $capability_set " in
            *" $capability "*) capability_digits=${capability_digits}1 ;;
            *) capability_digits=${capability_digits}0 ;;
        esac
    done
}

# Add to `entry_words`, at the front, what takes the capabilities away that aren't in `capability_set`, where the helper
# doesn't.
drop_capabilities() {
    [ -n "$capability_set" ] && [ -z "$capability_digits" ] || return 0
    bounding_set=-all
    for capability in $capability_set; do
        bounding_set=$bounding_set,+$capability
    done
    # busybox's setpriv is a symlink, and has other options.
    if find_program setpriv && { [ ! -L "$program" ] || "$program" --bounding-set -all true 2>/dev/null; }; then
        append '' "$program" --bounding-set "$bounding_set"
        [ -n "$hides_entry" ] || append "$list" --inh-caps -all
        [ -n "$helper" ] || [ -z "$no_new_privs" ] || append "$list" --no-new-privs
        entry_words="$list $entry_words"
        [ -z "$hides_entry" ] || hide_entry "$program"
    else
        say "root keeps all capabilities inside: install util-linux's setpriv, or use --cap-add ALL if you want that"
    fi
}

# All capabilities by their names in capabilities(7), in the order of their numbers.
capability_names='chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable
    net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace
    sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control
    setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore'
