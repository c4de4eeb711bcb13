"""The control plane of a command: found, connected to, and left again."""

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
    """Run the asynchronous part of a command."""
    return asyncio.run(main)


@asynccontextmanager
async def connected(url: str | None) -> AsyncIterator[ControlPlaneClient]:
    """Yield a client of the control plane that `--url`, the environment or the running one's file names.

    Raises:
        InvalidInput: What names it is no address.
    """
    from agentfield.client import ControlPlaneClient

    async with ControlPlaneClient(url) as client:
        yield client
