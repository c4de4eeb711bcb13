"""Connection of a command to the control plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from agentfield.client import ControlPlaneClient

__all__ = ["connected", "run"]

_Result = TypeVar("_Result")


def run(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Run the asynchronous part of a command to completion."""
    return asyncio.run(main)


@asynccontextmanager
async def connected(url: str | None) -> AsyncIterator[ControlPlaneClient]:
    """Yield a client of the control plane.

    Args:
        url: The value of `--url`; None uses AGENTFIELD_URL, else the address file of the control plane that runs on
            this machine.

    Raises:
        InvalidInput: The address is invalid.
    """
    from agentfield.client import ControlPlaneClient

    async with ControlPlaneClient(url) as client:
        yield client
