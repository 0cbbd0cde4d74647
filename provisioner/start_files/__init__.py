"""start.sh and what else is generated for a directory: made of its record, and made anew where it is damaged.

Nothing here asks a source for an image. May import container, container_files, errors, filesystem, image, inspection,
launch, ownership, profile, rootfs and terminal.
"""
