# Binds: files and directories of the host that the guest sees.
# Sets `source` and `destination` of one bind; proot.sh and mounts.sh do the rest.

# Bind the files of /etc, Android's directories, and what the profile, `provision --bind` and the options ask for.
bind_all() {
    bind_android
    eval "set -- $etc_binds"
    for bind; do
        split_bind "$bind"
        bind_one
    done
    [ "$runtime" = chroot ] || bind_devices
    eval "set -- $default_binds"
    for bind; do
        split_bind "$bind"
        if [ -e "$source" ]; then
            bind_one
        else
            # It was asked for at provision time, maybe on another machine.
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
        make_temporary
        source=$temporary/resolv.conf destination=/etc/resolv.conf
        for server in $typed_dns; do
            printf 'nameserver %s\n' "$server"
        done >"$source"
        bind_one
    fi
}

# Set `source` and `destination` from SRC[:DST]. The last ":/" divides them, so that SRC may contain colons.
split_bind() {
    case $1 in
        *:/*) source=${1%:/*} destination=/${1##*:/} ;;
        *) source=$1 destination='' ;;
    esac
    case $source in /*) ;; *) source=$start_directory/$source ;; esac
    normalize "$source" host && source=$normal
    case $destination in /*) normalize "$destination" && destination=$normal ;; *) destination=$source ;; esac
}

# Bind `source` on `destination`. On the root it would replace the container: the command would run in `source`.
bind_one() {
    resolve "$destination"
    [ -n "$resolved" ] || fail "can't bind $source on the root, $destination: name a place below it"
    case $runtime in
        proot) bind_in_proot ;;
        *) bind_in_namespace ;;
    esac
}
