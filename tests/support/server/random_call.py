"""Random steps of a call: their strategies, and the call that applies them to a session machine."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from agentfield.realtime import events
from agentfield.realtime.commands import ReplyCommand, SayCommand
from agentfield.realtime.config import Limits
from agentfield_server.sessions.conversation.effects import (
    SendCommand,
)
from agentfield_server.sessions.conversation.inputs import (
    CallerConnected,
    CallerDisconnected,
    CancelSpeech,
    EndSession,
    HandlerCall,
    HandlerCommand,
    HandlerInput,
    HandlerLost,
    HandlerOpened,
    HandlerReply,
    HandlerSay,
    HandlerUnavailable,
    OfferAccepted,
    ProviderFailed,
    Rotated,
    Snapshot,
    TextInput,
    ToolFinished,
    ToolStarted,
)
from support.server.machine import SimulatedCall

ITEMS = st.sampled_from(["a", "b", "c", "d", "e", "f", "g"])
REPLIES = st.sampled_from(["r1", "r2", "r3", "r4", "r5"])
CALLS = st.sampled_from(["c1", "c2", "c3", "c4"])
TOOLS = st.sampled_from(["shop.look", "shop.slow", "shop.stop", "shop.secret"])
TEXTS = st.sampled_from(["", "hello", "where is my order", "x" * 90])
USAGE = st.none() | st.builds(
    events.Usage, output_text_tokens=st.none() | st.integers(0, 9), cost=st.none() | st.sampled_from([0.01, 0.5])
)

PROVIDER: st.SearchStrategy[Any] = st.one_of(
    st.builds(events.TurnStarted, item=ITEMS),
    st.builds(events.TurnStopped, item=ITEMS),
    st.builds(events.TurnCommitted, item=ITEMS, previous=st.none() | ITEMS, text=st.none() | TEXTS),
    st.builds(events.TurnTranscript, item=ITEMS, text=TEXTS, final=st.booleans(), failed=st.none() | st.just("asr")),
    st.builds(events.TurnDiscarded, item=ITEMS, why=st.just("cleared")),
    st.builds(events.ReplyStarted, reply=REPLIES, command=st.none() | st.just("last")),
    st.builds(events.ReplyTranscript, reply=REPLIES, text=TEXTS, final=st.booleans()),
    st.builds(
        events.ReplyEnded,
        reply=REPLIES,
        command=st.none() | st.just("last"),
        status=st.sampled_from(["completed", "cancelled", "failed", "incomplete"]),
        text=st.none() | TEXTS,
        audio=st.booleans(),
        audio_ms=st.none() | st.integers(0, 9000),
        tools=st.integers(0, 2),
        usage=USAGE,
    ),
    st.builds(
        events.ToolRequested, call_id=CALLS, name=TOOLS, arguments=st.sampled_from(["{}", "{", "[]"]), reply=REPLIES
    ),
    st.builds(events.Interrupted, reply=REPLIES, heard_ms=st.none() | st.integers(0, 5000)),
    st.builds(events.PlayoutStarted, reply=REPLIES),
    st.builds(events.PlayoutStopped, reply=REPLIES),
    st.builds(events.PlayoutCleared, reply=REPLIES),
    st.builds(
        events.ProviderFault, code=st.just("busy"), message=st.just("m"), retry=st.booleans(), command=st.just("last")
    ),
    st.builds(events.SessionUpdated, drift=st.just(()) | st.just(("tools",))),
    st.builds(events.Warned, code=st.just("w"), message=st.just("m")),
    st.builds(events.Dtmf, digit=st.sampled_from(["1", "#"])),
    st.builds(events.RateLimit, name=st.just("tokens"), remaining=st.sampled_from([0, 5])),
    st.builds(
        events.UsageReported,
        kind=st.sampled_from(["transcription", "reply"]),
        item=st.none() | ITEMS,
        reply=st.none() | REPLIES,
        usage=USAGE.filter(bool),
    ),
    st.just(Rotated()),
    st.just(events.ProviderFault(code="no_listener", message="m", command="last")),
)
RARE: st.SearchStrategy[Any] = st.one_of(
    st.builds(events.SessionReady, model=st.sampled_from(["m-1", "other", None])),
    st.builds(events.SessionClosed, reason=st.sampled_from(["caller_hangup", "closed", "provider_expired"])),
    st.just(events.ProviderFault(code="quota", message="m", fatal=True)),
    st.just(events.SessionClosed(reason="closed", retry=True)),
    st.just(ProviderFailed("broken", retry=True)),
    st.builds(EndSession, reason=st.sampled_from(["operator", "caller_hangup"])),
    st.builds(CallerDisconnected),
    st.builds(CallerConnected),
    st.builds(OfferAccepted),
    st.builds(ProviderFailed, st.just("broken")),
)
NORMAL: st.SearchStrategy[tuple[str, Any]] = st.one_of(
    st.tuples(st.just("event"), PROVIDER),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.1, 1.0, 2.5, 4.0])),
    st.tuples(st.just("say"), st.tuples(TEXTS, st.booleans(), st.sampled_from(["drop", "speak"]))),
    st.tuples(st.just("reply"), st.none() | st.just(("shop.look",))),
    st.tuples(st.sampled_from(["input", "turn", "taken", "begin", "spoken", "tool", "call", "finish"]), CALLS),
    st.tuples(st.sampled_from(["input", "turn", "taken", "begin", "spoken", "tool", "call", "finish"]), CALLS),
    st.tuples(st.sampled_from(["cancel", "typed", "repeat", "lost", "return", "raise", "ready"]), CALLS),
)
STEPS: st.SearchStrategy[tuple[str, Any]] = st.integers(0, 39).flatmap(
    lambda n: NORMAL if n else st.one_of(st.tuples(st.just("rare"), RARE), st.tuples(st.just("wait"), st.just(20.0)))
)
"""Mostly steps of a conversation in random order, and some that may end it."""


class RandomCall:
    """A session machine that random steps are applied to, and the commands that were sent to it.

    Args:
        floor: The floor of the declaration.
        drift: The drift policy of the declaration.
        media: The medium of the audio.
        patience: `interrupt_after_ms`.
        expires_in: Seconds until the provider's session expires; None for never.
        connected: Whether the call starts live.
        snapshot: The state from before a restart.
    """

    def __init__(
        self,
        floor: str,
        drift: str,
        media: str,
        patience: int,
        expires_in: float | None,
        *,
        connected: bool = True,
        snapshot: Snapshot | None = None,
    ) -> None:
        self.call = SimulatedCall(
            snapshot=snapshot,
            floor=floor,
            media=media,
            drift=drift,
            greeting="hi",
            goodbye="bye",
            on_error="sorry",
            interrupt_after_ms=patience,
            limits=Limits(turns=6, idle=500, cost=4),
        )
        if connected:
            self.call.live(expires_at=None if expires_in is None else 6000 + expires_in)
        self.asked: list[HandlerCommand] = []
        self.items = 0
        self.requested: list[str] = []

    def command(self, command: HandlerCommand) -> None:
        self.asked.append(command)
        self.call.feed(command)

    def last(self) -> str:
        ids = [x.command.id for x in self.call.all(SendCommand) if isinstance(x.command, SayCommand | ReplyCommand)]
        return ids[-1] if ids else "none"

    def step(self, kind: str, value: Any) -> None:
        call = self.call
        fields: dict[str, Any] = {"op_id": call.op(), "epoch": call.epoch}
        match kind:
            case "event":
                self._event(value)
            case "rare":
                call.feed(value)
            case "wait":
                call.wait(value)
            case "say":
                self.command(HandlerSay(**fields, text=value[0], interruptible=value[1], stale=value[2]))
            case "reply":
                self.command(HandlerReply(**fields, tools=value))
            case "input":
                self.command(HandlerInput(**fields))
            case "call":
                self.command(HandlerCall(**fields, target="shop.look"))
            case "cancel":
                self.command(CancelSpeech(**fields))
            case "turn":
                self.items += 1
                call.speaks(f"n{self.items}", "words")
            case "taken":
                self.command(HandlerInput(**fields))
                self.items += 1
                call.speaks(f"n{self.items}", "words")
            case "begin":
                self.items += 1
                call.feed(events.ReplyStarted(reply=f"h{self.items}", command=self.last_sent()))
            case "tool":
                self._tool(value)
            case "spoken":
                self.items += 1
                call.heard(f"h{self.items}", "words", self.last())
            case "ready" if call.machine.rotation.running:
                call.ready(expires_at=call.now + 5000 + 70)
            case "typed":
                call.feed(TextInput("typed"))
            case "repeat":
                self._repeat()
            case "return" | "raise" if call.machine.turns.current is not None:
                call.done("boom" if kind == "raise" else None)
            case "lost":
                call.feed(HandlerUnavailable(), HandlerLost(call.epoch), HandlerOpened(call.epoch))
            case "finish":
                call.feed(ToolFinished(call_id=value, value=1), ToolStarted(value, "exe_x"))
        call.feed(HandlerOpened(call.epoch))

    def last_sent(self) -> str | None:
        """Return the id of the command whose reply has not begun, None if there is none."""
        sent = self.call.machine.speech.sent
        return sent.id if sent is not None else None

    def _tool(self, call_id: str) -> None:
        """Let the active reply call a tool."""
        active = self.call.machine.speech.active
        if active is not None and active.reply is not None:
            self.requested.append(call_id)
            self.call.tool(call_id, reply=active.reply)

    def _event(self, event: Any) -> None:
        if getattr(event, "command", None) == "last":
            event = event.model_copy(update={"command": self.last()})
        if isinstance(event, events.ToolRequested):
            self.requested.append(event.call_id)
        self.call.feed(event)

    def _repeat(self) -> None:
        """Send a command again that is not answered yet, as a node does after a reconnect."""
        for command in self.asked[-1:]:
            if not any(getattr(x, "op_id", None) == command.op_id for x in self.call.effects):
                self.call.feed(command)
