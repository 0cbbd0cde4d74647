# Print, for --print: the command line of a runtime, ready to be pasted into a shell.
# Sets nothing that other parts read.

# Print the words $@ and exit. The temporary files that they name stay.
print_words() {
    append '' "$@"
    exports=''
    for variable in ${PROOT_TMP_DIR:+"PROOT_TMP_DIR=$PROOT_TMP_DIR"} ${PROOT_LOADER:+"PROOT_LOADER=$PROOT_LOADER"} \
        ${PROOT_LOADER_32:+"PROOT_LOADER_32=$PROOT_LOADER_32"}; do
        quote "$variable"
        exports="${exports}export $quoted; "
    done
    [ -z "$preloaded" ] || exports="unset LD_PRELOAD; $exports"
    case $exports in
        '') printf '%s\n' "${list# }" ;;
        *) printf '(%s%s)\n' "$exports" "${list# }" ;;
    esac
    exit
}
