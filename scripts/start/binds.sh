# Binds: files and directories of the host that the guest sees.
# Sets `source`, `destination` and `is_read_only` for one bind at a time; proot.sh and mounts.sh make the bind.

# Bind the files of /etc, Android's directories, and the binds of the profile, of `provision --bind` and of the options.
bind_all() {
    is_read_only=''
    [ -z "$has_own_files" ] || say "$start_directory is not bound, because the container has files of its own there"
    bind_android
    bind_links
    bind_etc_files
    [ "$runtime" = chroot ] || bind_devices
    eval "set -- $default_binds"
    for bind; do
        split_bind "$bind"
        if [ -e "$source" ]; then
            bind_one
        else
            # `provision --bind` named it, perhaps on another machine.
            say "not bound, because it doesn't exist: $source"
        fi
    done
    eval "set -- $typed_binds"
    for bind; do
        split_bind "$bind"
        bind_one
    done
    bind_desktop
    if [ -n "$typed_dns" ]; then
        is_read_only=''
        make_temporary
        source=$temporary/resolv.conf destination=/etc/resolv.conf
        for server in $typed_dns; do
            printf 'nameserver %s\n' "$server"
        done >"$source"
        bind_one
    fi
}

# Set `source`, `destination` and `is_read_only` from SRC[:DST][:ro]. The last ":/" divides SRC and DST, so that SRC may
# contain colons.
split_bind() {
    is_read_only=''
    case $1 in
        *:/*:ro) is_read_only=yes ;;
        *:ro) [ -e "$1" ] || is_read_only=yes ;;
    esac
    case $1 in *:/*:rw) set -- "${1%:rw}" ;; esac
    [ -z "$is_read_only" ] || set -- "${1%:ro}"
    case $1 in
        *:/*) source=${1%:/*} destination=/${1##*:/} ;;
        *) source=$1 destination='' ;;
    esac
    case $source in /*) ;; *) source=$start_directory/$source ;; esac
    normalize "$source" host && source=$normal
    case $destination in /*) normalize "$destination" && destination=$normal ;; *) destination=$source ;; esac
}

# Add a bind of the caller's directory at its own path, and make it the working directory. It isn't bound where that
# would hide files of the container or of the kernel, which programs may need.
bind_here() {
    case $start_directory in
        *:/*) fail "--here: $start_directory has a colon before a slash, which binds can't have" ;;
        / | /dev | /proc | /proc/* | /sys | /sys/* | /run) has_own_files=yes ;;
        /home | /root | /tmp | /mnt | /media | /srv) has_own_files='' ;;
        /home/* | /root/* | /tmp/* | /mnt/* | /media/* | /srv/* | /dev/* | /run/*) has_own_files='' ;;
        *) check_own_files "$start_directory" ;;
    esac
    workdir=$start_directory
    [ -n "$has_own_files" ] || { append "$typed_binds" "$start_directory" && typed_binds=$list; }
}

# Set `has_own_files`: `yes` if the rootfs has files in the directory $1 that start.sh has not made for binds, else
# empty.
check_own_files() {
    has_own_files='' text=''
    { read_text <"$directory/.provision/mount-points"; } 2>/dev/null
    resolve "$1"
    set +f
    for file in "$rootfs$resolved"/* "$rootfs$resolved"/.[!.]*; do
        [ -e "$file" ] || [ -L "$file" ] || continue
        case $newline$text in *"$newline${file#"$rootfs"}$newline"*) ;; *) has_own_files=yes && break ;; esac
    done
    set -f
}

# Bind `source` on `destination`. Exit if that is the root: the bind would hide the whole container.
bind_one() {
    resolve "$destination"
    [ -n "$resolved" ] || fail "can't bind $source on the container's root, $destination: name a directory below it"
    case $runtime$is_read_only in
        proot) bind_in_proot ;;
        prootyes)
            say "proot can't bind read-only: programs in the container can write to $source"
            bind_in_proot
            ;;
        *yes) make_view && bind_in_namespace ;;
        *) bind_in_namespace ;;
    esac
}
