# Run directory: chroot's /run is in memory, and gets a copy of the image's /run at each start: directories and symlinks
# up to a number, and files up to a total size. The limits are there because an image may put any amount into /run.
# Sets `run_left` (the number of bytes of files that may still be copied), `directories_left` (the number of
# directories), `deeper` (the list of directories of the next level), `is_cut` (not empty if something was not copied).

# Copy the image's /run to the stage's, level by level. A running guest may remove what is below it meanwhile.
copy_run() {
    run_left=33554432 directories_left=256 is_cut='' may_be_gone=''
    set -- .
    while [ $# -gt 0 ]; do
        deeper=''
        for run_place; do
            enter "/run/$run_place" "can't make /run in the rootfs" "$may_be_gone" || continue
            copy_here "$stage/run/$run_place"
        done
        may_be_gone=yes
        eval "set -- $deeper"
    done
    [ -z "$is_cut" ] || say "the image's /run is copied only in part, up to 256 directories, \
2048 files in each and 32 MiB"
}

# Copy this shell's directory, `run_place`, to the directory $1, without its subdirectories' contents: this script
# enters those by `enter`, because copying programs follow symlinks that a running guest may put there at any time. What
# is a directory is decided by the copy in $1, which no guest can change. Files are copied only by GNU tar, which
# doesn't follow a symlink that has replaced a file.
copy_here() {
    names='' files='' count=0
    set +f
    for file in ./* ./.[!.]* ./..?*; do
        set -f
        [ "$count" -lt 2048 ] || { is_cut=yes && break; }
        if [ -L "$file" ] || [ -d "$file" ]; then
            append_to names "$file"
        elif [ -e "$file" ] && is_gnu_tar; then
            append_to files "$file"
        else
            continue
        fi
        count=$((count + 1))
    done
    set -f
    flush_list names
    flush_list files
    if [ -n "$names" ]; then
        eval "tar -cf - --no-recursion $names" 2>/dev/null | tar -xpf - -C "$1" || fail "can't copy $walked: install tar"
    fi
    [ -z "$files" ] || copy_files "$1"
    eval "set -- \"\$1\" $names"
    copy_target=$1
    shift
    for file; do
        { [ ! -L "$copy_target/$file" ] && [ -d "$copy_target/$file" ] && [ -d "$file" ]; } || continue
        [ "$directories_left" -gt 0 ] || { is_cut=yes && break; }
        directories_left=$((directories_left - 1))
        append "$deeper" "$run_place/${file#./}" && deeper=$list
    done
}

# Copy the `files` to the directory $1, by a tar archive of at most `run_left` bytes. If they need more, copy none of
# them.
copy_files() {
    [ "$run_left" -gt 0 ] || { is_cut=yes && return; }
    eval "tar -cf - --no-recursion $files" 2>/dev/null | head -c "$run_left" >"$stage/archive"
    run_left=$((run_left - $(wc -c <"$stage/archive")))
    if [ "$run_left" -gt 0 ]; then
        tar -xpf "$stage/archive" -C "$1" || fail "can't copy files of $walked: install tar"
    else
        is_cut=yes
    fi
    touch_file "$stage/archive"
}

# Succeed if the host's tar is GNU's.
is_gnu_tar() {
    [ -n "$tar_kind" ] || case $(tar --version 2>/dev/null) in *GNU*) tar_kind=gnu ;; *) tar_kind=other ;; esac
    [ "$tar_kind" = gnu ]
}
