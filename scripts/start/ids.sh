# Ids: whether a user namespace has one id, the user's, or many: the user's subordinate ids, too. If it has many, the
# first line of `.provision/ids` is `many`; the second is the first subordinate id, once the files have the image's
# owners. A DIR that was used with one is never used with the other: with one id, files of other owners can't be used,
# and files made with one id have lost their owners.
# Sets `ids` (one or many).

# Set `ids`, and with many ids `runtime` to userns. Exit if DIR was used with the other number of ids.
choose_ids() {
    remembered_ids=''
    { read -r remembered_ids <"$directory/.provision/ids"; } 2>/dev/null
    ids=${typed_ids:-${remembered_ids:-one}}
    case $remembered_ids/$typed_ids in
        many/one)
            fail "files in DIR belong to many ids, which can't be used with one: leave out \
--ids, or provision another directory"
            ;;
        /many)
            [ ! -d "$directory/.provision/run" ] ||
                fail "DIR was started with one id before, and has lost the owners of files: make another directory by \
provision --ids many IMAGE DIR"
            ;;
    esac
    [ "$ids" = many ] || return 0
    [ "$host_uid" != 0 ] || fail "root can't start a DIR with many ids: start it as the user who owns it, without sudo"
    [ -O "$directory/.provision" ] || fail "only its owner can start a DIR with many ids"
    case $typed_runtime$no_namespace in
        '' | auto | userns) runtime=userns ;;
        *) fail "--ids many needs user namespaces: leave out --runtime and --no-namespace" ;;
    esac
    { find_program newuidmap && find_program newgidmap; } ||
        fail "--ids many needs newuidmap and newgidmap: apt install uidmap"
}

# Exit unless the user has subordinate ids. Write `many` to `.provision/ids`.
remember_ids() {
    "$unshare" -U -r --map-auto -m true 2>/dev/null || {
        name=$(id -un)
        fail "you have no subordinate ids, or an unshare older than util-linux 2.38: sudo usermod \
--add-subuids 100000-165535 --add-subgids 100000-165535 $name"
    }
    [ -z "$print_only" ] && [ -z "$remembered_ids" ] || return 0
    write_text "many$newline" "$directory/.provision/ids" || fail "can't write $directory/.provision/ids"
}

# As root of the namespace: at the first start, change the owners of the files to the image's. `outer_ids` is the first
# subordinate id. Exit if an earlier start used other subordinate ids.
set_owners() {
    first_id=''
    { read -r _ && read -r first_id; } <"$directory/.provision/ids"
    if [ -n "$first_id" ]; then
        [ "$first_id" = "$outer_ids" ] || fail "files in DIR belong to subordinate ids from $first_id on, but yours are \
those from $outer_ids on: restore the former ones in /etc/subuid and /etc/subgid"
        return
    fi
    quote_for_message "$directory"
    say "files in DIR get other owners now. To delete it later: unshare -U -r --map-auto rm -rf $quoted"
    { find_program awk && find_program chown && find_program chmod; } || fail "--ids many needs awk, chown and chmod"
    list_owners | change_owners || finish 125
    write_text "many$newline$outer_ids$newline" "$directory/.provision/ids" ||
        fail "can't write $directory/.provision/ids"
    leave
}

# Print a line for each file that doesn't belong to root, or whose mode provision has changed: owner, mode or `-`,
# directory, name.
list_owners() {
    [ -r "$directory/.provision/ownership.mtree" ] || return 0
    # mtree(5), as provisioner/ownership/mtree.py writes it. Its octal escapes are also printf's.
    LC_ALL=C awk '
        /^#/ { next }
        $0 == ".." { depth--; next }
        {
            type = mode = ""; uid = gid = 0
            for (i = 2; i <= NF; i++) {
                value = substr($i, index($i, "=") + 1)
                if ($i ~ /^type=/) type = value
                else if ($i ~ /^mode=/) mode = value
                else if ($i ~ /^uid=/) uid = value
                else if ($i ~ /^gid=/) gid = value
            }
            name = $1
            if (name ~ /\\/) gsub(/%/, "%%", name)
            above = depth ? path[depth] : "/"
            if (type == "dir") { depth++; path[depth] = depth > 1 ? path[depth - 1] name "/" : "/" }
            kept = type == "link" || mode ~ (type == "dir" ? "^07" : "^0[67]")
            if (uid != 0 || gid != 0 || !kept) print uid ":" gid, kept ? "-" : mode, above, name
        }' "$directory/.provision/ownership.mtree"
}

# Change the owners and modes of the files that standard input lists. Consecutive files of one directory and owner are
# changed by one chown.
change_owners() {
    last='' names=''
    while read -r owner mode above name; do
        [ "$owner $above" = "$last" ] || change_named
        last="$owner $above"
        case $above in *\\*) above=$(decode "$above") && above=${above%x} ;; esac
        case $name in *\\*) name=$(decode "$name") && name=${name%x} ;; esac
        [ -e "$rootfs$above$name" ] || [ -L "$rootfs$above$name" ] || continue
        append "$names" "./$name" && names=$list
        place=$above new_owner=$owner
        [ "$mode" = - ] || change_named "$mode"
    done
    change_named
}

# Print the name $1 with its octal escapes decoded, and an x.
decode() {
    # shellcheck disable=SC2059 # a format
    printf "${1}x"
}

# Change the owner of the files `names` in the guest's directory `place` to `new_owner`, and the mode of the last one to
# $1, if there is $1.
change_named() {
    [ -n "$names" ] || return 0
    new_mode=${1-} last_name="./$name"
    enter "$place" "can't enter $place in the rootfs"
    eval "set -- $names"
    names=''
    # chown clears setuid, so that chmod comes second.
    chown -h "$new_owner" -- "$@"
    [ -z "$new_mode" ] || [ -L "$last_name" ] || chmod "$new_mode" "$last_name"
}
