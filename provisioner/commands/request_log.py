"""Shows the requests that `provisioner.registry` logs, for `--verbose`.

It is imported only then: where `logging` is there, Python loses a signal that arrives while it forks.
"""

from __future__ import annotations

import logging

from provisioner.terminal.progress import REQUEST_LOGGER, Console


class _DetailHandler(logging.Handler):
    """Shows log records as details."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.detail(record.getMessage())


def show_requests(console: Console | None) -> None:
    """Show each request on `console` from now on; with None, show none."""
    requests = logging.getLogger(REQUEST_LOGGER)
    requests.setLevel(logging.DEBUG if console else logging.WARNING)
    requests.propagate = False
    requests.handlers = [_DetailHandler(console)] if console else []
