# Text: messages, quoting for the shell, lists of words, and small files.
# Sets `printable`, `quoted`, `list`, `text`.

# Print one line to standard error. Control characters that come from an image don't reach the terminal.
say() {
    make_printable "$1"
    printf 'start.sh: %s\n' "$printable" >&2
}

# Set `printable`: the text $1 with a question mark for each control character, and for each character that turns the
# direction of text, separates lines or can't be seen.
make_printable() {
    printable=$1
    case $printable in
        *[!\ -~]*)
            # In UTF-8 those of C1 are two bytes. Without UTF-8 they are one. The others begin at U+061C, U+200B, U+2028,
            # U+2060, U+FEFF and U+E0000.
            expression=$(
                printf 's/\302[\200-\237]/?/g;s/\330\234/?/g;s/\342\200[\213-\217\250-\256]/?/g'
                printf ';s/\342\201[\240-\257]/?/g;s/\357\273\277/?/g;s/\363\240[\200-\201][\200-\277]/?/g'
                printf ';s/^[\200-\237]/?/;:a\ns/\([\001-\177]\)[\200-\237]/\\1?/;ta'
            )
            printable=$(printf '%s' "$1" | LC_ALL=C sed "$expression" 2>/dev/null) || printable='?'
            ;;
    esac
    while :; do
        case $printable in
            *[[:cntrl:]]*) printable="${printable%%[[:cntrl:]]*}?${printable#*[[:cntrl:]]}" ;;
            *) break ;;
        esac
    done
}

# Set `quoted`: the word $1, quoted for the shell.
quote() {
    case $1 in
        '' | *[!A-Za-z0-9_/.:,@%+=-]*) ;;
        *) quoted=$1 && return ;;
    esac
    quoted='' unquoted=$1
    while :; do
        case $unquoted in
            *\'*) quoted="$quoted${unquoted%%\'*}'\\''" unquoted=${unquoted#*\'} ;;
            *) break ;;
        esac
    done
    quoted="'$quoted$unquoted'"
}

# Set `list`: the list $1 and the words that follow, quoted for `eval "set -- $list"`.
append() {
    list=$1
    shift
    for word; do
        quote "$word"
        list="$list $quoted"
    done
}

# Set `text`: all lines of standard input.
read_text() {
    text=''
    while IFS= read -r line || [ -n "$line" ]; do
        text=$text$line$newline
    done
}

# Set `text`: all lines of descriptor 8. Fails if it is no regular file: a device may have no end.
read_opened() {
    [ -f /proc/self/fd/8 ] && read_text <&8
}

# Write the text $1 to the file $2, which is no link. Fails silently.
write_text() {
    [ ! -L "$2" ] && { printf '%s' "$1" >"$2"; } 2>/dev/null
}
