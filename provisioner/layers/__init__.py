"""Layers: decompress, verify and parse their archives, and apply their entries to a tree (OCI image-spec, layer.md).

`unpack()` does an `UnpackJob`, all of it: `open_archive` decompresses and verifies a blob, `tar.Archive` parses it to
`Entry` objects, `StreamedLayer`, or `RootfsReader` for a rootfs archive, yields these and writes the files,
`LayerApplier` puts them into the tree. `Workers` do that for several layers, and `LayerMerger` merges their trees.

Invariants: LayerApplier and LayerMerger alone decide what a path means, and `rootfs.Tree` resolves it. Blobs and
archives are read to their end, where digests are compared. A `Budget` counts bytes before they are written. Memory
doesn't grow with the size of a layer. May import archives, container_files, errors, filesystem, image, ownership,
rootfs, sizes, sources, store, terminal and threads.
"""
