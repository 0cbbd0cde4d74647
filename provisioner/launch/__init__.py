"""start.sh, the script that starts a provisioned directory without Python, and the files that it uses.

`launcher` writes the settings of an image (`LaunchSettings`) as quoted assignments, followed by the shell parts of
scripts/start, which `script` joins. `static_helper`, `terminal_relay` and `proot_probe` assemble executables; `seccomp`
and `proot_filter` compile seccomp filters. `renewal` updates directories that older versions made.

No text of an image becomes shell code: it is data in single quotes, whatever bytes it has. The body is the same for all
images. May import container_files, errors, filesystem, image (for Platform) and resources.
"""
