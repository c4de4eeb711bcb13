"""A node as a process: signals, draining, and one-line messages about its link on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any

from agentfield.errors import AgentFieldError
from agentfield.link import LinkListener, NodeLink
from agentfield.lossy import visible_text
from agentfield.plugins.install import cli_command
from agentfield.processes import event_loop

__all__ = [
    "LinkAnnouncer",
    "cancel_and_wait",
    "log_link_changes",
    "print_if_uncaught",
    "run_process",
    "run_until_stopped",
]

_DEFAULT_SIGINT = signal.default_int_handler
_log = logging.getLogger("agentfield.node")


def run_process(main: Coroutine[Any, Any, None]) -> None:
    """Run a node in an event loop of its own, as `asyncio.run` does, but survive `sys.exit()` in a task of user code.

    asyncio lets `SystemExit` and `KeyboardInterrupt` of any task leave the event loop, at once and past every handler. The task
    has failed with it all the same, so the code that awaits the task gets it, and the loop can go on.
    """
    try:
        runner = event_loop.runner()
    except AgentFieldError:
        main.close()  # it is not awaited any more
        raise
    with runner:
        loop = runner.get_loop()
        task = loop.create_task(main)
        while True:
            try:
                return loop.run_until_complete(task)
            except (SystemExit, KeyboardInterrupt) as error:
                if task.done():
                    raise
                if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is _DEFAULT_SIGINT:
                    task.cancel()  # Ctrl+C where `loop.add_signal_handler` does not exist, or before it was called
                    with contextlib.suppress(asyncio.CancelledError):
                        loop.run_until_complete(task)
                    raise
                _log.error("a task raised %s; the node works on", type(error).__name__, exc_info=error)


def print_if_uncaught(error: AgentFieldError) -> None:
    """Have Python print an error as `af` does, without a traceback, if it ends the program; others are printed as before."""
    hook = sys.excepthook
    if not isinstance(hook, _ExceptionHook):
        hook = sys.excepthook = _ExceptionHook(hook)
    hook.error = error


async def run_until_stopped(link: NodeLink, task: asyncio.Task[None], *, grace: float) -> None:
    """Work until SIGINT, SIGTERM or a drain request, then drain; a second signal stops the node at once.

    Args:
        link: The node.
        task: The task that runs `link.run`.
        grace: Seconds that running reasoners and handlers may take to finish.

    Raises:
        NodeRefused: The control plane refused the node.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = _handle_signals(loop, stop)
    stopping = asyncio.create_task(stop.wait())
    asked = asyncio.create_task(link.asked_to_drain.wait())
    try:
        await asyncio.wait({stopping, asked, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        stop.clear()
        if link.working:
            _write(
                f"{link.node_id} stops once {link.working} ended, in {grace:g} s at most; a second signal stops it now."
            )
        draining, again = asyncio.create_task(link.drain(grace)), asyncio.create_task(stop.wait())
        await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
        await cancel_and_wait(draining, again)
    finally:
        await cancel_and_wait(stopping, asked)
        for number in signals:
            loop.remove_signal_handler(number)
        await cancel_and_wait(task)


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they are done."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


class LinkAnnouncer:
    """Writes a line to stderr when the link is opened, lost or opened again.

    Args:
        node_id: The node.
        reasoners: Number of its reasoners.
        sessions: Number of its declared sessions.
        refused: Returns the sessions that the control plane did not register, with the reason.
    """

    def __init__(
        self,
        node_id: str,
        reasoners: int,
        sessions: int,
        *,
        refused: Callable[[], Mapping[str, AgentFieldError]] = dict,
    ) -> None:
        self._node = node_id
        self._reasoners = reasoners
        self._sessions = sessions
        self._refused = refused
        self._state = "new"

    def __call__(self, change: str, url: str, reason: str) -> None:
        """Announce a change of the link; repeated failures are announced once."""
        match self._state, change:
            case "new" | "waiting", "linked":
                _write(f"{self._node} is linked to {url} ({self._registered()}). Ctrl+C stops it.")
            case "lost", "linked":
                _write(f"{self._node} is linked to {url} again.")
            case "new", "lost":
                _write(
                    f"{self._node} waits for a control plane at {url} ({reason}). Start one: {cli_command('af server')}"
                )
            case "linked", "lost":
                _write(f"{self._node} lost the control plane at {url} ({reason}); linking again.")
        never = self._state in {"new", "waiting"} and change == "lost"
        self._state = "waiting" if never else change

    def _registered(self) -> str:
        refused = self._refused()
        sessions = _count(self._sessions - len(refused), "session")
        left_out = ", ".join(f"{name} ({error.code})" for name, error in refused.items())
        return f"{_count(self._reasoners, 'reasoner')}, {sessions}{f'; refused: {left_out}' if left_out else ''}"


def log_link_changes(node_id: str) -> LinkListener:
    """Return a listener that only logs changes of the link."""

    def listener(change: str, url: str, reason: str) -> None:
        _log.info("%s: %s %s %s", node_id, change, url, reason)

    return listener


class _ExceptionHook:
    """An exception hook of Python that prints one error without its traceback."""

    def __init__(self, others: Callable[..., Any]) -> None:
        self.error: AgentFieldError | None = None
        self._others = others

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if error is self.error:
            hint = f"hint: {error.hint}\n" if error.hint else ""
            _write(f"error: {error.message}\n{hint}code: {error.code}")
        else:
            self._others(kind, error, trace)


def _handle_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> list[signal.Signals]:
    caught: list[signal.Signals] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except (NotImplementedError, RuntimeError, ValueError):  # on Windows, and outside the main thread
            continue  # asyncio.run turns Ctrl+C into a cancellation
        caught.append(number)
    return caught


def _write(line: str) -> None:
    sys.stderr.write(visible_text(line) + "\n")
    sys.stderr.flush()


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
