"""Writes docs/recording.md: the output of typical commands on a terminal of 80, 40 and 200 columns, by tmux.

    python -m scripts.recording

The image is that of `make run`, served on loopback. What changes from run to run (the port, times) is as it was.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .demo import base_layer, publish, tar, top_layer
from .loopback_registry import LoopbackRegistry

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/recording.md"
WIDTHS = (80, 40, 200)
PROMPT = "READY> "
JOBS = (
    "provision $HOST/hello",
    "./hello/start.sh",
    "provision $HOST/hello --env A=1",
    "provision list",
    "provision inspect hello",
    "provision start hello sh -c 'echo new >/etc/new; rm /etc/group'",
    "provision diff hello",
    "provision config hello",
    "provision doctor -q --offline",
    "provision cache",
    "provision run -q --rm -e NAME=you $HOST/hello sh -c 'echo hello $NAME'",
    "provision copy hello other && provision list",
    "provision remove --yes hello other",
    "provision lst",
)
"""The commands."""
_SECONDS = 60.0
"""The time limit of a command, in seconds."""


def main() -> int:
    """Write the page, and return the exit status."""
    parts = [HEAD]
    with LoopbackRegistry() as registry:
        publish(registry, "hello", [tar(base_layer()), tar(top_layer())])
        for width in WIDTHS:
            with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
                text = record(registry.host, width, Path(folder))
            shown = re.sub(r"Linux (\d+\.\d+)[^ ,]*", r"Linux \1", text.replace(registry.host, "127.0.0.1:50000"))
            shown = shown.replace(folder, "/home/username"[: len(folder)].ljust(len(folder), "_"))
            parts.append(f"## {width} columns\n\n```text\n{shown}```\n")
    PAGE.write_text("\n".join(parts), encoding="utf-8")
    return 0


HEAD = """\
# What it looks like

Usual jobs at terminals of 80, 40 and 200 columns. Written by `python -m scripts.recording`, which types them into tmux.
"""


def record(host: str, width: int, folder: Path) -> str:
    """Return the contents of a terminal of `width` columns after the commands were typed, one after the other."""
    socket = f"recording-{os.getpid()}-{width}"
    tmux = ["tmux", "-L", socket]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        **{name: os.environ[name] for name in ("USER", "LOGNAME") if name in os.environ},
        "PATH": path,
        "HOME": str(folder),
        "HOST": host,
        "PS1": PROMPT,
        "LANG": "C.UTF-8",
        "TERM": "xterm",
    }
    assignments = [f"{name}={value}" for name, value in environment.items()]
    shell = shlex.join(["env", "-i", *assignments, "sh"])
    size = ["-x", str(width), "-y", "200"]
    subprocess.run([*tmux, "-f", "/dev/null", "new-session", "-d", *size, "-c", str(folder), shell], check=True)
    try:
        parts = []
        for job in JOBS:
            subprocess.run([*tmux, "send-keys", "clear", "Enter"], check=True)
            time.sleep(0.3)
            subprocess.run([*tmux, "send-keys", "-l", job], check=True)
            subprocess.run([*tmux, "send-keys", "Enter"], check=True)
            parts.append(_shown(tmux, width))
        return "\n".join(parts)
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)


def _shown(tmux: list[str], width: int) -> str:
    """Return the contents of the screen when the prompt is back."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.2)
        done = subprocess.run([*tmux, "capture-pane", "-p"], check=True, capture_output=True, text=True)
        lines = [line.rstrip() for line in done.stdout.rstrip().splitlines()]
        if len(lines) > 1 and lines[-1] == PROMPT.strip():
            assert max(map(len, lines)) <= width
            return re.sub("^READY> ", "$ ", "\n".join(lines[:-1]) + "\n")
    raise TimeoutError("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
