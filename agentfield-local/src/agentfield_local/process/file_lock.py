"""File lock across processes; the system releases it when its holder ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["exclusive_lock"]

_RETRY_SECONDS = 0.05


@asynccontextmanager
async def exclusive_lock(path: Path) -> AsyncIterator[None]:
    """Hold an exclusive lock on a file; wait while another process holds it.

    Uses `flock` on POSIX systems; elsewhere nothing is locked.

    Args:
        path: The file; it is created if necessary, and stays.

    Raises:
        OSError: The file cannot be created.
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
