"""What every test relies on: the log of the process is as it was before."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests together where several processes share them, and all that need the speech engines in one.

    Speech that is made, heard and judged in real time needs its time; two of these calls at once take it from each other.
    """
    speech = {item.path for item in items if item.get_closest_marker("speech")}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("speech" if item.path in speech else str(item.path)))


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Take back what a program run inside this process did to the root logger."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    # pytest's own handlers come and go with its phases; only what was added and stayed is taken away
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        if not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
    for handler in handlers:
        if handler not in root.handlers and not type(handler).__module__.startswith("_pytest"):
            root.addHandler(handler)
    root.setLevel(level)
