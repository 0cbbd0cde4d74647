"""Shared code of the tests. What is where:

Layers, images and archives, made in memory
    archives            tar archives, also malformed ones: `tar`, `special`, `hard`, `raw`, `pax`
    builders            layers, images, indexes: `layer`, `image`, `index`, `small`
    local_archives      archives and layouts of images as docker, podman and skopeo write them
    layer_results, apart    what layers give, applied in order, or unpacked apart and merged
    attacks, attack_runner  hostile archives, each with the tree or the error that it must end in
    mutations, fuzz     random changes of archives, to search for layers that break the unpacking

Real images, made by Debian's tools
    realimages          Debian, an application, images for two platforms
    host_packages       layers of programs that are installed on this machine
    package_managers    images and repositories of apk, apt, dnf and pacman

Servers
    scripted_registry   a registry that answers as a test wants; token servers, TLS
    writable_registry   one that takes pushed images
    docker_registry, token_issuer   the real docker-registry, and a token server for it
    registry_setups     real registries with passwords, TLS, client certificates, tokens
    scripted_hub        Docker Hub under its own host names
    lxc_server          an LXC image server
    file_server         files in HTTP
    proxies             HTTP and SOCKS proxies
    authorities         certificates
    credential_helpers  docker-credential-NAME
    tcp                 free ports; what clients on this machine have yet to read
    faults, pulls       pulls that registries break off, that are killed, or that run at once

Provisioned directories and what runs in them
    provisioned         by the command line, of an image with files of all kinds: `provisioned`, `served`
    small_directories   by the Python API, of layers: `make_directory`
    exported_images     a container to export, changes in it, and what is in an exported image
    containers          without provisioning, with busybox, to start it: `make_container`, `Container.run`
    guests, programs    what runs in a container: a shell with children, static programs
    hostile, exploits, path_calls   guests that attack the host
    kills               commands that are killed at any of their steps

Commands, users, machines
    tools               `provision`, `messages_of`, `run`, `need`, `as_user`, `own`
    fork_server, fork_program   how `tools.provision` starts fast
    terminal            commands at a terminal
    waiting             `wait_until` what another process does
    processes           children and command lines of running processes
    doctor              `provision doctor`
    jail, termux        Android's restrictions, and Termux's proot
    disks               file systems on loop devices, that fail or have other owners
    subordinate         subordinate ids
    access_lists, mounts, libseccomp, seccomp_filters   what the kernel is told, and says

What is compared or checked at the end
    trees               the files of a directory: `tree_of`
    blobs, cached_files, spooled    what is in a cache, or on its way into it
    leftovers           processes, mounts and staging directories that tests leave behind
    shell_texts         texts for hypothesis that mean something to a shell
    markers             which tests need root, a server or a real image
"""
