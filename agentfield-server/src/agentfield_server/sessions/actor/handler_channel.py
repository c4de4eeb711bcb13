"""Channel between a session and its handler: the node instance that runs it, the frames to it, the commands from it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agentfield.arguments import MAX_TIMEOUT
from agentfield.errors import AgentFieldError, InvalidInput, NodeNotConnected
from agentfield.realtime.config import SessionDeclaration
from agentfield.values import encode
from agentfield.wire.frames import (
    AnyFrame,
    ExecutionContext,
    SessionCommand,
    SessionDone,
    SessionEventFrame,
    SessionOpen,
    SessionReply,
    SessionStop,
    TurnDelivered,
)
from agentfield_server.nodes import LinkedNode, LinkHub, declaration_hash
from agentfield_server.sessions.conversation.effects import (
    OpEffect,
    OpenHandler,
    RejectOp,
    ResolveCall,
    ResolveInput,
    ResolveReply,
    ResolveSpeech,
    StopHandler,
)
from agentfield_server.sessions.conversation.inputs import (
    CancelSpeech,
    HandlerCall,
    HandlerCommand,
    HandlerEnd,
    HandlerInput,
    HandlerLost,
    HandlerOpened,
    HandlerReattached,
    HandlerReply,
    HandlerSay,
    HandlerUnavailable,
    Input,
)
from agentfield_server.store.records import SessionRow

__all__ = ["HandlerChannel", "parse_command", "reply_on_link"]

_log = logging.getLogger("agentfield.sessions")


class HandlerChannel:
    """Places the handler of one session: on one instance while that is linked, else on one with the same declaration.

    Args:
        hub: The linked nodes.
        row: The session.
        declaration: The declaration that the session was started with. Its hash is computed here, not read from the
            store: a newer control plane may know more fields than the one that stored the session.
        place: Records the instance that runs the handler, and the epoch of the run.
    """

    def __init__(
        self,
        hub: LinkHub,
        row: SessionRow,
        declaration: SessionDeclaration,
        *,
        place: Callable[[str, int], Awaitable[None]],
    ) -> None:
        self._hub = hub
        self._row = row
        self._declaration = declaration
        self._hash = declaration_hash(declaration)
        self._name = row.target.partition(".")[2]
        self._place = place
        self._placed: tuple[str, int] | None = None
        self._link: LinkedNode | None = None
        self._opening: SessionOpen | None = None
        """The opening frame of the current handler run; None if none is to be reattached."""
        self._awaiting_node = False
        """Whether the current run waits for an instance to link."""
        self.listening = False
        """Whether the handler receives session events."""

    async def open(
        self, effect: OpenHandler, *, state: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
    ) -> bool:
        """Open the handler on a linked instance; return False if none can run it now (`node_linked` opens it later)."""
        row = self._row
        self.listening = False
        self._opening = SessionOpen(
            session_id=row.id,
            epoch=effect.epoch,
            name=self._name,
            context=ExecutionContext(
                execution_id=row.root_id, run_id=row.run_id, session_id=row.id, actor_id=row.caller
            ),
            caller=row.caller,
            metadata=dict(row.metadata),
            state=dict(state),
            history=tuple(dict(entry) for entry in history),
            resumed=effect.resumed,
        )
        return await self._send_open(self._choose_link())

    def runs_on(self, link: LinkedNode) -> bool:
        """Return whether the handler runs on the instance of a link."""
        mine = self._link
        return mine is not None and (mine.instance_id, mine.did) == (link.instance_id, link.did)

    async def node_linked(self, link: LinkedNode) -> Input | None:
        """Open a waiting handler on the new link, reattach to the handler it still runs, or replace one lost with its link."""
        if link.node_id != self._row.node_id or self._opening is None:
            return None
        if not self._can_run(link):
            return self.unavailable() if self._awaiting_node else None
        if self._awaiting_node:
            return HandlerOpened(self._opening.epoch) if await self._send_open(link) else None
        if self._link is None or self._link.ended is not None or self._link.instance_id == link.instance_id:
            return await self._reclaim(link)
        return None

    def node_lost(self, link: LinkedNode) -> Input | None:
        """Return `HandlerLost` if another instance can replace the handler at once, else `HandlerUnavailable`."""
        if link is not self._link or self._opening is None:
            return None
        # the same process may have linked again already: its `node_linked` follows and reattaches the handler
        same = [other for other in self._hub.links(link.node_id) if other.instance_id == link.instance_id]
        back = any(not other.handlers_lost for other in same)
        if not back and self._choose_link() is not None:
            return HandlerLost(self._opening.epoch)
        return self.unavailable()

    def unavailable(self) -> HandlerUnavailable:
        """Return the input that tells why no instance runs the handler."""
        node_id = self._row.node_id
        there = {link.hashes.get(self._name, "none") for link in self._hub.links(node_id) if not link.draining}
        if not there or self._hash in there:
            return HandlerUnavailable()
        return HandlerUnavailable(
            f"no linked instance of {node_id} has the declaration of {self._name} that this session was started with"
            f" (declaration {self._hash}; linked: {', '.join(sorted(there))})"
        )

    async def stop(self, effect: StopHandler) -> None:
        """Tell the handler that the session is over, and release its instance."""
        await self._send(SessionStop(session_id=self._row.id, epoch=effect.epoch, reason=effect.reason))
        self.release()

    def run_finished(self) -> None:
        """Record that the current run returned: nothing is left to reattach."""
        self._opening = None
        self._awaiting_node = False
        if self._declaration.floor == "model":
            self.release()  # with the model in control of the floor, a handler runs once

    def release(self) -> None:
        """Release the instance: a drain does not wait for this session any more."""
        if self._link is not None:
            self._link.unpin_session(self._row.id)

    async def answer_command(self, effect: OpEffect) -> None:
        """Send the answer to a command of the handler."""
        session_id = self._row.id
        match effect:
            case ResolveInput():
                await self._send(TurnDelivered(session_id=session_id, op_id=effect.op_id, turn=effect.turn.as_json()))
            case RejectOp():
                await self._send(SessionReply(session_id=session_id, op_id=effect.op_id, problem=dict(effect.problem)))
            case _:
                await self._send(SessionReply(session_id=session_id, op_id=effect.op_id, value=_value(effect)))

    async def send_event(self, body: Mapping[str, Any]) -> None:
        """Send a session event to the handler if it listens; late words also without, for `session.history`."""
        if self.listening or body.get("late"):
            await self._send(SessionEventFrame(session_id=self._row.id, event=dict(body)))

    # --- inside

    async def _reclaim(self, link: LinkedNode) -> Input | None:
        """Reattach to the handler in the same process, which ignores the repeated opening frame; else report it lost."""
        if self._opening is None:
            return None
        if self._link is not None and self._link.instance_id == link.instance_id:
            await self._send_open(link)
            return HandlerReattached(self._opening.epoch)
        return HandlerLost(self._opening.epoch)

    async def _send_open(self, link: LinkedNode | None) -> bool:
        self._awaiting_node = True
        if link is None or self._opening is None:
            return False
        if (placed := (link.instance_id, self._opening.epoch)) != self._placed:
            # before the frame: the handler's first call is checked against the store
            await self._place(*placed)
            self._placed = placed
        try:
            await link.send(self._opening)
        except NodeNotConnected:
            return False
        before, self._link, self._awaiting_node = self._link, link, False
        link.pin_session(self._row.id)
        if before is not None and before is not link:
            before.unpin_session(self._row.id)
            if before.handlers_lost:
                await self._stop_superseded(before, self._opening.epoch - 1)
        return True

    async def _stop_superseded(self, link: LinkedNode, epoch: int) -> None:
        """Stop the lost run on an instance that is still linked, as soon as its event loop turns."""
        try:
            await link.send(SessionStop(session_id=self._row.id, epoch=epoch, reason="superseded"))
        except NodeNotConnected:
            _log.debug("the lost handler of %s was not stopped: its link is closed", self._row.id)

    def _choose_link(self) -> LinkedNode | None:
        """Return the instance that ran the handler before, even if it drains; else one that accepts new work."""
        mine = self._hub.instance(self._link.instance_id) if self._link is not None else None
        if mine is not None and mine.ended is None and not mine.handlers_lost and self._can_run(mine):
            return mine
        return self._hub.session_link(self._row.node_id, self._name, self._hash)

    def _can_run(self, link: LinkedNode) -> bool:
        """Tell whether an instance may run the handler; a draining one only if it runs it already."""
        has_it = self._row.id in link.sessions or (
            self._link is not None and self._link.instance_id == link.instance_id
        )
        return link.hashes.get(self._name) == self._hash and (has_it or not link.draining)

    async def _send(self, frame: AnyFrame) -> None:
        if self._link is None:
            return
        try:
            await self._link.send(frame)
        except NodeNotConnected:
            # the node repeats its commands over its next link, and the answers are sent again
            _log.debug("a frame for the handler of %s was not sent: its link is closed", self._row.id)


def _value(effect: OpEffect) -> Any:
    match effect:
        case ResolveSpeech():
            return effect.spoken.as_json()
        case ResolveReply():
            return {
                "text": effect.spoken.generated,
                "spoken": effect.spoken.as_json(),
                "tool_calls": [dict(call) for call in effect.tool_calls],
            }
        case ResolveCall():
            return effect.value
        case _:
            return None


def parse_command(frame: SessionCommand) -> HandlerCommand | AgentFieldError:
    """Return the machine's input for a command frame, or the error of an invalid one."""
    base: dict[str, Any] = {"op_id": frame.op_id, "epoch": frame.epoch}
    try:
        # large integers of a call's input stay until the engine compares them with the target's schema
        args = {name: encode(value, name=name, untyped="keep").value for name, value in frame.args.items()}
        match frame.command:
            case "input":
                return HandlerInput(**base)
            case "say":
                return HandlerSay(
                    **base,
                    text=_text(args, "text"),
                    interruptible=bool(args.get("interruptible", True)),
                    stale="speak" if args.get("stale") == "speak" else "drop",
                )
            case "reply":
                tools = args.get("tools")
                return HandlerReply(
                    **base,
                    instructions=args.get("instructions"),
                    tools=None if tools is None else tuple(map(str, tools)),
                )
            case "cancel_speech":
                return CancelSpeech(**base, speech_op=args.get("op_id"))
            case "call":
                return _call(frame, args)
            case "end":
                return HandlerEnd(**base, reason=str(args.get("reason") or "handler_ended"))
    except InvalidInput as error:
        return error
    except (TypeError, ValueError, OverflowError) as error:
        return InvalidInput(f"the command {frame.command!r} has bad arguments: {error}", field="args")
    return InvalidInput(f"a session has no command {frame.command!r}", field="command")


def _call(frame: SessionCommand, args: Mapping[str, Any]) -> HandlerCall:
    given, timeout = args.get("input") or {}, args.get("timeout")
    if not isinstance(given, dict):
        raise TypeError("`input` must be an object")
    if timeout is not None and not 0 < float(timeout) <= MAX_TIMEOUT:
        raise InvalidInput(f"The timeout of a call is more than 0 and at most {MAX_TIMEOUT} seconds.", field="timeout")
    return HandlerCall(
        op_id=frame.op_id,
        epoch=frame.epoch,
        target=_text(args, "target"),
        args=given,
        timeout=None if timeout is None else float(timeout),
        filler=args.get("filler"),
    )


def _text(args: Mapping[str, Any], name: str) -> str:
    value = args.get(name)
    if not isinstance(value, str) or not value:
        raise TypeError(f"`{name}` must be text")
    return value


async def reply_on_link(
    link: LinkedNode, frame: SessionCommand | SessionDone, error: AgentFieldError | None = None
) -> None:
    """Reply to a frame on the link that it came over; with the problem document of `error` if there is one."""
    problem = None if error is None else error.to_problem()
    try:
        await link.send(SessionReply(session_id=frame.session_id, op_id=frame.op_id, problem=problem))
    except NodeNotConnected:
        _log.debug("the reply to %s was not sent: its node is not linked any more", frame.op_id)
