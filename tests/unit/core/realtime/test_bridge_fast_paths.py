"""Fast paths of the bridge: audio bypasses the queues when they are empty, and keeps its order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerAudio, CallerCommit
from agentfield.realtime.commands import AppendAudioCommand, CancelReplyCommand
from agentfield.realtime.events import Event, PlayoutStarted, ReplyEnded, Warned
from support.core.bridge import PCM24, BridgeHarness, Leg, Source, audio, rig
from support.waiting import until


class PromptLeg(Leg):
    """A leg that reports whether sending would block (`WritableLeg`)."""

    writable = True


class PromptSource(Source):
    """A provider's session that accepts audio at once, unless it is busy, and delivers it at once (`AudioFastPath`)."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = False
        self.at_once: list[bytes] = []
        self.sink: Callable[[str, bytes], None] | None = None

    def append_audio_nowait(self, data: bytes) -> bool:
        if not self.busy:
            self.at_once.append(data)
            self.sent.append(AppendAudioCommand(data=data))
        return not self.busy

    def set_audio_sink(self, sink: Callable[[str, bytes], None]) -> None:
        self.sink = sink

    def sound(self, reply: str, ms: float, byte: int = 1) -> None:
        assert self.sink is not None
        self.sink(reply, audio(reply, ms, byte).data)


async def prompt(r: BridgeHarness, leg: Leg | None = None) -> tuple[PromptSource, Leg]:
    source, leg = PromptSource(), leg or PromptLeg()
    await r.bridge.replace_provider(source)
    await r.attach(leg)
    return source, leg


def appended(source: Source) -> bytes:
    return b"".join(command.data for command in source.of(AppendAudioCommand))


async def test_real_time_audio_is_sent_to_the_caller_within_the_call() -> None:
    """While the player waits for audio, a piece and its marks are sent before the provider's call returns."""
    async with rig() as r:
        source, leg = await prompt(r)
        source.sound("r1", 20)
        await until(lambda: leg.ms() == 20)
        for count in range(2, 11):
            source.sound("r1", 20)
            if count <= 8:
                assert leg.ms() == 20 * count
        await until(lambda: leg.ms() == 200)
        await until(lambda: len(leg.of("mark")) == 1)
        assert len(r.of(PlayoutStarted)) == 1


async def test_a_blocked_caller_gets_audio_from_the_buffer() -> None:
    """While the connection is full, audio is buffered, and later audio stays behind it."""
    async with rig() as r:
        leg = PromptLeg()
        source, _ = await prompt(r, leg)
        source.sound("r1", 20)
        await until(lambda: leg.ms() == 20)
        leg.writable = False
        source.sound("r1", 20, 2)
        assert leg.ms() == 20
        leg.writable = True
        source.sound("r1", 20, 3)
        await until(lambda: leg.ms() == 60)
        assert [
            data[0] for _, data in leg.of("audio") for data in [data[i : i + 960] for i in range(0, len(data), 960)]
        ] == [1, 2, 3]


async def test_early_audio_waits_and_keeps_its_order() -> None:
    """Audio beyond the lead is buffered, whichever path it took."""
    async with rig() as r:
        source, leg = await prompt(r)
        for number in range(40):
            source.sound("r1", 20, number)
        await until(lambda: leg.ms() >= 160)
        assert leg.ms() <= 250
        await until(lambda: leg.ms() == 800)
        heard = b"".join(data for _, data in leg.of("audio"))
        assert list(heard[::960]) == list(range(40))


async def test_late_audio_of_a_cancelled_reply_is_dropped() -> None:
    """After a cancel the fast path sends no audio of the reply either."""
    async with rig() as r:
        source, leg = await prompt(r)
        source.sound("r1", 20)
        await until(lambda: leg.ms() == 20)
        await r.bridge.send(CancelReplyCommand(reply="r1"))
        source.sound("r1", 20)
        assert leg.ms() == 20
        source.tell(ReplyEnded(reply="r1", status="cancelled", audio=True))
        ended = await r.event(ReplyEnded)
        assert ended.audio_ms == 20


async def test_audio_of_a_replaced_session_is_dropped() -> None:
    """Audio that arrives by the fast path of a replaced session is dropped."""
    async with rig() as r:
        old, leg = await prompt(r)
        await r.bridge.replace_provider(PromptSource())
        old.sound("r1", 20)
        await until(lambda: old.closed)
        assert leg.ms() == 0


async def test_the_callers_audio_is_sent_within_the_call_and_in_order() -> None:
    """Audio bypasses the empty queue, is queued while the provider is busy, and never overtakes."""
    async with rig() as r:
        source, leg = await prompt(r)
        leg.does(CallerAudio(b"\1" * 960))
        await until(lambda: source.at_once == [b"\1" * 960])
        source.busy, source.stuck = True, asyncio.Event()
        leg.does(CallerAudio(b"\2" * 960))
        await until(lambda: source.begun == 1)
        source.busy = False
        leg.does(CallerAudio(b"\3" * 960), CallerCommit("i1"))
        await until(lambda: len(r.bridge._uplink._waiting) == 2)
        assert len(source.at_once) == 1
        source.stuck.set()
        await until(lambda: len(source.sent) == 4)
        assert appended(source) == b"\1" * 960 + b"\2" * 960 + b"\3" * 960
        leg.does(CallerAudio(b"\4" * 960))
        await until(lambda: source.at_once[1:] == [b"\4" * 960])


async def test_audio_is_held_for_the_next_session_during_a_rotation() -> None:
    """Between `begin_rotation` and `release_caller_audio` all audio is held for the new session."""
    async with rig() as r:
        source, leg = await prompt(r)
        r.bridge.begin_rotation()
        leg.does(CallerAudio(b"\1" * 960))
        await until(lambda: len(r.bridge._uplink._waiting) == 1)
        following = PromptSource()
        await r.bridge.replace_provider(following)
        assert not appended(following)
        r.bridge.release_caller_audio()
        await until(lambda: appended(following) == b"\1" * 960)
        assert not source.sent


@pytest.mark.parametrize("form", [AudioFormat("pcmu", 8000), AudioFormat("pcm16", 16000)], ids=lambda f: f.name)
async def test_the_fast_path_converts_formats(form: AudioFormat) -> None:
    """A caller with another format hears its own format, and the provider gets the provider's."""
    async with rig() as r:
        source, leg = await prompt(r, PromptLeg(form))
        for _ in range(5):
            source.sound("r1", 20)
        leg.does(*(CallerAudio(bytes(form.size(20))) for _ in range(5)), CallerCommit())
        await until(lambda: leg.ms() >= 90)
        await until(lambda: PCM24.ms(len(appended(source))) >= 95)


async def test_a_connection_lost_on_the_fast_path_ends_the_leg() -> None:
    """A connection lost while a piece is written ends the leg; the provider's session continues."""
    from agentfield.errors import Unavailable

    class Broken(PromptLeg):
        async def play(self, reply: str, data: bytes) -> None:
            if self.heard:
                raise Unavailable("gone", code="caller_gone")
            await super().play(reply, data)

    async with rig() as r:
        source, leg = PromptSource(), Broken()
        await r.bridge.replace_provider(source)
        line: asyncio.Task[Any] = await r.attach(leg)
        source.sound("r1", 20)
        await until(lambda: leg.ms() == 20)
        source.sound("r1", 20)
        assert await line == "gone"
        event: Event = ReplyEnded(reply="r1", audio=True)
        source.tell(event)
        assert (await r.event(ReplyEnded)).audio_ms == 40


@pytest.mark.parametrize("upwards", [True, False])
async def test_a_failing_converter_ends_only_the_leg(upwards: bool) -> None:
    """A failing converter ends the leg with a warning; the provider's session continues, and another leg can be attached."""

    class Failing:
        def __call__(self, data: bytes) -> bytes:
            raise ValueError("odd data")

        def flush(self) -> bytes:
            raise ValueError("odd data")

    async with rig() as r:
        source, plain = PromptSource(), r.bridge._convert
        await r.bridge.replace_provider(source)
        r.bridge._convert = lambda *_: Failing()
        leg = PromptLeg(AudioFormat("pcm16", 16000))
        line: asyncio.Task[Any] = await r.attach(leg)
        await until(lambda: r.bridge._player._starving)
        if upwards:
            leg.does(CallerAudio(b"\1" * 960))
        else:
            source.sound("r1", 20)
        assert await line == "unconvertible"
        assert (await r.event(Warned)).code == "audio_unconvertible"
        source.sound("r1", 20)
        r.bridge._convert = plain
        again = PromptLeg()
        await r.attach(again)
        source.sound("r2", 20)
        await until(lambda: again.ms() >= 20)
        assert not source.closed
