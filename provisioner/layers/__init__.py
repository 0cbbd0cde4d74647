"""Layers: decompress, verify and parse their archives, and apply their entries to a tree (OCI image-spec, layer.md).

`unpack()` does all of it for an image: `open_archive` decompresses and verifies a blob, `tar.Archive` parses it to
`Entry` objects, `StreamedLayer` yields these and writes the files, and `LayerApplier` puts them into the tree.
`Workers` unpack layers at the same time, each to a `LayerTree`, and `LayerMerger` merges these; `Prefetcher` runs a
stage in a thread of its own.

Invariants: only LayerApplier and LayerMerger decide what a path means, and only `rootfs.Tree` resolves it. Every blob
and archive is read to its end, where its digest is compared. A `Budget` counts bytes before they are written. Memory
doesn't grow with the size of a layer. May import errors, filesystem, image, ownership, rootfs, sizes, sources, store,
terminal, threads.
"""
