"""What holds for every contract test: a home of its own for the node's key, and no provider key in any log line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.contract_kit import CANARY


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Keep the node's key with the test, and whatever is logged, the provider's key is not in it."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    caplog.set_level(logging.DEBUG)
    for packets in ("aiortc", "aioice"):  # each of them is a line
        caplog.set_level(logging.INFO, logger=packets)
    yield
    assert CANARY not in caplog.text
