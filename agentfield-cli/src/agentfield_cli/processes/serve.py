"""Common parts of `af server`, `af dev` and `af demo`: signals, and a folder served with its agent."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentfield.errors import InvalidInput, Unavailable
from agentfield.realtime.gc_tuning import freeze_long_lived_objects
from agentfield_cli.processes.reload import Reloader
from agentfield_cli.terminal.output import Output
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings

__all__ = ["find_agent_file", "serve_folder", "stop_on_signals", "wait_for_session"]


def find_agent_file(folder: Path) -> Path:
    """Return the agent file of a folder.

    Raises:
        InvalidInput: The folder has none (code `no_agent_file`).
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder.", code="no_agent_file", hint="af dev FOLDER", field="folder")
    found = [folder.resolve() / name for name in ("agent.py", "main.py") if (folder / name).is_file()]
    if not found:
        raise InvalidInput(
            f"{folder} has neither agent.py nor main.py.", code="no_agent_file", hint="af dev FOLDER", field="folder"
        )
    return found[0]


@contextmanager
def stop_on_signals() -> Iterator[asyncio.Event]:
    """Yield an event that SIGINT or SIGTERM sets while the block runs."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    try:
        yield stop
    finally:
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(name)


async def serve_folder(folder: Path, settings: Settings, out: Output) -> None:
    """Serve a folder until a signal arrives: its agent linked with a control plane, its page at the root.

    Raises:
        InvalidInput: The folder has no agent file.
        Unavailable: The agent ended by itself (code `agent_ended`).
    """
    file = find_agent_file(folder)
    with stop_on_signals() as stop:
        async with control_plane(settings) as plane:
            freeze_long_lived_objects()
            out.result({"url": plane.url, "agents": [str(file)]})
            out.line(f"page     {plane.url}/#details", "bold")
            out.line(f"agent    {file}")
            out.line("stop with Ctrl-C", "dim")
            await _run_until_stopped(stop, Reloader(file, plane, out).run())


async def _run_until_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or a signal arrives; after a signal its result is ignored."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
    if not stop.is_set():
        working.result()


async def wait_for_session(
    plane: ControlPlane, target: str, child: asyncio.subprocess.Process, *, seconds: float = 30.0
) -> None:
    """Wait until a linked node offers a session.

    Args:
        plane: The control plane.
        target: The session as node_id.name.
        child: The process of the agent.
        seconds: Time limit.

    Raises:
        Unavailable: The agent ended (code `agent_ended`), or did not link in time (code `agent_not_linked`).
    """
    try:
        async with asyncio.timeout(seconds):
            while not _is_offered(plane, target):
                if child.returncode is not None:
                    raise Unavailable(f"The agent ended with exit code {child.returncode}.", code="agent_ended")
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise Unavailable(f"No node offered {target} within {seconds:g} s.", code="agent_not_linked") from None


def _is_offered(plane: ControlPlane, target: str) -> bool:
    """Return whether a linked node offers the session; a registration alone is not enough."""
    node_id, _, name = target.partition(".")
    return plane.hub.session_link(node_id, name) is not None
