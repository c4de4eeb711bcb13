"""Rules for every contract test: a separate home, no provider key in the log, and only the selected pair."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.contract.installation import SELECTED, name_of
from support.contract.leaks import CANARY


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of other pairs if `CONTRACT_PAIR` names one (`nox -s contract -- PAIR`)."""
    if SELECTED is None:
        return
    here = Path(__file__).parent
    others = [item for item in items if here in item.path.parents and SELECTED not in _pairs(item)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def _pairs(item: pytest.Item) -> set[str]:
    declared = getattr(getattr(item, "function", None), "pairs", ())
    pair = item.callspec.params.get("pair") if hasattr(item, "callspec") else None
    return {name_of(each) for each in declared} | ({name_of(pair)} if pair else set())


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Keep the node's key in the test's folder, and check that no log line holds the provider's key."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    caplog.set_level(logging.DEBUG)
    for packets in ("aiortc", "aioice"):  # each packet is a line
        caplog.set_level(logging.INFO, logger=packets)
    yield
    assert CANARY not in caplog.text
