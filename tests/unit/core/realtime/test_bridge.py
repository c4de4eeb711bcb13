"""The bridge between a caller's leg and a provider's session, with both played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentfield.errors import AgentFieldError, ProviderError, ProviderUnavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.bridge import reply_player
from agentfield.realtime.caller import (
    CallerAudio,
    CallerBegin,
    CallerCommit,
    CallerDtmf,
    CallerGone,
    CallerMark,
    CallerText,
)
from agentfield.realtime.commands import (
    AppendAudioCommand,
    BeginTurnCommand,
    CancelReplyCommand,
    CommitTurnCommand,
    ReplyCommand,
    SayCommand,
)
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
from support.core.bridge import PCM24, Leg, Source, audio, rig
from support.waiting import until


async def test_audio_of_a_reply_is_played_in_small_frames_and_not_emitted() -> None:
    """The caller hears all of a reply in frames of at most 100 ms; the actor gets events of its start and end, not its audio."""
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


async def test_audio_is_sent_at_most_200_ms_ahead() -> None:
    """However fast the provider is, audio is sent at most 200 ms ahead of being heard."""
    async with rig() as r:
        leg = Leg()
        await r.attach(leg)
        r.source.tell(audio("r1", 1000), ReplyEnded(reply="r1", audio=True))
        await until(lambda: leg.ms() >= 1000)
        begin, sent = leg.times[0], 0.0
        for at, (_, data) in zip(leg.times, leg.of("audio"), strict=True):
            sent += PCM24.ms(len(data))
            assert sent - (at - begin) * 1000 <= reply_player.LEAD_MS + 1


async def test_an_unpaced_leg_gets_audio_at_once() -> None:
    """A leg without pacing gets a whole reply at once."""
    now = [100.0]
    async with rig(lambda: now[0]) as r:
        leg = Leg(marks=False, paced=False)
        await r.attach(leg)
        r.source.tell(audio("r1", 60_000), ReplyEnded(reply="r1", audio=True))
        await until(lambda: leg.ms() == 60_000)
        assert not r.of(PlayoutStopped)


async def test_cancel_clears_the_leg_before_the_provider_is_told() -> None:
    """A cancel first clears the caller's buffer, then tells the provider how much was heard; no more audio is sent."""
    async with rig() as r:
        leg = Leg()
        await r.attach(leg)
        r.source.tell(audio("r1", 3000))
        await until(lambda: len(leg.of("mark")) >= 1)
        leg.does(CallerMark(leg.of("mark")[0]))
        await until(lambda: r.bridge._player._attachment is not None and r.bridge._player._attachment.confirms_marks)
        await r.bridge.send(CancelReplyCommand(reply="r1"))
        sent = len(leg.of("audio"))
        assert leg.heard[-1] == ("clear", None)
        assert r.source.of(CancelReplyCommand) == [CancelReplyCommand(reply="r1", heard_ms=200)]
        assert (await r.event(Interrupted)) == Interrupted(reply="r1", heard_ms=200, method="marks")
        r.source.tell(
            audio("r1", 500), ReplyEnded(reply="r1", status="cancelled", audio=True), ReplyStarted(reply="r2")
        )
        await r.event(ReplyStarted)
        assert len(leg.of("audio")) == sent
        assert r.of(ReplyEnded)[0].audio_ms == 3000
        assert not r.of(PlayoutStopped)


async def test_a_second_cancel_of_a_reply_does_nothing() -> None:
    """A second cancel of a reply emits no event and is not sent to the provider."""
    async with rig() as r:
        await r.bridge.send(CancelReplyCommand(reply="r1"))
        await r.bridge.send(CancelReplyCommand(reply="r1"))
        assert len(r.source.of(CancelReplyCommand)) == 1
        await r.event(Interrupted)
        assert len(r.of(Interrupted)) == 1


async def test_without_confirmed_marks_the_clock_counts() -> None:
    """Without a confirmed mark the heard time follows the clock, and never exceeds the sent time."""
    now = [100.0]
    async with rig(lambda: now[0]) as r:
        leg = Leg(marks=False)
        await r.attach(leg)
        r.source.tell(audio("r1", 1000))
        await until(lambda: leg.ms() == reply_player.LEAD_MS)
        now[0] += 0.12
        await r.bridge.send(CancelReplyCommand(reply="r1"))
        assert await r.event(Interrupted) == Interrupted(reply="r1", heard_ms=120, method="wallclock")


async def test_playout_stops_with_the_last_confirmed_mark() -> None:
    """A caller that confirms marks has heard a reply once the last one is confirmed, whatever the clock says."""
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


async def test_the_callers_input_reaches_the_provider_converted_and_in_order() -> None:
    """Audio arrives in the provider's format, a commit after all earlier audio; keys become events and text goes to `on_input`."""
    async with rig() as r:
        leg = Leg(AudioFormat("pcmu", 8000))
        await r.attach(leg)
        leg.does(CallerAudio(b"\xff" * 800), CallerCommit("i1"), CallerDtmf("5"), CallerText("hello"))
        await until(lambda: r.heard)
        await until(lambda: len(r.source.sent) >= 2)
        assert isinstance(r.source.sent[-1], CommitTurnCommand)
        assert r.source.sent[-1].item == "i1"
        assert sum(len(c.data) for c in r.source.of(AppendAudioCommand)) == PCM24.size(100)
        assert (await r.event(Dtmf)).digit == "5"
        assert r.heard == [CallerText("hello")]


async def test_the_caller_hears_its_own_format() -> None:
    """A G.711 caller gets all of a reply in G.711."""
    async with rig() as r:
        leg = Leg(AudioFormat("pcma", 8000))
        await r.attach(leg)
        r.source.tell(audio("r1", 300, byte=0), ReplyEnded(reply="r1", audio=True))
        await r.event(PlayoutStopped)
        assert leg.ms("r1") == pytest.approx(300, abs=2)


async def test_queued_audio_is_sent_at_once_and_the_oldest_beyond_five_seconds_dropped() -> None:
    """Queued audio is sent in one burst after a stall; beyond 5 s only the newest is kept, with one warning."""
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
        await until(lambda: len(r.source.of(AppendAudioCommand)) == 6)
        # one piece was being sent when the others were queued
        assert [c.data[0] for c in r.source.of(AppendAudioCommand)] == [1, 4, 5, 6, 7, 8]
        assert [w.code for w in r.of(Warned)] == ["audio_dropped"]


async def test_a_recorded_turn_is_never_dropped() -> None:
    """Audio of an unpaced leg waits for the provider instead of being dropped."""
    async with rig() as r:
        leg = Leg(marks=False, paced=False)
        await r.attach(leg)
        r.source.stuck = asyncio.Event()
        leg.does(*[CallerAudio(bytes([n]) * PCM24.size(1000)) for n in range(20)], CallerCommit("i1"))
        await until(lambda: r.bridge._uplink._size > 0)
        r.source.stuck.set()
        await until(lambda: r.source.of(CommitTurnCommand))
        assert [c.data[0] for c in r.source.of(AppendAudioCommand)] == list(range(20))
        assert not r.of(Warned)


async def test_a_reconnected_leg_hears_the_rest_of_the_reply() -> None:
    """A second leg replaces the first and gets the rest of the reply; the provider's session is not affected."""
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


async def test_a_caller_that_accepts_no_audio_does_not_block_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events continue while a caller's socket is full; the leg ends with the reason `slow` after a timeout."""
    monkeypatch.setattr(reply_player, "_SEND_TIMEOUT", 0.05)
    async with rig() as r:
        leg = Leg()
        leg.stuck = asyncio.Event()
        carried = await r.attach(leg)
        r.source.tell(audio("r1", 5000), TurnStarted(item="i1"))
        await r.event(TurnStarted)
        assert await carried == "slow"


async def test_an_endless_reply_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audio of a reply beyond `MAX_REPLY_MS` is dropped with one warning."""
    monkeypatch.setattr(reply_player, "MAX_REPLY_MS", 1000)
    async with rig() as r:
        for _ in range(30):
            r.source.tell(audio("r1", 100))
        r.source.tell(TurnStarted(item="i1"))
        await r.event(TurnStarted)
        assert [w.code for w in r.of(Warned)] == ["audio_dropped"]


@pytest.mark.parametrize("command", [SayCommand(id="c1", text="hi"), ReplyCommand(id="c1")])
async def test_speech_without_a_listener_fails(command: SayCommand | ReplyCommand) -> None:
    """A say or reply command without a listening caller fails with `no_listener` and is not sent to the provider."""
    async with rig(caller_may_return=False) as r:
        await r.bridge.send(command)
        fault = await r.event(ProviderFault)
        assert (fault.code, fault.command) == ("no_listener", "c1")
        leg = Leg()
        await r.attach(leg)
        await until(lambda: r.bridge._attachment is not None)
        leg.listening = False
        await r.bridge.send(command)
        assert len(r.of(ProviderFault)) <= 2
        assert not r.source.sent
        leg.listening = True
        await r.bridge.send(command)
        assert r.source.sent == [command]


async def test_another_session_replaces_the_one_at_the_provider() -> None:
    """During a rotation the caller's audio is held; events of the old session are dropped and its unheard audio cleared."""
    async with rig() as r:
        leg = Leg()
        await r.attach(leg)
        r.source.tell(audio("r1", 3000))
        await until(lambda: leg.ms() > 0)
        r.bridge.begin_rotation()
        leg.does(CallerAudio(b"\1" * PCM24.size(20)), CallerText("then"))
        await until(lambda: r.heard)
        r.source.tell(SessionClosed())
        old, new = r.source, Source()
        await r.bridge.replace_provider(new)
        assert old.closed
        assert ("clear", None) in leg.heard
        old.tell(TurnStarted(item="old"))
        new.tell(TurnStarted(item="new"))
        await r.event(TurnStarted)
        assert not new.of(AppendAudioCommand)
        r.bridge.release_caller_audio()
        await until(lambda: new.of(AppendAudioCommand))
        assert [e.item for e in r.of(TurnStarted)] == ["new"]
        assert not r.of(SessionClosed)
        assert not old.of(AppendAudioCommand)


async def test_speech_in_audio_from_before_the_call_was_live_is_marked() -> None:
    """Held audio, and audio that is read right after it is released, counts as from before; later audio does not."""
    now = 100.0
    async with rig(lambda: now) as r:
        leg = Leg()
        r.bridge.hold_caller_audio()
        await r.attach(leg)
        leg.does(CallerAudio(b"\1" * PCM24.size(1000)), CallerText("sent"))
        await until(lambda: len(r.heard) == 1)
        r.bridge.release_caller_audio()
        now += 0.1
        leg.does(CallerAudio(b"\1" * PCM24.size(600)), CallerText("read late"))
        await until(lambda: len(r.heard) == 2)
        now += 1.0
        leg.does(CallerAudio(b"\1" * PCM24.size(3000)), CallerText("later"))
        await until(lambda: len(r.heard) == 3)
        r.source.tell(*(TurnStarted(item=str(at), at_ms=at) for at in (200, 1199, 1201, 3000)), TurnStarted(item="new"))
        await r.event(TurnStarted, 5)
        assert [each.before_live for each in r.of(TurnStarted)] == [True, True, False, False, None]


async def test_a_lost_session_is_reported_and_may_be_replaced() -> None:
    """Events that end without `SessionClosed` are a provider error; another session continues the conversation."""
    async with rig() as r:
        r.source.tell(None)
        assert (await r.event(SessionClosed)).reason == "provider_error"
        new = Source()
        await r.bridge.replace_provider(new)
        new.tell(TurnStarted(item="i1"))
        await r.event(TurnStarted)


async def test_audio_for_a_lost_provider_is_dropped() -> None:
    """Audio that cannot be sent does not end the bridge; the events report that the provider is lost."""
    async with rig() as r:
        leg = Leg()
        await r.attach(leg)
        r.source.failure = ProviderUnavailable("gone")
        leg.does(CallerAudio(b"\1" * 960), CallerText("x"))
        await until(lambda: r.heard)
        assert not r.told


async def test_close_releases_everything() -> None:
    """Closing ends the leg and closes the provider's session once."""
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
    """Cancelling `attach` leaves no task behind, and the provider's session continues."""
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


async def test_audio_delayed_by_a_stall_is_sent_at_once() -> None:
    """Real-time audio catches up after a stall of this process."""
    now = [100.0]
    async with rig(lambda: now[0]) as r:
        leg = Leg(marks=False)
        await r.attach(leg)
        r.source.tell(audio("r1", 20))
        await until(lambda: leg.ms() == 20)
        now[0] += 0.5
        assert r.stall_monitor.seconds(now[0]) > 0.3
        for _ in range(25):
            r.source.tell(audio("r1", 20))
        await until(lambda: leg.ms() == 520)


async def test_buffered_audio_is_paced_after_a_stall() -> None:
    """If the provider is ahead anyway, a stall of this process does not raise the lead."""
    now = [100.0]
    async with rig(lambda: now[0]) as r:
        leg = Leg(marks=False)
        await r.attach(leg)
        r.source.tell(audio("r1", 20))
        await until(lambda: leg.ms() == 20)
        now[0] += 0.5
        assert r.stall_monitor.seconds(now[0]) > 0.3
        r.source.tell(audio("r1", 5000), TurnStarted(item="i1"))
        await r.event(TurnStarted)
        await until(lambda: leg.ms() >= 220)
        assert leg.ms() <= 20 + reply_player.LEAD_MS


@pytest.mark.parametrize(("error", "again"), [(ProviderUnavailable("gone"), True), (ProviderError("no"), False)])
async def test_only_an_unreachable_provider_allows_a_retry(error: AgentFieldError, again: bool) -> None:
    """An adapter whose events fail ends the session; `retry` depends on the error."""

    class Failing(Source):
        async def events(self) -> AsyncIterator[Event]:
            raise error
            yield

    async with rig() as r:
        await r.bridge.replace_provider(Failing())
        assert (await r.event(SessionClosed)).retry is again


# --- providers that stop their replies themselves, have two formats, or are told of the begin of a turn


async def test_the_word_of_the_provider_clears_the_playback() -> None:
    """A provider that says that it was interrupted stops the playback at once; the event says how much was heard."""
    now = [100.0]
    async with rig(lambda: now[0]) as r:
        leg = Leg(marks=False, paced=False)
        await r.attach(leg)
        r.source.tell(ReplyStarted(reply="r1"), audio("r1", 2000))
        await until(lambda: leg.ms() == 2000)
        now[0] += 0.3
        r.source.tell(Interrupted(reply="r1"), audio("r1", 500), ReplyEnded(reply="r1", status="cancelled"))
        await r.event(ReplyEnded)
        told = r.of(Interrupted)
        assert [(each.reply, each.heard_ms, each.method) for each in told] == [("r1", 300, "wallclock")]
        assert leg.heard[-1] == ("clear", None)
        assert leg.ms() == 2000, "audio after the interruption was played"
        assert not r.source.of(CancelReplyCommand), "the provider was told what it said itself"


async def test_a_generated_reply_is_cleared_by_the_word_of_the_provider() -> None:
    """The provider may say so when its generation is over and the caller still hears the rest."""
    now = [100.0]
    async with rig(lambda: now[0]) as r:
        leg = Leg()
        await r.attach(leg)
        r.source.tell(audio("r1", 5000), ReplyEnded(reply="r1", audio=True))
        await r.event(PlayoutStarted)
        r.source.tell(Interrupted(reply="r1"))
        await r.event(Interrupted)
        sent = leg.ms()
        now[0] += 10
        r.source.tell(Dtmf(digit="1"))
        await r.event(Dtmf)
        assert leg.ms() == sent < 5000
        assert ("clear", None) in leg.heard
        assert not r.of(PlayoutStopped)


class WideSource(Source):
    """A provider's session that speaks at another rate than it hears."""

    output_format = AudioFormat("pcm16", 48000)


async def test_replies_may_have_another_format_than_the_caller() -> None:
    """Audio in each direction is converted from and to its own format, also after a rotation to another one."""
    async with rig() as r:
        leg = Leg()
        await r.attach(leg)
        r.source.tell(audio("r1", 100), ReplyEnded(reply="r1", audio=True))
        await r.event(PlayoutStopped)
        assert leg.ms("r1") == 100
        wide = WideSource()
        await r.bridge.replace_provider(wide)
        wide.tell(ReplyAudio(reply="r2", data=bytes(96 * 100)), ReplyEnded(reply="r2", audio=True))
        ended = await r.event(ReplyEnded, 2)
        await r.event(PlayoutStopped, 2)
        assert ended.audio_ms == 100
        assert leg.ms("r2") == pytest.approx(100, abs=2)
        leg.does(CallerAudio(bytes(PCM24.size(100))))
        await until(lambda: bool(wide.of(AppendAudioCommand)))
        assert sum(len(command.data) for command in wide.of(AppendAudioCommand)) == PCM24.size(100)


async def test_each_turn_of_push_to_talk_begins_for_the_provider() -> None:
    """Where the provider wants to know it, a turn begins with its first audio, once, also in another session."""
    async with rig(begins_turns=True) as r:
        leg = Leg()
        await r.attach(leg)
        piece = CallerAudio(bytes(PCM24.size(20)))
        leg.does(piece, piece, CallerCommit("i1"), piece, CallerCommit("i2"))
        await until(lambda: len(r.source.of(CommitTurnCommand)) == 2)
        turn = [BeginTurnCommand, AppendAudioCommand]
        assert [type(command) for command in r.source.sent] == [
            *turn,
            AppendAudioCommand,
            CommitTurnCommand,
            *turn,
            CommitTurnCommand,
        ]
        leg.does(piece)
        await until(lambda: len(r.source.of(BeginTurnCommand)) == 3)
        later = Source()
        await r.bridge.replace_provider(later)
        leg.does(piece, CallerCommit())
        await until(lambda: bool(later.of(CommitTurnCommand)))
        assert [type(command) for command in later.sent] == [*turn, CommitTurnCommand]


async def test_a_caller_that_says_when_it_begins_is_not_heard_between_its_turns() -> None:
    """The caller's own begin carries its item; audio outside of a turn does not reach the provider."""
    async with rig(begins_turns=True) as r:
        leg = Leg()
        await r.attach(leg)
        piece = CallerAudio(bytes(PCM24.size(20)))
        leg.does(
            CallerBegin("i1"), piece, CallerCommit("i1"), piece, piece, CallerBegin("i2"), piece, CallerCommit("i2")
        )
        await until(lambda: len(r.source.of(CommitTurnCommand)) == 2)
        assert [command.item for command in r.source.of(BeginTurnCommand)] == ["i1", "i2"]
        assert [type(command) for command in r.source.sent] == [
            BeginTurnCommand,
            AppendAudioCommand,
            CommitTurnCommand,
        ] * 2


async def test_the_begin_of_a_turn_is_for_providers_that_want_to_know_it() -> None:
    """Without the capability nothing is sent; the session learns of it in either case."""
    async with rig() as r:
        leg = Leg()
        await r.attach(leg)
        leg.does(CallerBegin("i1"), CallerAudio(bytes(PCM24.size(20))), CallerCommit("i1"))
        await until(lambda: bool(r.source.of(CommitTurnCommand)))
        assert [type(command) for command in r.source.sent] == [AppendAudioCommand, CommitTurnCommand]
        assert r.heard == [CallerBegin("i1")]
