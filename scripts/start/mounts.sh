# Mounts in the private mount namespace. All that doesn't depend on the rootfs is built in a place that no guest can
# reach, by one mount(8); a second one shows it in the directories of the rootfs, in which this shell has stood.
# Sets `stage` (that place, or empty), `mount_words`, `takes_lists` (not empty where mount(8) does), `mount_list` (lines
# as in fstab(5)), `flags`, `can_mount_proc` (empty if the kernel refuses a new /proc), `root_flags` (the rootfs's).

# Build that place for the machine's root ($1 is `root`) or for a user namespace (`user`).
build_stage() {
    mount_words='mount -n -c' takes_lists=yes can_mount_proc=yes
    find_flags
    root_flags=$flags
    # The kernel refuses a new /proc inside of other containers. The second stage covers the first.
    mount_stage "$1" || { can_mount_proc='' && mount_stage "$1"; }
}

# Mount all of it. Fails if it has to be done without a new /proc.
mount_stage() {
    stage=$directory/.provision/shm
    { [ -d "$stage" ] || mkdir "$stage"; } || fail "can't make $stage"
    { mount -t tmpfs -o nosuid,mode=700 tmpfs "$stage" && cd -P "$stage"; } ||
        fail "can't mount $stage"
    stage=$PWD mount_list=''
    if [ -n "$ephemeral" ]; then
        mount_overlay
    else
        add_mount ../../rootfs ../../rootfs none "rbind$root_flags"
    fi
    "list_mounts_for_$1"
    mount_listed
}

# Add a line to `mount_list`: what is mounted, where, its type and options.
add_mount() {
    mount_list="$mount_list$1 $2 $3 $4$newline"
}

# Mount all of `mount_list` by one program, which tells nothing. Fails if it can't be, or if this mount(8) takes no
# lists, as busybox's and toybox's.
mount_at_once() {
    write_text "$mount_list" "$stage/list"
    [ -n "$takes_lists" ] || return
    # shellcheck disable=SC2086 # words
    $mount_words -a -T "$stage/list" 2>/dev/null
}

# Mount all of `mount_list`. Fails if the kernel refuses a new /proc, and the host's will do.
mount_listed() {
    ! mount_at_once || return 0
    # Where it takes lists, it has made directories.
    [ ! -d ./sys ] || [ -n "$is_machine_root" ] || [ -z "$can_mount_proc" ] || [ -e ./proc/self ] || return
    takes_lists=''
    case $(mount --help 2>&1) in *--no-canonicalize*) ;; *) mount_words=mount ;; esac
    { cd -P "$rootfs" && real_rootfs=$PWD && cd -P "$stage"; } || fail "can't enter $rootfs"
    while read -r source target type options; do
        case $options in *,x-mount.mkdir) mkdir -p "$target" && options=${options%,*} ;; esac
        if [ "$source$target$is_machine_root" = proc./proc ]; then
            mount_one 2>/dev/null || return
            continue
        fi
        mount_one && continue
        case $source/$options in
            /dev/null/* | */nothing/* | ./sealed/* | */ro,*) say "can't protect ${target#.}" ;;
            devpts/* | tmpfs/*)
                # A user namespace has the host's below.
                [ -z "$is_machine_root" ] || fail "can't mount ${target#.}"
                ;;
            *) fail "can't mount ${target#.}" ;;
        esac
    done <"$stage/list"
}

# Mount `source` on `target`, with its `type` and `options`.
mount_one() {
    # shellcheck disable=SC2086 # words
    case $options in
        bind,* | rbind,*)
            case $target in ./*) shown=$stage/${target#./} ;; *) shown=$real_rootfs ;; esac
            $mount_words -o "${options%%,*}" "$source" "$target" || return
            remount "${options#*,}" "$shown" || [ -z "$is_machine_root" ] || say "can't protect ${target#.}"
            ;;
        *bind)
            if [ "$source/$mount_words" = /dev/null/mount ]; then
                # toybox binds no devices.
                source=$stage/nothing
                touch_file "$source"
            fi
            $mount_words -o "$options" "$source" "$target"
            ;;
        *) $mount_words -t "$type" -o "$options" "$source" "$target" ;;
    esac
}

# Change the mount $2 alone to the options $1. Fails silently.
remount() {
    # shellcheck disable=SC2086 # words
    $mount_words -o "remount,bind,$1" "$2" "$2" 2>/dev/null ||
        # toybox looks for the path in /proc/mounts.
        $mount_words -o "remount,bind,$1" "$2" 2>/dev/null
}

# Set `flags`: the options of the rootfs's bind on itself, with a comma before each: those that the file system below
# has been mounted with, and that a user may not take away, and nodev.
find_flags() {
    flags=,nodev mount_id=''
    while read -r field value; do
        [ "$field" != mnt_id: ] || mount_id=$value
    done 8<"$rootfs" </proc/self/fdinfo/8
    while read -r id _ _ _ _ options _; do
        [ "$id" = "$mount_id" ] || continue
        for flag in ro nosuid noexec noatime nodiratime; do
            case ,$options, in *,$flag,*) flags=$flags,$flag ;; esac
        done
    done </proc/self/mountinfo
    # Android's /data is mounted nosuid: nobody could become another user.
    [ -z "${ANDROID_ROOT-}" ] || [ -z "$is_machine_root" ] || flags=,nodev,suid,exec
    [ -z "$privileged" ] || flags=,dev${flags#,nodev}
}

# List the mounts for the machine's root: a private /proc, a read-only /sys, and /run and /dev in memory.
list_mounts_for_root() {
    read_only=,ro
    [ -z "$privileged" ] || read_only=''
    add_mount proc ./proc proc nosuid,nodev,noexec,x-mount.mkdir
    add_mount sysfs ./sys sysfs "nosuid,nodev,noexec$read_only,x-mount.mkdir"
    add_mount tmpfs ./run tmpfs nosuid,nodev,mode=755,x-mount.mkdir
    if [ -n "$host_devices" ]; then
        add_mount /dev ./dev none rbind,x-mount.mkdir
    else
        add_mount tmpfs ./dev tmpfs nosuid,mode=755,x-mount.mkdir
        add_mount devpts ./dev/pts devpts newinstance,nosuid,noexec,ptmxmode=0666,mode=620,gid=5,x-mount.mkdir
    fi
    add_mount tmpfs ./dev/shm tmpfs nosuid,nodev,mode=1777,x-mount.mkdir
    list_masks
}

# List the mounts for a user namespace: a new /proc, if the kernel allows it (not inside of another container), and the
# host's /dev and /sys, as in proot: a user can change little there. Terminals are those of the container alone.
list_mounts_for_user() {
    terminal_group=''
    [ "$typed_ids" != many ] || terminal_group=,gid=5
    if [ -n "$can_mount_proc" ]; then
        add_mount proc ./proc proc nosuid,nodev,noexec,x-mount.mkdir
    else
        add_mount /proc ./proc none rbind,x-mount.mkdir
    fi
    add_mount /sys ./sys none rbind,x-mount.mkdir
    add_mount /dev ./dev none rbind,x-mount.mkdir
    [ ! -d /dev/shm ] || add_mount tmpfs ./dev/shm tmpfs nosuid,nodev,mode=1777
    [ ! -d /dev/mqueue ] || add_mount tmpfs ./dev/mqueue tmpfs nosuid,nodev,mode=1777
    [ ! -d /dev/pts ] || add_mount devpts ./dev/pts devpts \
        "newinstance,nosuid,noexec,ptmxmode=0666,mode=620$terminal_group"
    list_masks
}

# List what runc and docker hide of /proc and /sys, or show read-only, as far as this kernel has it.
list_masks() {
    [ -z "$privileged" ] || return 0
    for place in /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats /proc/sched_debug \
        /proc/interrupts; do
        [ ! -f "$place" ] || add_mount /dev/null ".$place" none rbind
    done
    # The control groups are those that the machine's root has left to this user; a new /sys has none.
    for place in /proc/acpi /proc/asound /proc/scsi /sys/firmware /sys/devices/virtual/powercap /sys/fs/cgroup; do
        [ ! -d "$place" ] || add_mount tmpfs ".$place" tmpfs ro,nosuid,nodev,noexec,size=4k
    done
    # A bind of what is read-only is read-only, with every mount(8).
    [ -z "$can_mount_proc" ] || add_mount proc ./sealed proc ro,nosuid,nodev,noexec,x-mount.mkdir
    for place in bus fs irq sys sysrq-trigger; do
        if [ -n "$can_mount_proc" ] && [ -e "/proc/$place" ]; then
            add_mount "./sealed/$place" "./proc/$place" none bind
        elif [ -e "/proc/$place" ]; then
            add_mount "./proc/$place" "./proc/$place" none rbind,ro,nosuid,nodev,noexec
        fi
    done
}

# Show what build_stage has built in the directories of the rootfs: at once, or each by itself.
fill_rootfs() {
    [ -n "$takes_lists" ] && fill_at_once && return
    for place in /dev /proc /sys ${is_machine_root:+/run}; do
        enter_place "$place"
        # shellcheck disable=SC2086 # words
        $mount_words -o rbind "$stage$place" . || fail "can't mount $place"
    done
}

# Enter the guest's directory $1. The /run in memory gets what the image's has.
enter_place() {
    enter "$1" "can't make $1 in the rootfs"
    [ "$1" != /run ] || copy_here "$stage/run"
}

# Show all by one program, on descriptors of the directories that this shell has entered: no name leads there that a guest
# can change. Fails if the shell can't open them, or mount(8) can't do it.
fill_at_once() {
    enter_place /dev
    {
        enter_place /proc
        {
            enter_place /sys
            {
                [ -z "$is_machine_root" ] || enter_place /run
                show_stage 8<.
            } 7<.
        } 6<.
    } 5<.
}

# Mount the directories of the stage on the descriptors 5 to 8.
show_stage() {
    cd -P "$stage" || return
    mount_list=''
    add_mount ./dev /proc/self/fd/5 none rbind
    add_mount ./proc /proc/self/fd/6 none rbind
    add_mount ./sys /proc/self/fd/7 none rbind
    [ -z "$is_machine_root" ] || add_mount ./run /proc/self/fd/8 none rbind
    # mksh closes them for programs that don't get them by a redirection of their own.
    mount_at_once 5<&5 6<&6 7<&7 8<&8
}

# Copy what is in this shell's directory to the directory $1. It goes into directories as `enter` does; no program
# for copying does.
copy_here() {
    names=''
    set +f
    for file in ./* ./.[!.]* ./..?*; do
        set -f
        { [ ! -e "$file" ] && [ ! -L "$file" ]; } || { append "$names" "$file" && names=$list; }
    done
    set -f
    [ -n "$names" ] || return 0
    eval "tar -cf - --no-recursion $names" 2>/dev/null | tar -xpf - -C "$1" || fail "can't copy $walked: install tar"
    eval "set -- \"\$1\" $names"
    copy_target=$1
    shift
    for file; do
        [ -L "$file" ] || [ ! -d "$file" ] || (
            cd -P "$file" && walked=$walked/${file#./} up=../$up && check_place && copy_here "$copy_target/$file"
        ) || finish 125
    done
}

# Bind `source` on `destination`, which bind_one has resolved. It is created if it is missing.
bind_in_namespace() {
    problem="can't bind $source on $destination"
    if [ -d "$source" ]; then
        enter "$destination" "$problem"
        # shellcheck disable=SC2086 # words
        $mount_words -o rbind "$source" . || fail "$problem"
        return
    fi
    file=${resolved##*/}
    enter "${resolved%/*}/" "$problem"
    [ -e "./$file" ] || create_file "$file"
    [ -f "./$file" ] || fail "$problem, which is no file"
    # A descriptor can't be replaced between the check and the mount.
    bind_opened 8<"./$file" || fail "$problem"
}

# Bind `source` on descriptor 8, which has to be the guest's file `resolved`/`file`.
bind_opened() {
    # mksh closes it for programs that don't get it by a redirection of their own.
    link_target=$(readlink /proc/self/fd/8 8<&8 && printf x)
    [ "${link_target%?x}" = "$real_rootfs$resolved/$file" ] || fail "$problem, which changes meanwhile"
    # shellcheck disable=SC2086 # words
    $mount_words -o rbind "$source" /proc/self/fd/8 8<&8
}

# Create the empty file $1 in this shell's directory, and never what it may be a link to.
create_file() {
    make_temporary
    { mkdir -p "$temporary/empty" && true >"$temporary/empty/$1" && mv -f "$temporary/empty/$1" .; } || fail "$problem"
}

# Let nobody write to what copy_program has put into the stage. Where this fails, a guest changes its own copy alone.
seal_stage() {
    [ -z "$has_copies" ] || remount ro,nosuid "$stage" || true
}

# Make the rootfs, this shell's directory, the root of the mount namespace. Programs are those of the host still, and
# paths too: nothing may be mounted or written any more, until chroot has made this directory the process's root.
move_root() {
    # shellcheck disable=SC2086 # words
    $mount_words -o move . / || fail "can't make the rootfs the root of the namespace"
}
