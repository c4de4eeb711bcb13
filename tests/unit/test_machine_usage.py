"""Usage and its cost, keys of a telephone, nobody listening, rate limits, idleness on recorded turns, ICE."""

from __future__ import annotations

from dataclasses import replace

from agentfield.realtime.commands import Say
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
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.effects import CloseTurn, Ended, Live, Record, SetState
from agentfield_server.sessions.prices import UsageKind
from agentfield_server.sessions.totals import Totals
from unit.machine_kit import CAPABILITIES, Call


def a_cent_each(kind: UsageKind, usage: Usage) -> float | None:
    """A price table: a cent for an output token, nothing known of transcription."""
    return None if kind == "transcription" else (usage.output_text_tokens or 0) * 0.01


def replied(call: Call, reply: str, tokens: int) -> None:
    """The model answers and that is counted."""
    usage = Usage(output_text_tokens=tokens, input_text_tokens=5)
    call.feed(ReplyStarted(reply=reply), ReplyEnded(reply=reply, text="words", usage=usage))


def test_usage_of_a_turn() -> None:
    """Usage is recorded with what it belongs to, and summed by kind in the turn's output; unknown counts are absent."""
    call = Call(floor="model", price=a_cent_each).live()
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
    """The sums of a session are recorded once, before its end; what had no price is counted."""
    call = Call(floor="model", price=a_cent_each).live()
    call.speaks("a", "hello")
    replied(call, "r1", 7)
    replied(call, "r2", 3)
    call.feed(UsageReported(item="a", usage=Usage(seconds=1.5)), i.EndSession(reason="operator"))
    (total,) = call.recorded("session.usage")
    assert (total["cost"], total["unpriced"]) == (0.1, 1)
    assert total["usage"]["reply"] == {"input_text_tokens": 10, "output_text_tokens": 10}
    kinds = [x.type if isinstance(x, Record) else "end" for x in call.effects if isinstance(x, Record | Ended)]
    assert kinds.index("session.usage") < kinds.index("end")
    quiet = Call().live()
    quiet.feed(i.EndSession(reason="operator"))
    assert quiet.recorded("session.usage") == []


def test_usage_that_is_told_twice_counts_once() -> None:
    """A provider that repeats itself costs nothing."""
    call = Call(floor="model", price=a_cent_each).live()
    for _ in range(2):
        replied(call, "r1", 7)
        call.feed(UsageReported(item="a", usage=Usage(seconds=1)))
    assert len(call.recorded("usage")) == 2


def test_cost_that_the_provider_tells() -> None:
    """Without a price table the provider's own figure counts; exact speech is of a kind of its own."""
    for say, kind, model in (("best_effort", "reply", "m-1"), ("exact", "speech", None)):
        call = Call(capabilities=replace(CAPABILITIES, say=say)).live()
        call.say("alpha")
        usage = Usage(output_audio_tokens=9, cost=0.25)
        call.feed(ReplyStarted(reply="r1", command=call.spoken_command()))
        call.feed(ReplyEnded(reply="r1", text="alpha", usage=usage))
        (body,) = call.recorded("usage")
        assert (body["kind"], body["model"], body["cost"]) == (kind, model, 0.25)
        assert body["usage"] == {"output_audio_tokens": 9}


def test_limit_of_cost_warns_and_says_goodbye() -> None:
    """At 80 % the handler is warned once, at the limit the session ends with its goodbye."""
    call = Call(floor="model", price=a_cent_each, goodbye="Bye.", limits=Limits(cost=1.0)).live()
    replied(call, "r1", 79)
    assert call.recorded("warning") == []
    replied(call, "r2", 1)
    replied(call, "r3", 1)
    assert [body["code"] for body in call.recorded("warning")] == ["limit_cost"]
    assert call.reason is None
    replied(call, "r4", 19)
    assert call.reason == "limit_cost"
    assert call.sent(Say)[-1].text == "Bye."


def test_limit_of_cost_without_a_price_is_told() -> None:
    """A limit that cannot count something says so, once."""
    call = Call(price=a_cent_each, limits=Limits(cost=1.0)).live()
    for item in ("a", "b"):
        call.feed(UsageReported(item=item, usage=Usage(seconds=600)))
    assert [body["code"] for body in call.recorded("warning")] == ["cost_unknown"]


def test_limit_of_cost_says_that_it_cannot_hold_where_nothing_is_counted() -> None:
    """A finished reply whose use the provider does not tell is warned of once; without a limit nobody needs to know."""
    limited = Call(floor="model", price=a_cent_each, limits=Limits(cost=1.0)).live()
    free = Call(floor="model", price=a_cent_each).live()
    for call in (limited, free):
        for reply in ("r1", "r2"):
            call.feed(ReplyStarted(reply=reply), ReplyEnded(reply=reply, text="words"))
    assert [body["code"] for body in limited.recorded("warning")] == ["cost_unknown"]
    assert free.recorded("warning") == []


def test_cost_goes_on_after_a_restart() -> None:
    """What was used before a restart counts."""
    used = Totals()
    used.add("reply", {"output_text_tokens": 99}, 0.99)
    call = Call(
        floor="model",
        price=a_cent_each,
        limits=Limits(cost=1.0),
        snapshot=i.Snapshot(handler_epoch=1, turns=0, used=used),
    ).live()
    replied(call, "r1", 1)
    assert call.reason == "limit_cost"


# --- keys, nobody listening, rate limits


def test_keys_of_a_telephone() -> None:
    """A key is recorded, told to who listens, and counts as activity."""
    call = Call(media="bridged", limits=Limits(idle=20)).live()
    call.wait(15)
    call.feed(Dtmf(digit="#"))
    assert call.recorded("dtmf") == [{"digit": "#"}]
    assert {"type": "dtmf", "digit": "#"} in [dict(live.body) for live in call.all(Live)]
    call.wait(15)
    assert call.reason is None


def test_speech_that_nobody_would_hear() -> None:
    """It fails at once as `no_listener`, is not tried again and causes no warning."""
    call = Call(media="turns", greeting="Welcome.").live()
    for text in ("Welcome.", "one", "two"):
        if text != "Welcome.":
            call.say(text)
        fault = ProviderFault(code="no_listener", message="nobody", retry=True, command=call.spoken_command())
        call.feed(fault, fault)
    call.wait(5)
    assert [body["failed"] for body in call.recorded("speech.ended")] == ["no_listener"] * 3
    assert len(call.sent(Say)) == 3
    assert call.recorded("warning") == []


def test_rate_limit_that_is_used_up() -> None:
    """A used-up limit of the provider is recorded once for each name."""
    call = Call().live()
    for name, left in (("tokens", 10), ("tokens", 0), ("tokens", 0), ("requests", 0)):
        call.feed(RateLimit(name=name, remaining=left))
    assert [body["code"] for body in call.recorded("warning")] == ["rate_limit_low"] * 2
    assert len([live for live in call.all(Live) if live.body["type"] == "rate_limit"]) == 4


# --- idleness and ICE


def test_idle_on_recorded_turns_is_counted_from_the_last_end() -> None:
    """While a turn is worked on nobody is idle; then the time counts from the end of the last speech or turn."""
    call = Call(media="turns", limits=Limits(idle=20)).live()
    call.taken("a")
    call.wait(50)
    call.say("alpha")
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
    call.feed(ReplyEnded(reply="r1", text="alpha", audio=True, audio_ms=30_000))
    call.wait(30)
    call.feed(PlayoutStopped(reply="r1"))
    call.wait(10)
    call.done()
    call.feed(i.HandlerOpened(call.epoch))
    call.wait(19)
    assert call.reason is None
    call.wait(2)
    assert call.reason == "limit_idle"


def test_ice_failed_says_what_to_do() -> None:
    """Audio that finds no way ends the session as `ice_failed` with a hint."""
    call = Call().live()
    call.feed(SessionClosed(reason="ice_failed", message="no candidate pair worked within 10 s."))
    (end,) = call.all(Ended)
    assert end.reason == "ice_failed"
    assert (end.detail or "").startswith("no candidate pair worked within 10 s; is UDP blocked")
    assert call.all(SetState)[-1].detail == end.detail
