"""Usage and cost; telephone keys, speech without a listener, rate limits, idleness on recorded turns, ICE."""

from __future__ import annotations

from dataclasses import replace

from agentfield.realtime.commands import SayCommand
from agentfield.realtime.config import Limits
from agentfield.realtime.events import (
    Dtmf,
    PlayoutStarted,
    PlayoutStopped,
    ProviderFault,
    RateLimit,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    Usage,
    UsageReported,
)
from agentfield_server.sessions.conversation.effects import (
    Broadcast,
    CloseRootExecution,
    CloseTurn,
    RecordEvent,
    SetState,
)
from agentfield_server.sessions.conversation.inputs import EndSession, HandlerOpened, Snapshot
from agentfield_server.sessions.conversation.usage.pricing import UsageKind
from agentfield_server.sessions.conversation.usage.totals import UsageTotals
from support.server.machine import CAPABILITIES, SimulatedCall


def a_cent_each(kind: UsageKind, usage: Usage) -> float | None:
    """Price an output token at one cent, and transcription not at all."""
    return None if kind == "transcription" else (usage.output_text_tokens or 0) * 0.01


def replied(call: SimulatedCall, reply: str, tokens: int) -> None:
    """Let the model answer with a usage report."""
    usage = Usage(output_text_tokens=tokens, input_text_tokens=5)
    call.feed(ReplyStarted(reply=reply), ReplyEnded(reply=reply, text="words", usage=usage))


def test_usage_of_a_turn() -> None:
    """Usage is recorded with what it belongs to, and summed by kind in the turn's output; unknown counts are absent."""
    call = SimulatedCall(floor="model", price=a_cent_each).live()
    call.speaks("a", "hello")
    call.feed(UsageReported(item="a", usage=Usage(seconds=1.5)))
    replied(call, "r1", 7)
    said, heard = call.recorded("usage")[1], call.recorded("usage")[0]
    assert heard == {
        "kind": "transcription",
        "model": "t-1",
        "turn_id": "exe_1",
        "item": "a",
        "usage": {"seconds": 1.5},
        "cost": None,
    }
    assert (said["kind"], said["model"], said["turn_id"], said["cost"]) == ("reply", "m-1", "exe_1", 0.07)
    assert said["usage"] == {"input_text_tokens": 5, "output_text_tokens": 7}
    assert said["speech_id"] == call.recorded("speech.ended")[0]["speech_id"]
    (closed,) = call.all(CloseTurn)
    assert closed.output is not None
    assert closed.output["cost"] == 0.07
    assert closed.output["usage"]["transcription"] == {"seconds": 1.5}


def test_usage_of_a_session() -> None:
    """The totals of a session are recorded once, before its end, with the number of unpriced reports."""
    call = SimulatedCall(floor="model", price=a_cent_each).live()
    call.speaks("a", "hello")
    replied(call, "r1", 7)
    replied(call, "r2", 3)
    call.feed(UsageReported(item="a", usage=Usage(seconds=1.5)), EndSession(reason="operator"))
    (total,) = call.recorded("session.usage")
    assert (total["cost"], total["unpriced"]) == (0.1, 1)
    assert total["usage"]["reply"] == {"input_text_tokens": 10, "output_text_tokens": 10}
    kinds = [
        x.type if isinstance(x, RecordEvent) else "end"
        for x in call.effects
        if isinstance(x, RecordEvent | CloseRootExecution)
    ]
    assert kinds.index("session.usage") < kinds.index("end")
    quiet = SimulatedCall().live()
    quiet.feed(EndSession(reason="operator"))
    assert quiet.recorded("session.usage") == []


def test_repeated_usage_counts_once() -> None:
    """A repeated usage report is not counted."""
    call = SimulatedCall(floor="model", price=a_cent_each).live()
    for _ in range(2):
        replied(call, "r1", 7)
        call.feed(UsageReported(item="a", usage=Usage(seconds=1)))
    assert len(call.recorded("usage")) == 2


def test_cost_that_the_provider_reports() -> None:
    """Without a price table the provider's own figure counts; exact speech is a kind of its own."""
    for say, kind, model in (("best_effort", "reply", "m-1"), ("exact", "speech", None)):
        call = SimulatedCall(capabilities=replace(CAPABILITIES, say=say)).live()
        call.say("alpha")
        usage = Usage(output_audio_tokens=9, cost=0.25)
        call.feed(ReplyStarted(reply="r1", command=call.spoken_command()))
        call.feed(ReplyEnded(reply="r1", text="alpha", usage=usage))
        (body,) = call.recorded("usage")
        assert (body["kind"], body["model"], body["cost"]) == (kind, model, 0.25)
        assert body["usage"] == {"output_audio_tokens": 9}


def test_cost_limit_warns_and_says_goodbye() -> None:
    """At 80 % the session warns once, at the limit it ends with its goodbye."""
    call = SimulatedCall(floor="model", price=a_cent_each, goodbye="Bye.", limits=Limits(cost=1.0)).live()
    replied(call, "r1", 79)
    assert call.recorded("warning") == []
    replied(call, "r2", 1)
    replied(call, "r3", 1)
    assert [body["code"] for body in call.recorded("warning")] == ["limit_cost"]
    assert call.reason is None
    replied(call, "r4", 19)
    assert call.reason == "limit_cost"
    assert call.sent(SayCommand)[-1].text == "Bye."


def test_cost_limit_warns_of_usage_without_a_price() -> None:
    """A cost limit that cannot count something warns once."""
    call = SimulatedCall(price=a_cent_each, limits=Limits(cost=1.0)).live()
    for item in ("a", "b"):
        call.feed(UsageReported(item=item, usage=Usage(seconds=600)))
    assert [body["code"] for body in call.recorded("warning")] == ["cost_unknown"]


def test_cost_limit_warns_of_a_reply_without_usage() -> None:
    """A finished reply without reported usage causes one warning; without a limit it causes none."""
    limited = SimulatedCall(floor="model", price=a_cent_each, limits=Limits(cost=1.0)).live()
    free = SimulatedCall(floor="model", price=a_cent_each).live()
    for call in (limited, free):
        for reply in ("r1", "r2"):
            call.feed(ReplyStarted(reply=reply), ReplyEnded(reply=reply, text="words"))
    assert [body["code"] for body in limited.recorded("warning")] == ["cost_unknown"]
    assert free.recorded("warning") == []


def test_cost_continues_after_a_restart() -> None:
    """Usage before a restart counts."""
    used = UsageTotals()
    used.add("reply", {"output_text_tokens": 99}, 0.99)
    call = SimulatedCall(
        floor="model",
        price=a_cent_each,
        limits=Limits(cost=1.0),
        snapshot=Snapshot(handler_epoch=1, turns=0, used=used),
    ).live()
    replied(call, "r1", 1)
    assert call.reason == "limit_cost"


# --- keys, nobody listening, rate limits


def test_telephone_key() -> None:
    """A key is recorded, sent to listeners, and counts as activity."""
    call = SimulatedCall(media="bridged", limits=Limits(idle=20)).live()
    call.wait(15)
    call.feed(Dtmf(digit="#"))
    assert call.recorded("dtmf") == [{"digit": "#"}]
    assert {"type": "dtmf", "digit": "#"} in [dict(live.body) for live in call.all(Broadcast)]
    call.wait(15)
    assert call.reason is None


def test_speech_without_a_listener() -> None:
    """It fails at once as `no_listener`, is not tried again and causes no warning."""
    call = SimulatedCall(media="turns", greeting="Welcome.").live()
    for text in ("Welcome.", "one", "two"):
        if text != "Welcome.":
            call.say(text)
        fault = ProviderFault(code="no_listener", message="nobody", retry=True, command=call.spoken_command())
        call.feed(fault, fault)
    call.wait(5)
    assert [body["failed"] for body in call.recorded("speech.ended")] == ["no_listener"] * 3
    assert len(call.sent(SayCommand)) == 3
    assert call.recorded("warning") == []


def test_used_up_rate_limit_warns_once() -> None:
    """A used-up limit of the provider is recorded once for each name."""
    call = SimulatedCall().live()
    for name, left in (("tokens", 10), ("tokens", 0), ("tokens", 0), ("requests", 0)):
        call.feed(RateLimit(name=name, remaining=left))
    assert [body["code"] for body in call.recorded("warning")] == ["rate_limit_low"] * 2
    assert len([live for live in call.all(Broadcast) if live.body["type"] == "rate_limit"]) == 4


# --- idleness and ICE


def test_idle_on_recorded_turns_is_counted_from_the_last_end() -> None:
    """A turn in progress is no idleness; then idleness counts from the end of the last speech or turn."""
    call = SimulatedCall(media="turns", limits=Limits(idle=20)).live()
    call.taken("a")
    call.wait(50)
    call.say("alpha")
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
    call.feed(ReplyEnded(reply="r1", text="alpha", audio=True, audio_ms=30_000))
    call.wait(30)
    call.feed(PlayoutStopped(reply="r1"))
    call.wait(10)
    call.done()
    call.feed(HandlerOpened(call.epoch))
    call.wait(19)
    assert call.reason is None
    call.wait(2)
    assert call.reason == "limit_idle"


def test_ice_failed_says_what_to_do() -> None:
    """Audio without a network path ends the session as `ice_failed` with a hint."""
    call = SimulatedCall().live()
    call.feed(SessionClosed(reason="ice_failed", message="no candidate pair worked within 10 s."))
    (end,) = call.all(CloseRootExecution)
    assert end.reason == "ice_failed"
    assert (end.detail or "").startswith("no candidate pair worked within 10 s; is UDP blocked")
    assert call.all(SetState)[-1].detail == end.detail
