"""The face of the SDK: an agent links to a control plane, does what it declares, and calls what others do."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import ValidationError

from agentfield import context
from agentfield.decorators import DEFAULT, Decorators
from agentfield.errors import Conflict, ControlPlaneUnavailable, ExecutionTimeout, InvalidInput, Unavailable
from agentfield.identity import NodeKey
from agentfield.ids import new_id
from agentfield.link import NodeLink
from agentfield.pausing import Decision, Parked
from agentfield.schema import jsonable
from agentfield.serving import Announcer, cancelled, logged, serve
from agentfield.settings import discover_api_key, discover_url, drain_seconds, home
from agentfield.wire.frames import Call, PauseRequest

if TYPE_CHECKING:
    from agentfield.plugins.registry import Registry

__all__ = ["DEFAULT", "Agent"]

FIRST_LINK: Final = 10.0
"""Seconds in which ``async with app`` must be linked."""

GRACE: Final = 5.0
"""Seconds that running work may take to end when ``async with app`` is left."""

CALL_SLACK: Final = 5.0
"""Seconds beyond a call's timeout after which its answer is no longer waited for, wherever it got lost."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_log = logging.getLogger("agentfield.node")


class Agent(Decorators):
    """An agent node.

    Args:
        node_id: Its name; targets are ``node_id.name``. Several processes may share it.
        url: The control plane's address; by default ``AGENTFIELD_URL``, the running control plane's, or
            ``http://127.0.0.1:8080``.
        api_key: The control plane's key; by default ``AGENTFIELD_API_KEY``.
        registry: The adapters to check sessions against; by default those that are installed.
        concurrency: How many reasoners may run at a time.

    Raises:
        InvalidInput: An argument does not fit.
    """

    def __init__(
        self,
        node_id: str,
        *,
        url: str | None = None,
        api_key: str | None = None,
        registry: Registry | None = None,
        concurrency: int = 100,
    ) -> None:
        if not isinstance(node_id, str) or not _NAME.fullmatch(node_id):
            raise InvalidInput(
                f"{node_id!r} is no node id: letters, digits, - and _, at most 64, not a digit first.", field="node_id"
            )
        if not 1 <= concurrency <= 10_000:
            raise InvalidInput(f"concurrency={concurrency}: it is between 1 and 10000.", field="concurrency")
        super().__init__(node_id, registry=registry)
        self.concurrency = concurrency
        self._url = discover_url(url) if url else None
        self._api_key = api_key
        self._link: NodeLink | None = None
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Agent({self.node_id!r})"

    async def call(self, target: str, /, *, timeout: float | None = None, **input: Any) -> Any:  # noqa: A002, ASYNC109
        """Run a target through the control plane, on whichever node has it, and return its output.

        Inside a reasoner or a handler the call belongs to the same run and session; elsewhere it starts a run.

        Args:
            target: ``node.name``.
            timeout: Seconds to wait for it.
            **input: The target's input; anything that JSON can hold.

        Raises:
            ExecutionError: It did not succeed; the class says how.
            Unavailable: This agent is not running.
            AgentFieldError: It was refused.
        """
        link = self._link
        if link is None:
            raise Unavailable(
                f"{self.node_id} is not running, so it cannot call {target}.",
                hint="Call from a reasoner or a handler, or inside `async with app:`.",
            )
        here, run = context.current(), context.run()
        values = jsonable(input, what="input")
        frame = Call(
            op_id=new_id("op") if run is None else run.op_id(target, values),
            target=target,
            input=values,
            parent_id=here.execution_id if here else None,
            session_id=here.session_id if here else None,
            timeout=timeout,
        )
        try:
            return await link.call(frame, seconds=None if timeout is None else timeout + CALL_SLACK)
        except TimeoutError as error:
            raise ExecutionTimeout(f"{target} did not answer in {timeout:g} seconds.", target=target) from error

    async def pause(
        self, title: str, *, details: Any = None, key: str | None = None, expires: float = 7 * 86_400
    ) -> Decision:
        """Ask a human, and go on with the decision; to be awaited inside a reasoner.

        The run ends here: nothing is held while nobody decides, for days and across restarts. With the decision (``af
        approvals``, or ``POST /api/v1/approvals/{id}/decision``) the reasoner is run again from the top with the same
        input, on whichever instance has room, and this call returns at once. Calls that it made before the pause return
        what they returned then; anything else that it does before the pause is done twice.

        Args:
            title: What is to be decided, in one line.
            details: What whoever decides should know; any JSON, at most 64 KiB.
            key: A name of this pause, unique within the execution; by default counted in the order in which pauses come.
            expires: Seconds after which the decision is ``expired``, at most 366 days.

        Returns:
            The decision: approved, rejected, changes requested, or expired.

        Raises:
            Unavailable: No reasoner is running here (code `no_run`).
            InvalidInput: An argument does not fit.
        """
        run = context.run()
        if run is None:
            raise Unavailable(
                "Only a reasoner can pause.",
                code="no_run",
                hint="from a session's handler, call a reasoner that pauses: session.call(...)",
            )
        key = key or run.pause_key()
        if (decision := run.decision(key)) is not None:
            return decision
        try:
            request = PauseRequest(key=key, title=title, details=jsonable(details, what="details"), expires=expires)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            field = ".".join(map(str, fault["loc"]))
            raise InvalidInput(f"The pause cannot be asked for: {field}: {fault['msg']}.", field=field) from None
        raise Parked(request)

    def run(self, *, url: str | None = None, api_key: str | None = None, drain: float | None = None) -> None:
        """Link to the control plane and work until interrupted (SIGINT or SIGTERM) or told to drain; blocks.

        Then it takes nothing new, and what runs may end: reasoners, and the handlers of calls. A second signal stops it
        at once. Calls that are not over in time go on with another instance that declares their session alike.

        Waits for a control plane that is not there yet, and links again by itself whenever the link is lost.

        Args:
            url: The control plane's address, instead of the one that the agent was made with.
            api_key: Its key, likewise.
            drain: Seconds that what runs may take to end, by default ``AGENTFIELD_DRAIN_SECONDS``, or 30.

        Raises:
            NodeRefused: The control plane does not want this node.
            InvalidInput: An argument does not fit.
            Conflict: An event loop runs already, or the agent does.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise Conflict("app.run() starts an event loop of its own.", hint="Inside one, use `async with app:`.")
        self._url = discover_url(url) if url else self._url
        self._api_key = api_key or self._api_key
        asyncio.run(self._serve(drain_seconds(drain)))

    async def __aenter__(self) -> Self:
        """Link to the control plane and work in the background.

        Raises:
            ControlPlaneUnavailable: There is none.
            NodeRefused: It does not want this node.
        """
        link, task = self._start(logged(self.node_id))
        linked = asyncio.create_task(link.linked.wait())
        try:
            await asyncio.wait({linked, task}, timeout=FIRST_LINK, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._stop(grace=0)
            raise
        finally:
            await cancelled(linked)
        if link.linked.is_set():
            return self
        error = self._unlinked(link, task)
        await self._stop(grace=0)
        raise error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let handlers go, give running work a few seconds, then unlink."""
        await self._stop(grace=GRACE if error is None else 0)

    @asynccontextmanager
    async def linked(self, *, url: str, api_key: str | None = None) -> AsyncIterator[Self]:
        """Link to this control plane, not to the one that the agent was made for, and work in the background.

        Args:
            url: The control plane's address.
            api_key: Its key, by default ``AGENTFIELD_API_KEY``.

        Raises:
            ControlPlaneUnavailable: There is none.
            NodeRefused: It does not want this node.
        """
        before = (self._url, self._api_key)
        self._url, self._api_key = discover_url(url), api_key
        try:
            async with self:
                yield self
        finally:
            self._url, self._api_key = before

    # --- inside -------------------------------------------------------------------------------------------------

    @property
    def _working(self) -> bool:
        return self._link is not None

    def _start(self, watcher: Callable[[str, str, str], None]) -> tuple[NodeLink, asyncio.Task[None]]:
        if self._link is not None:
            raise Conflict(f"{self.node_id} is running already.")
        self._link = NodeLink(
            node_id=self.node_id,
            key=NodeKey.load_or_create(home() / "nodes" / f"{self.node_id}.pem"),
            reasoners=self._reasoners,
            sessions=self._sessions,
            url=lambda: self._url or discover_url(),
            api_key=discover_api_key(self._api_key),
            concurrency=self.concurrency,
            watcher=watcher,
            pairs=self._pairs(),
        )
        self._task = asyncio.create_task(self._link.run(), name=f"{self.node_id} link")
        return self._link, self._task

    async def _stop(self, *, grace: float) -> None:
        link, task = self._link, self._task
        if link is None or task is None:
            return
        try:
            await link.drain(grace, handlers=False)
        finally:
            task.cancel()
            await asyncio.wait({task})
            self._link = self._task = None
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("%s had stopped: %s", self.node_id, error)

    async def _serve(self, grace: float) -> None:
        link, task = self._start(Announcer(self.node_id, len(self._reasoners), len(self._sessions)))
        try:
            await serve(link, task, grace=grace)
        finally:
            self._link = self._task = None

    def _unlinked(self, link: NodeLink, task: asyncio.Task[None]) -> BaseException:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            return error
        url = self._url or discover_url()
        why = f": {link.last_failure}" if link.last_failure else ""
        return ControlPlaneUnavailable(
            f"{self.node_id} could not link to {url} in {FIRST_LINK:g} seconds{why}.", hint="Start one: af server"
        )
