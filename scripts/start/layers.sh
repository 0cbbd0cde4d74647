# What can't be changed, and what isn't kept: --read-only, binds with :ro, and --ephemeral.
# Sets `view_count`, `upper` (where the changes go in a namespace), `throwaway` (a directory of this run alone, or empty).

# Exit if the runtime can't do what has been asked for.
check_write_options() {
    case $runtime/$no_writes$ephemeral in
        bare/?*) fail "--no-namespace mounts nothing: it has no --read-only and no --ephemeral" ;;
        proot/*) [ -z "$no_writes" ] || fail "--read-only needs mounts, which proot doesn't have: use --runtime userns" ;;
    esac
}

# Set `source` to a view of it in the stage that can't be written to, nor can what is mounted below it.
make_view() {
    view_count=$((view_count + 1)) problem="can't bind $source read-only"
    view=$stage/view.$view_count
    if [ -d "$source" ]; then mkdir "$view"; else touch_file "$view"; fi
    mount_one "$source" "$view" none rbind || fail "$problem"
    seal_below "$view" || fail "$problem, because of $point"
    source=$view
}

# Let nobody write to the mount on the directory $1, nor to those below it. Where one can't be changed, it is `point`; with $2
# those don't count that are hidden by other mounts.
seal_below() {
    while read -r _ _ _ _ point options _; do
        case $point in
            *\\*)
                # The kernel writes blanks and backslashes in octal.
                format=''
                while :; do
                    case $point in *%*) format=$format${point%%\%*}%% point=${point#*%} ;; *) break ;; esac
                done
                # shellcheck disable=SC2059 # that is the point
                point=$(printf "$format${point}x") && point=${point%x}
                ;;
        esac
        case $point/ in "$1"/*) ;; *) continue ;; esac
        case ,$options, in *,ro,*) continue ;; esac
        keep_flags "$options"
        remount "ro$flags" "$point" || { [ -n "${2-}" ] && [ ! -e "$point" ]; } || return
    done </proc/self/mountinfo
}

# Set `flags`: those of the mount options $1 that a user may not take away, with a comma before each.
keep_flags() {
    flags=''
    for flag in ro nosuid nodev noexec noatime nodiratime; do
        case ,$1, in *,$flag,*) flags=$flags,$flag ;; esac
    done
}

# Let nobody write to the rootfs, this shell's directory. Mounts below it stay as they are.
protect_rootfs() {
    [ -n "$no_writes" ] || return 0
    remount "ro$root_flags" . || remount "ro$root_flags" "$real_rootfs" ||
        fail "can't make the rootfs read-only"
}

# Mount on the rootfs, from the stage, what shows it and takes its changes. They are in memory, or in `throwaway` where
# memory can't hold the attributes that overlayfs needs.
mount_overlay() {
    upper=./upper throwaway='' xattrs=''
    if [ -z "$is_machine_root" ]; then
        xattrs=,userxattr
        is_kernel 6 6 || make_throwaway
    fi
    { mkdir -p "$upper/files" "$upper/work" && copy_mode ../../rootfs "$upper/files"; } ||
        fail "can't make a directory for what is changed"
    mount_one overlay ../../rootfs overlay \
        "lowerdir=../../rootfs,upperdir=$upper/files,workdir=$upper/work$xattrs$root_flags" ||
        fail "--ephemeral takes overlayfs, which doesn't work here: in userns it needs Linux 5.11"
}

# Succeed if this is Linux $1.$2 or newer.
is_kernel() {
    { read -r release </proc/sys/kernel/osrelease; } 2>/dev/null || release=$(uname -r)
    release=${PROVISION_TEST_KERNEL:-$release}
    major=${release%%.*} minor=${release#*.} minor=${minor%%[!0-9]*}
    [ "$major" -gt "$1" ] || { [ "$major" = "$1" ] && [ "$minor" -ge "$2" ]; }
}

# Set `throwaway`, and `upper` to the same: a directory of this run, which it or the next start removes.
make_throwaway() {
    throwaway=$directory/.provision/ephemeral/$$ upper=../ephemeral/$$
    mkdir -p "$throwaway" || fail "--ephemeral needs a DIR that can be written to here"
}

# Give the directory $2 the mode and owner of $1.
copy_mode() {
    # shellcheck disable=SC2046 # split into words: mode, links, owner, group
    set -- "$2" $(ls -ldn "$1")
    user_mode=${2#?} group_mode=${2#????} other_mode=${2#???????}
    set -- "$1" "u=${user_mode%"${user_mode#???}"},g=${group_mode%"${group_mode#???}"},o=${other_mode%"${other_mode#???}"}" \
        "$4:$5"
    chmod "$(printf '%s\n' "$2" | sed 's/-//g;s/[st]/x&/g;y/ST/st/')" "$1" && { [ -z "$is_machine_root" ] || chown "$3" "$1"; }
}

# Set `rootfs` to a copy of this run, for proot, if the file system can make one without copying the data.
copy_rootfs() {
    problem="--ephemeral needs user namespaces (--runtime userns), or a file system that makes copies at once (btrfs, xfs)"
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

# Remove the directory $1 of a run, in which a guest may have made directories that its user can't write to.
remove_throwaway() {
    rm -rf "$1" 2>/dev/null || { chmod -R u+rwx "$1" && rm -rf "$1"; } 2>/dev/null
}

# Remove what runs that were killed have left.
remove_leftovers() {
    set +f
    for leftover in "$directory"/.provision/ephemeral/*; do
        set -f
        [ -d "$leftover" ] || continue
        has_session "${leftover##*/}" || remove_throwaway "$leftover"
    done
    set -f
}
