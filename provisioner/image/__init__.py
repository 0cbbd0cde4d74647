"""What images are, as values: no module here talks to a registry or touches a rootfs.

The nouns are those of the OCI specifications: `Reference`, `Digest`, `Descriptor`, `Index`, `Manifest`, `ImageConfig`,
`Platform`; `Image` and `Layer` put them together for one platform. `Lock` is the lock file, `Tag` and `Offer` are what
lists of tags show.

Text and JSON become values in one place, `parse` and `from_json`. A value that exists is valid: its texts hold no NUL
and are valid Unicode, its sizes are not negative. `parse` and `from_json` raise UsageError or MalformedImage, nothing
else. May import filesystem, settings, terminal and errors.
"""
