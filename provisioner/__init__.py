"""Turns container images into directories that start with a POSIX shell and proot, chroot or user namespaces."""

__version__ = "0.1.0"
