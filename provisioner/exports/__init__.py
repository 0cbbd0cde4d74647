"""Archives of whole containers: backups, what restores these, and exports of the root file system.

`tree_files` turns a rootfs into entries with the owners that the image has; `owners` finds those of files that the
image doesn't know; `output_file` is a file that appears when it is complete. `backup`, `tar_export` and `restore`, by
`backup_reader`, are jobs. For images, `layer` writes what the user has changed, `base_layers` has what is below it,
with the digests that `unstated_layers` finds, `image_archive` writes an archive of both, and `image_file` reads one.

A backup that is read is hostile input, as a layer is: it is unpacked by the same Tree, and nothing in it that would run
on this machine is used. May import archives, comparison, container, container_files, errors, filesystem, image, launch,
layers, ownership, rootfs, sizes, sources, store and terminal.
"""
