# Mounts in the private mount namespace: /proc, /sys, /run and binds. devices.sh fills /dev.
# Sets `can_mount_proc` (empty if the kernel refuses a new /proc).

# Mount on the guest's directory $1, with the mount(8) options that follow.
mount_on() {
    find_target "$1"
    shift
    mount "$@" "$target" || fail "can't mount $target"
}

# Mount for a user namespace: a new /proc, if the kernel allows it (not inside of another container), and the host's
# /dev and /sys, as in proot: a user can change little there.
mount_for_user() {
    find_target /proc
    can_mount_proc=yes
    mount -t proc proc "$target" 2>/dev/null || { can_mount_proc='' && mount_on /proc -o rbind /proc; }
    mount_on /sys -o rbind /sys
    mount_on /dev -o rbind /dev
    [ ! -d /dev/shm ] || mount_on /dev/shm -t tmpfs -o nosuid,nodev,mode=1777 tmpfs
}

# Mount for the machine's root: a private /proc, a read-only /sys, a /run in memory, and /dev.
mount_for_root() {
    if [ -n "${ANDROID_ROOT-}" ]; then
        # Android's /data is mounted nosuid: nobody could become another user.
        { mount -o bind "$rootfs" "$rootfs" && mount -o remount,bind,suid,dev,exec "$rootfs"; } ||
            say "setuid programs such as sudo may not work inside"
    fi
    mount_on /proc -t proc -o nosuid,nodev,noexec proc
    mount_on /sys -t sysfs -o ro,nosuid,nodev,noexec sysfs
    mount_run
    if [ -n "$host_devices" ]; then
        mount_on /dev -o rbind /dev
        mount_on /dev/shm -t tmpfs -o nosuid,nodev,mode=1777 tmpfs
    else
        mount_devices
    fi
}

# Mount a /run in memory that has what the image's has.
mount_run() {
    find_target /run
    (
        cd "$target" && mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs "$target" || exit
        set +f
        # The working directory is still the one below the mount.
        for file in ./* ./.[!.]*; do
            { [ -e "$file" ] || [ -L "$file" ]; } && exec cp -RPp . "$target/"
        done
        exit 0
    ) || fail "can't mount $target"
}

# Bind `source` on `destination`, which bind_one has resolved. It is created if it is missing.
bind_in_namespace() {
    target=$rootfs$resolved
    if [ -d "$source" ]; then
        [ -d "$target" ] || mkdir -p "$target"
    elif [ ! -e "$target" ]; then
        mkdir -p "${target%/*}" && touch_file "$target"
    fi
    mount -o rbind "$source" "$target" || fail "can't bind $source on $destination"
}
