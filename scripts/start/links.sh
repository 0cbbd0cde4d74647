# Links: hard links, which Android refuses to apps. With --link2symlink, Termux's proot makes a symlink instead, with
# the absolute path of the rootfs, and moves the content to rootfs/.l2s. `.provision/links` has the path of the rootfs
# in these symlinks.
# Sets `links_directory`: rootfs/.l2s by that path, or empty.

# Set `links_directory` for --link2symlink. If DIR was moved, change proot's symlinks to its new path first.
prepare_links() {
    if [ -L "$rootfs/.l2s" ] || { [ -e "$rootfs/.l2s" ] && [ ! -d "$rootfs/.l2s" ]; }; then
        fail "$rootfs/.l2s is not a directory, and proot needs that name for hard links: move it away"
    fi
    cd -P "$rootfs" || fail "can't enter $rootfs"
    links_root=$PWD
    leave
    read_links_root
    # If the former path leads to the same directory, the symlinks stay as they are.
    # shellcheck disable=SC3013 # dash, busybox, mksh and bash have -ef
    if [ -n "$former_root" ] && [ "$former_root" -ef "$rootfs" ]; then
        links_root=$former_root
    elif [ -n "$print_only" ]; then
        [ -z "$former_root" ] || say "DIR was moved from ${former_root%/rootfs}, and its hard links still point there: \
start it once without --print"
    elif [ -n "$session_file" ]; then
        update_links
    elif [ -n "$former_root" ]; then
        say "DIR was moved from ${former_root%/rootfs}, and is read-only: hard links that were made inside don't work"
    fi
    links_directory=$links_root/.l2s
    [ -n "$print_only" ] || [ -d "$rootfs/.l2s" ] || mkdir "$rootfs/.l2s" 2>/dev/null || links_directory=''
}

# Set `former_root`: the path of the rootfs in proot's symlinks, or empty.
read_links_root() {
    text=''
    { [ ! -f "$directory/.provision/links" ] || read_text <"$directory/.provision/links"; } 2>/dev/null
    former_root=${text%"$newline"}
}

# Change all of proot's symlinks to `links_root`, unless another start does it first.
update_links() {
    # While this start waits, its session file is empty: it doesn't count as a session that uses the links.
    read_text <"$session_file"
    own_session=$text tenths=${PROVISION_TEST_LINK_TENTHS:-100}
    write_text '' "$session_file"
    read_stat $$
    own_start=$stat_start links_lock=$directory/.provision/links.turn
    while read_links_root && [ "$former_root" != "$links_root" ]; do
        if lock_links; then
            replace_links
            # The session's file is written before the lock is removed, so that the next start sees this session.
            write_text "$own_session" "$session_file"
            rm -f "$links_lock"
            return
        fi
        # Without `.provision/links`, it isn't known whether DIR was moved. If sessions run, a later start looks.
        [ -n "$former_root$holder" ] || break
        [ "$tenths" -gt 0 ] ||
            fail "DIR was moved while a session ran, and its hard links have to be changed: end the session with --stop"
        tenths=$((tenths - 1))
        sleep 0.1
    done
    write_text "$own_session" "$session_file"
}

# Succeed if no other start changes the links and no session uses them: then the symlink `links_lock` names this
# process. Else set `holder` to the process that has the lock, or to empty.
lock_links() {
    holder=''
    if ! ln -s "$$ $own_start" "$links_lock" 2>/dev/null; then
        holder=$(readlink "$links_lock") || return
        { read_stat "${holder% *}" && [ "$stat_start" = "${holder#* }" ]; } || rm -f "$links_lock" # it was killed
        return 1
    fi
    find_sessions
    [ -n "$sessions" ] || return 0
    rm -f "$links_lock"
    return 1
}

# Replace all of proot's symlinks by ones to `links_root`, each by one rename. `.provision/links` is written last, so
# that the next start continues if this one is killed.
replace_links() {
    [ -z "$former_root" ] ||
        say "DIR was moved from ${former_root%/rootfs}: changing the hard links that were made inside"
    # Remove temporary files of killed starts.
    set +f
    rm -f "$directory/.provision"/links.new.*
    set -f
    find_program sh
    shell_program=$program
    if find_program find; then
        # Without -lname, one readlink(1) is started for each symlink.
        append '' "$program" "$links_root" -xdev -type l
        ! "$program" "$links_root" -maxdepth 0 -lname x 2>/dev/null || append "$list" -lname '/*/.l2s.*'
        eval "set -- $list"
        failed=$("$@" -exec "$shell_program" -c "$replace_some_links" "$script" "$former_root" "$links_root" \
            "$directory/.provision/links.new.$$" {} + 2>/dev/null)
        [ -z "$failed" ] || fail "can't change this hard link of proot to the new place of DIR: ${failed%%"$newline"*}"
    elif [ -n "$former_root" ]; then
        fail "can't look for hard links of proot, since there is no find: install findutils"
    fi
    write_text "$links_root$newline" "$directory/.provision/links.new.$$" &&
        mv -f "$directory/.provision/links.new.$$" "$directory/.provision/links"
}

# Commands for another shell: replace each of the symlinks "$4" and later by one to the rootfs $2, made as $3 and
# renamed. A symlink is proot's if its target has a name that proot makes and is in the rootfs $1, or in any directory
# called rootfs if this rootfs has the same path too. Print those that can't be replaced.
# shellcheck disable=SC2016 # the other shell expands it
replace_some_links='
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

# In other runtimes, and with a proot without --link2symlink, bind rootfs/.l2s on the path to which proot's symlinks
# point.
bind_links() {
    [ -z "$links_directory" ] && [ -d "$rootfs/.l2s" ] && [ ! -L "$rootfs/.l2s" ] || return 0
    read_links_root
    case $former_root in /*) ;; *) return 0 ;; esac
    source=$rootfs/.l2s destination=$former_root/.l2s
    bind_one
}
