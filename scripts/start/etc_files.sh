# Files of /etc that depend on this machine and its network: resolv.conf, hosts and hostname.
# They are written anew at each start, unless somebody has edited them: .provision/generated/ has what was written last.
# Sets `hostname`, `text`, `etc_binds` (SRC:DST for each file that can't be written).

# Write those files that are still as they were generated. If DIR can't be written to, they are bound for this run only.
refresh_files() {
    find_hostname
    for file in resolv.conf hosts hostname; do
        generated_file=$directory/.provision/generated/$file
        resolve "/etc/$file"
        { [ -f "$generated_file" ] && [ -f "$rootfs$resolved" ]; } || continue
        { read_text <"$generated_file" && last_text=$text && read_opened 8<"$rootfs$resolved"; } 2>/dev/null || continue
        [ "$text" = "$last_text" ] || continue
        case $file in
            resolv.conf) generate_resolv_conf ;;
            hosts) generate_hosts ;;
            hostname) text=$hostname$newline ;;
        esac
        [ "$text" != "$last_text" ] || continue
        replace_file && continue
        make_temporary
        write_text "$text" "$temporary/$file" && append "$etc_binds" "$temporary/$file:/etc/$file" && etc_binds=$list
    done
}

# Replace `generated_file` and the guest's file `resolved` by new ones with the `text`. No file that is there is written
# to: a guest that runs already may put a link in its place at any time.
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

# Set `hostname`: the profile's, else this machine's.
find_hostname() {
    hostname=$default_hostname
    [ -n "$hostname" ] || { read -r hostname </proc/sys/kernel/hostname; } 2>/dev/null || hostname=$(uname -n)
    hostname=${hostname:-localhost}
}

# Set `text`: a hosts(5) for `hostname`.
generate_hosts() {
    text="127.0.0.1 localhost${newline}::1 localhost ip6-localhost ip6-loopback$newline"
    [ "$hostname" = localhost ] || text="${text}127.0.1.1 $hostname$newline"
}

# Set `text`: a resolv.conf(5) with the profile's name servers, else those of this machine, else public ones.
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

# Set `text`: the lines of a resolv.conf(5) on standard input that count. Fails if none of them names a server.
read_servers() {
    text='' servers=''
    while read -r line || [ -n "$line" ]; do
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
