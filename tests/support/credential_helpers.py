"""Credential helpers, the programs `docker-credential-NAME` that keep logins (docker-credential-helpers)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

MakeHelper = Callable[[str], Path]
"""The fixture `make_helper`: puts a shell script on PATH as docker-credential-test, and returns its path."""

KEEPER = """\
mkdir -p "$KEPT"
case $1 in
    store) cat >"$KEPT/given" ;;
    get)
        read -r server
        [ -e "$KEPT/given" ] || { echo "credentials not found in native keychain"; exit 1; }
        sed "s|{}|$server|" "$KEPT/given" ;;
    erase) rm "$KEPT/given" ;;
esac
"""
"""A helper that keeps one login in a file, in the form in which it is given."""
