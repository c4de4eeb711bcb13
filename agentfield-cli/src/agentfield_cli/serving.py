"""What `af server`, `af dev` and `af demo` share: the settings of a control plane, and a folder served while it changes hands."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentfield.errors import InvalidInput, Unavailable
from agentfield_cli.output import Output
from agentfield_cli.processes import agent_process
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings

__all__ = ["agent_files", "develop", "interrupted", "server_settings", "wait_for_session"]

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


def agent_files(folder: Path) -> list[Path]:
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
    return found[:1]


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
    """Serve a folder until a signal: its agents linked with a control plane, its page at the root.

    Raises:
        InvalidInput: The folder has no agent.
        Unavailable: The agent ended by itself (code `agent_ended`).
    """
    files = agent_files(folder)
    with interrupted() as stop:
        async with AsyncExitStack() as stack:
            plane = await stack.enter_async_context(control_plane(settings))
            children = [await stack.enter_async_context(agent_process(file, url=plane.url)) for file in files]
            out.result({"url": plane.url, "agents": [str(file) for file in files]})
            out.line(f"page     {plane.url}/", "bold")
            for file in files:
                out.line(f"agent    {file}")
            out.line("stop with Ctrl-C", "dim")
            await _until(stop, children)


async def _until(stop: asyncio.Event, children: list[asyncio.subprocess.Process]) -> None:
    waits = [asyncio.create_task(stop.wait()), *(asyncio.create_task(child.wait()) for child in children)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    if not stop.is_set():
        codes = [child.returncode for child in children if child.returncode is not None]
        raise Unavailable(
            f"The agent ended by itself with exit code {codes[0]}.",
            code="agent_ended",
            hint="its message is above; run it again once that is repaired",
        )


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
    return target in plane.hub.sessions() and plane.hub.session_link(target.partition(".")[0]) is not None
