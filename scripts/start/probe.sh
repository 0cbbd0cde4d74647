# Probe: what this proot can do, as trying it shows.
# Sets `features` (the options that begin lines of its help, as there after two spaces), `untranslated` (the sum of the
# calls whose paths it leaves as they are, see provisioner/launch/proot_probe.py; empty where that can't be known), and
# `starts` (`yes`; `slowly` for a proot that starts with PROOT_NO_SECCOMP alone, which is set then; or empty).

# Set `starts`, `features` and `untranslated`, and succeed if proot can start a program. `.provision/proot-facts` has
# them since an earlier start, if it is about the same file and the same start of the system. A trial that failed is
# never remembered.
starts_proot() {
    facts_file=$directory/.provision/proot-facts identity='' untranslated='' text='' boot='' starts=yes
    { read -r boot </proc/sys/kernel/random/boot_id; } 2>/dev/null
    if [ -n "$proot_identity" ] && [ -f "$facts_file" ] && [ ! -L "$facts_file" ]; then
        { { IFS= read -r identity && IFS= read -r untranslated && read_text; } <"$facts_file"; } 2>/dev/null
    fi
    # Another start may be writing it.
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

# Set `text`: the options that begin lines of proot's help.
read_features() {
    text='' remaining=$("$proot" --help 2>&1)$newline
    while [ -n "$remaining" ]; do
        line=${remaining%%"$newline"*} remaining=${remaining#*"$newline"}
        # A shell reads one byte at a time. An option with a value is not the one without.
        case $line in
            "  -"*\ \**) line=${line#  } && text="$text  ${line%%[ ,]*}=$newline" ;;
            "  -"*) line=${line#  } && text="$text  ${line%%[ ,]*}$newline" ;;
        esac
    done
}

# Set `starts` and `untranslated` by trying. An app is not asked: Android may end a program for such a call, and leaves
# it no other runtime.
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
        # The host has no such file at its root.
        "$proot" -v -1 -r "$directory/.provision" -w / /proot-probe /proot-probe >/dev/null 2>&1
        probed=$?
        case $probed in 6[4-9] | 7[01]) untranslated=$((probed - 64)) ;; *) return 1 ;; esac
    elif [ -d /tmp ] && [ ! -e /tmp/start.sh ] && find_program sh; then
        # Most programs of the host use the newest calls, too.
        "$proot" -v -1 -b "$directory:/tmp" -w / "$program" -c \
            '[ -x /tmp/start.sh ] && ls -l /tmp/start.sh || exit 71' >/dev/null 2>&1
        probed=$?
        case $probed in 0) ;; 71) untranslated=7 ;; *) return 1 ;; esac
    fi
}

# Set `proot_filter`: the filter for this proot, or empty where it needs none or there is none. Succeed if guests see
# their own files alone: proot translates all paths, or the filter refuses calls with others.
hides_host() {
    proot_filter=''
    case $untranslated in '' | 0) return 0 ;; esac
    [ -n "$helper" ] && [ -r "$directory/.provision/proot.bpf" ] && proot_filter=$directory/.provision/proot.bpf
}
