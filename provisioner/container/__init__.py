"""A provisioned directory: DIR with `start.sh`, `rootfs/` and `.provision/`.

`access` opens one that nobody else could have changed, `opened` one that a user has named. `record` is what was
provisioned there (`.provision/record.json`). `staging` makes or replaces a directory all at once, `recovery` completes
what a killed run was replacing. `directories` is the list of all on this machine, `processes` and `running` are about
what runs from them, `mounted` about what is mounted in one; `removing`, `copying` and `moving` are jobs.

A directory is complete or absent: nothing writes to it in place, except that a move rewrites proot's links. It needs
nothing outside of itself, so the list may be wrong or missing. May import container_files, errors, filesystem, image,
ownership, sizes and terminal.
"""
