"""Agent files as child processes: started with the address of the control plane, stopped with the command."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from agentfield.errors import Unavailable
from agentfield.settings import child_environment

__all__ = ["agent_process", "start_agent", "stop_agent"]

_DRAIN_SECONDS, _STOP_SECONDS = 5.0, 3.0


@asynccontextmanager
async def agent_process(
    file: Path, *, url: str, env: Mapping[str, str] = os.environ, log: IO[bytes] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run an agent file until the end of the block, then stop it. Takes the arguments of `start_agent`.

    Raises:
        Unavailable: The process cannot be started (code `agent_not_started`).
    """
    process = await start_agent(file, url=url, env=env, log=log)
    try:
        yield process
    finally:
        await stop_agent(process)


async def start_agent(
    file: Path, *, url: str, env: Mapping[str, str] = os.environ, log: IO[bytes] | None = None
) -> asyncio.subprocess.Process:
    """Start an agent file.

    Args:
        file: Absolute path of a Python file that ends in `app.run()`.
        url: Address of the control plane to link with.
        env: Environment to choose from (`child_environment`): the keys of providers are not the agent's. AGENTFIELD_URL is added.
        log: File for its output; None inherits ours.

    Raises:
        Unavailable: The process cannot be started (code `agent_not_started`).
    """
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            str(file),
            cwd=file.parent,
            env={**child_environment(env, client=True), "AGENTFIELD_URL": url},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    except OSError as error:
        raise Unavailable(f"{file} could not be started: {error}.", code="agent_not_started") from error


async def stop_agent(process: asyncio.subprocess.Process) -> None:
    """Stop an agent: SIGTERM to drain, a second SIGTERM to stop at once, then SIGKILL.

    The drain time is short, because the control plane is about to stop as well.
    """
    for seconds in (_DRAIN_SECONDS, _STOP_SECONDS):  # the agent drains at the first signal and stops at the second
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
                return
        except TimeoutError:
            continue
    process.kill()
    await process.wait()
