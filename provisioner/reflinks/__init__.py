"""The second container of an image: its files are reflinked from a directory that has been made of the same image.

`siblings` finds such a directory, `file_store` collects the content of its files, each verified by the digest in the
ownership record, and takes what was changed there from the image's layers; `recorded_layer` reads the record as if it
were a layer, and `unpacking` makes the tree of both, or unpacks the layers where that is not possible.

A sibling is not trusted more than a layer: its record has to be the one that was written when the image was unpacked on
this machine, each file is verified after it was cloned, and no symlink is followed. Nothing in it is written to.
May import archives, comparison, container, container_files, errors, filesystem, image, layers, ownership, rootfs,
sources, store and terminal.
"""
