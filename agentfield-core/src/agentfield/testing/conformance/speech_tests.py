"""Standard tests of the agent's speech: says, replies, tools, interruptions, usage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentfield.errors import AgentFieldError
from agentfield.realtime.commands import CancelReplyCommand, ToolResultCommand
from agentfield.realtime.events import (
    Interrupted,
    ReplyEnded,
    ReplyStarted,
    ToolRequested,
    TurnCommitted,
    Usage,
    UsageReported,
)
from agentfield.testing.conformance.harness.adapter_harness import TOOL, adapter_harness
from agentfield.testing.conformance.harness.harness_session import HarnessSession
from agentfield.testing.conformance.harness.subject import PairUnderTest
from agentfield.testing.conformance.harness.waiting import TIMEOUT
from agentfield.testing.conformance.reply_checks import assert_complete, call_tool, start_long_reply
from agentfield.testing.conformance.suite import ConformanceSuite
from agentfield.testing.peer import PeerFactory

__all__ = ["SpeechTests"]

_LAST_WORD = "zebra"
_STOPS_WITHIN = TIMEOUT / 30
"""Seconds after which a cancelled reply must not go on."""
_PATIENCE_MS = 5000
"""Milliseconds that the caller must speak to interrupt, the longest that a session can declare."""
_SHORT = "Your order was found."


class SpeechTests(ConformanceSuite):
    """Says, replies, tools, interruptions and usage."""

    async def test_a_say_is_spoken(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """A say starts, sounds and ends under the id of its command; its transcript is as declared."""
        can = subject.spec.capabilities
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            if can.say == "none":
                await session.refuses(session.say_command(_SHORT), "say is 'none'")
                return
            ended = await session.say(_SHORT)
            assert_complete(session, ended)
            if can.say == "exact" and can.agent_transcript != "none":
                assert ended.text == _SHORT, f"say is exact, but the spoken text is {ended.text!r}"

    async def test_exact_words_are_spoken_exactly(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A session with `say="exact"` speaks each text exactly; other pairs refuse it (`test_undeclared_capabilities_are_refused`)."""
        if subject.spec.capabilities.say != "exact":
            return
        async with (
            adapter_harness(subject, peer_factory, tmp_path) as harness,
            harness.session(harness.config(say="exact")) as session,
        ):
            for text in (_SHORT, "Grüße, naïve café: 12 €"):
                ended = await session.say(text)
                assert_complete(session, ended)
                assert ended.text in (text, None), f"{text!r} was requested, {ended.text!r} was spoken"

    async def test_a_reply_is_spoken(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """The model answers a turn."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            await session.caller_says("where is my order")
            ended = await session.answer()
            assert_complete(session, ended)

    async def test_a_conversation(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """Across says, turns and replies, reply ids are unique, and each started reply ends."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            if subject.spec.capabilities.say != "none":
                await session.say(_SHORT)
            await session.caller_says("where is my order")
            await session.answer()
            await session.caller_says("thank you")
            await session.answer()
            if subject.spec.capabilities.say != "none":
                await session.say("Goodbye.")
            started = [each.reply for each in session.of(ReplyStarted)]
            assert len(set(started)) == len(started), f"two replies have the same id{session.describe()}"
            assert sorted(started) == sorted(each.reply for each in session.of(ReplyEnded))

    async def test_ids_are_unique_across_sessions(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Two sessions have different ids of turns and replies, so that one can replace the other in a call."""
        ids: list[str] = []
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            for _ in range(2):
                async with harness.session() as session:
                    ids += [await session.caller_says("where is my order"), (await session.answer()).reply]
        assert len(set(ids)) == len(ids), f"two sessions use the same ids: {ids}"

    async def test_tool_calls_round_trip(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A tool call arrives complete under its target's name, and its result reaches the model; pairs without tools refuse."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            if subject.spec.capabilities.tools == "none":
                async with harness.session() as session:
                    asked = session.reply_command().model_copy(update={"tools": (TOOL,)})
                    for command in (asked, ToolResultCommand(call_id="call_1", output="{}")):
                        await session.refuses(command, "tools is 'none'")
                return
            async with harness.session(harness.config(tools=True)) as session:
                if not session.answers_itself:
                    await session.caller_says("look up the word")
                calls = [await _call(session, TOOL, json.dumps({"word": word})) for word in ("naïve", "walnut")]
                assert [json.loads(call.arguments) for call in calls] == [{"word": "naïve"}, {"word": "walnut"}]
                assert [call.name for call in calls] == [TOOL, TOOL], "a tool call is named by its target"
                assert calls[0].call_id != calls[1].call_id, "two calls have the same id"
                if not session.answers_after("tool_result"):
                    await session.ask()
                for call in calls:
                    arrived = any(f"walnut-{call.call_id}" in each for each in harness.peer.received)
                    assert arrived, f"the result of {call.call_id} did not reach the provider"

    async def test_invalid_tool_calls_are_passed_through(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Unknown tools and arguments that are not JSON are passed through: the control plane refuses them."""
        if subject.spec.capabilities.tools == "none":
            return
        async with (
            adapter_harness(subject, peer_factory, tmp_path) as harness,
            harness.session(harness.config(tools=True)) as session,
        ):
            if not session.answers_itself:
                await session.caller_says("look up the word")
            assert (await _call(session, "unknown_tool", "{}")).name == "unknown_tool"
            try:
                assert (await _call(session, TOOL, '{"word": ')).arguments == '{"word": '
            except NotImplementedError:
                return  # the protocol carries arguments as an object, so they are always JSON

    async def test_undeclared_tools_are_refused(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A reply with a tool that the session does not declare is refused before it is sent."""
        if subject.spec.capabilities.tools == "none":
            return
        async with (
            adapter_harness(subject, peer_factory, tmp_path) as harness,
            harness.session(harness.config(tools=True)) as session,
        ):
            with pytest.raises(AgentFieldError) as refused:
                await session.send(session.reply_command().model_copy(update={"tools": ("desk.another",)}))
            named = "desk.another" in str(refused.value) or refused.value.code == "capability_missing"
            assert named, f"the refusal does not name the tool: {refused.value}"

    async def test_a_reply_is_cancelled(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A cancelled reply ends, and the next reply is complete."""
        can = subject.spec.capabilities
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            started = await start_long_reply(session)
            cancel = CancelReplyCommand(reply=started.reply, heard_ms=None if subject.spec.media == "direct" else 300)
            if can.interruption == "none":
                await session.refuses(cancel, "interruption is 'none'")
                return
            over = any(each.reply == started.reply for each in session.of(ReplyEnded))
            await session.send(cancel)
            sent = session.now()
            ended = await session.reply_ended(started)
            assert ended.status != "failed", f"a cancelled reply is reported as failed{session.describe()}"
            went_on = not over and ended.status == "completed" and session.received_at(ended) - sent > _STOPS_WITHIN
            assert not went_on, (
                "after CancelReplyCommand the reply was generated to its end: stop it at the provider, or the next reply waits "
                f"for it, and it is paid for{session.describe()}"
            )
            await session.caller_says("what did you say")
            assert_complete(session, await session.answer())

    async def test_the_caller_interrupts_a_reply(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """Speech over a reply is a turn; the provider reports an interruption exactly if it is declared to interrupt."""
        can = subject.spec.capabilities
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            started = await start_long_reply(session)
            before = len(session.of(TurnCommitted))
            await session.speak("stop please")
            if can.interruption == "server":
                interrupted = await session.event(Interrupted, where=lambda each: each.reply == started.reply)
                assert interrupted.method == "provider", (
                    f"the method of the interruption is not 'provider'{session.describe()}"
                )
            await session.turn_committed(before)
            await session.reply_ended(started)
            if can.interruption != "server":
                assert not session.of(Interrupted), (
                    f"interruption is {can.interruption}, but the provider interrupted{session.describe()}"
                )

    async def test_a_short_word_does_not_interrupt(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A provider that interrupts by itself lets a short word pass where a session says so, exactly if `delays_interruption` is set."""
        can = subject.spec.capabilities
        if can.interruption != "server":
            return  # the control plane waits: no provider is asked
        async with (
            adapter_harness(subject, peer_factory, tmp_path) as harness,
            harness.session(harness.config(interrupt_after_ms=_PATIENCE_MS)) as session,
        ):
            started = await start_long_reply(session)
            await session.speak("mhm")
            ended = await session.reply_ended(started)
            stopped = bool(session.of(Interrupted)) or ended.status != "completed"
            if can.delays_interruption:
                assert not stopped, (
                    f"delays_interruption is set, and a short word stopped the reply of a session with interrupt_after_ms={_PATIENCE_MS}: "
                    f"pass config.declaration.interrupt_after_ms on, or let the provider not interrupt then{session.describe()}"
                )
            else:
                assert stopped, (
                    "delays_interruption is False, and a short word did not stop the reply of a session with "
                    f"interrupt_after_ms={_PATIENCE_MS}: declare delays_interruption=True, or sessions that ask for it are refused"
                    f"{session.describe()}"
                )

    async def test_usage_is_reported(self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path) -> None:
        """The usage of a reply is reported as declared: tokens, cost, or nothing."""
        async with adapter_harness(subject, peer_factory, tmp_path) as harness, harness.session() as session:
            await session.caller_says("where is my order")
            ended = await session.answer()
            usage = ended.usage or await _later_usage(session, ended.reply)
            match subject.spec.capabilities.usage:
                case "none":
                    assert usage is None, f"usage is none, but was reported: {usage}"
                case "tokens":
                    assert usage is not None, f"usage is tokens, but none was reported{session.describe()}"
                    counted = (usage.output_text_tokens, usage.output_audio_tokens)
                    assert any(counted), f"usage is tokens, but the counts are empty: {usage}"
                    assert usage.cost is None, (
                        f"usage is tokens, and a cost is reported ({usage.cost}): declare usage='cost', so that it is used"
                    )
                case "cost":
                    assert usage is not None, f"usage is cost, but none was reported{session.describe()}"
                    assert usage.cost is not None, f"usage is cost, but no cost was reported: {usage}"
                    assert not usage.cost or "cost" in subject.spec.capabilities.limits, (
                        f"usage is cost, {usage.cost} was reported, and limits lacks 'cost': add it, or sessions with a limit of "
                        "cost are refused"
                    )


async def _later_usage(session: HarnessSession, reply: str) -> Usage | None:
    """Return the usage of a reply that is reported after its end, None if the pair reports none."""

    def of_reply(each: UsageReported) -> bool:
        return each.kind == "reply" and each.reply in (reply, None)

    if session.can.usage == "none":
        await session.close()  # whatever the provider still sends has arrived then
        return next((each.usage for each in session.of(UsageReported) if of_reply(each)), None)
    return (await session.event(UsageReported, where=of_reply)).usage


async def _call(session: HarnessSession, target: str, arguments: str) -> ToolRequested:
    """Let the model call a tool, and go on after the result."""
    call = await call_tool(session, target, arguments)
    if session.answers_after("tool_result"):
        await session.answer()
    return call
