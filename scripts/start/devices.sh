# Devices: a private /dev with the few devices that containers have.
# Sets nothing that other parts read.

# Mount that /dev, with a devpts and a /dev/shm of its own.
mount_devices() {
    mount_on /dev -t tmpfs -o nosuid,mode=755 tmpfs
    dev=$target
    copy_devices "$dev"
    # devpts is mounted on pts below; shm is in memory as all of /dev.
    mkdir -m 1777 "$dev/pts" "$dev/shm" || fail "can't fill $dev"
    ln -s pts/ptmx "$dev/ptmx"
    mount_on /dev/pts -t devpts -o newinstance,nosuid,noexec,ptmxmode=0666,mode=620,gid=5 devpts
    # The terminal is not in the new devpts. ttyname(3) looks for it in /dev/console too.
    if [ -t 0 ] && touch_file "$dev/console"; then
        read_link /proc/self/fd/0
        mount -o bind "$link_target" "$dev/console" || say "this terminal has no name inside"
    fi
}

# Copy the devices and links to the directory $1, with one program.
copy_devices() {
    (
        umask 0
        exec cp -RP /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty \
            /dev/fd /dev/stdin /dev/stdout /dev/stderr "$1/"
    ) || say "some devices are missing inside"
}
