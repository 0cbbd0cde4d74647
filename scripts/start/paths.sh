# Paths: DIR, programs of the host, and paths of the guest, whose links must not lead out of the rootfs.
# Sets `script`, `directory`, `rootfs`; `normal`, `program`, `link_target`, `resolved`, `temporary`; `real_rootfs` (the
# physical path of the rootfs), `walked` and `up` (the directory that `enter` has entered, and the relative path from
# there to the rootfs).

# Set `script`, `directory` and `rootfs` from $0 ($1), which may be relative, a symlink, or have special characters.
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
    normalize "$script" host && script=$normal
    directory=${script%/*} rootfs=${script%/*}/rootfs
    if [ ! -f "$script" ] || [ ! -d "$rootfs" ]; then
        fail "there is no rootfs beside $script: keep this script in the directory that provision made"
    fi
}

# Set `normal`: the absolute path $1 without `//`, `/./` and a slash at the end. If $2 is `host`, `NAME/..` is removed
# too, unless NAME is a symlink on the host. In a path of the guest `..` stays, because NAME may be a symlink there.
normalize() {
    case $1/ in
        *//* | */./* | */../*) ;;
        *) normal=$1 && return ;;
    esac
    normal='' remaining=$1/
    while [ -n "$remaining" ]; do
        part=${remaining%%/*} remaining=${remaining#*/}
        case $part in
            '' | .) ;;
            ..)
                if [ "${2-}" != host ] || [ -L "$normal" ]; then normal=$normal/..; else normal=${normal%/*}; fi
                ;;
            *) normal=$normal/$part ;;
        esac
    done
    normal=${normal:-/}
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
# The time grows with the square of the length of the links' targets, so that an image may have 8 KiB of them on a path.
resolve() {
    resolved='' remaining=$1/ links=0 link_length=0
    while [ -n "$remaining" ]; do
        part=${remaining%%/*} remaining=${remaining#*/}
        case $part in
            '' | .) continue ;;
            ..) resolved=${resolved%/*} && continue ;;
        esac
        if [ -L "$rootfs$resolved/$part" ]; then
            links=$((links + 1))
            read_link "$rootfs$resolved/$part"
            link_length=$((link_length + ${#link_target}))
            { [ "$links" -le 40 ] && [ "$link_length" -le 8192 ]; } || fail "too many links at $1 in the image"
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

# Change to the guest's directory $1, one component at a time, and check at the end where this shell is: symlinks that a
# running guest creates meanwhile must not lead out of the rootfs. Missing directories are created; if $3 is not empty,
# this fails instead. $2 is the message for a failure.
enter() {
    [ -n "$real_rootfs" ] || { cd -P "$rootfs" && real_rootfs=$PWD; } || fail "$2"
    resolve "$1"
    walked=$real_rootfs up=. remaining=${resolved#/}
    cd -P "$real_rootfs" || fail "$2"
    while [ -n "$remaining" ]; do
        part=${remaining%%/*} remaining=${remaining#"${remaining%%/*}"} remaining=${remaining#/}
        if ! cd -P "./$part" 2>/dev/null; then
            check_place
            [ -z "${3-}" ] || return 1
            # Another start may make it at the same time.
            ! mkdir "./$part" 2>/dev/null || note_mount_point "${walked#"$real_rootfs"}/$part"
            if ! cd -P "./$part" 2>/dev/null; then
                mkdir "./$part"
                fail "$2"
            fi
        fi
        walked=$walked/$part up=../$up
    done
    check_place
}

# Add $1, an empty file or directory made in the rootfs, to `.provision/mount-points`: `provision diff` then ignores it.
note_mount_point() {
    case $ephemeral$1 in
        yes* | *"$newline"*) ;;
        *) { printf '%s\n' "$1" >>"$directory/.provision/mount-points"; } 2>/dev/null ;;
    esac
}

# Change from a guest's directory back to the caller's.
leave() {
    cd "$start_directory" 2>/dev/null || cd /
}

# Exit unless this shell is in the directory `walked` of the rootfs. `..` is resolved by the kernel, so that a guest
# can't change the answer by renaming or symlinks. Shells without -ef start readlink(1).
check_place() {
    # shellcheck disable=SC3013 # in shells without -ef it fails, and the next line checks
    [ "$up" -ef "$real_rootfs" ] 2>/dev/null && return
    link_target=$(readlink /proc/self/cwd && printf x)
    [ "${link_target%?x}" = "$walked" ] || fail "$walked changes while it is entered: try again"
}

# Create the guest's directory $1 if it is missing.
make_directory() {
    resolve "$1"
    [ -d "$rootfs$resolved" ] || { enter "$1" "can't make $1 in the rootfs" && leave; }
}

# Set `temporary`: a private directory for this start, created at the first call.
make_temporary() {
    [ -z "$temporary" ] || return 0
    [ -z "$stage" ] || { temporary=$stage/files && mkdir "$temporary" && return; }
    temporary=$(mktemp -d "${TMPDIR:-/tmp}/start.XXXXXX") || fail "can't make a temporary directory: set TMPDIR"
}

# Create the empty file $1.
touch_file() {
    true >"$1"
}
