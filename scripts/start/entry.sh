# Entry: the last step into the rootfs, by chroot(1), unshare(1) and setpriv(1).
# Sets `entry_words` (the list of words before the guest's command).

# Set `entry_words`: the words that change the root to $1, or to this shell's directory if $1 is empty, then the user
# and the working directory. `nested` is not empty for a user other than root in a namespace with one id.
find_entry() {
    set -- "${1:-.}"
    if [ -n "$nested" ]; then
        # A second user namespace maps the id that is root in this one to the user.
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
        [ -z "$groups" ] || say "the image has no shell, so that user $uid has no supplementary groups"
    fi
    entry_words=$list
}

# Set `list` to a chroot(1) to $1 that switches to the user. Only GNU's can do that. With another chroot, only root can
# be used, without supplementary groups.
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
            # A plus keeps chroot from looking up the numbers as names, which would load libraries of the guest.
            append '' "$program" "--userspec=+$uid:+$gid" "--groups=$other_groups" "$1"
            ;;
        *) [ "$uid:$gid" = 0:0 ] || fail "this machine's chroot can't switch to user $uid: install GNU coreutils" ;;
    esac
}

# Set `program` to a copy of it in memory, for this start alone. A guest's script may name /proc/self/exe as its
# interpreter: it would then run the host's program, and could write to its file. In a user namespace that is no danger,
# unless the user may write to the program.
copy_program() {
    # With `hides_entry` the helper is executed last, see hide_entry.
    [ -z "$hides_entry" ] || return 0
    [ -n "$is_machine_root" ] || [ -w "$program" ] || return 0
    [ -n "$stage" ] || return 0
    copy=$stage/${program##*/}
    if [ ! -e "$copy" ]; then
        # The session's own stage is read-only.
        [ -z "$joined" ] || mount -t tmpfs -o nosuid,mode=700 tmpfs "$stage" || fail "can't mount $stage"
        has_copies=yes
        cp "$program" "$copy" || fail "can't copy $program"
    fi
    program=$copy
}

# Set `capability_set`: the capabilities that root keeps, or empty if it keeps all. They are docker's without mknod,
# since the rootfs is mounted nodev. In a user namespace, too, the others would let root follow /proc/1/root. If the
# helper is to drop the others, set `capability_digits`: 1 or 0 for each capability in `capability_names`.
find_capabilities() {
    capability_set='' capability_digits=''
    [ -z "$privileged$nested" ] || return 0
    case " $more_capabilities " in
        *" all "*) return ;;
        *" sys_ptrace "*)
            say "with --cap-add SYS_PTRACE, root inside can read and change this machine's files, by /proc/1/root"
            ;;
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

# Prepend to `entry_words` a setpriv(1) that drops the capabilities that aren't in `capability_set`, unless the helper
# drops them.
drop_capabilities() {
    [ -n "$capability_set" ] && [ -z "$capability_digits" ] || return 0
    bounding_set=-all
    for capability in $capability_set; do
        bounding_set=$bounding_set,+$capability
    done
    # busybox's setpriv is a symlink, and may lack --bounding-set.
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

# The names of all capabilities as in capabilities(7), in the order of their numbers.
capability_names='chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable
    net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace
    sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control
    setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore'
