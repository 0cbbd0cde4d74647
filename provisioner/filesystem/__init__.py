"""The host's file system: operations on files and directories that other rooms build on.

Nouns: directory descriptors (`descriptors`), trusted users (`trust`, `users`), resolved paths (`resolution`), walks,
kinds of files (`kind`), extended attributes (`xattrs`), locks, mounts, atomic replacement (`atomic`), removal and
copies of trees (`removal`, `copying`, `content`), writing to the disk (`sync`), free space (`space`), the XDG
directories of a user (`user_directories`).

Invariants: a directory is opened by a name in its parent's descriptor and never through a symlink; walks and removals
use a constant number of descriptors, however deep the tree is; functions raise OSError, no ProvisionError, and
Untrusted, an OSError, for what a user who isn't trusted could change. May import sizes and threads.
"""
