"""Standard tests of what the agent's side says: says, replies, tools, interruptions, usage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentfield.errors import AgentFieldError, CapabilityMissing
from agentfield.realtime.commands import CancelReply, SendToolResult
from agentfield.realtime.events import (
    Interrupted,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    ToolRequested,
    TurnCommitted,
    UsageReported,
)
from agentfield.testing.finding import Row
from agentfield.testing.peer import PeerFactory
from agentfield.testing.stage import TOOL, Stage, on_stage
from agentfield.testing.suite import Suite
from agentfield.testing.talk import Talk
from agentfield.testing.waiting import holds

__all__ = ["LONG", "SpeechTests"]

LONG = (
    "Every order that leaves our warehouse is counted, weighed, labelled, scanned and photographed, "
    "and then it travels by van, by train, by ship and by bicycle until it arrives at the door, where it meets the zebra."
)
"""A text that takes a while, with an end that nobody should have heard who stopped it early."""
_LAST_WORD = "zebra"
_SHORT = "Your order was found."


class SpeechTests(Suite):
    """Says, replies and tools."""

    async def test_a_say_is_spoken(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A say begins, sounds and ends under its own command; its words are told as declared."""
        can = row.spec.capabilities
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk() as talk:
            if can.say == "none":
                with pytest.raises(CapabilityMissing):
                    await talk.send(talk.a_say(_SHORT))
                return
            ended = await talk.say(_SHORT)
            _complete(talk, ended, stage)
            if can.say == "exact" and can.agent_transcript != "none":
                assert ended.text == _SHORT, f"say is exact, and these words were spoken: {ended.text!r}"

    async def test_exact_words_are_spoken_exactly(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A session that demands exact words gets each of them; where it cannot, `test_what_is_not_declared_is_refused` sees to it."""
        if row.spec.capabilities.say != "exact":
            return
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk(stage.config(say="exact")) as talk:
            for text in (_SHORT, "Grüße, naïve café: 12 €"):
                ended = await talk.say(text)
                _complete(talk, ended, stage)
                assert ended.text in (text, None), f"{text!r} was asked for, {ended.text!r} was spoken"

    async def test_a_reply_is_spoken(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """The model answers a turn in words of its own."""
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk() as talk:
            await talk.hear("where is my order")
            ended = await _answer(talk)
            _complete(talk, ended, stage)

    async def test_a_conversation(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """Say, hear, reply, hear, say: replies have ids of their own, and everything that begins ends."""
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk() as talk:
            if row.spec.capabilities.say != "none":
                await talk.say(_SHORT)
            await talk.hear("where is my order")
            await _answer(talk)
            await talk.hear("thank you")
            await _answer(talk)
            if row.spec.capabilities.say != "none":
                await talk.say("Goodbye.")
            started = [each.reply for each in talk.of(ReplyStarted)]
            assert len(set(started)) == len(started), f"two replies have the same id{talk.told()}"
            assert sorted(started) == sorted(each.reply for each in talk.of(ReplyEnded))

    async def test_ids_are_never_used_again(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A session that takes another one's place in a call has other ids for its turns and replies."""
        ids: list[str] = []
        async with on_stage(row, peer_factory, tmp_path) as stage:
            for _ in range(2):
                async with stage.talk() as talk:
                    ids += [await talk.hear("where is my order"), (await _answer(talk)).reply]
        assert len(set(ids)) == len(ids), f"two sessions use the same ids: {ids}"

    async def test_tools_make_the_round_trip(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A call arrives whole, under the target's own name; its result reaches the model; pairs without tools say so."""
        async with on_stage(row, peer_factory, tmp_path) as stage:
            if row.spec.capabilities.tools == "none":
                async with stage.talk() as talk:
                    for command in (talk.a_reply((TOOL,)), SendToolResult(call_id="call_1", output="{}")):
                        with pytest.raises(CapabilityMissing):
                            await talk.send(command)
                return
            async with stage.talk(stage.config(tools=True)) as talk:
                await talk.hear("look up the word")
                calls = [await _call(talk, TOOL, json.dumps({"word": word})) for word in ("naïve", "walnut")]
                assert [json.loads(call.arguments) for call in calls] == [{"word": "naïve"}, {"word": "walnut"}]
                assert [call.name for call in calls] == [TOOL, TOOL], "a tool is told by the name of its target"
                assert calls[0].call_id != calls[1].call_id, "two calls have the same id"
                await _answer(talk)
                for call in calls:
                    told = any(f"walnut-{call.call_id}" in each for each in stage.peer.received)
                    assert told, f"the result of {call.call_id} did not reach the provider"

    async def test_odd_calls_are_passed_on(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A tool of nobody's and arguments that are no JSON are told as they came: who runs tools refuses them."""
        if row.spec.capabilities.tools == "none":
            return
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk(stage.config(tools=True)) as talk:
            await talk.hear("look up the word")
            assert (await _call(talk, "nobody", "{}")).name == "nobody"
            assert (await _call(talk, TOOL, '{"word": ')).arguments == '{"word": '

    async def test_only_declared_tools_can_be_offered(
        self, row: Row, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A reply that names a tool which the session does not declare is refused before it is sent."""
        if row.spec.capabilities.tools == "none":
            return
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk(stage.config(tools=True)) as talk:
            with pytest.raises(AgentFieldError) as refused:
                await talk.send(talk.a_reply(("desk.another",)))
            assert "desk.another" in str(refused.value), f"the refusal does not name the tool: {refused.value}"

    async def test_a_reply_is_cancelled(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A cancelled reply ends, what was not heard of it is forgotten as declared, and the next one is whole."""
        can = row.spec.capabilities
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk() as talk:
            started = await _long(talk, stage)
            cancel = CancelReply(reply=started.reply, heard_ms=None if row.spec.media == "direct" else 300)
            if can.interruption == "none":
                with pytest.raises(CapabilityMissing):
                    await talk.send(cancel)
                return
            await talk.send(cancel)
            ended = await talk.ended(started)
            assert ended.status != "failed", f"a cancelled reply did not fail{talk.told()}"
            before = len(stage.peer.received)
            await talk.hear("what did you say")
            _complete(talk, await _answer(talk), stage)
            if can.truncation != "none" and can.say != "none":
                unheard = [each for each in stage.peer.received[before:] if _LAST_WORD in each]
                assert not unheard, f"truncation is {can.truncation}, and the model believes it said: {unheard[0]:.300}"

    async def test_the_caller_speaks_over_a_reply(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """Speech over a reply is a turn; where the provider interrupts, it tells so, else it leaves that to us."""
        can = row.spec.capabilities
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk() as talk:
            started = await _long(talk, stage)
            if can.interruption == "server":
                await talk.speak("stop please")
                told = await talk.event(Interrupted, where=lambda each: each.reply == started.reply)
                assert told.method == "provider", f"the provider interrupted, and not we{talk.told()}"
            elif "handler" in can.floors:
                await talk.hear("stop please")
                assert not talk.of(Interrupted), f"interruption is {can.interruption}, and it interrupted{talk.told()}"
            await talk.ended(started)
            await talk.event(TurnCommitted)

    async def test_usage_is_told(self, row: Row, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """What a reply used is told as declared: counts, what it costs, or nothing at all."""
        async with on_stage(row, peer_factory, tmp_path) as stage, stage.talk() as talk:
            await talk.hear("where is my order")
            ended = await _answer(talk)
            reported = [each.usage for each in talk.of(UsageReported) if each.kind == "reply"]
            usage = next(filter(None, [ended.usage, *reported]), None)
            match row.spec.capabilities.usage:
                case "none":
                    assert usage is None, f"usage is none, and was told: {usage}"
                case "tokens":
                    assert usage is not None, f"usage is tokens, and none was told{talk.told()}"
                    counted = (usage.output_text_tokens, usage.output_audio_tokens)
                    assert any(counted), f"usage is tokens, and none were counted: {usage}"
                case "cost":
                    assert usage is not None, f"usage is cost, and none was told{talk.told()}"
                    assert usage.cost is not None, f"usage is cost, and none was told: {usage}"


async def _answer(talk: Talk) -> ReplyEnded:
    """Wait for the model's answer to what was just said; asked for where it does not come by itself."""
    if talk.config.declaration.floor == "handler" or talk.config.turn_detection is None:
        return await talk.reply()
    return await talk.ended(await talk.event(ReplyStarted, len(talk.of(TurnCommitted))))


async def _call(talk: Talk, target: str, arguments: str) -> ToolRequested:
    """Let the model call a tool and give it a result."""
    before = len(talk.of(ToolRequested))
    talk.peer.call_tool(target, arguments)
    ended = await talk.reply((TOOL,))
    call = await talk.event(ToolRequested, before + 1)
    assert call.reply == ended.reply, f"the call belongs to another reply{talk.told()}"
    assert ended.tools == 1, f"the reply does not count its call{talk.told()}"
    await talk.send(SendToolResult(call_id=call.call_id, output=json.dumps({"found": f"walnut-{call.call_id}"})))
    return call


async def _long(talk: Talk, stage: Stage) -> ReplyStarted:
    """Begin a reply that takes a while, and wait until some of it was heard."""
    if stage.row.spec.capabilities.say == "none":
        await talk.hear("where is my order")
        return await talk.begin(talk.a_reply())
    started = await talk.begin(talk.a_say(LONG))
    if talk.caller is not None:
        caller = talk.caller
        await holds("the caller hears the reply", lambda: caller.heard_ms > 300, talk.told)
    elif "audio" in talk.config.declaration.modalities:
        await talk.event(ReplyAudio, where=lambda each: each.reply == started.reply)
    return started


def _complete(talk: Talk, ended: ReplyEnded, stage: Stage) -> None:
    """See that a reply is whole, and has what the pair declares."""
    can = stage.row.spec.capabilities
    assert ended.status == "completed", f"the reply did not complete{talk.told()}"
    pieces = [each for each in talk.of(ReplyTranscript) if each.reply == ended.reply]
    final = [each.text for each in pieces if each.final]
    if can.agent_transcript == "none":
        assert not pieces, f"agent_transcript is none, and there are words{talk.told()}"
    else:
        assert final, f"agent_transcript is {can.agent_transcript}, and no final words were told{talk.told()}"
        assert ended.text == final[-1], f"the reply ends with other words than were told{talk.told()}"
    if can.agent_transcript == "final":
        assert len(pieces) == len(final), f"agent_transcript is final, and there are pieces{talk.told()}"
    sound = b"".join(each.data for each in talk.of(ReplyAudio) if each.reply == ended.reply)
    speaks = "audio" in talk.config.declaration.modalities
    assert ended.audio == speaks, f"whether there was audio is told wrongly{talk.told()}"
    if talk.audio is None:
        assert not sound, f"the audio of a direct medium does not pass through us{talk.told()}"
    elif speaks:
        assert sound, f"the reply has no audio{talk.told()}"
        assert len(sound) % talk.audio.frame == 0, "audio ends in the middle of a sample"
        told = ended.audio_ms
        assert told is None or abs(told - talk.audio.ms(len(sound))) <= 1, f"{told} ms are told{talk.told()}"
