"""The runtime that the kit gives to an adapter factory, and the capture of log lines."""

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

__all__ = ["SECRET", "CapturedLog", "HarnessAdapterRuntime", "captured_log"]

SECRET = "canary-7Qx2Lw9Zt4Vb8Kd3"  # noqa: S105 - a canary: it must not appear anywhere
"""The key. It has no known key format, so that only exact redaction removes it from a text."""
_VERBOSE = ("aiortc", "aioice", "asyncio")
"""Libraries that log every packet."""


@dataclass(frozen=True, slots=True)
class _Child:
    first_line: str


@dataclass(frozen=True, slots=True)
class HarnessAdapterRuntime:
    """The adapter runtime of the kit (`agentfield.realtime.provider.AdapterRuntime`)."""

    base_url: str
    key: SecretStr | None
    data_dir: Path
    logger: logging.Logger

    def clock(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def child(self, argv: Sequence[str], *, ready_timeout: float = 60.0) -> AbstractAsyncContextManager[ChildProcess]:
        """Run a process that prints one line when it is ready; terminate it at the end of the block."""
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


class CapturedLog(logging.Handler):
    """A handler that keeps log lines as they would be written."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line with its traceback."""
        self.lines.append(self.format(record))


@contextmanager
def captured_log() -> Iterator[CapturedLog]:
    """Capture all log lines of the block at level DEBUG; restore the previous configuration afterwards."""
    log, root = CapturedLog(), logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in _VERBOSE}
    level = root.level
    root.addHandler(log)
    root.setLevel(logging.DEBUG)
    for name in _VERBOSE:
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield log
    finally:
        root.removeHandler(log)
        root.setLevel(level)
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
