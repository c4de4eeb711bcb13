"""Fixtures of the store's tests, which run once for every implementation of the protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentfield_server.store.protocol import Store
from support.server.store import FACTORIES, Opened


@pytest.fixture(params=sorted(FACTORIES))
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Open stores of one implementation, in the test's folder and with the test's clock."""
    return Opened(FACTORIES[request.param], tmp_path)


@pytest.fixture
async def store(opens: Opened) -> AsyncIterator[Store]:
    async with opens() as opened:
        yield opened
