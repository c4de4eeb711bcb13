"""Programs as processes of their own: started with a clean environment, ended with the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from support.paths import ROOT
from support.waiting import SECONDS

__all__ = ["AF", "Program", "clean_environment", "entered", "free_port", "program", "running_program", "wait_for"]

AF = str(Path(sys.executable).with_name("af"))
"""The command `af` of this environment."""

_SETTINGS = ("AGENTFIELD_", "OPENAI_", "OPENROUTER_", "DICTATION_")
_GRACE = 30.0
"""Seconds that a program has after SIGTERM before it is killed."""

T = TypeVar("T")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of this process without settings of AgentField or providers, and with `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return {**kept, "PYTHONUNBUFFERED": "1", **(extra or {})}


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ── for synchronous fixtures ──────────────────────────────────────────────────


@contextmanager
def program(
    arguments: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends; its output is appended to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments,
            env=clean_environment(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(look: Callable[[], T | None], running: Mapping[Path, subprocess.Popen[bytes]], what: str) -> T:
    """Poll until `look` finds something; fail with the programs' output when one of them ends instead.

    Args:
        look: Returns what is waited for; OSError and ValueError mean "not yet".
        running: The programs by their logs.
        what: What is waited for, for the message of a failure.
    """
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and all(process.poll() is None for process in running.values()):
        with contextlib.suppress(OSError, ValueError):
            found = look()
            if found:
                return found
        time.sleep(0.02)  # between two looks at other processes, which have no event for this one
    output = "\n".join(
        f"{log.name}, exit {process.poll()}: {log.read_text()[-4000:]}" for log, process in running.items()
    )
    raise AssertionError(f"{what}: not within {SECONDS:g} s\n{output}")


async def entered(stack: AsyncExitStack, programs: AbstractContextManager[T]) -> T:
    """Enter a synchronous context manager in a thread, so that servers of this event loop go on serving."""
    value = await asyncio.to_thread(programs.__enter__)
    stack.push_async_callback(asyncio.to_thread, programs.__exit__, None, None, None)
    return value


# ── for asynchronous tests ────────────────────────────────────────────────────


class Program:
    """A program that a test starts, kills and starts again.

    Args:
        arguments: Its command line.
        env: Its environment beside `clean_environment`.
        log: The file that its output is appended to.
        cwd: Its working directory.
    """

    def __init__(self, arguments: Sequence[str], *, env: Mapping[str, str], log: Path, cwd: Path | None = None) -> None:
        self._arguments = arguments
        self._env = clean_environment(env)
        self._cwd = cwd
        self.log = log
        self.process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        assert self.process is not None
        return self.process.pid

    @property
    def output(self) -> str:
        """Everything it printed, in earlier runs too."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def check(self) -> None:
        """Fail when it has ended by itself."""
        assert self.process is not None
        assert self.process.returncode is None, self.output

    async def start(self) -> None:
        """Start it."""
        assert self.process is None
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *self._arguments,
                env=self._env,
                cwd=self._cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    async def end(self, number: signal.Signals, seconds: float = SECONDS) -> int:
        """Send a signal and return the exit code."""
        process, self.process = self.process, None
        assert process is not None
        try:
            if process.returncode is None:
                process.send_signal(number)
            async with asyncio.timeout(seconds):
                return await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"it did not end within {seconds:g} s of {number.name}: {self.output}") from None

    async def kill(self) -> None:
        """End it with SIGKILL."""
        await self.end(signal.SIGKILL)

    async def stop(self) -> int:
        """End it with SIGTERM and return the exit code."""
        return await self.end(signal.SIGTERM)

    async def run(self, seconds: float = SECONDS) -> int:
        """Start it, wait for its end and return the exit code."""
        await self.start()
        process, self.process = self.process, None
        assert process is not None
        try:
            async with asyncio.timeout(seconds):
                return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def close(self) -> None:
        """Kill it if it runs."""
        if self.process is not None:
            await self.kill()


@asynccontextmanager
async def running_program(arguments: Sequence[str], *, env: Mapping[str, str], log: Path) -> AsyncIterator[Program]:
    """Run a program in the checkout until the block ends: asked with SIGTERM, then killed."""
    made = Program(arguments, env=env, log=log, cwd=ROOT)
    await made.start()
    try:
        yield made
    finally:
        if made.process is not None:
            with contextlib.suppress(AssertionError):  # it was killed
                await made.end(signal.SIGTERM, _GRACE)
