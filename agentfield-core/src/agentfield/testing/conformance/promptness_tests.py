"""Standard tests of time and cancellation: a call hears what is told late, and a control plane must be able to stop."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.events import ReplyAudio, SessionReady, TurnCommitted, TurnStarted
from agentfield.testing.conformance.harness.adapter_harness import AdapterHarness, adapter_harness
from agentfield.testing.conformance.harness.silent_server import silent_server
from agentfield.testing.conformance.harness.subject import PairUnderTest
from agentfield.testing.conformance.harness.waiting import TIMEOUT
from agentfield.testing.conformance.reply_checks import start_long_reply
from agentfield.testing.conformance.suite import ConformanceSuite
from agentfield.testing.peer import DirectPeer, PeerFactory

__all__ = ["PromptnessTests"]

_LIVE_MS, _PIECE_MS = 2000, 20
_LIVE_SECONDS = max(_LIVE_MS / 1000, TIMEOUT / 4)
"""Seconds in which that much audio must be taken; it is more than the audio lasts, for slow machines."""
_AT_ONCE = 0.3
"""Seconds of a generation that is too short to be judged."""
_HELD_BACK = 0.9
_IGNORED = (
    "{} ignores its cancellation, so a control plane that stops waits for it: raise asyncio.CancelledError again, and let no "
    "`except BaseException` or bare `except` catch it"
)


class PromptnessTests(ConformanceSuite):
    """What happens is told when it happens, audio is not held up, and a cancellation is obeyed."""

    async def test_the_beginning_of_a_turn_is_told_at_once(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """`TurnStarted` comes while the caller still speaks; it stops the agent's speech."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            if session.audio is None or session.config.turn_detection is None:
                return  # direct media passes in real time: `event_rules` checks the order
            turn = harness.peer.prepare_turn("where is my order", session.audio)
            speech = _without_silence(turn, session.audio)
            await session.send_audio(speech, session.audio)
            await session.until(
                "TurnStarted while the caller still speaks: the kit sent the speech of a turn without the silence that ends it. "
                "Emit TurnStarted when the provider detects speech, not together with the committed turn, since it is what stops "
                "the agent from speaking over its caller",
                lambda: session.of(TurnStarted),
            )
            assert not session.of(TurnCommitted), (
                f"TurnCommitted comes before the caller stopped speaking{session.describe()}"
            )
            await session.send_audio(turn[len(speech) :], session.audio)
            await session.turn_committed(0)

    async def test_audio_is_sent_faster_than_it_is_spoken(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """The caller's audio in pieces of 20 ms is taken faster than it is spoken: `send` waits for no answer."""
        if subject.spec.media != "bridged":
            return
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            await session.event(SessionReady)
            assert session.audio is not None
            loop = asyncio.get_running_loop()
            began = loop.time()
            await session.send_audio(bytes(session.audio.size(_LIVE_MS)), session.audio, _PIECE_MS)
            seconds = loop.time() - began
            assert seconds < _LIVE_SECONDS, (
                f"send took {seconds:.1f} s for {_LIVE_MS / 1000:g} s of audio, so each call would lag more and more. send "
                "returns once a command is written: do not sleep or wait for an answer in it"
            )

    async def test_audio_is_passed_on_as_it_arrives(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """The audio of a long reply is passed on while the provider still generates it."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            if session.audio is None or "audio" not in session.config.modalities:
                return
            started = await start_long_reply(session)
            ended = await session.reply_ended(started)
            first = next(each for each in session.of(ReplyAudio) if each.reply == started.reply)
            seconds = session.received_at(ended) - session.received_at(started)
            waited = session.received_at(first) - session.received_at(started)
            assert seconds < _AT_ONCE or waited < _HELD_BACK * seconds, (
                f"the first audio of a reply came {waited:.1f} s after its start, when the reply was almost over ({seconds:.1f} s): "
                "pass each piece on as it arrives, or the caller waits in silence"
            )

    async def test_reading_can_be_cancelled(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A reader of the events that is cancelled ends, idle or during a reply, and the session can be closed then."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            for speaking in (False, True):
                async with harness.session() as session:
                    await session.event(SessionReady)
                    if speaking:
                        await start_long_reply(session)
                    assert await session.stop_reading(), _IGNORED.format("events()")

    async def test_opening_can_be_cancelled(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Opening a session at a provider that accepts the connection and never answers can be cancelled, and leaves nothing."""
        async with (
            silent_server() as silent,
            adapter_harness(subject, peer_factory, tmp_path, base_url=silent.url) as harness,
            AsyncExitStack() as stack,
        ):
            opening = harness.tasks.start(await _opening(harness, stack), "the opening of a session")
            connected = asyncio.create_task(silent.connected.wait())
            waiting: set[asyncio.Task[Any]] = {opening, connected}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT)
            connected.cancel()
            if opening.done() and not opening.exception():  # nothing is connected before the first reply
                session = opening.result()
                await harness.tasks.run("a session at a silent provider closes", session.close())
                return
            assert await harness.tasks.stop(opening), _IGNORED.format("open() or negotiate()")


async def _opening(harness: AdapterHarness, stack: AsyncExitStack) -> Any:
    if harness.subject.spec.media != "direct":
        return harness.bridged.open(harness.config(), harness.bridged.formats[0])
    caller = await stack.enter_async_context(cast("DirectPeer", harness.peer).caller())
    return harness.direct.negotiate(await caller.offer(), harness.config())


def _without_silence(turn: bytes, audio: AudioFormat) -> bytes:
    """Return a turn's audio without the silence at its end: the repetitions of its last sample."""
    end, last = len(turn), turn[-audio.frame :]
    while end and turn[end - audio.frame : end] == last:
        end -= audio.frame
    return turn[:end]
