"""The bridge between a caller's leg and a provider's session, with both played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentfield.errors import AgentFieldError, ProviderError, ProviderUnavailable
from agentfield.realtime import player
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerAudio, CallerCommit, CallerDtmf, CallerGone, CallerMark, CallerText
from agentfield.realtime.commands import AppendAudio, CancelReply, CommitTurn, Reply, Say
from agentfield.realtime.events import (
    Dtmf,
    Event,
    Interrupted,
    PlayoutStarted,
    PlayoutStopped,
    ProviderFault,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    TurnStarted,
    Warned,
)
from unit.bridge_kit import PCM24, Leg, Source, audio, rig
from unit.waiting import until


async def test_audio_of_a_reply_is_played_in_small_frames_and_never_told() -> None:
    """The caller hears all of a reply in frames of at most 100 ms; the runtime learns when it begins and ends, not its bytes."""
    async with rig() as r:
        leg = Leg()
        await r.attach(leg)
        r.source.tell(ReplyStarted(reply="r1"), audio("r1", 330), ReplyEnded(reply="r1", audio=True))
        await r.event(PlayoutStopped)
        assert leg.ms("r1") == 330
        assert all(PCM24.ms(len(data)) <= 100 for _, data in leg.of("audio"))
        assert [type(e) for e in r.told] == [ReplyStarted, ReplyEnded, PlayoutStarted, PlayoutStopped]
        assert r.of(ReplyEnded)[0].audio_ms == 330
        assert not r.of(ReplyAudio)


async def test_audio_is_sent_at_most_a_lead_ahead() -> None:
    """However fast the provider is, no more than 200 ms of audio are ahead of being heard."""
    async with rig() as r:
        leg = Leg()
        await r.attach(leg)
        r.source.tell(audio("r1", 1000), ReplyEnded(reply="r1", audio=True))
        await until(lambda: leg.ms() >= 1000)
        begin, sent = leg.times[0], 0.0
        for at, (_, data) in zip(leg.times, leg.of("audio"), strict=True):
            sent += PCM24.ms(len(data))
            assert sent - (at - begin) * 1000 <= player.LEAD_MS + 1


async def test_a_leg_that_keeps_audio_gets_it_at_once() -> None:
    """A leg that is not paced gets a whole reply without waiting for it to be heard."""
    now = [100.0]
    async with rig(lambda: now[0]) as r:
        leg = Leg(marks=False, paced=False)
        await r.attach(leg)
        r.source.tell(audio("r1", 60_000), ReplyEnded(reply="r1", audio=True))
        await until(lambda: leg.ms() == 60_000)
        assert not r.of(PlayoutStopped)


async def test_cancel_clears_before_the_provider_hears_of_it() -> None:
    """When a cancel returns, the caller was told to clear, nothing more is sent, and the provider knows what was heard."""
    async with rig() as r:
        leg = Leg()
        await r.attach(leg)
        r.source.tell(audio("r1", 3000))
        await until(lambda: len(leg.of("mark")) >= 1)
        leg.does(CallerMark(leg.of("mark")[0]))
        await until(lambda: r.bridge._player._line is not None and r.bridge._player._line.echoes)
        await r.bridge.send(CancelReply(reply="r1"))
        sent = len(leg.of("audio"))
        assert leg.heard[-1] == ("clear", None)
        assert r.source.of(CancelReply) == [CancelReply(reply="r1", heard_ms=200)]
        assert (await r.event(Interrupted)) == Interrupted(reply="r1", heard_ms=200, method="marks")
        r.source.tell(
            audio("r1", 500), ReplyEnded(reply="r1", status="cancelled", audio=True), ReplyStarted(reply="r2")
        )
        await r.event(ReplyStarted)
        assert len(leg.of("audio")) == sent
        assert r.of(ReplyEnded)[0].audio_ms == 3000
        assert not r.of(PlayoutStopped)


async def test_a_second_cancel_of_a_reply_does_nothing() -> None:
    """A reply is cancelled once: the second cancel is neither told nor passed on."""
    async with rig() as r:
        await r.bridge.send(CancelReply(reply="r1"))
        await r.bridge.send(CancelReply(reply="r1"))
        assert len(r.source.of(CancelReply)) == 1
        await r.event(Interrupted)
        assert len(r.of(Interrupted)) == 1


async def test_the_clock_counts_where_no_mark_was_told() -> None:
    """Without a mark of the reply, what was heard is what the clock says, never more than was sent."""
    now = [100.0]
    async with rig(lambda: now[0]) as r:
        leg = Leg(marks=False)
        await r.attach(leg)
        r.source.tell(audio("r1", 1000))
        await until(lambda: leg.ms() == player.LEAD_MS)
        now[0] += 0.12
        await r.bridge.send(CancelReply(reply="r1"))
        assert await r.event(Interrupted) == Interrupted(reply="r1", heard_ms=120, method="wallclock")


async def test_playout_of_a_caller_that_tells_marks_stops_with_the_last_mark() -> None:
    """A caller that tells marks has heard a reply when it told the last one, whatever the clock says."""
    async with rig() as r:
        leg = Leg()
        await r.attach(leg)
        r.source.tell(audio("r1", 250), ReplyEnded(reply="r1", audio=True))
        await until(lambda: len(leg.of("mark")) == 1)
        leg.does(CallerMark(leg.of("mark")[0]))
        await until(lambda: len(leg.of("mark")) == 2)
        assert not r.of(PlayoutStopped)
        leg.does(CallerMark(leg.of("mark")[1]))
        assert await r.event(PlayoutStopped) == PlayoutStopped(reply="r1", method="marks")


async def test_the_caller_reaches_the_provider_converted_and_in_order() -> None:
    """Audio arrives in the provider's format, a commit after all audio before it, keys as events, words where they belong."""
    async with rig() as r:
        leg = Leg(AudioFormat("pcmu", 8000))
        await r.attach(leg)
        leg.does(CallerAudio(b"\xff" * 800), CallerCommit("i1"), CallerDtmf("5"), CallerText("hello"))
        await until(lambda: r.heard)
        await until(lambda: len(r.source.sent) >= 2)
        assert isinstance(r.source.sent[-1], CommitTurn)
        assert r.source.sent[-1].item == "i1"
        assert sum(len(c.data) for c in r.source.of(AppendAudio)) == PCM24.size(100)
        assert (await r.event(Dtmf)).digit == "5"
        assert r.heard == [CallerText("hello")]


async def test_the_caller_hears_its_own_format() -> None:
    """A caller of G.711 gets G.711, all of a reply."""
    async with rig() as r:
        leg = Leg(AudioFormat("pcma", 8000))
        await r.attach(leg)
        r.source.tell(audio("r1", 300, byte=0), ReplyEnded(reply="r1", audio=True))
        await r.event(PlayoutStopped)
        assert leg.ms("r1") == pytest.approx(300, abs=2)


async def test_audio_that_waited_is_sent_at_once_and_the_oldest_beyond_five_seconds_dropped() -> None:
    """A burst after a stall reaches the provider whole; of more than 5 s the newest are kept, with one warning."""
    async with rig() as r:
        leg = Leg()
        await r.attach(leg)
        r.source.stuck = asyncio.Event()
        leg.does(CallerAudio(bytes([1]) * PCM24.size(1000)))
        await until(lambda: r.source.begun == 1)
        for second in range(2, 9):
            leg.does(CallerAudio(bytes([second]) * PCM24.size(1000)))
        leg.does(CallerText("after"))
        await until(lambda: r.heard)
        r.source.stuck.set()
        await until(lambda: len(r.source.of(AppendAudio)) == 6)
        # one was on its way when the others had to wait
        assert [c.data[0] for c in r.source.of(AppendAudio)] == [1, 4, 5, 6, 7, 8]
        assert [w.code for w in r.of(Warned)] == ["audio_dropped"]


async def test_a_recorded_turn_is_never_dropped() -> None:
    """Audio of a leg that is not live waits for the provider instead of being dropped."""
    async with rig() as r:
        leg = Leg(marks=False, paced=False)
        await r.attach(leg)
        r.source.stuck = asyncio.Event()
        leg.does(*[CallerAudio(bytes([n]) * PCM24.size(1000)) for n in range(20)], CallerCommit("i1"))
        await until(lambda: r.bridge._uplink._size > 0)
        r.source.stuck.set()
        await until(lambda: r.source.of(CommitTurn))
        assert [c.data[0] for c in r.source.of(AppendAudio)] == list(range(20))
        assert not r.of(Warned)


async def test_a_leg_that_comes_back_goes_on_hearing() -> None:
    """Another leg replaces the first one; the reply goes on and the provider's session notices nothing."""
    async with rig() as r:
        first, second = Leg(), Leg()
        carried = await r.attach(first)
        r.source.tell(audio("r1", 1000))
        await until(lambda: first.ms() >= 100)
        again = await r.attach(second)
        assert await carried == "replaced"
        assert first.input_closed
        r.source.tell(ReplyEnded(reply="r1", audio=True))
        await r.event(PlayoutStopped)
        assert first.ms() + second.ms() == 1000
        second.does(CallerGone("bye"))
        assert await again == "gone"
        assert r.heard == [CallerGone("bye")]


async def test_a_caller_that_takes_no_audio_does_not_hold_up_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events go on while a caller's socket is full; the leg is let go of after a while, and the reason told."""
    monkeypatch.setattr(player, "_SLOW", 0.05)
    async with rig() as r:
        leg = Leg()
        leg.stuck = asyncio.Event()
        carried = await r.attach(leg)
        r.source.tell(audio("r1", 5000), TurnStarted(item="i1"))
        await r.event(TurnStarted)
        assert await carried == "slow"


async def test_a_reply_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audio of one reply beyond the bound is dropped with one warning."""
    monkeypatch.setattr(player, "MAX_REPLY_MS", 1000)
    async with rig() as r:
        for _ in range(30):
            r.source.tell(audio("r1", 100))
        r.source.tell(TurnStarted(item="i1"))
        await r.event(TurnStarted)
        assert [w.code for w in r.of(Warned)] == ["audio_dropped"]


@pytest.mark.parametrize("command", [Say(id="c1", text="hi"), Reply(id="c1")])
async def test_speech_that_nobody_would_hear_fails(command: Say | Reply) -> None:
    """A say or reply is not sent to the provider while nobody listens; it fails by name."""
    async with rig(patient=False) as r:
        await r.bridge.send(command)
        fault = await r.event(ProviderFault)
        assert (fault.code, fault.command) == ("no_listener", "c1")
        leg = Leg()
        await r.attach(leg)
        await until(lambda: r.bridge._line is not None)
        leg.listening = False
        await r.bridge.send(command)
        assert len(r.of(ProviderFault)) <= 2
        assert not r.source.sent
        leg.listening = True
        await r.bridge.send(command)
        assert r.source.sent == [command]


async def test_another_session_at_the_provider_takes_over() -> None:
    """Meanwhile the caller's audio waits; what the old session tells is of no interest, what it said is thrown away."""
    async with rig() as r:
        leg = Leg()
        await r.attach(leg)
        r.source.tell(audio("r1", 3000))
        await until(lambda: leg.ms() > 0)
        r.bridge.hold()
        leg.does(CallerAudio(b"\1" * PCM24.size(20)), CallerText("then"))
        await until(lambda: r.heard)
        r.source.tell(SessionClosed())
        old, new = r.source, Source()
        await r.bridge.swap(new)
        assert old.closed
        assert ("clear", None) in leg.heard
        old.tell(TurnStarted(item="old"))
        new.tell(TurnStarted(item="new"))
        await r.event(TurnStarted)
        assert not new.of(AppendAudio)
        r.bridge.release()
        await until(lambda: new.of(AppendAudio))
        assert [e.item for e in r.of(TurnStarted)] == ["new"]
        assert not r.of(SessionClosed)
        assert not old.of(AppendAudio)


async def test_a_session_that_breaks_is_told_and_may_be_followed_by_another() -> None:
    """Events that end without a word are a provider's error; a swap brings the conversation back."""
    async with rig() as r:
        r.source.tell(None)
        assert (await r.event(SessionClosed)).reason == "provider_error"
        new = Source()
        await r.bridge.swap(new)
        new.tell(TurnStarted(item="i1"))
        await r.event(TurnStarted)


async def test_audio_to_a_provider_that_is_gone_is_no_fault_of_its_own() -> None:
    """Its events tell that a provider is gone; the caller's audio does not break the bridge."""
    async with rig() as r:
        leg = Leg()
        await r.attach(leg)
        r.source.failure = ProviderUnavailable("gone")
        leg.does(CallerAudio(b"\1" * 960), CallerText("x"))
        await until(lambda: r.heard)
        assert not r.told


async def test_close_lets_go_of_everything() -> None:
    """Closing ends the leg's line and the provider's session, once and for all."""
    async with rig() as r:
        leg = Leg()
        carried = await r.attach(leg)
        r.source.tell(audio("r1", 3000))
        await until(lambda: leg.ms() > 0)
        await r.bridge.close()
        await r.bridge.close()
        assert await carried == "closed"
        assert r.source.closed
        assert leg.input_closed
        assert await r.bridge.attach(Leg()) == "closed"


async def test_a_leg_that_is_cancelled_leaves_nothing() -> None:
    """Who carries a leg may be cancelled; the provider's session goes on without it."""
    async with rig() as r:
        leg = Leg()
        carried = asyncio.create_task(r.bridge.attach(leg))
        r.source.tell(audio("r1", 3000))
        await until(lambda: leg.ms() > 0)
        carried.cancel()
        with pytest.raises(asyncio.CancelledError):
            await carried
        assert leg.input_closed
        assert not r.source.closed


async def test_after_a_stall_what_came_meanwhile_is_sent_at_once() -> None:
    """Audio that comes as it is spoken is not late for good because this process stood still for a moment."""
    now = [100.0]
    async with rig(lambda: now[0]) as r:
        leg = Leg(marks=False)
        await r.attach(leg)
        r.source.tell(audio("r1", 20))
        await until(lambda: leg.ms() == 20)
        now[0] += 0.5
        assert r.stalls.seconds(now[0]) > 0.3
        for _ in range(25):
            r.source.tell(audio("r1", 20))
        await until(lambda: leg.ms() == 520)


async def test_plenty_of_audio_is_paced_after_a_stall_as_before() -> None:
    """Where the provider is ahead anyway, a stall of this process is no reason to send more than the lead."""
    now = [100.0]
    async with rig(lambda: now[0]) as r:
        leg = Leg(marks=False)
        await r.attach(leg)
        r.source.tell(audio("r1", 20))
        await until(lambda: leg.ms() == 20)
        now[0] += 0.5
        assert r.stalls.seconds(now[0]) > 0.3
        r.source.tell(audio("r1", 5000), TurnStarted(item="i1"))
        await r.event(TurnStarted)
        await until(lambda: leg.ms() >= 220)
        assert leg.ms() <= 20 + player.LEAD_MS


@pytest.mark.parametrize(("error", "again"), [(ProviderUnavailable("gone"), True), (ProviderError("no"), False)])
async def test_only_a_provider_that_could_not_be_reached_is_worth_another_session(
    error: AgentFieldError, again: bool
) -> None:
    """An adapter whose events fail ends the session; whether it may be opened again follows from the error."""

    class Failing(Source):
        async def events(self) -> AsyncIterator[Event]:
            raise error
            yield

    async with rig() as r:
        await r.bridge.swap(Failing())
        assert (await r.event(SessionClosed)).retry is again
