"""A provisioned directory: DIR with `start.sh`, `rootfs/` and `.provision/`.

`record` is what was provisioned there (`.provision/record.json`), `staging` how a directory is made or replaced all at
once, `directories` the list of all on this machine, `processes` what runs from them.

A directory is complete or absent: nothing here writes to it once it is in place. It needs nothing outside of itself,
so the list may be wrong or missing. May import errors, filesystem, image and terminal.
"""
