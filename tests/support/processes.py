"""Running processes, by /proc. One that ends while it is being looked at counts as ended."""

from __future__ import annotations

from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Return the children of a process, by any of its threads."""
    children: list[int] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            try:
                children += map(int, (thread / "children").read_text().split())
            except OSError:  # the thread has ended
                continue
    except OSError:
        pass
    return children


def descendants_of(pid: int) -> list[int]:
    """Return the children of a process and theirs, each behind its own ones."""
    return [other for child in children_of(pid) for other in [*descendants_of(child), child]]


def words_of(pid: int) -> list[str]:
    """Return the command line of a process; none where it has ended, also if its parent has not waited for it."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def is_in_foreground(pid: int) -> bool:
    """Return whether a process is in the foreground of its terminal, and is not stopped."""
    try:
        state, _, group, _, _, foreground = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:6]
    except OSError:
        return False
    return group == foreground and state not in "Tt"
