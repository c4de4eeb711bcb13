"""Standard tests of a session's life and of the caller's turns."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import pytest

from agentfield.errors import CapabilityMissing, NotFound, ProviderUnavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import AddText, AppendAudio, CommitTurn, End
from agentfield.realtime.events import (
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    SessionReady,
    TurnCommitted,
    TurnTranscript,
)
from agentfield.testing.finding import Row
from agentfield.testing.peer import DirectPeer, PeerFactory
from agentfield.testing.stage import Stage, on_stage
from agentfield.testing.suite import Suite
from agentfield.testing.talk import Talk

__all__ = ["TurnTests"]

_WORDS = "where is my order"
_UNICODE = "Grüße an 世界, naïve 🙂 ok"


class TurnTests(Suite):
    """Opening, hearing, closing."""

    async def test_the_factory_is_entered_and_left(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """The adapter is there without a session, and leaves no task behind."""
        async with on_stage(row, peer_factory, tmp_path) as stage:
            assert stage.adapter is not None, f"{row.spec.factory} yields nothing"

    async def test_formats_are_as_declared(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """The adapter opens sessions in the formats of the manifest, and refuses others."""
        async with on_stage(row, peer_factory, tmp_path) as stage:
            if row.spec.media == "direct":
                assert not row.spec.capabilities.formats, "both ends of a direct medium agree by themselves"
                async with stage.talk() as talk:
                    with pytest.raises(CapabilityMissing):
                        await talk.send(AppendAudio(data=bytes(960)))
                return
            assert {audio.name for audio in stage.bridged.formats} == row.spec.capabilities.formats
            with pytest.raises(CapabilityMissing):
                async with stage.doing("a format of nobody's is refused"):
                    await stage.bridged.open(stage.config(), AudioFormat("pcm16", 11_000))

    async def test_a_session_opens_and_closes(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A session says that it is ready, is closed twice without harm, and its last event says that it is over."""
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk() as talk:
            await talk.event(SessionReady)
            await talk.close()
            await talk.close()
            await talk.closed()
            assert len(talk.of(SessionClosed)) == 1, f"a session ends once{talk.told()}"

    async def test_nothing_is_taken_after_the_end(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """`End` ends the session at the provider; what is asked for later is refused, and not lost in silence."""
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk() as talk:
            await talk.event(SessionReady)
            await talk.send(End())
            await talk.closed()
            with pytest.raises(ProviderUnavailable):
                await talk.send(talk.a_reply())

    async def test_a_turn_is_heard(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A turn of the caller is committed once, and its words are told as declared."""
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk() as talk:
            item = await talk.hear(_WORDS)
            transcripts = [each for each in talk.of(TurnTranscript) if each.item == item]
            final = [each for each in transcripts if each.final]
            assert [each.item for each in talk.of(TurnCommitted)] == [item]
            match row.spec.capabilities.caller_transcript:
                case "none":
                    assert not transcripts, f"caller_transcript is none, and there are words{talk.told()}"
                case "final":
                    assert transcripts == final, f"caller_transcript is final, and there are pieces{talk.told()}"
                    assert [each.text.strip() for each in final] == [_WORDS]
                case "partial":
                    assert [each.text.strip() for each in final] == [_WORDS]

    async def test_turns_are_told_in_order(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """Each turn has an item of its own and names the turn that it follows, if it names one."""
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk() as talk:
            first = await talk.hear("the first")
            if "handler" not in row.spec.capabilities.floors:
                await talk.event(ReplyEnded)
            second = await talk.hear("the second")
            assert first != second, "two turns have the same item"
            committed = talk.of(TurnCommitted)
            assert committed[1].previous != second, "a turn cannot follow itself"

    async def test_unicode_survives(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """Words of the caller arrive as they were understood, in any script."""
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk() as talk:
            item = await talk.hear(_UNICODE)
            words = [each.text.strip() for each in talk.of(TurnTranscript) if each.item == item and each.final]
            assert words == ([] if talk.config.transcription is None else [_UNICODE])

    async def test_the_caller_says_when_the_turn_is_over(
        self, row: Row, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Push to talk: the turn ends where the caller says so; a pair that cannot do it says that."""
        async with on_stage(row, peer_factory, tmp_path) as stage:
            if "manual" not in row.spec.capabilities.turn_detection:
                async with stage.talk() as talk:
                    with pytest.raises(CapabilityMissing):
                        await talk.send(CommitTurn())
                return
            async with stage.talk(stage.config(manual=True)) as talk:
                await talk.hear(_WORDS)
                assert not talk.of(ReplyStarted), f"nobody asked for an answer{talk.told()}"
                assert (await talk.reply()).status == "completed"

    async def test_the_caller_types(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """Typed words reach the model; a pair that takes none says so."""
        typed = AddText(item="item_typed", text="the code is walnut5521")
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk() as talk:
            if row.spec.capabilities.text_input:
                await talk.send(typed)
                await talk.reply()
                assert _told(stage.peer.received, "walnut5521"), "typed words did not reach the provider"
            elif row.spec.capabilities.resumption == "none":
                with pytest.raises(CapabilityMissing):
                    await talk.send(typed)

    async def test_the_model_has_the_floor(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """On the model's floor a turn that the provider finds by itself is answered without being asked for."""
        can = row.spec.capabilities
        async with on_stage(row, peer_factory, tmp_path) as stage:
            if "model" not in can.floors:
                assert can.floors == {"handler"}
                return
            async with stage.talk(stage.config(floor="model")) as talk:
                await talk.hear(_WORDS)
                if talk.config.turn_detection is None:  # where the caller commits, whoever holds the session asks
                    await talk.reply()
                else:
                    started = await talk.event(ReplyStarted)
                    assert started.command is None, f"nobody commanded this reply{talk.told()}"
                    assert (await talk.ended(started)).status == "completed"

    async def test_a_lost_session_goes_on(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """What was said before is not lost with a session, as far as the pair declares it."""
        async with on_stage(row, peer_factory, tmp_path) as stage:
            match row.spec.capabilities.resumption:
                case "attach":
                    await _attach_again(stage)
                case "replay" | "stateless":
                    async with stage.talk() as talk:
                        await talk.send(
                            AddText(item="item_1", text="my word is walnut7713"),
                            AddText(item="item_2", text="understood, walnut8824", role="assistant"),
                        )
                        await talk.reply()
                    for word in ("walnut7713", "walnut8824"):
                        assert _told(stage.peer.received, word), f"{word} did not reach the provider"
                case "none":
                    async with stage.talk() as talk:
                        before = AddText(item="item_2", text="understood", role="assistant")
                        with pytest.raises(CapabilityMissing):
                            await talk.send(before)


async def _attach_again(stage: Stage) -> None:
    """Attach to a call a second time; to one that was hung up nobody can."""
    async with AsyncExitStack() as stack:
        caller = await stack.enter_async_context(cast("DirectPeer", stage.peer).caller())
        config = stage.config()
        ref = await stage.call(stack, caller, config)
        for _ in range(2):
            talk = Talk(await stage.attach(ref, config), config, stage.peer, stage.tasks, caller=caller)
            await talk.event(SessionReady)
            await talk.close()
            stage.shown += talk.events
        await stage.hang_up(ref)
        await stage.hang_up(ref)
        with pytest.raises(NotFound):
            await stage.attach(ref, config)


def _told(received: Iterable[str], word: str) -> bool:
    return any(word in each for each in received)
