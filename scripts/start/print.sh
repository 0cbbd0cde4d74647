# Print: the option --print, which prints the command line of a runtime for pasting into a shell.
# Sets nothing that other parts read.

# Print the words $@ and exit. Temporary files in them are not removed. Variables that hold secrets are printed as
# "NAME=$NAME", so that the shell that runs the command adds their values.
print_words() {
    printed='' printed_end=''
    for word; do
        case $secret_words in
            *"$newline$word$newline"*) quoted="\"${word%%=*}=\$${word%%=*}\"" ;;
            *) quote "$word" ;;
        esac
        printed_end="$printed_end $quoted"
        [ "${#printed_end}" -lt 4000 ] || { printed=$printed$printed_end && printed_end=''; }
    done
    printed=$printed$printed_end$redirections
    exports=''
    if [ "$runtime" = proot ]; then
        list_proot_variables
        exports=${proot_variables:+"export$proot_variables; "}
    fi
    [ -z "$preloaded" ] || exports="unset LD_PRELOAD; $exports"
    case $exports in
        '') escape_controls "${printed# }" ;;
        *) escape_controls "($exports${printed# })" ;;
    esac
    printf '%s\n' "$escaped"
    exit
}

# Set `escaped`: the quoted words $1, in which each control character except for newlines and tabs is replaced by a
# $(printf), so that a terminal doesn't interpret it. All of them are in quotes. In UTF-8, C1 control characters have
# two bytes.
escape_controls() {
    escaped=$1
    case $1 in *[!\ -~"	$newline"]*) ;; *) return ;; esac
    format=''
    for number in 001 002 003 004 005 006 007 010 013 014 015 016 017 020 021 022 023 024 025 026 027 030 031 032 033 \
        034 035 036 037 177; do
        format="${format}s/\\$number/'\"\$(printf '\\\\\\\\$number')\"'/g\\n"
    done
    for tens in 0 1 2 3; do
        for ones in 0 1 2 3 4 5 6 7; do
            number=2$tens$ones
            format="${format}s/\\302\\$number/'\"\$(printf '\\\\\\\\302\\\\\\\\$number')\"'/g\\n"
        done
    done
    # shellcheck disable=SC2059 # octal numbers
    expressions=$(printf "$format")
    escaped=$(printf '%s\n' "$1" | LC_ALL=C sed "$expressions" && printf x) && escaped=${escaped%?x}
}
