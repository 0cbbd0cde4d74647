"""What the files of a provisioned directory are now, compared with what the image says of them.

`join` goes through records and a tree at the same time, `state` compares a file with its entry in the record, `changes`
lists what was added, changed and deleted, `attributes` what has other attributes, `merge` and `accounts` decide what an
update makes of a path or a line.

The base of every comparison is the ownership record; nothing else is remembered. No module here writes to a directory.
May import container, container_files, errors, filesystem, ownership, rootfs and terminal.
"""
