"""What must hold whatever happens: random events, commands, repetitions and pauses against the machine."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentfield.realtime import events as e
from agentfield.realtime.commands import AddText, CancelReply, Reply, Say, SendToolResult
from agentfield.realtime.config import Limits
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.effects import (
    CloseTurn,
    Ended,
    Finished,
    OpenTurn,
    Record,
    Refuse,
    ResolveCall,
    ResolveInput,
    ResolveOp,
    ResolveReply,
    ResolveSpeech,
    Rotate,
    RunTool,
    SendCommand,
)
from unit.machine_kit import Call

ITEMS = st.sampled_from(["a", "b", "c", "d", "e", "f", "g"])
REPLIES = st.sampled_from(["r1", "r2", "r3", "r4", "r5"])
CALLS = st.sampled_from(["c1", "c2", "c3", "c4"])
TOOLS = st.sampled_from(["desk.look", "desk.slow", "desk.stop", "desk.secret"])
TEXTS = st.sampled_from(["", "hello", "where is my order", "x" * 90])
USAGE = st.none() | st.builds(
    e.Usage, output_text_tokens=st.none() | st.integers(0, 9), cost=st.none() | st.sampled_from([0.01, 0.5])
)
ANSWERS = (ResolveInput, ResolveSpeech, ResolveReply, ResolveCall, ResolveOp, Refuse)

PROVIDER: st.SearchStrategy[Any] = st.one_of(
    st.builds(e.TurnStarted, item=ITEMS),
    st.builds(e.TurnStopped, item=ITEMS),
    st.builds(e.TurnCommitted, item=ITEMS, previous=st.none() | ITEMS, text=st.none() | TEXTS),
    st.builds(e.TurnTranscript, item=ITEMS, text=TEXTS, final=st.booleans(), failed=st.none() | st.just("asr")),
    st.builds(e.TurnDiscarded, item=ITEMS, why=st.just("cleared")),
    st.builds(e.ReplyStarted, reply=REPLIES, command=st.none() | st.just("last")),
    st.builds(e.ReplyTranscript, reply=REPLIES, text=TEXTS, final=st.booleans()),
    st.builds(
        e.ReplyEnded,
        reply=REPLIES,
        command=st.none() | st.just("last"),
        status=st.sampled_from(["completed", "cancelled", "failed", "incomplete"]),
        text=st.none() | TEXTS,
        audio=st.booleans(),
        audio_ms=st.none() | st.integers(0, 9000),
        tools=st.integers(0, 2),
        usage=USAGE,
    ),
    st.builds(e.ToolRequested, call_id=CALLS, name=TOOLS, arguments=st.sampled_from(["{}", "{", "[]"]), reply=REPLIES),
    st.builds(e.Interrupted, reply=REPLIES, heard_ms=st.none() | st.integers(0, 5000)),
    st.builds(e.PlayoutStarted, reply=REPLIES),
    st.builds(e.PlayoutStopped, reply=REPLIES),
    st.builds(e.PlayoutCleared, reply=REPLIES),
    st.builds(
        e.ProviderFault, code=st.just("busy"), message=st.just("m"), retry=st.booleans(), command=st.just("last")
    ),
    st.builds(e.SessionUpdated, drift=st.just(()) | st.just(("tools",))),
    st.builds(e.Warned, code=st.just("w"), message=st.just("m")),
    st.builds(e.Dtmf, digit=st.sampled_from(["1", "#"])),
    st.builds(e.RateLimit, name=st.just("tokens"), remaining=st.sampled_from([0, 5])),
    st.builds(
        e.UsageReported,
        kind=st.sampled_from(["transcription", "reply"]),
        item=st.none() | ITEMS,
        reply=st.none() | REPLIES,
        usage=USAGE.filter(bool),
    ),
    st.just(i.Rotated()),
    st.just(e.ProviderFault(code="no_listener", message="m", command="last")),
)
RARE: st.SearchStrategy[Any] = st.one_of(
    st.builds(e.SessionReady, model=st.sampled_from(["m-1", "other", None])),
    st.builds(e.SessionClosed, reason=st.sampled_from(["caller_hangup", "closed", "provider_expired"])),
    st.just(e.ProviderFault(code="quota", message="m", fatal=True)),
    st.just(e.SessionClosed(reason="closed", retry=True)),
    st.just(i.ProviderFailed("broken", retry=True)),
    st.builds(i.EndSession, reason=st.sampled_from(["operator", "caller_hangup"])),
    st.builds(i.CallerGone),
    st.builds(i.CallerPresent),
    st.builds(i.OfferAccepted),
    st.builds(i.ProviderFailed, st.just("broken")),
)
NORMAL: st.SearchStrategy[tuple[str, Any]] = st.one_of(
    st.tuples(st.just("event"), PROVIDER),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.1, 1.0, 2.5, 4.0])),
    st.tuples(st.just("say"), st.tuples(TEXTS, st.booleans(), st.sampled_from(["drop", "speak"]))),
    st.tuples(st.just("reply"), st.none() | st.just(("desk.look",))),
    st.tuples(st.sampled_from(["input", "turn", "taken", "begin", "spoken", "tool", "call", "finish"]), CALLS),
    st.tuples(st.sampled_from(["input", "turn", "taken", "begin", "spoken", "tool", "call", "finish"]), CALLS),
    st.tuples(st.sampled_from(["cancel", "typed", "repeat", "lost", "return", "raise", "ready"]), CALLS),
)
STEPS: st.SearchStrategy[tuple[str, Any]] = st.integers(0, 39).flatmap(
    lambda n: NORMAL if n else st.one_of(st.tuples(st.just("rare"), RARE), st.tuples(st.just("wait"), st.just(20.0)))
)
"""Mostly a conversation with all its disorder, now and then something that may end it."""


class World:
    """A call under random treatment, and what was asked of it."""

    def __init__(self, floor: str, drift: str, media: str, patience: int, expires_in: float | None) -> None:
        self.call = Call(
            floor=floor,
            media=media,
            drift=drift,
            greeting="hi",
            goodbye="bye",
            on_error="sorry",
            interrupt_after_ms=patience,
            limits=Limits(turns=6, idle=500, cost=4),
        )
        self.call.live(expires_at=None if expires_in is None else 6000 + expires_in)
        self.asked: list[i.HandlerCommand] = []
        self.items = 0
        self.requested: list[str] = []

    def command(self, command: i.HandlerCommand) -> None:
        self.asked.append(command)
        self.call.feed(command)

    def last(self) -> str:
        ids = [x.command.id for x in self.call.all(SendCommand) if isinstance(x.command, Say | Reply)]
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
                self.command(i.HandlerSay(**fields, text=value[0], interruptible=value[1], stale=value[2]))
            case "reply":
                self.command(i.HandlerReply(**fields, tools=value))
            case "input":
                self.command(i.HandlerInput(**fields))
            case "call":
                self.command(i.HandlerCall(**fields, target="desk.look"))
            case "cancel":
                self.command(i.CancelSpeech(**fields))
            case "turn":
                self.items += 1
                call.speaks(f"n{self.items}", "words")
            case "taken":
                self.command(i.HandlerInput(**fields))
                self.items += 1
                call.speaks(f"n{self.items}", "words")
            case "begin":
                self.items += 1
                call.feed(e.ReplyStarted(reply=f"h{self.items}", command=self.last_sent()))
            case "tool":
                self._tool(value)
            case "spoken":
                self.items += 1
                call.heard(f"h{self.items}", "words", self.last())
            case "ready" if call.machine.rotation.running:
                call.ready(expires_at=call.now + 5000 + 70)
            case "typed":
                call.feed(i.TextInput("typed"))
            case "repeat":
                self._repeat()
            case "return" | "raise" if call.machine.turns.current is not None:
                call.done("boom" if kind == "raise" else None)
            case "lost":
                call.feed(i.HandlerAway(), i.HandlerLost(call.epoch), i.HandlerOpened(call.epoch))
            case "finish":
                call.feed(i.ToolFinished(call_id=value, value=1), i.ToolStarted(value, "exe_x"))
        call.feed(i.HandlerOpened(call.epoch))

    def last_sent(self) -> str | None:
        """Return the command that waits for its reply to begin, if any."""
        sent = self.call.machine.speech.sent
        return sent.id if sent is not None else None

    def _tool(self, call_id: str) -> None:
        """The reply that is being generated calls a tool."""
        active = self.call.machine.speech.active
        if active is not None and active.reply is not None:
            self.requested.append(call_id)
            self.call.tool(call_id, reply=active.reply)

    def _event(self, event: Any) -> None:
        if getattr(event, "command", None) == "last":
            event = event.model_copy(update={"command": self.last()})
        if isinstance(event, e.ToolRequested):
            self.requested.append(event.call_id)
        self.call.feed(event)

    def _repeat(self) -> None:
        """Send a command that is not answered yet again, as a node does after a reconnect."""
        for command in self.asked[-1:]:
            if not any(getattr(x, "op_id", None) == command.op_id for x in self.call.effects):
                self.call.feed(command)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    floor=st.sampled_from(["handler", "model"]),
    drift=st.sampled_from(["enforce", "allow"]),
    media=st.sampled_from(["direct", "bridged", "turns"]),
    patience=st.sampled_from([0, 400]),
    expires_in=st.none() | st.sampled_from([62.0, 90.0]),
    steps=st.lists(STEPS, min_size=30, max_size=80),
)
def test_rules_hold_whatever_happens(
    floor: str, drift: str, media: str, patience: int, expires_in: float | None, steps: list[tuple[str, Any]]
) -> None:
    """No order of events breaks a rule: answers once, one reply at a time, turns once, tools as listed, one end."""
    world = World(floor, drift, media, patience, expires_in)
    for kind, value in steps:
        world.step(kind, value)
        assert not (
            world.call.machine.speech.sent and world.call.machine.speech.sent is world.call.machine.speech.active
        )
    call = world.call
    call.feed(i.EndSession(reason="operator"), i.EndSession(reason="operator"))
    call.wait(200)

    assert len(call.all(Ended)) == 1
    assert len(call.all(Finished)) == 1
    assert call.machine.next_deadline() is None
    answers = Counter(effect.op_id for effect in call.effects if isinstance(effect, ANSWERS))
    assert answers == Counter({command.op_id: 1 for command in world.asked})
    check_turns(call)
    check_tools(world)
    check_slot(call)
    check_rotation(call)
    check_usage(call)


def check_rotation(call: Call) -> None:
    """Between a rotation and the new session's echo nothing is commanded; then the conversation comes first."""
    if call.machine.board.media == "direct":
        assert call.all(Rotate) == []
        return
    away = fresh = over = False
    said = 0
    for effect in call.effects:
        match effect:
            case Ended():
                over = True
            case Rotate():
                assert not over
                away = True
            case Record(type="provider.attached"):
                away, fresh = False, away
            case Record(type="turn.committed"):
                said += bool(effect.body["text"])
            case SendCommand():
                assert not away
                assert not over
                assert not fresh or not said or isinstance(effect.command, AddText)
                fresh = False


def check_usage(call: Call) -> None:
    """What is told at the end is the sum of what was told before, once."""
    used = call.recorded("usage")
    total = call.recorded("session.usage")
    assert len(total) == bool(used)
    costs = [body["cost"] for body in used if body["cost"] is not None]
    for body in total:
        assert body["cost"] == (round(sum(costs), 12) if costs else None)
        assert body["unpriced"] == len(used) - len(costs)
    assert sum(body["code"] == "rate_limit_low" for body in call.recorded("warning")) <= 1


def check_turns(call: Call) -> None:
    opened = [effect.turn_id for effect in call.all(OpenTurn)]
    assert len(opened) == len(set(opened)) <= 6
    assert Counter(opened) == Counter(effect.turn_id for effect in call.all(CloseTurn))
    delivered = [(effect.turn.id, effect.turn.attempt) for effect in call.all(ResolveInput)]
    assert len(delivered) == len(set(delivered))
    firsts = [opened.index(turn_id) for turn_id, attempt in delivered if attempt == 1]
    if call.machine.board.model_floor:
        return
    assert firsts == sorted(firsts)


def check_tools(world: World) -> None:
    runs = [run for run in world.call.all(RunTool) if run.kind == "tool"]
    assert all(run.target != "desk.secret" for run in runs)
    assert len({run.call_id for run in runs}) == len(runs)
    asked = Counter(world.requested)
    answered = Counter(command.call_id for command in world.call.sent(SendToolResult))
    assert all(count <= asked[call_id] for call_id, count in answered.items())


def check_slot(call: Call) -> None:
    """Between two sends of a say or reply, the earlier one was settled: begun and ended, or refused."""
    started = [body["speech_id"] for body in call.recorded("speech.started")]
    ended = Counter(body["speech_id"] for body in call.recorded("speech.ended"))
    assert len(started) == len(set(started))
    assert all(count == 1 for count in ended.values())
    assert set(started) <= set(ended)
    under_way: set[str] = set()
    for effect in call.effects:
        body = getattr(effect, "body", {})
        match getattr(effect, "type", None):
            case "speech.started":
                under_way.add(body["speech_id"])
            case "speech.ended":
                under_way.discard(body["speech_id"])
        assert len(under_way) <= 2  # one in the slot, and at most one that lost the race for it and will be sent again
    assert all(command.reply for command in call.sent(CancelReply))
    stopped = Counter(command.reply for command in call.sent(CancelReply))
    assert all(count == 1 for reply, count in stopped.items() if reply.startswith("h"))


@settings(max_examples=100, deadline=None)
@given(
    st.permutations(range(5)),
    st.permutations(range(5)),
    st.lists(st.sampled_from([0.0, 0.2]), min_size=10, max_size=10),
)
def test_turns_come_in_item_order(commits: list[int], words: list[int], pauses: list[float]) -> None:
    """Whatever order commits and transcripts arrive in, turns are handed out in the order of their items."""
    call = Call().live()
    for _ in range(5):
        call.input()
    for n in range(5):
        call.feed(e.TurnStarted(item=f"i{n}"))
    for n in commits:
        call.feed(e.TurnCommitted(item=f"i{n}", previous=f"i{n - 1}" if n else None))
        call.wait(pauses[n])
    for n in words:
        call.feed(e.TurnTranscript(item=f"i{n}", text=f"t{n}"))
        call.wait(pauses[5 + n])
    assert [effect.turn.text for effect in call.all(ResolveInput)] == [f"t{n}" for n in range(5)]
