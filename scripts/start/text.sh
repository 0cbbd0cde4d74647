# Text: messages, quoting for the shell, lists of words, and small files.
# Sets `printable`, `quoted`, `list`, `text`. The functions take time in proportion to the length of the text.

# Print one line to standard error. Control characters that come from an image don't reach the terminal.
say() {
    make_printable "$1"
    printf 'start.sh: %s\n' "$printable" >&2
}

# Set `printable`: the text $1 with a question mark for each character that is a control character, changes the
# direction of text, separates lines or is invisible.
make_printable() {
    printable=$1
    case $1 in *[!\ -~]*) ;; *) return ;; esac
    # C1 control characters have two bytes in UTF-8. Outside of UTF-8 they have one; several in a row get one question
    # mark. The other ranges begin at U+061C, U+200B, U+2028, U+2060, U+FEFF and U+E0000.
    expression=$(
        printf 's/[\001-\011\013-\037\177]/?/g;s/\302[\200-\237]/?/g;s/\330\234/?/g;s/\342\200[\213-\217\250-\256]/?/g'
        printf ';s/\342\201[\240-\257]/?/g;s/\357\273\277/?/g;s/\363\240[\200-\201][\200-\277]/?/g'
        printf ';s/^[\200-\237]\{1,\}/?/;s/\([\001-\177]\)[\200-\237]\{1,\}/\\1?/g'
    )
    printable=$(printf '%s' "$1" | LC_ALL=C sed "$expression" 2>/dev/null)
    IFS=$newline
    # shellcheck disable=SC2086 # split into lines
    set -- $printable
    IFS='?'
    printable="$*"
    IFS=" 	$newline" printable=${printable:-?}
}

# Set `quoted`: the word $1, quoted for the shell.
quote() {
    case $1 in
        '' | *[!A-Za-z0-9_/.:,@%+=-]*) ;;
        *) quoted=$1 && return ;;
    esac
    case $1 in
        *\'*) ;;
        *) quoted="'$1'" && return ;;
    esac
    # The dot is there because shells don't split off an empty last field.
    unquoted=$1. IFS=\'
    # shellcheck disable=SC2086 # split at the quotes
    set -- $unquoted
    IFS=" 	$newline"
    quoted="'$1" quoted_end=''
    shift
    for unquoted; do
        quoted_end="$quoted_end'\\''$unquoted"
        [ "${#quoted_end}" -lt 4000 ] || { quoted=$quoted$quoted_end && quoted_end=''; }
    done
    quoted=$quoted$quoted_end
    quoted="${quoted%.}'"
}

# Set `quoted`: the word $1, quoted for the shell so that it can be copied from a message: $(printf) writes what `say`
# would replace. The shell drops newlines at the end of its output, so a word that ends with one is in the quotes $'...'
# of POSIX.1-2024.
quote_for_message() {
    make_printable "$1"
    quote "$1"
    [ "$printable" != "$1" ] || return 0
    octal=''
    for byte in $(printf %s "$1" | od -An -v -to1 2>/dev/null); do
        case $byte in
            0[0-3]? | 041 | 045 | 047 | 134 | 177 | [23]??) octal="$octal\\\\$byte" ;; # also ! % ' and the backslash
            *) octal="$octal\\$byte" ;;
        esac
    done
    [ -n "$octal" ] || return 0 # there is no od
    # shellcheck disable=SC2059 # octal numbers
    octal=$(printf "$octal")
    case $1 in
        *"$newline") quoted="\$'$octal'" ;;
        *) quoted="\"\$(printf '$octal')\"" ;;
    esac
}

# Set `list`: the list $1 with the words $2 and later added, quoted for `eval "set -- $list"`. The list is copied, which
# is slow for long ones: see append_to.
append() {
    list=$1
    shift
    if [ $# -gt 8 ]; then
        for listed_word; do
            append_to list "$listed_word"
        done
        flush_list list
        return
    fi
    for word; do
        quote "$word"
        list="$list $quoted"
    done
}

# Add the word $2 to the list in the variable $1 without copying the list: its end is in $1_end and $1_middle until
# `flush_list` joins them.
append_to() {
    quote "$2"
    eval "$1_end=\"\${$1_end-} \$quoted\"; word=\${#$1_end}"
    [ "$word" -lt 500 ] || eval "$1_middle=\${$1_middle-}\$$1_end $1_end=''; word=\${#$1_middle}"
    [ "$word" -lt 10000 ] || eval "$1=\$$1\$$1_middle $1_middle=''"
}

# Join the list in the variable $1 with the words that append_to has added.
flush_list() {
    eval "$1=\$$1\${$1_middle-}\${$1_end-} $1_middle='' $1_end=''"
}

# Set `text`: all lines of standard input. Where `read` fails by an error, as for a file of /proc whose process ends
# meanwhile, bash leaves the variable as it was: it would be read again and again.
read_text() {
    text=''
    case $last_signal/${BASH_VERSION-}${KSH_VERSION-} in
        [0-9]*/)
            # In BusyBox 1.38.0 `read` never returns once the shell has trapped a signal. `command` lets the shell go on
            # if no program can be started, because process 1 has ended. Signals that all processes get, as by Ctrl-C or
            # from a service manager, must not end cat.
            # shellcheck disable=SC2016 # it is evaluated
            command eval 'text=$(trap "" HUP INT QUIT USR1 USR2 TERM && cat)' 2>/dev/null
            text=${text:+$text$newline}
            return
            ;;
    esac
    while
        line=''
        IFS= read -r line || [ -n "$line" ]
    do
        text=$text$line$newline
    done
}

# Set `text` to the content of the file $1, without the newline at its end. Fails silently if there is no such file.
# Code that runs after begin_supervision reads only by this function and by read_text.
read_file() {
    text=''
    { read_text <"$1"; } 2>/dev/null
    text=${text%"$newline"}
    [ -n "$text" ]
}

# Write the text $1 to the file $2, unless that is a symlink. Fails silently.
write_text() {
    [ ! -L "$2" ] && { printf '%s' "$1" >"$2"; } 2>/dev/null
}
