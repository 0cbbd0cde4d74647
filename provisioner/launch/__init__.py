"""Launching: how start.sh is made, the script that starts a provisioned directory without Python.

`launcher` writes the settings of an image (`LaunchSettings`) as quoted assignments, followed by the shell parts of
scripts/start, which `script` joins. `seccomp` compiles the filter that emulates root in user namespaces.

No text of an image is ever shell text: it is data in single quotes, whatever its bytes are. The body is the same for
all images. This room may import image (for Platform), errors and resources.
"""
