"""Standard tests of a session's lifecycle and of the caller's turns."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import pytest

from agentfield.errors import CapabilityMissing, NotFound, ProviderUnavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import AddTextCommand, AppendAudioCommand, CommitTurnCommand, EndCommand
from agentfield.realtime.events import (
    ReplyStarted,
    SessionClosed,
    SessionReady,
    TurnCommitted,
    TurnTranscript,
)
from agentfield.testing.conformance.harness.adapter_harness import AdapterHarness, adapter_harness
from agentfield.testing.conformance.harness.harness_session import HarnessSession
from agentfield.testing.conformance.harness.subject import PairUnderTest
from agentfield.testing.conformance.suite import ConformanceSuite
from agentfield.testing.peer import DirectPeer, PeerFactory

__all__ = ["TurnTests"]

_WORDS = "where is my order"
_UNICODE = "Grüße an 世界, naïve 🙂 ok"


class TurnTests(ConformanceSuite):
    """Opening and closing, turns, resumption."""

    async def test_the_adapter_starts_and_stops(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """The adapter can be entered and exited without a session, and leaves no task."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            assert harness.adapter is not None, f"{subject.spec.factory} yields nothing"

    async def test_formats_match_the_manifest(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """The adapter opens sessions in the formats of the manifest and refuses others."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            if subject.spec.media == "direct":
                assert not subject.spec.capabilities.formats, (
                    "formats of direct media are negotiated by the ends, not declared"
                )
                async with harness.session() as session:
                    await session.refuses(AppendAudioCommand(data=bytes(960)), "the media is direct")
                return
            formats = {audio.name for audio in harness.bridged.formats}
            declared = subject.spec.capabilities.formats
            assert formats == declared, (
                f"the adapter's formats are {sorted(formats)}, the manifest's {sorted(declared)}"
            )
            async with harness.session() as session:
                output = "" if session.output is None else session.output.name
                allowed = subject.spec.capabilities.output_formats or formats
                assert output in allowed, f"replies have the format {output}, the manifest declares {sorted(allowed)}"
            opening = harness.bridged.open(harness.config(), AudioFormat("pcm16", 11_000))
            try:
                opened = await harness.tasks.run("an undeclared format is refused", opening)
            except CapabilityMissing:
                return
            await harness.tasks.run("the session closes", opened.close())
            raise AssertionError(
                "open() took an audio format that is not one of `formats`: raise CapabilityMissing, or the caller hears noise"
            )

    async def test_a_session_opens_and_closes(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A session reports that it is ready, can be closed twice, and its last event is `SessionClosed`."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            await session.event(SessionReady)
            await session.close()
            await session.close()
            await session.closed()
            assert len(session.of(SessionClosed)) == 1, f"SessionClosed must occur once{session.describe()}"

    async def test_commands_after_the_end_are_refused(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """`EndCommand` ends the session at the provider; later commands are refused, not silently lost."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            await session.event(SessionReady)
            await session.send(EndCommand())
            await session.closed("after EndCommand: end the session at the provider, then emit SessionClosed")
            await session.refuses(session.reply_command(), "the session has ended", ProviderUnavailable)

    async def test_a_turn_is_committed(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A turn of the caller is committed once, and its transcript is as declared."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            item = await session.caller_says(_WORDS)
            transcripts = [each for each in session.of(TurnTranscript) if each.item == item]
            final = [each for each in transcripts if each.final]
            assert [each.item for each in session.of(TurnCommitted)] == [item], (
                f"one turn was spoken{session.describe()}"
            )
            match subject.spec.capabilities.caller_transcript:
                case "none":
                    assert not transcripts, f"caller_transcript is none, but there is a transcript{session.describe()}"
                case "final":
                    assert transcripts == final, (
                        f"caller_transcript is final, but there are partial transcripts{session.describe()}"
                    )
                    assert [each.text.strip() for each in final] == [_WORDS], (
                        f"the caller said {_WORDS!r}{session.describe()}"
                    )
                case "partial":
                    assert [each.text.strip() for each in final] == [_WORDS]
                    assert len(transcripts) > len(final), (
                        "caller_transcript is partial, and no TurnTranscript with final=False came before the final one: "
                        f'emit them while the caller speaks, or declare "final"{session.describe()}'
                    )

    async def test_turns_are_ordered(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """Each turn has its own item, and `previous`, if set, names an earlier turn."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            first = await session.caller_says("the first")
            if session.answers_itself:
                await session.answer()
            second = await session.caller_says("the second")
            assert first != second, "two turns have the same item"
            committed = session.of(TurnCommitted)
            assert committed[1].previous != second, "a turn cannot follow itself"

    async def test_unicode_survives(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """The caller's transcript keeps characters of any script."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            item = await session.caller_says(_UNICODE)
            words = [each.text.strip() for each in session.of(TurnTranscript) if each.item == item and each.final]
            expected = [] if subject.spec.capabilities.caller_transcript == "none" else [_UNICODE]
            assert words == expected, f"the caller said {_UNICODE!r}, the transcript is {words}"

    async def test_push_to_talk(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """Push to talk: the turn ends when the caller commits it; pairs without it refuse the commit."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            if "manual" not in subject.spec.capabilities.turn_detection:
                async with harness.session() as session:
                    await session.refuses(CommitTurnCommand(), "turn_detection lacks 'manual'")
                return
            async with harness.session(harness.config(manual=True)) as session:
                await session.caller_says(_WORDS)
                if not session.answers_itself:
                    assert not session.of(ReplyStarted), f"a reply was started without a command{session.describe()}"
                assert (await session.answer()).status == "completed"

    async def test_text_input(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """Typed text reaches the model; pairs without text input refuse it."""
        typed = AddTextCommand(item="item_typed", text="the code is walnut5521")
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            if subject.spec.capabilities.text_input:
                await session.send(typed)
                await session.ask()
                assert _reached(harness.peer.received, "walnut5521"), "typed text did not reach the provider"
            elif subject.spec.capabilities.resumption == "none":
                await session.refuses(typed, "text_input is False and resumption is 'none'")

    async def test_the_model_floor(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """On the model's floor a turn that the provider detects is answered without a command; a pair without it answers none so."""
        can = subject.spec.capabilities
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            if "model" not in can.floors:
                await _answers_none(harness)
                return
            async with harness.session(harness.config(floor="model")) as session:
                await session.caller_says(_WORDS)
                assert (await session.answer()).status == "completed", f"the answer is not complete{session.describe()}"

    async def test_resumption(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """The conversation survives a lost session as the pair declares it."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            match subject.spec.capabilities.resumption:
                case "attach":
                    await _attach_again(harness)
                case "replay" | "stateless" | "handle":
                    async with harness.session() as session:
                        await session.send(
                            AddTextCommand(item="item_1", text="my word is walnut7713"),
                            AddTextCommand(item="item_2", text="understood, walnut8824", role="assistant"),
                        )
                        await session.ask()
                    for word in ("walnut7713", "walnut8824"):
                        assert _reached(harness.peer.received, word), f"{word} did not reach the provider"
                case "none":
                    async with harness.session() as session:
                        before = AddTextCommand(item="item_2", text="understood", role="assistant")
                        await session.refuses(before, "resumption is 'none'")


async def _answers_none(harness: AdapterHarness) -> None:
    """Open a session on the model's floor, which the pair lacks; it is refused, or no turn is answered unasked."""
    try:
        async with harness.session(harness.config(floor="model")) as session:
            await session.caller_says(_WORDS)
            await session.ask()
            unasked = session.unasked_replies()
    except CapabilityMissing:
        return
    assert not unasked, "floors lacks 'model', and the model answers turns by itself on the model's floor: declare it"


async def _attach_again(harness: AdapterHarness) -> None:
    """Attach to a call twice; attaching after the hang-up is refused."""
    async with AsyncExitStack() as stack:
        caller = await stack.enter_async_context(cast("DirectPeer", harness.peer).caller())
        config = harness.config()
        ref = await harness.call(stack, caller, config)
        for _ in range(2):
            session = HarnessSession(
                await harness.attach(ref, config), config, harness.can, harness.peer, harness.tasks, caller=caller
            )
            await session.event(SessionReady)
            await session.close()
            harness.visible += session.events
        await harness.hang_up(ref)
        await harness.hang_up(ref)
        with pytest.raises(NotFound):
            await harness.attach(ref, config)


def _reached(received: Iterable[str], word: str) -> bool:
    return any(word in each for each in received)
