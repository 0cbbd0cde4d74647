# The /run in memory of chroot, which gets what the image's /run has: all of its directories and links, as far as they are
# few, and its files, as far as they are small. An image decides how much is there, and it is copied at each start.
# Sets `run_left` (how many bytes of files may still be copied), `directories_left` (the same for directories), `deeper` (a
# list of directories to be copied next), `is_cut` (not empty where something is left out).

# Copy /run to the one of the stage, one level of directories after the other.
copy_run() {
    run_left=33554432 directories_left=256 is_cut=''
    set -- .
    while [ $# -gt 0 ]; do
        deeper=''
        for run_place; do
            enter "/run/$run_place" "can't make /run in the rootfs"
            copy_here "$stage/run/$run_place"
        done
        eval "set -- $deeper"
    done
    [ -z "$is_cut" ] || say "not all of the image's /run is shown: it is copied at each start, up to 256 directories, \
2048 files in each and 32 MiB"
}

# Copy what is in this shell's directory, `run_place`, to the directory $1. It goes into directories as `enter` does; no
# program for copying does. Another guest may change what is here at any time: what counts is what has arrived in $1,
# where no guest can change anything. Only GNU tar opens no link in the place of a file.
copy_here() {
    names='' files='' count=0
    set +f
    for file in ./* ./.[!.]* ./..?*; do
        set -f
        [ "$count" -lt 2048 ] || { is_cut=yes && break; }
        if [ -L "$file" ] || [ -d "$file" ]; then
            collect names "$file"
        elif [ -e "$file" ] && is_gnu_tar; then
            collect files "$file"
        else
            continue
        fi
        count=$((count + 1))
    done
    set -f
    collected names
    collected files
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

# Copy the `files` to the directory $1, by an archive that ends at `run_left` bytes: none of them where it is cut off.
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
