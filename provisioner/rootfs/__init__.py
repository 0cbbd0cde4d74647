"""The rootfs of a container while it is made.

Nouns: `Tree` and `Place` (tree), `OpenDirectories` (open_directories: the way to them, through symlinks), `Links` and
`Substitutes` (links: hard links and what stands in for them), the fixups (fixups: resolv.conf, hosts, hostname,
Android's groups, a profile's files), `ProotLinks` (proot's in place of hard ones), contents (the login shell and the
processor that a rootfs is for), `Packages` (what the package manager's database says).

Invariants: nothing is written outside of the tree's root, whatever symlinks an image has; every write replaces what is
there and follows no symlink in the last name; an OSError becomes MalformedImage or MachineError only in `tree_errors`.
May import errors, filesystem, ownership, profile and terminal.
"""
