"""A session machine driven by hand: a clock that tests advance, counted identifiers, and the effects so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, TypeVar

from agentfield.ids import Prefix
from agentfield.plugins.manifest.spec import Capabilities
from agentfield.realtime.commands import Command, ReplyCommand, SayCommand
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
from agentfield_server.sessions.conversation.effects import (
    CloseTurn,
    Effect,
    OpenHandler,
    RecordEvent,
    ResolveInput,
    SendCommand,
    SetState,
)
from agentfield_server.sessions.conversation.inputs import (
    HandlerDone,
    HandlerInput,
    HandlerOpened,
    HandlerReply,
    HandlerSay,
    Input,
    OfferAccepted,
    Rotated,
    Snapshot,
)
from agentfield_server.sessions.conversation.machine import SessionMachine
from agentfield_server.sessions.conversation.usage.pricing import Pricer, reported_cost

CAPABILITIES = Capabilities(
    say="best_effort",
    uninterruptible=True,
    floors=frozenset({"handler", "model"}),
    turn_detection=frozenset({"server_vad"}),
    modalities=frozenset({"audio", "text"}),
    tools="async",
    caller_transcript="final",
    interruption="server",
    delays_interruption=True,
    text_input=True,
    resumption="attach",
)
WEBSOCKET = replace(CAPABILITIES, interruption="client", truncation="client_ms", resumption="replay")
"""Capabilities of a pair on bridged media."""
TURNS = replace(WEBSOCKET, truncation="estimate", resumption="stateless")
"""Capabilities of a pair of recorded turns."""
_OF_MEDIA = {"direct": CAPABILITIES, "bridged": WEBSOCKET, "turns": TURNS}
E = TypeVar("E")
C = TypeVar("C", bound=Command)


def make_config(tools: tuple[str, ...] = ("shop.look", "shop.slow", "shop.stop"), **fields: Any) -> SessionConfig:
    """Return the configuration of a session `shop.voice`; `shop.stop` is cancelled by an interruption."""
    declared = {"provider": "local", "transport": "webrtc", "floor": "handler", "limits": Limits(), **fields}
    detection = declared.get("turn_detection", "default")
    return SessionConfig(
        session_id="ses_1",
        target="shop.voice",
        declaration=SessionDeclaration(name="voice", tools=tools, **declared),
        model="m-1",
        voice="v-1",
        transcription="t-1",
        turn_detection=ServerVad() if detection == "default" else detection,
        tools=tuple(
            ToolSpec(target=tool, parameters={}, on_interrupt="cancel" if tool == "shop.stop" else "keep")
            for tool in tools
        ),
    )


class SimulatedCall:
    """A session machine, its clock, and the effects that it has returned."""

    def __init__(
        self,
        *,
        snapshot: Snapshot | None = None,
        media: Any = "direct",
        capabilities: Capabilities | None = None,
        price: Pricer = reported_cost,
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

    def feed(self, *events: Input) -> list[Effect]:
        """Feed inputs at the current time; return their effects."""
        effects: list[Effect] = []
        for event in events:
            effects += self.machine.feed(event, self.now)
        self.effects += effects
        return effects

    def wait(self, seconds: float) -> list[Effect]:
        """Advance the clock, deadline by deadline; return the effects."""
        until = self.now + seconds
        effects: list[Effect] = []
        while (due := self.machine.next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            effects += self.machine.tick(self.now)
        self.now = until
        effects += self.machine.tick(self.now)
        self.effects += effects
        return effects

    # --- the usual steps

    def live(self, **ready: Any) -> SimulatedCall:
        """Make the call live and open the handler; return the call."""
        self.feed(OfferAccepted(), SessionReady(**{"model": "m-1", "voice": "v-1", **ready}))
        opened = self.all(OpenHandler)
        if opened:
            self.feed(HandlerOpened(opened[-1].epoch))
        return self

    def under_way(self, **ready: Any) -> SimulatedCall:
        """Make the call live and pass its opening, in which speech of an unknown beginning interrupts nothing."""
        self.live(**ready).wait(1)
        return self

    @property
    def epoch(self) -> int:
        return self.machine.handler.epoch

    def op(self) -> str:
        self._ops += 1
        return f"op_{self._ops}"

    def input(self) -> str:
        op_id = self.op()
        self.feed(HandlerInput(op_id=op_id, epoch=self.epoch))
        return op_id

    def say(self, text: str, **fields: Any) -> str:
        op_id = self.op()
        self.feed(HandlerSay(op_id=op_id, epoch=self.epoch, text=text, **fields))
        return op_id

    def reply(self, **fields: Any) -> str:
        op_id = self.op()
        self.feed(HandlerReply(op_id=op_id, epoch=self.epoch, **fields))
        return op_id

    def done(self, message: str | None = None) -> list[Effect]:
        problem = {"code": "handler_error", "detail": message} if message else None
        return self.feed(HandlerDone(self.epoch, problem))

    def speaks(self, item: str, text: str | None = None, previous: str | None = None) -> list[Effect]:
        """Let the caller speak a turn; without `text` its transcript is still to come."""
        effects = self.feed(TurnStarted(item=item), TurnStopped(item=item), TurnCommitted(item=item, previous=previous))
        if text is not None:
            effects += self.feed(TurnTranscript(item=item, text=text))
        return effects

    def taken(self, item: str = "a", text: str = "hello") -> str:
        """Let the handler ask for and take a turn; return the id of its execution."""
        op_id = self.input()
        self.speaks(item, text)
        return next(e.turn.id for e in self.all(ResolveInput) if e.op_id == op_id)

    def heard(self, reply: str, text: str, command: str | None = None, seconds: float = 1.0) -> list[Effect]:
        """Let the provider speak a reply that the caller hears completely."""
        effects = self.feed(ReplyStarted(reply=reply, command=command), PlayoutStarted(reply=reply))
        effects += self.feed(ReplyEnded(reply=reply, command=command, text=text, audio=True))
        effects += self.wait(seconds)
        return effects + self.feed(PlayoutStopped(reply=reply))

    def ready(self, **fields: Any) -> list[Effect]:
        """Let a replacement take over at the provider and be ready."""
        return self.feed(Rotated(), SessionReady(**{"model": "m-1", "voice": "v-1", **fields}))

    def tool(self, call_id: str, name: str = "shop.look", arguments: str = "{}", reply: str = "r1") -> list[Effect]:
        return self.feed(ToolRequested(call_id=call_id, name=name, arguments=arguments, reply=reply))

    # --- looking

    def all(self, kind: type[E]) -> list[E]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def sent(self, kind: type[C]) -> list[C]:
        return [effect.command for effect in self.all(SendCommand) if isinstance(effect.command, kind)]

    def spoken_command(self) -> str:
        """Return the id of the last say or reply that was sent."""
        ids = [e.command.id for e in self.all(SendCommand) if isinstance(e.command, SayCommand | ReplyCommand)]
        return ids[-1]

    def recorded(self, kind: str) -> list[dict[str, Any]]:
        return [dict(effect.body) for effect in self.all(RecordEvent) if effect.type == kind]

    def answer(self, op_id: str) -> Any:
        """Return the answer to a command, None if there is none."""
        answers = [e for e in self.effects if getattr(e, "op_id", None) == op_id]
        assert len(answers) <= 1, answers
        return answers[0] if answers else None

    def states(self) -> list[str]:
        return [effect.state for effect in self.all(SetState)]

    def closed(self) -> dict[str, str]:
        return {effect.turn_id: effect.status for effect in self.all(CloseTurn)}

    @property
    def reason(self) -> str | None:
        return self.machine.state.reason
