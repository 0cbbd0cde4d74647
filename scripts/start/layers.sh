# Layers: --read-only, binds with :ro, and --ephemeral.
# Sets `view_count`, `upper` (the directory for overlayfs's upperdir and workdir), `throwaway` (a directory of this
# start that is removed at its end, or empty).

# Exit if the runtime doesn't support the typed options.
check_write_options() {
    case $runtime/$no_writes$ephemeral in
        bare/?*) fail "--no-namespace mounts nothing: leave out --read-only and --ephemeral" ;;
        proot/*) [ -z "$no_writes" ] || fail "--read-only needs mounts, which proot doesn't have: use --runtime userns" ;;
    esac
}

# Bind `source` recursively in the stage, make it read-only, and set `source` to that bind.
make_view() {
    view_count=$((view_count + 1)) problem="can't bind $source read-only"
    view=$stage/view.$view_count
    if [ -d "$source" ]; then mkdir "$view"; else touch_file "$view"; fi
    mount_one "$source" "$view" none rbind || fail "$problem"
    make_read_only "$view" || fail "$problem, because of $point"
    source=$view
}

# Make the mount on the directory $1, and all mounts below it, read-only. Fail with the mount point in `point` if one
# can't be changed. With $2, mounts that are hidden by other mounts are ignored.
make_read_only() {
    while read -r _ _ _ _ point options _; do
        case $point in
            *\\*)
                # mountinfo has blanks and backslashes as octal escapes.
                format=''
                while :; do
                    case $point in *%*) format=$format${point%%\%*}%% point=${point#*%} ;; *) break ;; esac
                done
                # shellcheck disable=SC2059 # escapes of mountinfo
                point=$(printf "$format${point}x") && point=${point%x}
                ;;
        esac
        case $point/ in "$1"/*) ;; *) continue ;; esac
        case ,$options, in *,ro,*) continue ;; esac
        keep_flags "$options"
        remount "ro$flags" "$point" || { [ -n "${2-}" ] && [ ! -e "$point" ]; } || return
    done </proc/self/mountinfo
}

# Set `flags`: those of the mount options $1 that an unprivileged user may not remove, with a comma before each.
keep_flags() {
    flags=''
    for flag in ro nosuid nodev noexec noatime nodiratime; do
        case ,$1, in *,$flag,*) flags=$flags,$flag ;; esac
    done
}

# With --read-only, make the mount of the rootfs, this shell's directory, read-only. Mounts below it stay writable.
protect_rootfs() {
    [ -n "$no_writes" ] || return 0
    remount "ro$root_flags" . || remount "ro$root_flags" "$real_rootfs" ||
        fail "can't make the rootfs read-only"
}

# Mount an overlayfs on the rootfs, whose lower layer is the rootfs. Changes go to memory, or to `throwaway` where tmpfs
# can't store the extended attributes that overlayfs needs.
mount_overlay() {
    upper=./upper throwaway='' xattrs=''
    if [ -z "$is_machine_root" ]; then
        xattrs=,userxattr
        is_kernel 6 6 || make_throwaway
    fi
    { mkdir -p "$upper/files" "$upper/work" && copy_mode ../../rootfs "$upper/files"; } ||
        fail "can't make a directory for the changes"
    mount_one overlay ../../rootfs overlay \
        "lowerdir=../../rootfs,upperdir=$upper/files,workdir=$upper/work$xattrs$root_flags" ||
        fail "--ephemeral needs overlayfs, which doesn't work here: in userns it needs Linux 5.11"
}

# Succeed if this is Linux $1.$2 or newer.
is_kernel() {
    { read -r release </proc/sys/kernel/osrelease; } 2>/dev/null || release=$(uname -r)
    release=${PROVISION_TEST_KERNEL:-$release}
    major=${release%%.*} minor=${release#*.} minor=${minor%%[!0-9]*}
    [ "$major" -gt "$1" ] || { [ "$major" = "$1" ] && [ "$minor" -ge "$2" ]; }
}

# Set `throwaway` to a new directory, and `upper` to its path from the stage. This start removes it at its end, or a
# later one does.
make_throwaway() {
    throwaway=$directory/.provision/ephemeral/$$ upper=../ephemeral/$$
    # A start that was killed may have had the same number.
    [ ! -e "$throwaway" ] || remove_throwaway "$throwaway"
    mkdir -p "$throwaway" || fail "--ephemeral can't write to $directory/.provision: start it as its owner"
}

# Copy the mode and the owner of the directory $1 to the directory $2.
copy_mode() {
    # shellcheck disable=SC2046 # split into words: mode, links, owner, group
    set -- "$2" $(ls -ldn "$1")
    read_mode "$2"
    chmod "$octal_mode" "$1" && { [ -z "$is_machine_root" ] || chown "$4:$5" "$1"; }
}

# Set `octal_mode` to the mode that ls(1) prints as $1, such as drwxrwxrwt. It has five digits, without which GNU's chmod
# keeps the set-group-ID bit of a directory. chmod of busybox and of toybox ignore some of the letters in u=rwxs,o=rwxt.
read_mode() {
    remaining=${1#?} octal_mode='' special_bits=0
    for special_bit in 4 2 1; do
        digit=0
        case $remaining in r*) digit=4 ;; esac
        case $remaining in ?w*) digit=$((digit + 2)) ;; esac
        case $remaining in ??[xst]*) digit=$((digit + 1)) ;; esac
        case $remaining in ??[sStT]*) special_bits=$((special_bits + special_bit)) ;; esac
        octal_mode=$octal_mode$digit remaining=${remaining#???}
    done
    octal_mode=0$special_bits$octal_mode
}

# For proot, set `rootfs` to a copy for this start, if the file system can make one by reflinks. Exit if it can't.
copy_rootfs() {
    problem="--ephemeral needs user namespaces (--runtime userns), or a file system with reflinks (btrfs, xfs)"
    [ -z "$print_only" ] || fail "$problem: --print can't show it"
    [ -e "$directory/.provision/ephemeral" ] || mkdir "$directory/.provision/ephemeral" 2>/dev/null
    make_throwaway
    {
        cp --reflink=always "$script" "$throwaway/start.sh" && cp -a --reflink=always "$rootfs" "$throwaway/"
    } 2>/dev/null || {
        remove_throwaway "$throwaway"
        fail "$problem, and all files readable"
    }
    rootfs=$throwaway/rootfs
}

# Remove the throw-away directory $1, in which a guest may have made directories without write permission.
remove_throwaway() {
    rm -rf "$1" 2>/dev/null || { chmod -R u+rwx "$1" && rm -rf "$1"; } 2>/dev/null
}

# Remove the throw-away directories of sessions that were killed.
remove_leftovers() {
    set +f
    for leftover in "$directory"/.provision/ephemeral/*; do
        set -f
        [ -d "$leftover" ] || continue
        has_session "${leftover##*/}" || remove_throwaway "$leftover"
    done
    set -f
}
