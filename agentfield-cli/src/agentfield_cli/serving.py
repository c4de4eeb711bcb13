"""What `af server`, `af dev` and `af demo` share: the settings of a control plane, and a folder served while it changes hands."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentfield.errors import InvalidInput, Unavailable
from agentfield.realtime.heap import keep_for_good
from agentfield_cli.output import Output
from agentfield_cli.reloading import Reloader
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings

__all__ = ["agent_file", "develop", "interrupted", "server_settings", "wait_for_session"]

_OPTIONS = {"host": "--host", "port": "--port", "home": "--data"}
"""Settings that the command line has too."""


def server_settings(**given: Any) -> Settings:
    """Return settings from the options that were given, the rest from the environment.

    Raises:
        InvalidInput: A value does not fit (code `bad_setting`).
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"]))
        setting = str(first["loc"][0])
        option = _OPTIONS.get(setting)
        raise InvalidInput(
            f"The setting {name} does not fit: {first['msg'].removeprefix('Value error, ')}.",
            code="bad_setting",
            hint=f"look at AGENTFIELD_{setting.upper()}{f' and {option}' if option else ''}",
            field=name,
        ) from None


def agent_file(folder: Path) -> Path:
    """Return the agent file of a folder.

    Raises:
        InvalidInput: There is none (code `no_agent_file`).
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder.", code="no_agent_file", hint="af dev FOLDER", field="folder")
    found = [folder.resolve() / name for name in ("agent.py", "main.py") if (folder / name).is_file()]
    if not found:
        raise InvalidInput(
            f"{folder} has neither agent.py nor main.py.", code="no_agent_file", hint="af dev FOLDER", field="folder"
        )
    return found[0]


@contextmanager
def interrupted() -> Iterator[asyncio.Event]:
    """Yield an event that SIGINT and SIGTERM set while the block runs."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    try:
        yield stop
    finally:
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(name)


async def develop(folder: Path, settings: Settings, out: Output) -> None:
    """Serve a folder until a signal: its agent linked with a control plane, its page at the root.

    Raises:
        InvalidInput: The folder has no agent.
        Unavailable: The agent ended by itself (code `agent_ended`).
    """
    file = agent_file(folder)
    with interrupted() as stop:
        async with control_plane(settings) as plane:
            keep_for_good()
            out.result({"url": plane.url, "agents": [str(file)]})
            out.line(f"page     {plane.url}/", "bold")
            out.line(f"agent    {file}")
            out.line("stop with Ctrl-C", "dim")
            await _until(stop, Reloader(file, plane, out).run())


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do `work` unless a signal comes first."""
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
    """Wait until a node that offers the session is linked.

    Raises:
        Unavailable: The agent ended, or did not link in time.
    """
    try:
        async with asyncio.timeout(seconds):
            while not _offered(plane, target):
                if child.returncode is not None:
                    raise Unavailable(f"The agent ended with exit code {child.returncode}.", code="agent_ended")
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise Unavailable(f"No node offered {target} within {seconds:g} s.", code="agent_not_linked") from None


def _offered(plane: ControlPlane, target: str) -> bool:
    """Tell whether a session is declared by a node that is linked, not only known from its greeting."""
    node_id, _, name = target.partition(".")
    return plane.hub.session_link(node_id, name) is not None
