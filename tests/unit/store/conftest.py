"""The suite of the store runs once for every implementation; this is the one place that knows which there are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentfield_server.store.protocol import Store
from store_kit import FACTORIES, Opened


@pytest.fixture(params=sorted(FACTORIES))
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Opens stores of an implementation."""
    return Opened(FACTORIES[request.param], tmp_path)


@pytest.fixture
async def store(opens: Opened) -> AsyncIterator[Store]:
    async with opens() as opened:
        yield opened
