# Probe: what this proot can do, as trying it shows.
# Sets `features` (the options that begin lines of its help, as there after two spaces), `untranslated` (the sum of the
# calls whose paths it leaves as they are, see provisioner/launch/proot_probe.py; empty where that can't be known).

# Set `features` and `untranslated`, from `.provision/proot-facts` if it is about the same file.
probe_proot() {
    [ -z "$features" ] || return 0
    facts_file=$directory/.provision/proot-facts identity='' untranslated='' text=''
    if [ -n "$proot_identity" ] && [ -f "$facts_file" ] && [ ! -L "$facts_file" ]; then
        { { IFS= read -r identity && IFS= read -r untranslated && read_text; } <"$facts_file"; } 2>/dev/null
    fi
    # Another start may be writing it.
    case $identity/$untranslated/$text in
        "2 $proot_identity"/[0-7]/*"end$newline") ;;
        *)
            read_features
            try_calls
            text=${text}end$newline
            [ -z "$proot_identity" ] || write_text "2 $proot_identity$newline$untranslated$newline$text" "$facts_file"
            ;;
    esac
    features=$newline$text
}

# Set `text`: the options that begin lines of proot's help.
read_features() {
    text='' remaining=$("$proot" --help 2>&1)$newline
    while [ -n "$remaining" ]; do
        line=${remaining%%"$newline"*} remaining=${remaining#*"$newline"}
        # A shell reads one byte at a time.
        case $line in "  -"*) line=${line#  } && text="$text  ${line%%[ ,]*}$newline" ;; esac
    done
}

# Set `untranslated`. An app is not asked: Android may end a program for such a call.
try_calls() {
    untranslated=''
    [ -z "${ANDROID_ROOT-}" ] || [ "$host_uid" = 0 ] || return 0
    if [ -n "$helper" ] && [ -x "$directory/.provision/proot-probe" ]; then
        # The host has no such file at its root.
        "$proot" -v -1 -r "$directory/.provision" -w / /proot-probe /proot-probe >/dev/null 2>&1
        probed=$?
        case $probed in 6[4-9] | 7[01]) untranslated=$((probed - 64)) ;; esac
    elif [ -d /tmp ] && [ ! -e /tmp/start.sh ] && find_program sh; then
        # Most programs of the host use the newest calls, too.
        "$proot" -v -1 -b "$directory:/tmp" -w / "$program" -c '[ -x /tmp/start.sh ] && ls -l /tmp/start.sh' \
            >/dev/null 2>&1 || untranslated=7
    fi
}

# Set `proot_filter`: the filter for this proot, or empty where it needs none or there is none. Succeed if guests see
# their own files alone: proot translates all paths, or the filter refuses calls with others.
hides_host() {
    proot_filter=''
    case $untranslated in '' | 0) return 0 ;; esac
    [ -n "$helper" ] && [ -r "$directory/.provision/proot.bpf" ] && proot_filter=$directory/.provision/proot.bpf
}
