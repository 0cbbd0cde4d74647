# Android and Termux: replacements for files of /proc that apps can't read, and Android's own directories.
# Sets `ticks` and `uptime`.

# Succeed in Termux, also for root that was started from there.
is_termux() {
    case ${PREFIX-} in /*/files/usr) ;; *) return 1 ;; esac
}

# Bind replacements for files of /proc and /sys that can't be read or that mislead programs.
fake_proc() {
    uptime=''
    for file in stat loadavg uptime version vmstat sys/kernel/overflowuid sys/kernel/overflowgid sys/kernel/cap_last_cap \
        sys/fs/inotify/max_user_watches; do
        [ -n "${PROVISION_TEST_FAKE_PROC-}" ] || [ ! -r "/proc/$file" ] || continue
        make_temporary
        [ -n "$uptime" ] || find_uptime
        source=$temporary/${file##*/} destination=/proc/$file
        case $file in
            stat) print_stat ;;
            loadavg) printf '0.00 0.00 0.00 1/1 %s\n' "$$" ;;
            uptime) printf '%s %s\n' "$uptime" "$uptime" ;;
            version) printf '%s version %s\n' "$(uname -s)" "$(uname -r) (provision) $(uname -v)" ;;
            vmstat) print_vmstat ;;
            */cap_last_cap) print_last_capability ;;
            */max_user_watches) printf '8192\n' ;; # the kernel's default before 5.11
            *) printf '65534\n' ;;
        esac >"$source"
        bind_in_proot
    done
    [ -n "${ANDROID_ROOT-}" ] || return 0
    # Some of Android's kernels block until they have gathered enough randomness.
    source=/dev/urandom destination=/dev/random
    bind_in_proot
    if [ -d /sys/fs/selinux ]; then
        # Programs with libselinux would apply the phone's policy to themselves.
        make_temporary
        source=$temporary/selinux destination=/sys/fs/selinux
        mkdir -m 555 "$source"
        bind_in_proot
    fi
}

# Print the number of the highest capability: 40 since Linux 5.9, 39 in 5.8, 37 before.
print_last_capability() {
    release=$(uname -r)
    release=${release%%[!0-9.]*}
    if is_older "$release" 5.8; then
        printf '37\n'
    elif is_older "$release" 5.9; then
        printf '39\n'
    else
        printf '40\n'
    fi
}

# Set `ticks` to the time from boot to the start of this process in clock ticks, of which Linux has 100 a second, and
# `uptime` to the same in seconds.
find_uptime() {
    read_stat $$
    ticks=$stat_start
    hundredths=0$((ticks % 100))
    uptime=$((ticks / 100)).${hundredths#"${hundredths%??}"}
}

# Print a /proc/stat in which all processors have been idle since boot.
print_stat() {
    last=0
    { read -r last </sys/devices/system/cpu/possible; } 2>/dev/null
    last=${last##*-} number=0
    is_number "$last" || last=0
    printf 'cpu  0 0 0 %s 0 0 0 0 0 0\n' "$((ticks * (last + 1)))"
    while [ "$number" -le "$last" ]; do
        printf 'cpu%s 0 0 0 %s 0 0 0 0 0 0\n' "$number" "$ticks"
        number=$((number + 1))
    done
    printf 'intr 0\nctxt 0\nbtime %s\n' "$(($(date +%s) - ticks / 100))"
    printf 'processes %s\nprocs_running 1\nprocs_blocked 0\n' "$$"
}

# Print a /proc/vmstat with the values of /proc/meminfo, in pages of 4 KiB.
print_vmstat() {
    while read -r field value _; do
        case $field in
            MemFree:) field=nr_free_pages ;;
            AnonPages:) field=nr_anon_pages ;;
            Mapped:) field=nr_mapped ;;
            Cached:) field=nr_file_pages ;;
            Dirty:) field=nr_dirty ;;
            Writeback:) field=nr_writeback ;;
            *) continue ;;
        esac
        printf '%s %s\n' "$field" "$((value / 4))"
    done </proc/meminfo
    printf '%s 0\n' pgpgin pgpgout pswpin pswpout pgfault pgmajfault
}

# Bind the directories that Android's programs need, and with --termux those of the user.
bind_android() {
    [ -z "${ANDROID_ROOT-}" ] || { [ "$runtime" != proot ] && [ -z "$termux" ]; } ||
        for source in $android_places; do
            destination=$source
            [ ! -r "$source" ] || bind_one
        done
    [ -n "$termux" ] || return 0
    # Termux's symlinks in ~/storage point to /storage.
    for source in /sdcard /storage "$PREFIX" "${PREFIX%/usr}/home"; do
        destination=$source
        if [ -e "$source" ]; then
            bind_one
        else
            say "not bound, because it is missing or can't be read (run termux-setup-storage): $source"
        fi
    done
}

# The files and directories that programs of Android need.
android_places='/system /system_ext /vendor /product /odm /apex /linkerconfig/ld.config.txt
    /linkerconfig/com.android.art/ld.config.txt'

# Remove from the rootfs the empty, unreadable directories and files that Termux's proot makes for binds and leaves when
# it is killed. They can't be the image's, because `provision` makes all files of the image readable for the user.
remove_placeholders() {
    [ "$host_uid" != 0 ] && [ -z "$print_only" ] || return 0
    found=''
    for place in $android_places /sdcard /storage /dev /proc /sys "${PREFIX-}" "${PREFIX:+"${PREFIX%/usr}/home"}"; do
        { [ -e "$rootfs$place" ] && [ ! -r "$rootfs$place" ] && [ ! -L "$rootfs$place" ]; } || continue
        # shellcheck disable=SC2046 # split into words
        set -- $(ls -ldn "$rootfs$place")
        case ${1-}/${3-} in
            d---------*/"$host_uid") found="$found $place" ;;
            ----------*/"$host_uid") [ -s "$rootfs$place" ] || found="$found $place" ;;
        esac
    done
    [ -n "$found" ] || return 0
    # The proot of another session may be using them.
    find_sessions
    [ "$sessions" = " $$" ] || return 0
    for place in $found; do
        remove_placeholder "$place"
    done
}

# Remove the guest's file or empty directory $1, and then its parent directories as far as they are empty.
remove_placeholder() {
    resolve "$1"
    [ "$resolved" = "$1" ] || return 0
    if [ -d "$rootfs$1" ]; then
        rmdir "$rootfs$1" 2>/dev/null
    else
        rm -f "$rootfs$1"
    fi || return 0
    place=${1%/*}
    while [ -n "$place" ] && rmdir "$rootfs$place" 2>/dev/null; do
        place=${place%/*}
    done
}
