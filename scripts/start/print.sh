# The option --print: print the command line of a runtime, ready to be pasted into a shell.
# Sets nothing that other parts read.

# Print the words $@ and exit. The temporary files that they name stay.
print_words() {
    append '' "$@"
    words=$list$redirections exports=''
    if [ "$runtime" = proot ]; then
        list_proot_variables
        exports=${proot_variables:+"export$proot_variables; "}
    fi
    list=$words
    [ -z "$preloaded" ] || exports="unset LD_PRELOAD; $exports"
    case $exports in
        '') escape_controls "${list# }" ;;
        *) escape_controls "($exports${list# })" ;;
    esac
    printf '%s\n' "$escaped"
    exit
}

# Set `escaped`: the quoted words $1, where a printf(1) takes the place of each control character that is in quotes: a
# terminal would act on it.
escape_controls() {
    escaped='' remaining=$1
    while :; do
        case $remaining in *[[:cntrl:]]*) ;; *) break ;; esac
        before=${remaining%%[[:cntrl:]]*}
        remaining=${remaining#"$before"}
        control=${remaining%"${remaining#?}"} remaining=${remaining#?}
        case $control in
            "$newline" | '	') escaped=$escaped$before$control ;;
            *)
                number=$(printf '%03o' "'$control")
                escaped="$escaped$before'\"\$(printf '\\$number')\"'"
                ;;
        esac
    done
    escaped=$escaped$remaining
    case $escaped in *[!\ -~]*) escape_c1 ;; esac
}

# Do the same to the control characters of C1, which are two bytes in UTF-8.
escape_c1() {
    expressions=''
    for tens in 0 1 2 3; do
        for ones in 0 1 2 3 4 5 6 7; do
            # shellcheck disable=SC2059 # an octal number
            character=$(printf "\\302\\2$tens$ones")
            expressions="${expressions}s/$character/'\"\$(printf '\\\\302\\\\2$tens$ones')\"'/g$newline"
        done
    done
    escaped=$(printf '%s\n' "$escaped" | LC_ALL=C sed "$expressions" && printf x) && escaped=${escaped%?x}
}
