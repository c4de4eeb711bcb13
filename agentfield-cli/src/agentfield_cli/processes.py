"""Agent files as child processes: started with the control plane's address, stopped with the command that started them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from agentfield.errors import Unavailable

__all__ = ["agent_process", "start_agent", "stop_agent"]

_DRAIN, _STOP = 5.0, 3.0


@asynccontextmanager
async def agent_process(
    file: Path, *, url: str, env: Mapping[str, str] = os.environ, log: IO[bytes] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run an agent file until the block is left, then ask it to stop; the arguments are those of `start_agent`.

    Raises:
        Unavailable: The process cannot be started.
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
        file: A Python file that ends in `app.run()`, as an absolute path.
        url: Of the control plane that it is to link with.
        env: Its environment, but for the address.
        log: Where its output goes, ours when None.

    Raises:
        Unavailable: The process cannot be started (code `agent_not_started`).
    """
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            str(file),
            cwd=file.parent,
            env={**env, "AGENTFIELD_URL": url},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    except OSError as error:
        raise Unavailable(f"{file} could not be started: {error}.", code="agent_not_started") from error


async def stop_agent(process: asyncio.subprocess.Process) -> None:
    """End an agent: what it runs has a few seconds, since the control plane is about to end as well."""
    for seconds in (_DRAIN, _STOP):  # the second signal ends it at once
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
