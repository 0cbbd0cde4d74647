"""Archives as streams of bytes: decompressing them, and reading and writing tar.

`compression` recognises and decompresses gzip, zstd, bzip2, xz and lz4. `tar` parses entries, with the `fields` of
their headers, `pax` records and `sparse` maps; `stream` and `seekable` are what it reads from: chunks that arrive, or a
file in which content is skipped. `pseudo_files` turns the output of unsquashfs into a tar, and `external_program` runs
such programs. `writer` and `compressing` write archives, the same bytes each time. Nothing here knows images.
Input is hostile: sizes are limited before anything is allocated, and errors are MalformedImage.
May import filesystem, terminal, threads and errors.
"""
