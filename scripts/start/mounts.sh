# Mounts in the private mount namespace. All that doesn't depend on the rootfs is built in a place that no guest can
# reach, by one process of the helper; a second one shows it in the directories of the rootfs, in which this shell has
# stood. Without the helper mount(8) is started for each mount.
# Sets `stage` (that place, or empty), `mount_list` (lines as in fstab(5)), `mount_calls` (the same, as words for the
# helper), `flags`, `can_mount_proc` (empty if the kernel refuses a new /proc), `root_flags` (the rootfs's).

# Build that place for the machine's root ($1 is `root`) or for a user namespace (`user`).
build_stage() {
    stage=$directory/.provision/shm can_mount_proc=yes
    find_flags
    root_flags=$flags
    { [ -d "$stage" ] || mkdir "$stage"; } || fail "can't make $stage"
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

# Mount the stage, after making all mounts private: what is mounted here must not be seen elsewhere. Some unshares have
# done that; toybox's has not.
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

# List all mounts of the stage for $1, `root` or `user`.
list_mounts() {
    mount_list='' mount_calls=''
    [ -n "$ephemeral" ] || add_mount ../../rootfs ../../rootfs none "rbind$root_flags"
    "list_mounts_for_$1"
}

# Add to both lists: what is mounted, where, its type and options, none of which has to be quoted.
add_mount() {
    mount_list="$mount_list$1 $2 $3 $4$newline"
    read_flags "$4"
    mount_calls="$mount_calls $1 $2 $3 $mount_flags '$data'"
    [ -z "$later_flags" ] || mount_calls="$mount_calls $1 $2 $3 $later_flags ''"
}

# Set `mount_flags` and `data` from the options $1 of mount(8), as mount(2) takes them; and `later_flags`, where a bind
# has further options, which take a second call, or empty.
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

# Make all mounts of `mount_calls` by one process, which is quiet, and give the UTS namespace the name $1, if there is one.
# Fails if one of them can't be made, or without a helper.
mount_at_once() {
    [ -n "$helper" ] || return
    if [ -n "$1" ] && [ -e /proc/self/ns/uts ]; then
        eval "\"\$helper\" - $((flag_hostname + flag_mounts)) \"\$1\" $mount_calls -" 2>/dev/null
    else
        eval "\"\$helper\" - $flag_mounts $mount_calls -" 2>/dev/null
    fi
}

# Make each mount of `mount_list` by itself. Those that only protect may fail.
mount_each() {
    { cd -P "$rootfs" && real_rootfs=$PWD && cd -P "$stage"; } || fail "can't enter $rootfs"
    while read -r source target type options; do
        [ -n "$source" ] || continue
        [ -e "$target" ] || mkdir "$target"
        mount_one "$source" "$target" "$type" "$options" && continue
        case $source/$options in
            /dev/null/* | */nothing/* | ./sealed/* | */ro,*) say "can't protect ${target#.}" ;;
            devpts/* | tmpfs/*)
                # A user namespace has the host's below.
                [ -z "$is_machine_root" ] || fail "can't mount ${target#.}"
                ;;
            *) fail "can't mount ${target#.}" ;;
        esac
    done <<END
$mount_list
END
}

# Mount $1 on $2, with the type $3 and the options $4 as mount(8) names them. The helper is quiet.
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

# The same by mount(8).
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
                # toybox looks for the path in /proc/mounts.
                $mount_words -o "$4" "$2" 2>/dev/null
            ;;
        rprivate) mount --make-rprivate "$2" 2>/dev/null || mount -o rprivate none "$2" ;; # which is toybox's
        *bind | move)
            if [ "$1/$mount_words" = /dev/null/mount ]; then
                # toybox binds no devices.
                touch_file "$stage/nothing"
                set -- "$stage/nothing" "$2" "$3" "$4"
            fi
            $mount_words -o "$4" "$1" "$2"
            ;;
        *) $mount_words -t "$3" -o "$4" "$1" "$2" ;;
    esac
}

# Change the mount $2 alone to the options $1. Fails silently.
remount() {
    mount_one "$2" "$2" none "remount,bind,$1"
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
        break
    done </proc/self/mountinfo
    # Android's /data is mounted nosuid: nobody could become another user.
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

# List the mounts for a user namespace: a new /proc, if the kernel allows it (not inside of another container), and the
# host's /dev and /sys, as in proot: a user can change little there. Root could, by the modes of files, and gets a /dev in
# memory. Terminals are those of the container alone.
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
    [ -z "$can_mount_proc" ] || add_mount proc ./sealed proc ro,nosuid,nodev,noexec
    for place in bus fs irq sys sysrq-trigger; do
        if [ -n "$can_mount_proc" ] && [ -e "/proc/$place" ]; then
            add_mount "./sealed/$place" "./proc/$place" none bind
        elif [ -e "/proc/$place" ]; then
            add_mount "./proc/$place" "./proc/$place" none rbind,ro,nosuid,nodev,noexec
        fi
    done
}

# Let nobody write to the /sys of the stage, which is the host's.
seal_sys() {
    [ -n "$privileged" ] || seal_below "$stage/sys" hidden || fail "can't make /sys read-only, because of $point"
}

# Show what build_stage has built in the directories of the rootfs: at once, or each by itself.
fill_rootfs() {
    ! fill_at_once || return 0
    for place in /dev /proc /sys ${is_machine_root:+/run}; do
        enter_place "$place"
        mount_one "$stage$place" . none rbind || fail "can't mount $place"
    done
}

# Enter the guest's directory $1. The /run in memory gets what the image's has.
enter_place() {
    [ "$1" != /run ] || copy_run
    enter "$1" "can't make $1 in the rootfs"
}

# Show all by one process, on descriptors of the directories that this shell has entered: no name leads there that a guest
# can change. Fails without a helper, or if the shell can't open them.
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

# Mount the directories of the stage on the descriptors 5 to 8.
show_stage() {
    cd -P "$stage" || return
    mount_list='' mount_calls=''
    add_mount ./dev /proc/self/fd/5 none rbind
    add_mount ./proc /proc/self/fd/6 none rbind
    add_mount ./sys /proc/self/fd/7 none rbind
    [ -z "$is_machine_root" ] || add_mount ./run /proc/self/fd/8 none rbind
    # mksh closes them for programs that don't get them by a redirection of their own.
    mount_at_once '' 5<&5 6<&6 7<&7 8<&8
}

# Bind `source` on `destination`, which bind_one has resolved. It is created if it is missing.
bind_in_namespace() {
    problem="can't bind $source on $destination"
    if [ -d "$source" ]; then
        enter "$destination" "$problem"
        mount_one "$source" . none rbind || fail "$problem"
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
    mount_one "$source" /proc/self/fd/8 none rbind 8<&8
}

# Create the empty file $1 in this shell's directory, and never what it may be a link to: O_EXCL follows none.
create_file() {
    (set -C && : >"./$1") 2>/dev/null || fail "$problem"
    note_mount_point "$resolved/$1"
}

# Let nobody write to what copy_program has put into the stage. Where this fails, a guest changes its own copy alone.
seal_stage() {
    [ -z "$has_copies" ] || remount ro,nosuid "$stage" || true
}

# Make the rootfs, this shell's directory, the root of the mount namespace; the helper does it before it confines the
# guest. Programs are those of the host still, and paths too: nothing may be mounted or written any more, until chroot has
# made this directory the process's root.
move_root() {
    mount_one . / none move || fail "can't make the rootfs the root of the namespace"
}
