"""A node as a process: works until it is told to stop, and tells the person at the terminal what becomes of its link."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import Any

from agentfield.link import NodeLink, Watcher

__all__ = ["Announcer", "cancelled", "logged", "serve"]

_log = logging.getLogger("agentfield.node")


async def serve(link: NodeLink, task: asyncio.Task[None], *, grace: float) -> None:
    """Work until SIGINT, SIGTERM or the control plane's wish, then let running work end; a signal then ends it at once.

    Args:
        link: The node.
        task: The task of its `run`.
        grace: Seconds that running work and calls may take to end.

    Raises:
        NodeRefused: The control plane does not want the node.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = _catch(loop, stop)
    stopping = asyncio.create_task(stop.wait())
    asked = asyncio.create_task(link.asked_to_drain.wait())
    try:
        await asyncio.wait({stopping, asked, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        stop.clear()
        if link.working:
            _say(
                f"{link.node_id} stops once {link.working} ended, in {grace:g} s at most; a second signal stops it now."
            )
        draining, again = asyncio.create_task(link.drain(grace)), asyncio.create_task(stop.wait())
        await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
        await cancelled(draining, again)
    finally:
        await cancelled(stopping, asked)
        for number in signals:
            loop.remove_signal_handler(number)
        await cancelled(task)


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


class Announcer:
    """Tells the person at the terminal, in one line each, what becomes of the link."""

    def __init__(self, node_id: str, reasoners: int, sessions: int) -> None:
        self._node = node_id
        self._has = f"{_count(reasoners, 'reasoner')}, {_count(sessions, 'session')}"
        self._state = "new"

    def __call__(self, what: str, url: str, why: str) -> None:
        """Take note of what became of the link, and say so where it is news."""
        match self._state, what:
            case "new" | "waiting", "linked":
                _say(f"{self._node} is linked to {url} ({self._has}). Ctrl+C stops it.")
            case "lost", "linked":
                _say(f"{self._node} is linked to {url} again.")
            case "new", "lost":
                _say(f"{self._node} waits for a control plane at {url} ({why}). Start one: af server")
            case "linked", "lost":
                _say(f"{self._node} lost the control plane at {url} ({why}); linking again.")
        never = self._state in {"new", "waiting"} and what == "lost"
        self._state = "waiting" if never else what


def logged(node_id: str) -> Watcher:
    """Return a watcher that writes to the log only."""

    def tell(what: str, url: str, why: str) -> None:
        _log.info("%s: %s %s %s", node_id, what, url, why)

    return tell


def _catch(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> list[signal.Signals]:
    caught: list[signal.Signals] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except (NotImplementedError, RuntimeError, ValueError):  # raised by loops of Windows, and off the main thread
            continue  # asyncio.run turns Ctrl+C into a cancellation
        caught.append(number)
    return caught


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
