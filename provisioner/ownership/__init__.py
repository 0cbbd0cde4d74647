"""The owners, modes, devices and attributes of an image's files, whether the file system can store them or not.

Nouns: `Ownership` (policy: whether this process may set owners and make devices), `FileMetadata` and
`MetadataOverrides` (overrides: what the file system could not store), `MtreeEntry` (mtree: the format of
ownership.mtree), the ownership record (record, with fakeroot: the format of fakeroot.state).

Invariants: the file system and the overrides together hold all that the image says about a file; the record and the
tree have the same order, that of `filesystem.walk`. The formats are those of mtree(5) and of fakeroot's README.saving.

May import container_files, errors and filesystem.
"""
