"""Markers of tests, assigned from what their code uses: what `make check-fast` leaves out.

A test that calls `need_root`, starts a server or takes a real image gets the marker for that, also where a fixture or a
helper of the tests does it. Only what takes long has to be marked by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType, ModuleType

import pytest

FIXTURES = {
    "registry": "needs_server",
    "docker_registry": "needs_server",
    "image_cache": "real_image",
}
"""Fixtures of conftest.py, by name, and the marker of tests that use them, directly or not."""

NAMES = {
    "need_root": "needs_root",
    "chroot": "chroot",  # needs root, unless the test is parametrized by another runtime
    "LoopbackRegistry": "needs_server",
    "Proxy": "needs_server",
    "ScriptedHub": "needs_server",
    "ScriptedRegistry": "needs_server",
    "ThreadingHTTPServer": "needs_server",
    "create_server": "needs_server",
    "listen": "needs_server",
    "run_docker_registry": "needs_server",
}
"""Functions, classes and words, and the marker of tests whose code names them."""


def markers_of(test: pytest.Function) -> set[str]:
    """Return the markers of a test for its fixtures and its code."""
    markers = {FIXTURES[name] for name in test.fixturenames if name in FIXTURES}
    # Fixtures of its own module are functions there.
    for value in (test.function, *(getattr(test.module, name, None) for name in test.fixturenames)):
        markers |= markers_of_code(inspect.unwrap(value)) if callable(value) else set()
    # A test that is parametrized by the runtime needs root only for that one.
    runtime = test.callspec.params.get("runtime") if hasattr(test, "callspec") else None
    starts_chroot = runtime == "chroot" or (runtime is None and "chroot" in markers)
    return markers - {"chroot"} | ({"needs_root"} if starts_chroot else set())


@cache
def markers_of_code(function: object) -> frozenset[str]:
    """Return the markers for the code of a function, and of the functions and classes of the tests that it names."""
    seen: set[object] = set()
    markers: set[str] = set()
    pending = [function]
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        for name, global_value in _names_in(value):
            if name in NAMES:
                markers.add(NAMES[name])
            elif _is_of_tests(global_value):
                pending.append(inspect.unwrap(global_value))  # type: ignore[arg-type]
    return frozenset(markers)


def _is_of_tests(value: object) -> bool:
    return callable(value) and str(getattr(value, "__module__", "")).startswith("tests.")


def _names_in(value: object) -> Iterator[tuple[str, object]]:
    """Yield the names in a function or a class's methods, and their values in its module or in modules that it uses."""
    functions = [value] if inspect.isfunction(value) else vars(value).values() if inspect.isclass(value) else ()
    for function in functions:
        if isinstance(plain := inspect.unwrap(function) if callable(function) else None, FunctionType):
            names = set(_code_names(plain.__code__))
            used = [plain.__globals__.get(name) for name in names]
            scopes = [plain.__globals__, *(vars(module) for module in used if _is_module_of_tests(module))]
            for name in names:
                yield name, next((scope[name] for scope in scopes if name in scope), None)


def _is_module_of_tests(value: object) -> bool:
    return isinstance(value, ModuleType) and value.__name__.startswith("tests.")


def _code_names(code: CodeType) -> Iterator[str]:
    """Yield the names and the texts in a code object and those nested in it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_names(constant)
        elif isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple):
            yield from (item for item in constant if isinstance(item, str))
