"""A provisioned directory: DIR with `start.sh`, `rootfs/` and `.provision/`.

`access` opens one that nobody else could have changed, `opened` one that a user has named, or says what is there
instead. `record` is what was provisioned there (`.provision/record.json`), `staging` how a directory is made or replaced all at once, `directories` the list of all
on this machine, `processes` and `running` what runs from them, `mounted` what is mounted in one; `removing`,
`copying` and `moving` are jobs.

A directory is complete or absent: nothing writes to it in place but a move, to links. It needs nothing outside of
itself, so the list may be wrong or missing. May import container_files, errors, filesystem, image, ownership, sizes and
terminal.
"""
