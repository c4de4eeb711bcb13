"""Rules for all tests: each has a home folder of its own, leaves the root logger unchanged, and may be slow."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("agentfield", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("agentfield")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give property tests of borders time for all their examples, also on a busy machine."""
    for item in items:
        if item.get_closest_marker("fuzz") is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a home folder: keys and known control planes of one test or of the developer reach no other."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path_factory.getbasetemp() / "homes" / secrets.token_hex(8)))


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
