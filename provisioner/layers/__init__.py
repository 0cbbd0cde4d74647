"""Layers: decompress, verify and parse their archives, and apply their entries to a tree (OCI image-spec, layer.md).

`unpack()` does all of it for an image: `open_archive` decompresses and verifies a blob, `tar.Archive` parses it to
`Entry` objects, a `LayerReader` yields these and delivers the files, and `LayerApplier` puts them into the tree.
`Workers` extract later layers in processes of their own meanwhile; `Prefetcher` runs a stage in a thread of its own.

Holds: only LayerApplier decides what a path means, and only `rootfs.Tree` resolves it. Every blob and every archive is
read to its end, where its digest is compared. A `Budget` counts bytes before they are written. Memory doesn't grow with
the size of a layer. May import errors, filesystem, image, ownership, rootfs, sizes, sources, store, terminal.
"""
