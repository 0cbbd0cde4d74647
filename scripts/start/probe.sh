# Probe: what this proot can do, found out by trying.
# Sets `features` (the options in proot's help, one a line after two spaces), `untranslated` (a bit mask of the system
# calls whose paths proot doesn't translate, see provisioner/launch/proot_probe.py; empty where that can't be known),
# and `starts` (`yes`; `slowly` for a proot that can start programs only with PROOT_NO_SECCOMP, which is then exported;
# or empty).

# Set `starts`, `features` and `untranslated`, and succeed if proot can start a program. They are read from
# `.provision/proot-facts` if an earlier start has written it, for the same file of proot and since the same boot. A
# failed trial is never recorded.
starts_proot() {
    facts_file=$directory/.provision/proot-facts identity='' untranslated='' text='' boot='' starts=yes
    { read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null
    if [ -n "$proot_identity" ] && [ -f "$facts_file" ] && [ ! -L "$facts_file" ]; then
        { { IFS= read -r identity && IFS= read -r untranslated && read_text; } <"$facts_file"; } 2>/dev/null
    fi
    # Without its last line, another start is still writing it.
    case $identity/$untranslated/$text in
        "3 $boot $proot_identity"/[0-7]/*"end$newline") ;;
        *)
            read_features
            try_proot
            text=${text}end$newline
            [ "$starts" != yes ] || [ -z "$proot_identity" ] ||
                write_text "3 $boot $proot_identity$newline$untranslated$newline$text" "$facts_file"
            ;;
    esac
    features=$newline$text
    [ -n "$starts" ]
}

# Set `text`: the options in proot's help, one a line after two spaces.
read_features() {
    text='' remaining=$("$proot" --help 2>&1)$newline
    while [ -n "$remaining" ]; do
        line=${remaining%%"$newline"*} remaining=${remaining#*"$newline"}
        # `read` would read one byte at a time. A `=` after an option says that it takes a value.
        case $line in
            "  -"*\ \**) line=${line#  } && text="$text  ${line%%[ ,]*}=$newline" ;;
            "  -"*) line=${line#  } && text="$text  ${line%%[ ,]*}$newline" ;;
        esac
    done
}

# Set `starts` and `untranslated` by trying. An app on Android doesn't try: Android may kill a program for such a call,
# and proot is an app's only runtime anyway.
try_proot() {
    untranslated='' starts=yes
    [ -z "${ANDROID_ROOT-}" ] || [ "$host_uid" = 0 ] || return 0
    set_proot_places
    ! try_calls || return 0
    starts=''
    [ -z "${PROOT_NO_SECCOMP-}" ] || return 0
    export PROOT_NO_SECCOMP=1
    if try_calls; then starts=slowly; else unset PROOT_NO_SECCOMP; fi
}

# Set `untranslated`, and succeed if proot has started a program.
try_calls() {
    if [ -n "$helper" ] && [ -x "$directory/.provision/proot-probe" ]; then
        # Without translation the path would be /proot-probe of the host, which doesn't exist.
        "$proot" -v -1 -r "$directory/.provision" -w / /proot-probe /proot-probe >/dev/null 2>&1
        probed=$?
        case $probed in 6[4-9] | 7[01]) untranslated=$((probed - 64)) ;; *) return 1 ;; esac
    elif [ -d /tmp ] && [ ! -e /tmp/start.sh ] && find_program sh; then
        # Most programs of the host use the newest system calls, so that they show which ones proot translates.
        "$proot" -v -1 -b "$directory:/tmp" -w / "$program" -c \
            '[ -x /tmp/start.sh ] && ls -l /tmp/start.sh || exit 71' >/dev/null 2>&1
        probed=$?
        case $probed in 0) ;; 71) untranslated=7 ;; *) return 1 ;; esac
    fi
}

# Set `proot_filter` to the path of the seccomp filter for this proot, or to empty where it needs none or DIR has none.
# Succeed if guests can't see files of the host: proot translates all paths, or the filter refuses the other calls.
hides_host() {
    proot_filter=''
    case $untranslated in '' | 0) return 0 ;; esac
    [ -n "$helper" ] && [ -r "$directory/.provision/proot.bpf" ] && proot_filter=$directory/.provision/proot.bpf
}
