# Devices: a private /dev with the devices that docker's containers have, and those of --device.
# Sets nothing that other parts read.

# Fill the private /dev of the stage.
fill_devices() {
    [ -n "$host_devices" ] || copy_devices ./dev
    eval "set -- $typed_devices"
    for device; do
        split_bind "$device"
        [ -z "$host_devices" ] || [ "$source" != "$destination" ] || continue
        # The kernel follows symlinks at `source`, and checks their owners (fs.protected_symlinks).
        { mkdir -p ".${destination%/*}" && { [ -d ".$destination" ] || rm -f ".$destination"; } &&
            cp -RHp "$source" ".$destination"; } ||
            fail "can't add the device $source"
    done
    # The terminal is not in the new devpts, but ttyname(3) also looks at /dev/console.
    [ -n "$host_devices" ] || name_terminal
}

# Bind the terminal of standard input, if it is one, on /dev/console.
name_terminal() {
    [ -t 0 ] && { [ -e ./dev/console ] || touch_file ./dev/console; } || return 0
    read_link /proc/self/fd/0
    # If the terminal is from another mount namespace, the name may be that of another terminal here.
    # shellcheck disable=SC3013 # dash, busybox, mksh and bash have it
    [ "$link_target" -ef /proc/self/fd/0 ] || return 0
    mount_one "$link_target" ./dev/console none bind || say "can't bind this terminal on /dev/console"
}

# Copy the devices and links to the directory $1, with one program.
copy_devices() {
    (
        umask 0
        exec cp -RPf /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx \
            /dev/fd /dev/stdin /dev/stdout /dev/stderr "$1/"
    ) || say "can't make some devices of /dev"
}

# Fill the private /dev for root in a user namespace. Device nodes made there can't be opened, so that the host's are
# bound.
show_devices() {
    [ -z "$host_devices" ] || return 0
    mount_list='' mount_calls=''
    for name in null zero full random urandom tty; do
        [ -e "/dev/$name" ] || continue
        touch_file "./dev/$name"
        add_mount "/dev/$name" "./dev/$name" none bind
    done
    mount_at_once '' || mount_each
    { cp -RPf /dev/fd /dev/stdin /dev/stdout /dev/stderr ./dev/ && ln -s pts/ptmx ./dev/ptmx; } ||
        say "can't make some devices of /dev"
    eval "set -- $typed_devices"
    for device; do
        split_bind "$device"
        show_device || fail "can't add the device $source"
    done
}

# Bind the device, or directory of devices, `source` on `destination` in the private /dev.
show_device() {
    place=.$destination
    if [ -d "$source" ]; then
        mkdir -p "$place" || return
    else
        mkdir -p "${place%/*}" && { [ -e "$place" ] || touch_file "$place"; } || return
    fi
    mount_one "$source" "$place" none rbind
}

# Where the guest sees the host's whole /dev, bind only the devices of --device that get another name inside.
bind_devices() {
    [ -z "$has_roots_files" ] || [ -n "$host_devices" ] || return 0
    eval "set -- $typed_devices"
    for device; do
        split_bind "$device"
        [ "$source" = "$destination" ] || bind_one
    done
}
