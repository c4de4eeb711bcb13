"""A thread that notices when user code blocks the node's event loop, says so, and keeps the node alive meanwhile."""

from __future__ import annotations

import asyncio
import logging
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import aiohttp

from agentfield.errors import AgentFieldError
from agentfield.link.entry_gate import EntryGate
from agentfield.link.socket import HANDSHAKE_TIMEOUT, LinkLost, opened, receive_frames
from agentfield.wire.frames import Challenge, GiveBack, LoopState, encode_frame

__all__ = ["LoopWatchdog"]

_log = logging.getLogger("agentfield.node")

_INTERVAL = 0.25
"""Seconds between two looks at the event loop."""

_SUSPENDED = 1.5
"""Seconds between two looks after which the whole process must have been suspended."""

_TOLD = 0.5
"""Seconds between two reports to the control plane."""

BLOCKED_WARNING = 1.0
"""Seconds without a turn of the event loop after which the blocking function is logged and the control plane is told."""

BLOCKED_LIMIT = 2.0
"""Seconds after which work that has not entered its function is given back."""

_PACKAGE = Path(__file__).parents[1]
_STACK_LINES = 12


class LoopWatchdog:
    """Watches the event loop in which it is started.

    The thread schedules a callback and looks whether it ran. While the loop is blocked, the thread opens a connection of
    its own: the control plane hears that the node lives, and gets back what the node has not entered.

    Args:
        node_id: The node.
        gate: Closed before work is given back.
        url: Returns the control plane's address.
        api_key: The control plane's API key.
        hello: Returns the first frame of the connection, None if the control plane speaks no version that has one.
        turns_again: Called on the event loop when it turns after it was blocked.
    """

    def __init__(
        self,
        node_id: str,
        gate: EntryGate,
        *,
        url: Callable[[], str],
        api_key: str | None,
        hello: Callable[[Challenge, str], str | None],
        turns_again: Callable[[], None],
    ) -> None:
        self._node_id = node_id
        self._gate = gate
        self._url = url
        self._api_key = api_key
        self._hello = hello
        self._turns_again = turns_again
        self._stopped = threading.Event()
        self._turned = threading.Event()
        self._asked = 0.0
        self._looked = 0.0
        self._function: str | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; call on the event loop to watch."""
        loop, ident = asyncio.get_running_loop(), threading.get_ident()
        self._turned.set()
        self._thread = threading.Thread(
            target=self._run, args=(loop, ident), name=f"{self._node_id} watchdog", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(_INTERVAL)  # at once, except from a connection that is about to be closed

    # --- in the thread

    def _run(self, loop: asyncio.AbstractEventLoop, ident: int) -> None:
        while not self._stopped.wait(_INTERVAL):
            try:
                if self._blocked(loop) >= BLOCKED_WARNING:
                    self._episode(loop, ident)
            except RuntimeError:  # the event loop was closed
                return
            except Exception:  # noqa: BLE001 -- the thread must go on watching
                _log.exception("the watchdog of %s failed and looks again", self._node_id)

    def _blocked(self, loop: asyncio.AbstractEventLoop) -> float:
        """Return for how long the loop has not turned."""
        now = time.monotonic()
        before, self._looked = self._looked, now
        if self._turned.is_set():
            self._turned.clear()
            self._asked = now
            loop.call_soon_threadsafe(self._turned.set)
            return 0.0
        if now - before > _SUSPENDED:  # this thread did not run either: the process was stopped, not blocked
            self._asked = now
        return now - self._asked

    def _episode(self, loop: asyncio.AbstractEventLoop, ident: int) -> None:
        """Log what blocks the loop, and report to the control plane until the loop turns."""
        since = self._asked
        function = self._function = self._warn(loop, ident)
        asyncio.run(self._report(loop))
        if self._stopped.is_set():
            return
        took = time.monotonic() - since
        _log.warning("the event loop of %s turns again; %s had blocked it for %.1f s", self._node_id, function, took)
        loop.call_soon_threadsafe(self._turns_again)

    def _warn(self, loop: asyncio.AbstractEventLoop, ident: int) -> str:
        task = asyncio.current_task(loop)
        name = "a callback" if task is None else task.get_name()
        stack = traceback.extract_stack(sys._current_frames().get(ident))  # noqa: SLF001 -- the documented way
        own = [frame for frame in stack if _is_user_code(frame.filename)]
        where = f" at {Path(own[-1].filename).name}:{own[-1].lineno} ({own[-1].name})" if own else ""
        shown = stack[stack.index(own[0]) :] if own else stack
        _log.warning(
            "%s blocks the event loop of %s for %.1f s%s: it does not return to the loop, and everything else on this node"
            " waits. Await in it, call blocking code with asyncio.to_thread, or declare the reasoner with `def`,"
            " which runs it in a thread.\n%s",
            name,
            self._node_id,
            time.monotonic() - self._asked,
            where,
            "".join(traceback.format_list(shown[-_STACK_LINES:])).rstrip(),
        )
        return f"{name}{where}"

    async def _report(self, loop: asyncio.AbstractEventLoop) -> None:
        """Report over a connection of this thread, opened again when it is lost, until the loop turns."""
        while self._blocked_now(loop):
            try:
                url = self._url()
                async with opened(url, self._api_key) as socket:
                    async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                        challenge, *_ = await receive_frames(socket)
                    hello = self._hello(challenge, url) if isinstance(challenge, Challenge) else None
                    if hello is not None:
                        await socket.send_str(hello)
                        await self._talk(loop, socket)
                        continue
            except (aiohttp.ClientError, OSError, TimeoutError, LinkLost, AgentFieldError) as error:
                _log.debug("the watchdog of %s could not report: %s", self._node_id, error)
            await self._pause(loop)

    async def _talk(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        given_back = False
        function = None if self._function is None else self._function[:500]
        while (blocked := self._blocked_now(loop)) and not socket.closed:
            await socket.send_str(encode_frame(LoopState(blocked=round(blocked, 3), function=function)))
            if blocked >= BLOCKED_LIMIT and not given_back:
                given_back = True
                if self._gate.unsettled() is None:
                    self._gate.close()
                if (unsettled := self._gate.unsettled()) is not None:
                    await socket.send_str(encode_frame(GiveBack(number=unsettled[0], entered=unsettled[1])))
            await self._pause(loop)

    async def _pause(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until the next report is due or the loop turns."""
        until = time.monotonic() + _TOLD
        while time.monotonic() < until and self._blocked_now(loop):  # noqa: ASYNC110 -- a blocked loop sets no event
            await asyncio.sleep(_INTERVAL / 5)

    def _blocked_now(self, loop: asyncio.AbstractEventLoop) -> float:
        """Return for how long the loop has been blocked; 0 once it has turned, or when the node stops."""
        if self._turned.is_set() or self._stopped.is_set() or loop.is_closed():
            return 0.0
        return time.monotonic() - self._asked


def _is_user_code(filename: str) -> bool:
    path = Path(filename)
    libraries = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    inside = path.is_relative_to(_PACKAGE) or "site-packages" in filename or filename.startswith("<")
    return not inside and not any(path.is_relative_to(each) for each in libraries if each)
