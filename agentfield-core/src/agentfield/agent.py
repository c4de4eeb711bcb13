"""`Agent`: declares reasoners and sessions, links to a control plane, runs them and calls other targets."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import ValidationError

from agentfield import context
from agentfield.arguments import check_seconds, check_target, checked_arguments, did_you_mean
from agentfield.attempt_state import Decision, ExecutionSuspended
from agentfield.declarations.decorators import DEFAULT, Decorators
from agentfield.errors import (
    AgentFieldError,
    Conflict,
    ControlPlaneUnavailable,
    ExecutionTimeout,
    InvalidInput,
    Unavailable,
)
from agentfield.held_heads import HeldHeads
from agentfield.identity import NodeKey
from agentfield.ids import new_id
from agentfield.link import KnownControlPlanes, LinkListener, NodeLink
from agentfield.plugins.install import cli_command
from agentfield.processes.node_process import (
    LinkAnnouncer,
    cancel_and_wait,
    log_link_changes,
    print_if_uncaught,
    run_process,
    run_until_stopped,
)
from agentfield.schema import jsonable
from agentfield.session.awaited import NotAwaited, must_await
from agentfield.settings import control_plane_did, discover_api_key, discover_url, drain_seconds, home
from agentfield.wire.frames import Call, PauseRequest

if TYPE_CHECKING:
    from agentfield.plugins.registry.registry import Registry

__all__ = ["DEFAULT", "Agent"]

LINK_TIMEOUT: Final = 10.0
"""Seconds in which ``async with app`` must be linked."""

EXIT_GRACE: Final = 5.0
"""Seconds that running work may take to finish when ``async with app`` is left."""

CALL_SLACK: Final = 5.0
"""Seconds beyond a call's timeout that its answer may take; the control plane enforces the timeout itself."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_log = logging.getLogger("agentfield.node")


def _dropped(agent: Agent, error: NotAwaited) -> None:
    if (run := context.run()) is not None:
        run.forgotten = run.forgotten or error
    else:
        _log.error("%s: %s", agent.node_id, error)


class Agent(Decorators):
    """An agent node.

    Args:
        node_id: The node's name; targets are ``node_id.name``. Several processes may share it.
        url: The control plane's address; by default ``AGENTFIELD_URL``, then the address of a control plane that runs on
            this machine, then ``http://127.0.0.1:8080``.
        api_key: The control plane's API key; by default ``AGENTFIELD_API_KEY``.
        registry: The plugins to check sessions against; by default the installed ones.
        concurrency: How many reasoners may run at a time, 1 to 10000.

    Raises:
        InvalidInput: An argument is invalid.
    """

    @checked_arguments
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
                f"{node_id!r} is not a valid node id: at most 64 letters, digits, - and _, not starting with a digit.",
                field="node_id",
            )
        if type(concurrency) is not int or not 1 <= concurrency <= 10_000:
            raise InvalidInput(
                f"concurrency={concurrency!r}: it must be a number between 1 and 10000.", field="concurrency"
            )
        super().__init__(node_id, registry=registry)
        self.concurrency = concurrency
        self._url = discover_url(url) if url else None
        self._api_key = api_key
        self._link: NodeLink | None = None
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Agent({self.node_id!r})"

    @must_await("app", _dropped)
    @checked_arguments
    async def call(self, target: str, /, *, timeout: float | None = None, **input: Any) -> Any:  # noqa: A002, ASYNC109
        """Run a target through the control plane, on any node that exposes it, and return its output.

        Inside a reasoner or a handler the call belongs to the same run and session; elsewhere it starts a new run.

        Args:
            target: ``node.name``.
            timeout: Seconds that the call may take, None for no limit.
            **input: The target's input; any JSON values.

        Raises:
            ExecutionError: The call did not succeed; the subclass says how.
            Unavailable: This agent is not running.
            AgentFieldError: The control plane refused the call.
        """
        check_target(target)
        check_seconds(timeout)
        link = self._require_link(target)
        here, run = context.current(), context.run()
        values = jsonable(input, name="input", untyped="keep")
        frame = Call(
            op_id=new_id("op") if run is None else run.op_id(target, values),
            target=target,
            input=values,
            parent_id=here.execution_id if here else None,
            session_id=here.session_id if here else None,
            timeout=None if timeout is None else float(timeout),
        )
        try:
            return await link.call(frame, seconds=None if timeout is None else timeout + CALL_SLACK)
        except TimeoutError as error:
            raise ExecutionTimeout(f"{target} did not answer in {timeout:g} seconds.", target=target) from error

    @checked_arguments
    def call_sync(self, target: str, /, *, timeout: float | None = None, **input: Any) -> Any:  # noqa: A002
        """Run a target like `call` from a plain function, and block its thread until the output arrives.

        For reasoners declared with ``def`` and for code that runs in a thread, such as ``asyncio.to_thread(...)``. While it
        waits, the reasoner's slot is free for other work. When the reasoner exceeds its time limit or is cancelled, the wait
        ends with `ExecutionCancelled`.

        Args:
            target: ``node.name``.
            timeout: Seconds that the call may take, None for no limit.
            **input: The target's input; any JSON values.

        Raises:
            ExecutionError: The call did not succeed; the subclass says how.
            Conflict: Called from a coroutine of the node (code `blocks_event_loop`).
            Unavailable: This agent is not running.
            AgentFieldError: The control plane refused the call.
        """
        link = self._require_link(target)
        return link.thread_calls.run(
            f"The call of {target}", lambda: self.call(target, timeout=timeout, **input), context.run()
        )

    @must_await("app", _dropped)
    @checked_arguments
    async def pause(
        self, title: str, *, details: Any = None, key: str | None = None, expires: float = 7 * 86_400
    ) -> Decision:
        """Suspend the reasoner until a human decides, and return the decision.

        The attempt ends here and holds no resource while the decision is pending, for days and across restarts. Once it is
        made (``af approvals``, or ``POST /api/v1/approvals/{id}/decision``), the reasoner runs again from the top with the
        same input, on any instance with a free slot, and this call returns at once. Calls made before the pause return their
        recorded outputs; every other side effect before the pause happens twice.

        Args:
            title: The question, in one line.
            details: Information for the person who decides; any JSON, at most 64 KiB.
            key: The pause's name, unique within the execution; by default numbered in the order of the pauses.
            expires: Seconds after which the decision is ``expired``, at most 366 days.

        Returns:
            The decision: approved, rejected, changes requested, or expired.

        Raises:
            Unavailable: No reasoner is running here (code `no_run`).
            InvalidInput: An argument is invalid.
        """
        run = context.run()
        if run is None:
            raise Unavailable(
                "Only a reasoner can pause.",
                code="no_run",
                hint="In a session's handler, call a reasoner that pauses: session.call(...).",
            )
        key = key or run.pause_key()
        if (decision := run.decision(key)) is not None:
            return decision
        try:
            asked = {name: jsonable(value, name=name) for name, value in (("key", key), ("title", title))}
            request = PauseRequest(**asked, details=jsonable(details, name="details"), expires=expires)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            field = ".".join(map(str, fault["loc"]))
            raise InvalidInput(f"The pause request is invalid: {field}: {fault['msg']}.", field=field) from None
        raise ExecutionSuspended(request)

    @checked_arguments
    def run(self, *, url: str | None = None, api_key: str | None = None, drain: float | None = None) -> None:
        """Link to the control plane and work until SIGINT, SIGTERM or a drain request; blocks.

        The agent then accepts no new work and lets running reasoners and handlers finish. A second signal stops it at once.
        A call that does not finish in time continues on another instance that declares its session identically.

        Waits for a control plane that is not up yet, and links again whenever the link is lost.

        Args:
            url: The control plane's address; overrides that of the constructor.
            api_key: The control plane's API key; overrides that of the constructor.
            drain: Seconds that running work may take to finish; by default ``AGENTFIELD_DRAIN_SECONDS``, or 30.

        Raises:
            NodeRefused: The control plane refused this node. If a program does not catch it, Python ends with the message,
                the hint and the code instead of a traceback, and with exit code 1.
            InvalidInput: An argument is invalid.
            Conflict: An event loop is running already, or the agent is.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise Conflict(
                "app.run() starts its own event loop.", hint="In a running event loop use `async with app:`."
            )
        self._url = discover_url(url) if url else self._url
        self._api_key = api_key or self._api_key
        try:
            run_process(self._serve(drain_seconds(drain)))
        except AgentFieldError as error:
            print_if_uncaught(error)
            raise

    async def __aenter__(self) -> Self:
        """Link to the control plane and work in the background.

        Raises:
            ControlPlaneUnavailable: No control plane could be reached in 10 seconds.
            NodeRefused: The control plane refused this node.
        """
        link, task = self._start(log_link_changes(self.node_id))
        linked = asyncio.create_task(link.linked.wait())
        try:
            await asyncio.wait({linked, task}, timeout=LINK_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._stop(grace=0)
            raise
        finally:
            await cancel_and_wait(linked)
        if link.linked.is_set():
            return self
        error = self._unlinked(link, task)
        await self._stop(grace=0)
        raise error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel handlers, let reasoners finish for up to 5 seconds, then unlink."""
        await self._stop(grace=EXIT_GRACE if error is None else 0)

    @asynccontextmanager
    async def linked(self, *, url: str, api_key: str | None = None) -> AsyncIterator[Self]:
        """Link to another control plane than that of the constructor, and work in the background.

        Args:
            url: The control plane's address.
            api_key: The control plane's API key, by default ``AGENTFIELD_API_KEY``.

        Raises:
            ControlPlaneUnavailable: No control plane could be reached in 10 seconds.
            NodeRefused: The control plane refused this node.
        """
        before = (self._url, self._api_key)
        self._url, self._api_key = discover_url(url), api_key
        try:
            async with self:
                yield self
        finally:
            self._url, self._api_key = before

    # --- inside -------------------------------------------------------------------------------------------------

    def _require_link(self, target: str) -> NodeLink:
        if self._link is None:
            raise Unavailable(
                f"{self.node_id} is not running, so it cannot call {target}.",
                hint="Call from a reasoner or a handler, or inside `async with app:`.",
            )
        return self._link

    @property
    def _working(self) -> bool:
        return self._link is not None

    def _check_own_tools(self) -> None:
        """Refuse a tool of this node that it does not declare; a tool may be declared after the session that names it."""
        known = {f"{self.node_id}.{name}" for name in self._reasoners}
        for name, session in self._sessions.items():
            for tool in session.declaration.tools:
                if tool.startswith(f"{self.node_id}.") and tool not in known:
                    raise InvalidInput(
                        f"The session {name!r} offers the tool {tool!r}, which {self.node_id} does not declare."
                        f"{did_you_mean(tool, known)}",
                        code="invalid_declaration",
                        hint=f"Declare it with @app.reasoner(). It declares: {', '.join(sorted(known)) or 'none'}.",
                        field="tools",
                    )

    def _start(self, listener: LinkListener) -> tuple[NodeLink, asyncio.Task[None]]:
        if self._link is not None:
            raise Conflict(f"{self.node_id} is running already.")
        self._check_own_tools()
        self._link = NodeLink(
            node_id=self.node_id,
            key=NodeKey.load_or_create(home() / "nodes" / f"{self.node_id}.pem"),
            reasoners=self._reasoners,
            sessions=self._sessions,
            url=lambda: self._url or discover_url(),
            api_key=discover_api_key(self._api_key),
            concurrency=self.concurrency,
            listener=listener,
            pairs=self._pairs(),
            known=KnownControlPlanes(home() / "control_planes", required=control_plane_did()),
            heads=HeldHeads(home() / "heads"),
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
                _log.error("%s stopped before it was left: %s", self.node_id, error)

    async def _serve(self, grace: float) -> None:
        refused = lambda: self._link.refused if self._link is not None else {}  # noqa: E731
        link, task = self._start(
            LinkAnnouncer(self.node_id, len(self._reasoners), len(self._sessions), refused=refused)
        )
        try:
            await run_until_stopped(link, task, grace=grace)
        finally:
            self._link = self._task = None

    def _unlinked(self, link: NodeLink, task: asyncio.Task[None]) -> BaseException:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            return error
        url = self._url or discover_url()
        reason = f": {link.last_failure}" if link.last_failure else ""
        return ControlPlaneUnavailable(
            f"{self.node_id} could not link to {url} in {LINK_TIMEOUT:g} seconds{reason}.",
            hint=f"Start one: {cli_command('af server')}",
        )
