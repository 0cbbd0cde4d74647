# Paths: DIR, programs of the host, and paths of the guest, whose links must not lead out of the rootfs.
# Sets `script`, `directory`, `rootfs`; `program`, `link_target`, `resolved`, `target`, `temporary`.

# Set `script`, `directory` and `rootfs` from $0, which may be relative, a symlink, or have an odd name.
find_directory() {
    script=$1
    while :; do
        case $script in
            /*) ;;
            *) script=$PWD/$script ;;
        esac
        [ -L "$script" ] || break
        read_link "$script"
        case $link_target in
            /*) script=$link_target ;;
            *) script=${script%/*}/$link_target ;;
        esac
    done
    directory=${script%/*} rootfs=${script%/*}/rootfs
    if [ ! -f "$script" ] || [ ! -d "$rootfs" ]; then
        fail "there is no rootfs beside $script: keep this script in the directory that provision made"
    fi
}

# Set `program`: the path of the host's program $1, or empty. Relative directories on PATH are skipped.
find_program() {
    program='' IFS=:
    for path_entry in $PATH; do
        case $path_entry in
            /*) [ -f "$path_entry/$1" ] && [ -x "$path_entry/$1" ] && program=$path_entry/$1 && break ;;
        esac
    done
    IFS=" 	$newline"
    [ -n "$program" ]
}

# Set `link_target`: where the symlink $1 points.
read_link() {
    link_target=$(readlink "$1") || fail "can't read the link $1"
}

# Set `resolved`: the guest's path $1 with all links followed as the guest follows them, so that it stays in the rootfs.
resolve() {
    resolved='' remaining=$1/ links=0
    while [ -n "$remaining" ]; do
        part=${remaining%%/*} remaining=${remaining#*/}
        case $part in
            '' | .) continue ;;
            ..) resolved=${resolved%/*} && continue ;;
        esac
        if [ -L "$rootfs$resolved/$part" ]; then
            links=$((links + 1))
            [ "$links" -le 40 ] || fail "too many links at $1 in the image"
            read_link "$rootfs$resolved/$part"
            case $link_target in /*) resolved='' ;; esac
            remaining=$link_target/$remaining
        else
            resolved=$resolved/$part
        fi
    done
}

# Set `resolved`, and succeed if the guest can execute the file $1.
guest_has() {
    resolve "$1"
    [ -f "$rootfs$resolved" ] && [ -x "$rootfs$resolved" ]
}

# Set `target`: the host's path of the guest's directory $1. Create the directory if it is missing.
find_target() {
    resolve "$1"
    target=$rootfs$resolved
    [ -d "$target" ] || mkdir -p "$target" || fail "can't make $1 in the rootfs"
}

# Set `temporary`: a private directory for this run, created at the first call.
make_temporary() {
    [ -n "$temporary" ] && return
    temporary=$(mktemp -d "${TMPDIR:-/tmp}/start.XXXXXX") || fail "can't make a temporary directory: set TMPDIR"
}

# Create the empty file $1.
touch_file() {
    true >"$1"
}
