# Android and Termux: replacements for files of /proc that apps can't read, and Android's own directories.
# Sets `ticks` and `uptime`.

# Succeed in Termux, also for root who has started from there.
is_termux() {
    case ${PREFIX-} in /*/files/usr) ;; *) return 1 ;; esac
}

# Bind replacements for those files of /proc that can't be read.
fake_proc() {
    uptime=''
    for file in stat loadavg uptime version vmstat; do
        [ -n "${PROVISION_TEST_FAKE_PROC-}" ] || [ ! -r "/proc/$file" ] || continue
        make_temporary
        [ -n "$uptime" ] || find_uptime
        source=$temporary/$file destination=/proc/$file
        case $file in
            stat) print_stat ;;
            loadavg) printf '0.00 0.00 0.00 1/1 %s\n' "$$" ;;
            uptime) printf '%s %s\n' "$uptime" "$uptime" ;;
            version) printf '%s version %s\n' "$(uname -s)" "$(uname -r) (provision) $(uname -v)" ;;
            vmstat) print_vmstat ;;
        esac >"$source"
        bind_in_proot
    done
}

# Set `ticks`, the time since the system's start as far as this process's own start tells it, and `uptime`, the same in
# seconds. Linux counts 100 ticks a second for users.
find_uptime() {
    read_stat $$
    ticks=$stat_start
    hundredths=0$((ticks % 100))
    uptime=$((ticks / 100)).${hundredths#"${hundredths%??}"}
}

# Print a /proc/stat in which all processors have been idle since the start.
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

# Bind Android's own directories, for its programs, and with --termux the user's.
bind_android() {
    [ -z "${ANDROID_ROOT-}" ] || [ "$runtime" != proot ] ||
        for source in /system /system_ext /vendor /product /odm /apex /linkerconfig/ld.config.txt; do
            destination=$source
            [ ! -r "$source" ] || bind_one
        done
    [ -n "$termux" ] || return 0
    for source in /sdcard "${PREFIX%/usr}/home"; do
        destination=$source
        if [ -e "$source" ]; then
            bind_one
        else
            say "not bound, because it is missing or can't be read (run termux-setup-storage): $source"
        fi
    done
}
