# Files of /etc that depend on this machine and its network: resolv.conf, hosts and hostname.
# They are generated at each start, unless somebody has edited them. .provision/generated/ has the last generated text.
# Sets `hostname`, `label`, `text`, `etc_binds` (a list: name and text of each file that can't be written).

# Regenerate the files that nobody has edited. If DIR can't be written to, bind_etc_files binds them for this start
# only.
refresh_files() {
    for file in resolv.conf hosts hostname; do
        generated_file=$directory/.provision/generated/$file
        { [ -f "$generated_file" ] && read_text <"$generated_file"; } 2>/dev/null || continue
        last_text=$text
        case $file in
            resolv.conf) generate_resolv_conf ;;
            hosts) generate_hosts ;;
            hostname) text=$hostname$newline ;;
        esac
        [ "$text" != "$last_text" ] || continue
        resolve "/etc/$file"
        { [ -f "$rootfs$resolved" ] && { is_unedited 8<"$rootfs$resolved"; } 2>/dev/null; } || continue
        replace_file && continue
        append "$etc_binds" "$file" "$text" && etc_binds=$list
    done
}

# Succeed if descriptor 8 is a file whose content is `last_text`. At most one byte more is read, since a guest's file
# may be long.
is_unedited() {
    [ -f /proc/self/fd/8 ] || return
    found_text=$(head -c $((${#last_text} + 1)) <&8 && printf x)
    [ "${found_text%x}" = "$last_text" ]
}

# Bind the files that refresh_files could not write. They are written here and not earlier, because the stage exists now
# and vanishes with the namespace: files elsewhere could not be removed by process 1.
bind_etc_files() {
    etc_name=''
    eval "set -- $etc_binds"
    for etc_text; do
        [ -n "$etc_name" ] || { etc_name=$etc_text && continue; }
        make_temporary
        source=$temporary/$etc_name destination=/etc/$etc_name etc_name=''
        write_text "$etc_text" "$source" && bind_one
    done
}

# Replace `generated_file` and the guest's file `resolved` by new files with the content `text`. The existing file is
# never opened for writing: a running guest may replace it by a symlink at any time.
replace_file() {
    new=$(mktemp -d "$directory/.provision/generated/new.XXXXXX" 2>/dev/null) || return
    file_name=${resolved##*/}
    mkdir "$new/guest" && write_text "$text" "$new/copy" && write_text "$text" "$new/guest/$file_name" &&
        enter "${resolved%/*}/" "can't write to $resolved" && mv -f "$new/guest/$file_name" . 2>/dev/null &&
        mv -f "$new/copy" "$generated_file"
    replaced=$?
    leave
    rm -rf "$new"
    return "$replaced"
}

# Set `hostname`: that of --hostname, else the profile's, else DIR's name.
find_hostname() {
    hostname=${typed_hostname:-$default_hostname}
    [ -z "$hostname" ] || return 0
    case $directory/ in
        */./ | */../ | *//) find_physical "$directory" ;;
        *) if [ -L "$directory" ]; then find_physical "$directory"; else physical=$directory; fi ;;
    esac
    make_label "${physical##*/}"
    hostname=${label:-container}
}

# Set `label`: the text $1 as a label of RFC 1123, at most 63 letters, digits and hyphens, with hyphens only between
# others. It is empty if $1 has no letters and digits.
make_label() {
    label='' remaining=$1
    while [ -n "$remaining" ]; do
        before=${remaining%%[!A-Za-z0-9]*} remaining=${remaining#"${remaining%%[!A-Za-z0-9]*}"}
        label=$label${label:+${before:+-}}$before
        remaining=${remaining#"${remaining%%[A-Za-z0-9]*}"}
    done
    while [ ${#label} -gt 63 ]; do
        label=${label%?} label=${label%-}
    done
    case $label in *[ABCDEFGHIJKLMNOPQRSTUVWXYZ]*) make_lower "$label" && label=$lower ;; esac
}

# Set the name of the private UTS namespace to `hostname`, if the kernel has UTS namespaces.
set_hostname() {
    [ -e /proc/self/ns/uts ] || return 0
    write_text "$hostname" /proc/sys/kernel/hostname && return
    # Only the machine's root may write to that file.
    for place in hostname busybox toybox; do
        find_program "$place" || continue
        set -- "$program" "$hostname"
        [ "$place" = hostname ] || set -- "$program" hostname "$hostname"
        "$@" 2>/dev/null && return
    done
    return 0
}

# Set `text`: a hosts(5) with `hostname` and the machine's own name, which uname(2) returns in proot.
generate_hosts() {
    text="127.0.0.1 localhost${newline}::1 localhost ip6-localhost ip6-loopback$newline"
    { read -r machine_name </proc/sys/kernel/hostname; } 2>/dev/null || machine_name=$(uname -n)
    names=''
    for name_of_host in "$hostname" "$machine_name"; do
        case " localhost $names " in *" $name_of_host "*) ;; *) names="$names${names:+ }$name_of_host" ;; esac
    done
    [ -z "$names" ] || text="${text}127.0.1.1 $names$newline"
}

# Set `text`: a resolv.conf(5) with the profile's name servers, else this machine's, else public ones.
generate_resolv_conf() {
    eval "set -- $default_dns"
    if [ $# -eq 0 ]; then
        for host_file in "${PROVISION_TEST_RESOLV_CONF:-/etc/resolv.conf}" ${PREFIX:+"$PREFIX/etc/resolv.conf"}; do
            { [ -r "$host_file" ] && read_servers <"$host_file"; } && return
        done
        set -- 1.1.1.1 8.8.8.8 2606:4700:4700::1111
    fi
    text=''
    for server; do
        text="${text}nameserver $server$newline"
    done
}

# Set `text`: the known lines of the resolv.conf(5) on standard input. Fails if none of them names a server.
read_servers() {
    text='' servers=''
    while
        line=''
        read -r line || [ -n "$line" ]
    do
        # shellcheck disable=SC2086 # split into words
        set -- $line
        case ${1-} in
            nameserver) servers=$servers${2-} ;;
            search | domain | options) ;;
            *) continue ;;
        esac
        [ $# -eq 1 ] || text="$text$*$newline"
    done
    [ -n "$servers" ]
}
