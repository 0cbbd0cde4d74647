"""Repairs and updates of provisioned directories, which keep what the user has made of them.

`damage` finds the files of the image that are damaged or gone, `repair` puts them back. `plan` compares a directory
with both images, `merging` brings the user's files into the new tree, `update` does both and swaps the directories.

The ownership record says what the image was, the disk what the user has. Files that are put in place are complete
before they get their name. May import all rooms above commands.
"""
