# Mounts: the mounts in the private mount namespace. One process of the helper makes those that don't depend on the
# rootfs in the stage, a tmpfs that no guest can reach. A second one binds them on directories of the rootfs, which this
# shell has entered before. Without the helper, mount(8) is started for each mount.
# Sets `stage` (its path, or empty), `mount_list` (lines as in fstab(5)), `mount_calls` (the same mounts, as words for
# the helper), `flags` (mount options, with a comma before each), `can_mount_proc` (empty if the kernel refuses a new
# /proc), `root_flags` (the options of the rootfs's mount).

# Build the stage for the machine's root ($1 is `root`) or for a user namespace ($1 is `user`).
build_stage() {
    stage=$directory/.provision/shm can_mount_proc=yes
    find_flags
    root_flags=$flags
    # Another start may make it at the same time.
    [ -d "$stage" ] || mkdir "$stage" 2>/dev/null || [ -d "$stage" ] || mkdir "$stage" || fail "can't make $stage"
    { make_private && cd -P "$stage"; } || fail "can't mount $stage"
    stage=$PWD
    [ -z "$ephemeral" ] || mount_overlay
    list_mounts "$1"
    [ -n "$helper" ] || set_hostname
    ! mount_at_once "$hostname" || return 0
    # The kernel refuses a new /proc inside of other containers.
    [ -d ./proc ] || mkdir ./proc
    [ -n "$is_machine_root" ] || mount_one proc ./proc proc nosuid,nodev,noexec 2>/dev/null || {
        can_mount_proc=''
        list_mounts "$1"
        ! mount_at_once "$hostname" || return 0
    }
    mount_each
}

# Make all mounts private, so that mounts made here aren't propagated to other namespaces, then mount the stage.
# util-linux's unshare(1) makes them private itself; toybox's doesn't.
make_private() {
    if [ -n "$helper" ]; then
        quote "$stage"
        mount_list='' mount_calls=''
        add_mount none / none rprivate
        add_mount tmpfs "$quoted" tmpfs nosuid,mode=700
        mount_at_once ''
        return
    fi
    while IFS= read -r line; do
        case $line in
            *\ shared:*\ -\ * | *\ master:*\ -\ *) mount_one none / none rprivate && break || return ;;
        esac
    done </proc/self/mountinfo
    mount_one tmpfs "$stage" tmpfs nosuid,mode=700
}

# Set `mount_list` and `mount_calls` to all mounts of the stage for $1, `root` or `user`.
list_mounts() {
    mount_list='' mount_calls=''
    [ -n "$ephemeral" ] || add_mount ../../rootfs ../../rootfs none "rbind$root_flags"
    "list_mounts_for_$1"
}

# Add one mount to both lists: source, target, type and options, none of which needs quotes.
add_mount() {
    mount_list="$mount_list$1 $2 $3 $4$newline"
    read_flags "$4"
    mount_calls="$mount_calls $1 $2 $3 $mount_flags '$data'"
    [ -z "$later_flags" ] || mount_calls="$mount_calls $1 $2 $3 $later_flags ''"
}

# Translate the options $1 of mount(8) to `mount_flags` and `data` of mount(2). For a bind with further options, set
# `later_flags` to the flags of the remount that they need, else to empty.
read_flags() {
    mount_flags=0 data='' later_flags='' IFS=,
    for option in $1; do
        case $option in
            ro) mount_flags=$((mount_flags | 1)) ;;
            nosuid) mount_flags=$((mount_flags | 2)) ;;
            nodev) mount_flags=$((mount_flags | 4)) ;;
            noexec) mount_flags=$((mount_flags | 8)) ;;
            remount) mount_flags=$((mount_flags | 32)) ;;
            noatime) mount_flags=$((mount_flags | 1024)) ;;
            nodiratime) mount_flags=$((mount_flags | 2048)) ;;
            bind) mount_flags=$((mount_flags | 4096)) ;;
            move) mount_flags=$((mount_flags | 8192)) ;;
            rbind) mount_flags=$((mount_flags | 4096 | 16384)) ;;
            rprivate) mount_flags=$((mount_flags | 262144 | 16384)) ;;
            dev | suid | exec) ;;
            *) data=$data${data:+,}$option ;;
        esac
    done
    IFS=" 	$newline"
    case $1 in
        bind,* | rbind,*)
            later_flags=$((mount_flags & ~16384 | 32))
            mount_flags=$((mount_flags & (4096 | 16384)))
            ;;
    esac
}

# Make all mounts of `mount_calls` with one process of the helper, without messages, and set the UTS namespace's name to
# $1, if it isn't empty. Fails at the first mount that can't be made, or without a helper.
mount_at_once() {
    [ -n "$helper" ] || return
    if [ -n "$1" ] && [ -e /proc/self/ns/uts ]; then
        eval "\"\$helper\" - $((flag_hostname + flag_mounts)) \"\$1\" $mount_calls -" 2>/dev/null
    else
        eval "\"\$helper\" - $flag_mounts $mount_calls -" 2>/dev/null
    fi
}

# Make each mount of `mount_list` with a process of its own. Print a message if one that only hides or protects files
# fails; exit if another one does.
mount_each() {
    { cd -P "$rootfs" && real_rootfs=$PWD && cd -P "$stage"; } || fail "can't enter $rootfs"
    while read -r source target type options; do
        [ -n "$source" ] || continue
        [ -e "$target" ] || mkdir "$target"
        mount_one "$source" "$target" "$type" "$options" && continue
        case $source/$options in
            /dev/null/* | */nothing/* | ./sealed/* | */ro,*) say "can't protect ${target#.}" ;;
            devpts/* | tmpfs/*)
                # In a user namespace, the host's remains visible.
                [ -z "$is_machine_root" ] || fail "can't mount ${target#.}"
                ;;
            *) fail "can't mount ${target#.}" ;;
        esac
    done <<END
$mount_list
END
}

# Mount $1 on $2, with the type $3 and the options $4 of mount(8), without messages if there is a helper.
mount_one() {
    if [ -z "$helper" ]; then
        mount_by_program "$@"
        return
    fi
    read_flags "$4"
    if [ -n "$later_flags" ]; then
        "$helper" - "$flag_mounts" "$1" "$2" "$3" "$mount_flags" "$data" "$1" "$2" "$3" "$later_flags" '' -
    else
        "$helper" - "$flag_mounts" "$1" "$2" "$3" "$mount_flags" "$data" -
    fi 2>/dev/null
}

# Do the same with mount(8).
mount_by_program() {
    if [ -z "$mount_words" ]; then
        case $(mount --help 2>&1) in *--no-canonicalize*) mount_words='mount -n -c' ;; *) mount_words=mount ;; esac
    fi
    # shellcheck disable=SC2086 # words
    case $4 in
        bind,* | rbind,*)
            case $2 in ./*) shown=$stage/${2#./} ;; *) shown=$real_rootfs ;; esac
            $mount_words -o "${4%%,*}" "$1" "$2" || return
            mount_by_program "$shown" "$shown" none "remount,bind,${4#*,}" || [ -z "$is_machine_root" ] ||
                say "can't protect ${2#.}"
            ;;
        remount,*)
            $mount_words -o "$4" "$1" "$2" 2>/dev/null ||
                # toybox's mount takes the source from /proc/mounts.
                $mount_words -o "$4" "$2" 2>/dev/null
            ;;
        rprivate) mount --make-rprivate "$2" 2>/dev/null || mount -o rprivate none "$2" ;; # for toybox
        *bind | move)
            if [ "$1/$mount_words" = /dev/null/mount ]; then
                # toybox's mount can't bind devices.
                touch_file "$stage/nothing"
                set -- "$stage/nothing" "$2" "$3" "$4"
            fi
            $mount_words -o "$4" "$1" "$2"
            ;;
        *) $mount_words -t "$3" -o "$4" "$1" "$2" ;;
    esac
}

# Change the options of the mount $2, not of those below it, to $1. Fails silently.
remount() {
    mount_one "$2" "$2" none "remount,bind,$1"
}

# Set `flags`: the options for the bind of the rootfs on itself, with a comma before each: nodev, and those options of
# its file system that an unprivileged user may not remove.
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
        break
    done </proc/self/mountinfo
    # Android's /data is mounted nosuid, with which su and sudo don't work.
    [ -z "${ANDROID_ROOT-}" ] || [ -z "$is_machine_root" ] || flags=,nodev,suid,exec
    [ -z "$privileged" ] || flags=,dev${flags#,nodev}
}

# List the mounts for the machine's root: a private /proc, a read-only /sys, and /run and /dev in memory.
list_mounts_for_root() {
    read_only=,ro
    [ -z "$privileged" ] || read_only=''
    add_mount proc ./proc proc nosuid,nodev,noexec
    add_mount sysfs ./sys sysfs "nosuid,nodev,noexec$read_only"
    add_mount tmpfs ./run tmpfs nosuid,nodev,mode=755
    if [ -n "$host_devices" ]; then
        add_mount /dev ./dev none rbind
    else
        add_mount tmpfs ./dev tmpfs nosuid,mode=755
        add_mount devpts ./dev/pts devpts newinstance,nosuid,noexec,ptmxmode=0666,mode=620,gid=5
    fi
    add_mount tmpfs ./dev/shm tmpfs nosuid,nodev,mode=1777
    list_masks
}

# List the mounts for a user namespace: a new /proc, if the kernel allows it (inside of other containers it doesn't),
# and the host's /dev and /sys, as in proot: a user may change little there. If the machine's root has made the
# namespace, file modes don't protect them: then /dev is in memory. The container has terminals of its own.
list_mounts_for_user() {
    terminal_group=''
    [ "$typed_ids" != many ] || terminal_group=,gid=5
    if [ -n "$can_mount_proc" ]; then
        add_mount proc ./proc proc nosuid,nodev,noexec
    else
        add_mount /proc ./proc none rbind
    fi
    add_mount /sys ./sys none rbind
    if [ -z "$has_roots_files" ] || [ -n "$host_devices" ]; then
        add_mount /dev ./dev none rbind
    else
        add_mount tmpfs ./dev tmpfs nosuid,mode=755
    fi
    [ ! -d /dev/shm ] || add_mount tmpfs ./dev/shm tmpfs nosuid,nodev,mode=1777
    [ ! -d /dev/mqueue ] || add_mount tmpfs ./dev/mqueue tmpfs nosuid,nodev,mode=1777
    [ ! -d /dev/pts ] || add_mount devpts ./dev/pts devpts \
        "newinstance,nosuid,noexec,ptmxmode=0666,mode=620$terminal_group"
    list_masks
}

# List mounts that hide the paths of /proc and /sys that docker hides (maskedPaths in the OCI runtime-spec) or makes
# read-only (readonlyPaths), as far as this kernel has them.
list_masks() {
    [ -z "$privileged" ] || return 0
    for place in /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats /proc/sched_debug \
        /proc/interrupts; do
        [ ! -f "$place" ] || add_mount /dev/null ".$place" none rbind
    done
    # The host's /sys/fs/cgroup may have control groups that this user may change; in a new /sys it is empty.
    for place in /proc/acpi /proc/asound /proc/scsi /sys/firmware /sys/devices/virtual/powercap /sys/fs/cgroup; do
        [ ! -d "$place" ] || add_mount tmpfs ".$place" tmpfs ro,nosuid,nodev,noexec,size=4k
    done
    # A bind of a read-only mount is read-only with every mount(8), without a remount.
    [ -z "$can_mount_proc" ] || add_mount proc ./sealed proc ro,nosuid,nodev,noexec
    for place in bus fs irq sys sysrq-trigger; do
        if [ -n "$can_mount_proc" ] && [ -e "/proc/$place" ]; then
            add_mount "./sealed/$place" "./proc/$place" none bind
        elif [ -e "/proc/$place" ]; then
            add_mount "./proc/$place" "./proc/$place" none rbind,ro,nosuid,nodev,noexec
        fi
    done
}

# Make the host's /sys in the stage read-only.
make_sys_read_only() {
    [ -n "$privileged" ] || make_read_only "$stage/sys" hidden || fail "can't make /sys read-only, because of $point"
}

# Bind the stage's directories on those of the rootfs: with one process, or with one for each.
fill_rootfs() {
    ! fill_at_once || return 0
    for place in /dev /proc /sys ${is_machine_root:+/run}; do
        enter_place "$place"
        mount_one "$stage$place" . none rbind || fail "can't mount $place"
    done
}

# Enter the guest's directory $1. For /run, copy the image's /run to the one in memory first.
enter_place() {
    [ "$1" != /run ] || copy_run
    enter "$1" "can't make $1 in the rootfs"
}

# Bind all of them with one process. The targets are descriptors of directories that this shell has entered, because a
# guest could change the paths. Fails without a helper, or if the shell can't open directories.
fill_at_once() {
    [ -n "$helper" ] || return
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

# Bind the directories of the stage on the directories open as descriptors 5 to 8.
show_stage() {
    cd -P "$stage" || return
    mount_list='' mount_calls=''
    add_mount ./dev /proc/self/fd/5 none rbind
    add_mount ./proc /proc/self/fd/6 none rbind
    add_mount ./sys /proc/self/fd/7 none rbind
    [ -z "$is_machine_root" ] || add_mount ./run /proc/self/fd/8 none rbind
    # mksh closes descriptors above 2 for programs, unless they are redirected for them.
    mount_at_once '' 5<&5 6<&6 7<&7 8<&8
}

# Bind `source` on `destination`, whose `resolved` bind_one has set. Create the destination if it is missing.
bind_in_namespace() {
    problem="can't bind $source on $destination"
    if [ -d "$source" ]; then
        enter "$destination" "$problem"
        mount_one "$source" . none rbind || fail "$problem"
        return
    fi
    file=${resolved##*/}
    enter "${resolved%/*}/" "$problem"
    # Another start may make it at the same time.
    [ -e "./$file" ] || create_file "$file" || [ -e "./$file" ] || fail "$problem"
    [ -f "./$file" ] || fail "$problem, which is not a file"
    # The target is a descriptor, which can't be replaced between the check and the mount.
    bind_opened 8<"./$file" || fail "$problem"
}

# Bind `source` on descriptor 8. Exit unless that is the guest's file `file` in the directory `resolved`.
bind_opened() {
    # mksh closes descriptors above 2 for programs, unless they are redirected for them.
    link_target=$(readlink /proc/self/fd/8 8<&8 && printf x)
    [ "${link_target%?x}" = "$real_rootfs$resolved/$file" ] || fail "$problem, which was replaced meanwhile: try again"
    mount_one "$source" /proc/self/fd/8 none rbind 8<&8
}

# Create the empty file $1 in this shell's directory. `set -C` opens it with O_EXCL, which doesn't follow symlinks.
create_file() {
    (set -C && : >"./$1") 2>/dev/null && note_mount_point "$resolved/$1"
}

# Make the copies of copy_program in the stage read-only. If that fails, a guest can change only its own copy.
make_stage_read_only() {
    [ -z "$has_copies" ] || remount ro,nosuid "$stage" || true
}

# Without a helper, make the rootfs, this shell's directory, the root of the mount namespace. Until chroot(1) makes it
# the root of the process too, absolute paths are still the host's, but nothing may be mounted or written any more.
move_root() {
    mount_one . / none move || fail "can't make the rootfs the root of the namespace"
}
