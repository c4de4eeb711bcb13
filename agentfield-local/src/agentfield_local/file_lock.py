"""One at a time, across processes: a lock on a file, which the system releases when its holder ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["alone"]

_RETRY_SECONDS = 0.05


@asynccontextmanager
async def alone(path: Path) -> AsyncIterator[None]:
    """Hold the lock of a file, which is made and stays; wait for whoever has it (POSIX `flock`, elsewhere no lock).

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be made.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_RETRY_SECONDS)
        yield
    finally:
        os.close(descriptor)
