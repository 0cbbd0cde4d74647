"""start.sh, the script that starts a provisioned directory without Python, and the files that it uses.

`launcher` writes the settings of an image (`LaunchSettings`) as quoted assignments, followed by the shell parts of
scripts/start, which `script` joins. `seccomp` compiles the filter that emulates root in user namespaces.

No text of an image is ever shell text: it is data in single quotes, whatever its bytes are. The body is the same for
all images. May import container_files, errors, filesystem, image (for Platform) and resources.
"""
