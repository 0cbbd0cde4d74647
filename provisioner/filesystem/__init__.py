"""The host's file system: operations on files and directories that other rooms build on.

Nouns: directory descriptors (`descriptors`), the files of a walk (`walk`), kinds of files (`kind`), extended attributes
(`xattrs`), locks (`locks`), atomic replacement (`atomic`), removal of trees (`removal`), the XDG directories of a user
(`user_directories`).

Invariants: a directory is opened by a name in its parent's descriptor and never through a symlink; walks and removals
use a constant number of descriptors, however deep the tree is; functions raise OSError, no ProvisionError.

May import nothing else of the package.
"""
