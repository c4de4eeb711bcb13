"""Rules for all tests: they leave the root logger unchanged, and no property test fails on a slow machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("agentfield", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("agentfield")


@pytest.fixture(autouse=True)
def _unchanged_root_logger() -> Iterator[None]:
    """Undo the changes that a program run in this process made to the root logger."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    # pytest exchanges its own handlers between phases: leave those alone
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        if not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
    for handler in handlers:
        if handler not in root.handlers and not type(handler).__module__.startswith("_pytest"):
            root.addHandler(handler)
    root.setLevel(level)
