# Hard links, which Android refuses to apps. With --link2symlink, Termux's proot puts a symlink in place of each, by
# the absolute path of the rootfs, and the content into rootfs/.l2s. `.provision/links` has the path that they lead to.
# Sets `links_directory`, rootfs/.l2s by that path, or empty.

# Set `links_directory` for --link2symlink. Links to another place, where DIR was before, are led to this one first.
prepare_links() {
    if [ -L "$rootfs/.l2s" ] || { [ -e "$rootfs/.l2s" ] && [ ! -d "$rootfs/.l2s" ]; }; then
        fail "$rootfs/.l2s is no directory, but proot's place for hard links: move it away"
    fi
    cd -P "$rootfs" || fail "can't enter $rootfs"
    links_root=$PWD
    leave
    read_links_root
    # Another name of the same directory is as good.
    # shellcheck disable=SC3013 # dash, busybox, mksh and bash have -ef
    if [ -n "$former_root" ] && [ "$former_root" -ef "$rootfs" ]; then
        links_root=$former_root
    elif [ -n "$print_only" ]; then
        [ -z "$former_root" ] || say "DIR was at ${former_root%/rootfs}: start it once for its hard links to be found"
    elif [ -n "$session_file" ]; then
        lead_links
    elif [ -n "$former_root" ]; then
        say "DIR was at ${former_root%/rootfs} and can't be written to: hard links that were made inside are lost"
    fi
    links_directory=$links_root/.l2s
    [ -n "$print_only" ] || [ -d "$rootfs/.l2s" ] || mkdir "$rootfs/.l2s" 2>/dev/null || links_directory=''
}

# Set `former_root`: the path of the rootfs that links lead to, or empty.
read_links_root() {
    text=''
    { [ ! -f "$directory/.provision/links" ] || read_text <"$directory/.provision/links"; } 2>/dev/null
    former_root=${text%"$newline"}
}

# Lead all links to `links_root`, unless another start does it first.
lead_links() {
    # A start that waits is no session that uses them.
    read_text <"$session_file"
    own_session=$text tenths=${PROVISION_TEST_LINK_TENTHS:-100}
    write_text '' "$session_file"
    read_stat $$
    own_start=$stat_start turn=$directory/.provision/links.turn
    while read_links_root && [ "$former_root" != "$links_root" ]; do
        if take_turn; then
            move_links
            # The next one has to see that this one goes on.
            write_text "$own_session" "$session_file"
            rm -f "$turn"
            return
        fi
        # Nobody knows yet whether DIR was moved: a later start looks.
        [ -n "$former_root$holder" ] || break
        [ "$tenths" -gt 0 ] || fail "DIR was moved while it was used, and proot's links have to follow: --stop ends it"
        tenths=$((tenths - 1))
        sleep 0.1
    done
    write_text "$own_session" "$session_file"
}

# Succeed if no other start leads the links, and nothing that runs may use them. The link `turn` then says that this start
# leads them. Else `holder` is the one that does, or empty.
take_turn() {
    holder=''
    if ! ln -s "$$ $own_start" "$turn" 2>/dev/null; then
        holder=$(readlink "$turn") || return
        { read_stat "${holder% *}" && [ "$stat_start" = "${holder#* }" ]; } || rm -f "$turn" # it was killed
        return 1
    fi
    find_sessions
    [ -n "$sessions" ] || return 0
    rm -f "$turn"
    return 1
}

# Lead all links of proot to `links_root`. Each is replaced by one rename, and only at the end `.provision/links` says
# so: whatever ends this, the next start goes on.
move_links() {
    [ -z "$former_root" ] || say "DIR was at ${former_root%/rootfs}: hard links that were made inside follow it"
    # A start that was killed may have left its own.
    set +f
    rm -f "$directory/.provision"/links.new.*
    set -f
    find_program sh
    shell_program=$program
    if find_program find; then
        # Without -lname each symlink has to be read by a program.
        append '' "$program" "$links_root" -xdev -type l
        ! "$program" "$links_root" -maxdepth 0 -lname x 2>/dev/null || append "$list" -lname '/*/.l2s.*'
        eval "set -- $list"
        failed=$("$@" -exec "$shell_program" -c "$move_some_links" "$script" "$former_root" "$links_root" \
            "$directory/.provision/links.new.$$" {} + 2>/dev/null)
        [ -z "$failed" ] || fail "can't lead this link of proot's to where DIR is now: ${failed%%"$newline"*}"
    elif [ -n "$former_root" ]; then
        fail "there is no find to look for the links of proot: install findutils"
    fi
    write_text "$links_root$newline" "$directory/.provision/links.new.$$" &&
        mv -f "$directory/.provision/links.new.$$" "$directory/.provision/links"
}

# Commands for another shell: lead each of the links "$4" and on to the rootfs $2, by way of the name $3. A link is
# proot's if it leads to a name that proot makes, below the rootfs $1 or below any other directory called rootfs, at a
# place that this rootfs has as well. Those that can't be replaced are printed.
# shellcheck disable=SC2016 # the other shell expands it
move_some_links='
    former=$1 here=$2 new=$3
    shift 3
    for link; do
        target=$(readlink "$link" && printf x) || continue
        target=${target%?x} rest=""
        case $target in
            "$here"/* | *[!/]/../*) continue ;;
            /*/.l2s.*) ;;
            *) continue ;;
        esac
        case ${target##*/} in .l2s.*) ;; *) continue ;; esac
        [ -z "$former" ] || case $target in "$former"/*) rest=${target#"$former"/} ;; esac
        remaining=$target
        while [ -z "$rest" ]; do
            case $remaining in */rootfs/*) remaining=${remaining#*/rootfs/} ;; *) break ;; esac
            if [ -L "$here/$remaining" ] || [ -f "$here/$remaining" ]; then rest=$remaining; fi
            remaining=/$remaining
        done
        [ -n "$rest" ] && [ ! -d "$link" ] || continue
        { ln -s "$here/$rest" "$new" && mv -f "$new" "$link"; } || printf "%s\n" "$link"
    done
'

# Where the links of a proot can't be followed otherwise, in other runtimes and by another proot, show rootfs/.l2s at
# the path that they lead to.
bind_links() {
    [ -z "$links_directory" ] && [ -d "$rootfs/.l2s" ] && [ ! -L "$rootfs/.l2s" ] || return 0
    read_links_root
    case $former_root in /*) ;; *) return 0 ;; esac
    source=$rootfs/.l2s destination=$former_root/.l2s
    bind_one
}
