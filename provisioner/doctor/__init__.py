"""Finds out what this machine can do for provision, by trying.

The function of a `Probe` (diagnosis) tries one thing and returns a `Finding` (check): ok, no or unknown, what that
means for provision, and the command that fixes it (fixes). The probes are in filesystem, kernel, runtimes, tools and
network. A `Diagnosis` holds a `Check` for each probe.

Every probe runs in a child process with a time limit (children): on Android, the kernel kills a process for a forbidden
system call. Probes write only to one scratch directory, which is removed at the end. May import container,
container_files, errors, filesystem, image, launch, ownership, registry, sizes and terminal.
"""
