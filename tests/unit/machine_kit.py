"""Drives a session machine by hand: a clock to turn, identifiers that count, effects to look at."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, TypeVar

from agentfield.ids import Prefix
from agentfield.plugins.spec import Capabilities
from agentfield.realtime.commands import Command, Reply, Say
from agentfield.realtime.config import Limits, ServerVad, SessionConfig, SessionDeclaration, ToolSpec
from agentfield.realtime.events import (
    PlayoutStarted,
    PlayoutStopped,
    ReplyEnded,
    ReplyStarted,
    SessionReady,
    ToolRequested,
    TurnCommitted,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
)
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.effects import (
    CloseTurn,
    Effect,
    OpenHandler,
    Record,
    ResolveInput,
    SendCommand,
    SetState,
)
from agentfield_server.sessions.machine import SessionMachine
from agentfield_server.sessions.prices import Pricer, as_told

CAPABILITIES = Capabilities(
    say="best_effort",
    floors=frozenset({"handler", "model"}),
    turn_detection=frozenset({"server_vad"}),
    modalities=frozenset({"audio", "text"}),
    tools="async",
    caller_transcript="final",
    interruption="server",
    text_input=True,
    resumption="attach",
)
WEBSOCKET = replace(CAPABILITIES, interruption="client", truncation="client_ms", resumption="replay")
"""Of a pair whose audio we carry."""
TURNS = replace(WEBSOCKET, truncation="estimate", resumption="stateless")
"""Of a pair of recorded turns."""
_OF_MEDIA = {"direct": CAPABILITIES, "bridged": WEBSOCKET, "turns": TURNS}
E = TypeVar("E")
C = TypeVar("C", bound=Command)


def make_config(tools: tuple[str, ...] = ("desk.look", "desk.slow", "desk.stop"), **fields: Any) -> SessionConfig:
    """Return the configuration of a session `desk.voice`; `desk.stop` is cancelled by an interruption."""
    declared = {"provider": "local", "transport": "webrtc", "floor": "handler", "limits": Limits(), **fields}
    detection = declared.get("turn_detection", "default")
    return SessionConfig(
        session_id="ses_1",
        target="desk.voice",
        declaration=SessionDeclaration(name="voice", tools=tools, **declared),
        model="m-1",
        voice="v-1",
        transcription="t-1",
        turn_detection=ServerVad() if detection == "default" else detection,
        tools=tuple(
            ToolSpec(target=tool, parameters={}, on_interrupt="cancel" if tool == "desk.stop" else "keep")
            for tool in tools
        ),
    )


class Call:
    """A machine with a clock."""

    def __init__(
        self,
        *,
        snapshot: i.Snapshot | None = None,
        media: Any = "direct",
        capabilities: Capabilities | None = None,
        price: Pricer = as_told,
        **fields: Any,
    ) -> None:
        self.now = 1000.0
        self._counts: Counter[str] = Counter()
        self.effects: list[Effect] = []
        self.machine = SessionMachine(
            make_config(**fields),
            capabilities=capabilities or _OF_MEDIA[media],
            media=media,
            price=price,
            ids=self._id,
            now=self.now,
            offset=5000.0,
            snapshot=snapshot,
        )
        self._ops = 0

    def _id(self, prefix: Prefix) -> str:
        self._counts[prefix] += 1
        return f"{prefix}_{self._counts[prefix]}"

    def feed(self, *events: i.Input) -> list[Effect]:
        """Feed inputs at this moment; returns what they brought."""
        brought: list[Effect] = []
        for event in events:
            brought += self.machine.feed(event, self.now)
        self.effects += brought
        return brought

    def wait(self, seconds: float) -> list[Effect]:
        """Let time pass, deadline by deadline."""
        until = self.now + seconds
        brought: list[Effect] = []
        while (due := self.machine.next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            brought += self.machine.tick(self.now)
        self.now = until
        brought += self.machine.tick(self.now)
        self.effects += brought
        return brought

    # --- the usual steps

    def live(self, **ready: Any) -> Call:
        """Connect and open the handler."""
        self.feed(i.OfferAccepted(), SessionReady(**{"model": "m-1", "voice": "v-1", **ready}))
        opened = self.all(OpenHandler)
        if opened:
            self.feed(i.HandlerOpened(opened[-1].epoch))
        return self

    @property
    def epoch(self) -> int:
        return self.machine.handler.epoch

    def op(self) -> str:
        self._ops += 1
        return f"op_{self._ops}"

    def input(self) -> str:
        op_id = self.op()
        self.feed(i.HandlerInput(op_id=op_id, epoch=self.epoch))
        return op_id

    def say(self, text: str, **fields: Any) -> str:
        op_id = self.op()
        self.feed(i.HandlerSay(op_id=op_id, epoch=self.epoch, text=text, **fields))
        return op_id

    def reply(self, **fields: Any) -> str:
        op_id = self.op()
        self.feed(i.HandlerReply(op_id=op_id, epoch=self.epoch, **fields))
        return op_id

    def done(self, message: str | None = None) -> list[Effect]:
        problem = {"code": "handler_error", "detail": message} if message else None
        return self.feed(i.HandlerDone(self.epoch, problem))

    def speaks(self, item: str, text: str | None = None, previous: str | None = None) -> list[Effect]:
        """The caller says something; without `text` the transcript is still to come."""
        brought = self.feed(TurnStarted(item=item), TurnStopped(item=item), TurnCommitted(item=item, previous=previous))
        if text is not None:
            brought += self.feed(TurnTranscript(item=item, text=text))
        return brought

    def taken(self, item: str = "a", text: str = "hello") -> str:
        """The handler asks and gets a turn; returns the id of its execution."""
        op_id = self.input()
        self.speaks(item, text)
        return next(e.turn.id for e in self.all(ResolveInput) if e.op_id == op_id)

    def heard(self, reply: str, text: str, command: str | None = None, seconds: float = 1.0) -> list[Effect]:
        """The provider speaks a reply and the caller hears all of it."""
        brought = self.feed(ReplyStarted(reply=reply, command=command), PlayoutStarted(reply=reply))
        brought += self.feed(ReplyEnded(reply=reply, command=command, text=text, audio=True))
        brought += self.wait(seconds)
        return brought + self.feed(PlayoutStopped(reply=reply))

    def ready(self, **fields: Any) -> list[Effect]:
        """Another session at the provider takes over and is ready."""
        return self.feed(i.Rotated(), SessionReady(**{"model": "m-1", "voice": "v-1", **fields}))

    def tool(self, call_id: str, name: str = "desk.look", arguments: str = "{}", reply: str = "r1") -> list[Effect]:
        return self.feed(ToolRequested(call_id=call_id, name=name, arguments=arguments, reply=reply))

    # --- looking

    def all(self, kind: type[E]) -> list[E]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def sent(self, kind: type[C]) -> list[C]:
        return [effect.command for effect in self.all(SendCommand) if isinstance(effect.command, kind)]

    def spoken_command(self) -> str:
        """Return the id of the last say or reply that was sent."""
        ids = [e.command.id for e in self.all(SendCommand) if isinstance(e.command, Say | Reply)]
        return ids[-1]

    def recorded(self, kind: str) -> list[dict[str, Any]]:
        return [dict(effect.body) for effect in self.all(Record) if effect.type == kind]

    def answer(self, op_id: str) -> Any:
        """Return the answer of a command, None while there is none."""
        answers = [e for e in self.effects if getattr(e, "op_id", None) == op_id]
        assert len(answers) <= 1, answers
        return answers[0] if answers else None

    def states(self) -> list[str]:
        return [effect.state for effect in self.all(SetState)]

    def closed(self) -> dict[str, str]:
        return {effect.turn_id: effect.status for effect in self.all(CloseTurn)}

    @property
    def reason(self) -> str | None:
        return self.machine.board.reason
