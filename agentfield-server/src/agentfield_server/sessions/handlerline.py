"""The line to a session's handler: on which node instance it runs, what it is sent, what it asks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from agentfield.errors import AgentFieldError, InvalidInput, NodeNotConnected
from agentfield.realtime.config import SessionDeclaration
from agentfield.wire.frames import (
    ExecutionContext,
    SessionCommand,
    SessionDone,
    SessionEventFrame,
    SessionOpen,
    SessionReply,
    SessionStop,
    TurnDelivered,
)
from agentfield_server.nodes import LinkHub, NodeLink, declaration_hash
from agentfield_server.sessions import effects as e
from agentfield_server.sessions import inputs as i
from agentfield_server.store.records import SessionRow

__all__ = ["HandlerLine", "answer_on", "parse_command"]

_log = logging.getLogger("agentfield.sessions")


class HandlerLine:
    """Where the handler of one session runs: on one instance while that is there, else on one that declares it alike.

    Args:
        hub: The linked nodes.
        row: The session.
        declaration: What it began with. Hashed anew: a newer control plane may know of more fields than stored it.
    """

    def __init__(self, hub: LinkHub, row: SessionRow, declaration: SessionDeclaration) -> None:
        self._hub = hub
        self._row = row
        self._declaration = declaration
        self._hash = declaration_hash(declaration)
        self._name = row.target.partition(".")[2]
        self._link: NodeLink | None = None
        self._opening: SessionOpen | None = None
        """The frame of the current run, sent or to be sent."""
        self._waiting = False
        """Whether the current run waits for a node."""
        self.listening = False

    async def open(
        self, effect: e.OpenHandler, *, state: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
    ) -> bool:
        """Run the handler on a linked instance; False when there is none now (it is run when one links)."""
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
        return await self._send_open(self._choose())

    async def linked(self, link: NodeLink) -> i.Input | None:
        """A node is there: run what waits, reclaim what it still runs, or take over what its sister lost."""
        if link.node_id != self._row.node_id or self._opening is None:
            return None
        if not self._fits(link):
            return self.away() if self._waiting else None
        if self._waiting:
            return i.HandlerOpened(self._opening.epoch) if await self._send_open(link) else None
        if self._link is None or self._link.ended is not None or self._link.instance_id == link.instance_id:
            return await self._reclaim(link)
        return None

    def lost(self, link: NodeLink) -> i.Input | None:
        """A node is gone: another instance takes over at once, or the handler is waited for."""
        if link is not self._link or self._opening is None:
            return None
        # a link of the same process may stand already: its news comes next, and it takes its handler up again
        back = any(other.instance_id == link.instance_id for other in self._hub.links(link.node_id))
        if not back and self._choose() is not None:
            return i.HandlerLost(self._opening.epoch)
        return self.away()

    def away(self) -> i.HandlerAway:
        """Return why nobody has the handler."""
        node_id = self._row.node_id
        there = {link.hashes.get(self._name, "none") for link in self._hub.links(node_id) if not link.draining}
        if not there or self._hash in there:
            return i.HandlerAway()
        return i.HandlerAway(
            f"no linked instance of {node_id} declares {self._name} as this session began with it"
            f" (declaration {self._hash}; linked: {', '.join(sorted(there))})"
        )

    async def stop(self, effect: e.StopHandler) -> None:
        """Tell the handler that the session is over."""
        await self._send(SessionStop(session_id=self._row.id, epoch=effect.epoch, reason=effect.reason))
        self.let_go()

    def finished(self) -> None:
        """The current run returned: there is nothing to reclaim."""
        self._opening = None
        self._waiting = False
        if self._declaration.floor == "model":
            self.let_go()  # such a handler runs once

    def let_go(self) -> None:
        """No instance needs to stay for this session."""
        if self._link is not None:
            self._link.unkeep(self._row.id)

    async def answer(self, effect: e.OpEffect) -> None:
        """Answer a command of the handler."""
        session_id = self._row.id
        match effect:
            case e.ResolveInput():
                await self._send(TurnDelivered(session_id=session_id, op_id=effect.op_id, turn=effect.turn.as_json()))
            case e.Refuse():
                await self._send(SessionReply(session_id=session_id, op_id=effect.op_id, problem=dict(effect.problem)))
            case _:
                await self._send(SessionReply(session_id=session_id, op_id=effect.op_id, value=_value(effect)))

    async def event(self, body: Mapping[str, Any]) -> None:
        """Tell a handler that listens what happened."""
        if self.listening:
            await self._send(SessionEventFrame(session_id=self._row.id, event=dict(body)))

    # --- inside

    async def _reclaim(self, link: NodeLink) -> i.Input | None:
        """The same process is back (the same opening again costs nothing there), or another one replaces it."""
        if self._opening is None:
            return None
        if self._link is not None and self._link.instance_id == link.instance_id:
            await self._send_open(link)
            return i.HandlerBack(self._opening.epoch)
        return i.HandlerLost(self._opening.epoch)

    async def _send_open(self, link: NodeLink | None) -> bool:
        self._waiting = True
        if link is None or self._opening is None:
            return False
        try:
            await link.send(self._opening)
        except NodeNotConnected:
            return False
        before, self._link, self._waiting = self._link, link, False
        link.keep(self._row.id)
        if before is not None and before is not link:
            before.unkeep(self._row.id)
        return True

    def _choose(self) -> NodeLink | None:
        """Return the instance that had it before, drains it or not; else another one that takes new work."""
        mine = self._hub.instance(self._link.instance_id) if self._link is not None else None
        if mine is not None and mine.ended is None and self._fits(mine):
            return mine
        return self._hub.session_link(self._row.node_id, self._name, self._hash)

    def _fits(self, link: NodeLink) -> bool:
        """Tell whether an instance may run the handler: one that drains only where it has it already."""
        has_it = self._row.id in link.sessions or (
            self._link is not None and self._link.instance_id == link.instance_id
        )
        return link.hashes.get(self._name) == self._hash and (has_it or not link.draining)

    async def _send(self, frame: BaseModel) -> None:
        if self._link is None:
            return
        try:
            await self._link.send(frame)
        except NodeNotConnected:
            # the node asks again over its next link, and is answered again
            _log.debug("a frame for the handler of %s found no link", self._row.id)


def _value(effect: e.OpEffect) -> Any:
    match effect:
        case e.ResolveSpeech():
            return effect.spoken.as_json()
        case e.ResolveReply():
            return {
                "text": effect.spoken.generated,
                "spoken": effect.spoken.as_json(),
                "tool_calls": [dict(call) for call in effect.tool_calls],
            }
        case e.ResolveCall():
            return effect.value
        case _:
            return None


def parse_command(frame: SessionCommand) -> i.HandlerCommand | AgentFieldError:
    """Return the machine's input for a command of a handler, or why it is none."""
    args = frame.args
    base: dict[str, Any] = {"op_id": frame.op_id, "epoch": frame.epoch}
    try:
        match frame.command:
            case "input":
                return i.HandlerInput(**base)
            case "say":
                return i.HandlerSay(
                    **base,
                    text=_text(args, "text"),
                    interruptible=bool(args.get("interruptible", True)),
                    stale="speak" if args.get("stale") == "speak" else "drop",
                )
            case "reply":
                tools = args.get("tools")
                return i.HandlerReply(
                    **base,
                    instructions=args.get("instructions"),
                    tools=None if tools is None else tuple(map(str, tools)),
                )
            case "cancel_speech":
                return i.CancelSpeech(**base, speech_op=args.get("op_id"))
            case "call":
                return _call(frame)
            case "end":
                return i.HandlerEnd(**base, reason=str(args.get("reason") or "handler_ended"))
    except (TypeError, ValueError) as error:
        return InvalidInput(f"the command {frame.command!r} has bad arguments: {error}", field="args")
    return InvalidInput(f"a session has no command {frame.command!r}", field="command")


def _call(frame: SessionCommand) -> i.HandlerCall:
    args = frame.args
    given, timeout = args.get("input") or {}, args.get("timeout")
    if not isinstance(given, dict):
        raise TypeError("`input` must be an object")
    return i.HandlerCall(
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


async def answer_on(link: NodeLink, frame: SessionCommand | SessionDone, error: AgentFieldError | None = None) -> None:
    """Answer a frame on the link it came over, with nothing or with an error."""
    problem = None if error is None else error.to_problem()
    try:
        await link.send(SessionReply(session_id=frame.session_id, op_id=frame.op_id, problem=problem))
    except NodeNotConnected:
        _log.debug("the node that asked for %s is gone", frame.op_id)
