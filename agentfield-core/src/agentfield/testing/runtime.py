"""What a factory of an adapter is given by the kit, in the control plane's place."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from agentfield.errors import ProviderUnavailable
from agentfield.realtime.provider import ChildProcess

__all__ = ["SECRET", "KitRuntime", "Log", "collected_log"]

SECRET = "canary-7Qx2Lw9Zt4Vb8Kd3"  # noqa: S105 - it opens nothing, and must turn up nowhere
"""The key. It does not look like one, so that only who knows it can take it out of a text."""
_LOUD = ("aiortc", "aioice", "asyncio")
"""Libraries with a line for every packet."""


@dataclass(frozen=True, slots=True)
class _Child:
    first_line: str


@dataclass(frozen=True, slots=True)
class KitRuntime:
    """What the kit gives to a factory (`agentfield.realtime.provider.AdapterRuntime`)."""

    base_url: str
    key: SecretStr | None
    data_dir: Path
    logger: logging.Logger

    def clock(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def child(self, argv: Sequence[str], *, ready_timeout: float = 60.0) -> AbstractAsyncContextManager[ChildProcess]:
        """Start a process that prints one line when it is ready; the kit ends it at the end of the block."""
        return _run_child(argv, ready_timeout)


@asynccontextmanager
async def _run_child(argv: Sequence[str], ready_timeout: float) -> AsyncIterator[ChildProcess]:
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        if process.stdout is None:
            raise ProviderUnavailable("A child process has no output.")
        async with asyncio.timeout(ready_timeout):
            line = await process.stdout.readline()
        if not line:
            raise ProviderUnavailable(f"{argv[0]} ended before it was ready.")
        yield _Child(line.decode(errors="replace").strip())
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


class Log(logging.Handler):
    """Keeps what is logged, as it would be written."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, its traceback included."""
        self.lines.append(self.format(record))


@contextmanager
def collected_log() -> Iterator[Log]:
    """Collect everything that is logged in the block, debugging included; what was set before is set again after it."""
    log, root = Log(), logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in _LOUD}
    level = root.level
    root.addHandler(log)
    root.setLevel(logging.DEBUG)
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield log
    finally:
        root.removeHandler(log)
        root.setLevel(level)
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
