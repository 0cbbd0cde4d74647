"""The cache on this machine: blobs by digest, and what tags named and URLs had last.

`CacheDirectory` opens its files, for this user alone and by their names in their folders. `BlobCache` are the blobs,
`Download` one on its way into it, `CachingRegistry` a registry whose documents are stored there, `UrlFiles` files from
URLs. `KnownTags`, `KnownFiles` and `KnownLists` are what tags, URLs and LXC image servers had last. `prune` deletes.

A file `sha256/HEX` is whole and has been verified, and it is verified again when it is used. `partial/HEX` is written
by the one process that has its lock. Content that readers have open is never changed. Configs and layers need a cache
that can be written. May import registry, image, filesystem, sizes, terminal, threads and errors.
"""
