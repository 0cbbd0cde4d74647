# proot: its command line, and the explanation of its failures.
# Sets `proot_words` (the list of proot and its options).

# Set `launch` to run the guest in proot. $1 is the number of typed words, $2 and $3 are the first two.
prepare_proot() {
    remove_leftovers
    [ -z "$ephemeral" ] || [ -n "$joined" ] || copy_rootfs
    prepare_guest "$@"
    [ -n "$starts" ] || starts_proot
    set_proot_places
    [ -z "$host_env" ] || check_program
    remove_placeholders
    hides_host ||
        say "with this proot, programs inside can see files of this machine, and DIR has no filter for that: use \
--runtime userns"
    find_reporter
    set_guest_words "$reporter"
    if [ -n "$launch_first" ] && [ "${found_program:-$guest_program}" = "${guest_program##*/}" ]; then
        # The program may be in a bind, which can't be seen from here: the guest's shell looks for it, and reports if it
        # is missing.
        # shellcheck disable=SC2016 # the guest's shell expands it
        if guest_has /bin/sh; then append '' /bin/sh -c 'exec "$@"' sh; else list='' reporter='' report=''; fi
        guest_words="$list $guest_words"
    fi
    set_proot_words
    list_proot_variables
    [ -z "$host_env" ] || host_env="$host_env $proot_variables"
    bind_streams
    bind_shm
    fake_proc
    [ -n "$print_only" ] || refresh_files
    bind_all
    add_workdir
    guest_flags=$flag_quit # on which proot ends everything that it traces
    [ -z "$reporter" ] || guest_flags=$((guest_flags + flag_keep))
    set_helper_words - "$guest_flags"
    proot_words="$list $proot_words"
    [ -n "$print_only" ] || { print_ports && open_report; }
    # On SIGQUIT proot ends everything that it traces. Some shells close descriptors above 2 for programs, unless they
    # are redirected for them.
    set_watched_launch QUIT "$host_env $proot_words $guest_words" "${report:+3>&3 4<&4 5<&5 8<&-}"
}

# Set `proot_words`, with binds of the machine's /dev, /proc and /sys.
set_proot_words() {
    append '' "$proot" -v -1 -r "$rootfs" -i "$uid:$gid"
    [ -z "$emulated_cpu" ] || append "$list" -q "$qemu"
    add_proot_features
    list="$list $default_proot_options $typed_proot_options"
    for place in /dev /proc /sys; do
        [ ! -e "$place" ] || append "$list" -b "$place:$place"
    done
    proot_words=$list
}

# Add binds of /dev/fd, /dev/stdin, /dev/stdout and /dev/stderr to `proot_words`, where the machine's /dev lacks them,
# as Android's does. Only for Termux's proot: in upstream's, these binds lead nowhere, and hide the helper, which is
# executed by its descriptor.
bind_streams() {
    list=$proot_words
    case $features in *--link2symlink*) ;; *) return 0 ;; esac
    for place in fd:fd fd/0:stdin fd/1:stdout fd/2:stderr; do
        [ -e "/dev/${place#*:}" ] || append "$list" -b "/proc/self/${place%:*}:/dev/${place#*:}"
    done
    proot_words=$list
}

# Export the variables that name proot's loaders and its temporary directory.
set_proot_places() {
    [ -d /tmp ] || export PROOT_TMP_DIR="${PROOT_TMP_DIR:-${TMPDIR:-$directory/.provision}}"
    # The loaders of Termux's package, in case its proot was built for another prefix.
    for place in PROOT_LOADER:loader PROOT_LOADER_32:loader32; do
        loader=${PREFIX-}/libexec/proot/${place#*:}
        ! is_termux || [ ! -x "$loader" ] || eval "export ${place%:*}=\"\${${place%:*}:-\$loader}\""
    done
}

# Set `proot_variables`: the list of the exported variables that proot itself reads.
list_proot_variables() {
    append '' ${PROOT_TMP_DIR+"PROOT_TMP_DIR=$PROOT_TMP_DIR"} ${PROOT_LOADER+"PROOT_LOADER=$PROOT_LOADER"} \
        ${PROOT_LOADER_32+"PROOT_LOADER_32=$PROOT_LOADER_32"} ${PROOT_L2S_DIR+"PROOT_L2S_DIR=$PROOT_L2S_DIR"} \
        ${PROOT_NO_SECCOMP+"PROOT_NO_SECCOMP=$PROOT_NO_SECCOMP"} \
        ${PROOT_DONT_POLLUTE_ROOTFS+"PROOT_DONT_POLLUTE_ROOTFS=$PROOT_DONT_POLLUTE_ROOTFS"}
    proot_variables=$list
}

# Add to `list` the optional features that this proot has. Upstream's 5.1.0 has none of them.
add_proot_features() {
    case $features in *--kill-on-exit*) append "$list" --kill-on-exit ;; esac
    case $features in *--sysvipc*) append "$list" --sysvipc ;; esac
    case $features in *"$newline  -L$newline"*) append "$list" -L ;; esac
    case $features in *"$newline  -p$newline"*) [ "$host_uid" = 0 ] || move_ports ;; esac
    case $features in
        *--link2symlink*)
            # Without the variable, proot makes an unreadable directory in the rootfs for each bind, and leaves it there
            # when it is killed.
            export PROOT_DONT_POLLUTE_ROOTFS=1
            if needs_link2symlink; then
                append "$list" --link2symlink
                proot_words=$list
                prepare_links
                list=$proot_words
                [ -z "$links_directory" ] || export PROOT_L2S_DIR="$links_directory"
            fi
            ;;
    esac
    [ -z "$image_kernel" ] || fake_kernel
}

# Succeed if proot has replaced hard links in the rootfs before, or if the kernel refuses hard links, as Android does
# for apps.
needs_link2symlink() {
    [ ! -d "$rootfs/.l2s" ] && ln "$script" "$directory/.provision/link.$$" 2>/dev/null || return 0
    rm -f "$directory/.provision/link.$$"
    return 1
}

# Add to `list` a newer kernel release for proot to report, if the image's libc refuses to run on this kernel.
fake_kernel() {
    release=$(uname -r)
    ! is_older "${release%%[!0-9.]*}" "$image_kernel" || append "$list" -k "$image_kernel"
}

# Succeed if the version $1 is older than $2, by two numbers.
is_older() {
    first=${1#*.} second=${2#*.}
    first=${first%%.*} second=${second%%.*}
    is_number "${1%%.*}" && is_number "$first" || return
    [ "${1%%.*}" -lt "${2%%.*}" ] || { [ "${1%%.*}" -eq "${2%%.*}" ] && [ "$first" -lt "$second" ]; }
}

# Add to `list` the option by which proot adds 2000 to ports below 1024, which only root may use.
move_ports() {
    append "$list" -p
    moves_ports=yes
}

# Add to `proot_words` the bind of /dev/shm: `.provision/shm`, or a temporary directory if DIR can't be written to.
bind_shm() {
    source=$directory/.provision/shm destination=/dev/shm
    if [ ! -w "$source" ]; then
        make_temporary
        source=$temporary/shm
        mkdir -m 1777 "$source"
    fi
    bind_in_proot
}

# Add to `proot_words` the bind of `source` on `destination`, which `resolve` has resolved.
bind_in_proot() {
    [ -e "$rootfs$resolved" ] || note_missing
    case $source in
        *:*)
            # proot splits the option at the first colon.
            make_temporary
            alias_count=$((alias_count + 1))
            ln -s "$source" "$temporary/$alias_count" || fail "can't bind $source"
            source=$temporary/$alias_count
            ;;
    esac
    # proot removes one exclamation mark at the end, which tells it not to follow a symlink there.
    case $destination in *!) destination=$destination! ;; esac
    append "$proot_words" -b "$source:$destination" && proot_words=$list
}

# Add to `.provision/mount-points` the files and directories that proot makes in the rootfs for a bind on `resolved`.
note_missing() {
    remaining=${resolved#/} walked=''
    while [ -n "$remaining" ]; do
        walked=$walked/${remaining%%/*} remaining=${remaining#"${remaining%%/*}"} remaining=${remaining#/}
        [ -e "$rootfs$walked" ] || note_mount_point "$walked"
    done
}

# Add to `proot_words` the words that set the working directory, and `reporter`. If the directory doesn't exist in the
# rootfs, it may be in a bind: the guest's shell creates it if it is missing there too.
add_workdir() {
    resolve "$workdir"
    if [ ! -d "$rootfs$resolved" ] && guest_has /bin/sh; then
        append "$proot_words" -w /
        # shellcheck disable=SC2016 # the guest's shell expands it
        append "$list $reporter" /bin/sh -c \
            '(PATH=$PATH:/usr/bin:/bin && mkdir -p -- "$0") && cd -- "$0" || exit 125; exec "$@"' "$workdir"
        proot_words=$list
        return
    fi
    resolve "$workdir"
    [ -d "$rootfs$resolved" ] || make_directory "$workdir"
    append "$proot_words" -w "$workdir"
    proot_words="$list $reporter"
}

# Exit as shells do if the guest's program is missing (127) or not executable (126). proot would exit with 1.
check_program() {
    # The program may be in a bind, which can't be seen from here.
    [ -z "$default_binds$typed_binds" ] || return 0
    find_guest_program
    case $status in
        0) return ;;
        126) say "the image's $guest_program can't be executed" ;;
        127) say "the image has no $guest_program" ;;
    esac
    finish "$status"
}

# Succeed if proot could start programs at an earlier start, and can't any more. Remove `.provision/proot-facts` then,
# so that the next start tries again.
no_longer_starts() {
    [ "$starts" = yes ] && [ -f "$facts_file" ] && rm -f "$facts_file" 2>/dev/null && ! starts_proot && unset PROOT_NO_SECCOMP
}

# Print a hint if `status` is one with which proot fails where the kernel refuses its use of seccomp, and trying
# confirms that.
explain_failure() {
    if [ "$starts/$status" != yes/0 ] && no_longer_starts; then
        status=125
        say "proot can't start programs any more: start again, to use another runtime if one works"
        return
    fi
    [ -z "${PROOT_NO_SECCOMP-}" ] || return 0
    case $status/${ANDROID_ROOT-} in
        1/* | 126/* | 127/* | 159/* | 255/*) ;;
        *) return 0 ;;
    esac
    # The trial runs a program of the host: the image's programs run only if the user asks for them.
    find_program id || return 0
    if proot_works; then
        return 0
    elif PROOT_NO_SECCOMP=1 && export PROOT_NO_SECCOMP && proot_works; then
        say "proot's use of seccomp fails here: set PROOT_NO_SECCOMP=1 in the environment"
    else
        say "proot fails here, with seccomp and without: run provision doctor"
    fi
}

# Succeed if proot can start a program of the host and emulate root for it.
proot_works() {
    [ "$("$proot" -0 -w / "$program" -u 2>/dev/null)" = 0 ]
}
