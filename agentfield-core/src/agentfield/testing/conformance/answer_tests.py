"""Standard tests of a model that answers by itself: after what it does, what begins a turn, and a turn without an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from agentfield.errors import AgentFieldError
from agentfield.plugins import Capabilities
from agentfield.realtime.commands import BeginTurnCommand
from agentfield.realtime.events import ReplyStarted, SessionReady, TurnUnanswered
from agentfield.testing.conformance.harness.adapter_harness import AdapterHarness, adapter_harness
from agentfield.testing.conformance.harness.harness_session import HarnessSession
from agentfield.testing.conformance.harness.subject import PairUnderTest
from agentfield.testing.conformance.harness.waiting import wait_until
from agentfield.testing.conformance.reply_checks import call_tool
from agentfield.testing.conformance.suite import ConformanceSuite
from agentfield.testing.peer import PeerFactory

__all__ = ["AnswerTests"]

_Cause = Literal["turn", "commit", "tool_result"]
_CAUSES: dict[_Cause, str] = {
    "turn": "a turn that the provider detected",
    "commit": "CommitTurnCommand",
    "tool_result": "ToolResultCommand",
}


class AnswerTests(ConformanceSuite):
    """Answers on the model's floor, and turns of push to talk, exactly as declared."""

    async def test_the_model_answers_after_what_is_declared(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """On the model's floor the model answers by itself after what `answers_after` has, and after nothing else."""
        can = subject.spec.capabilities
        if "model" not in can.floors:
            return
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            for cause in _causes(can):
                config = harness.config(floor="model", manual=cause == "commit", tools=cause == "tool_result")
                if cause == "turn" and config.turn_detection is None:
                    continue
                async with harness.session(config) as session:
                    if cause == "tool_result":
                        await call_tool(session)
                    else:
                        await session.caller_says("where is my order")
                    await _answered(session, cause)

    async def test_turns_begin_as_declared(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """`BeginTurnCommand` of push to talk reaches the provider exactly if `begins_turns` is set."""
        can = subject.spec.capabilities
        if "manual" not in can.turn_detection or subject.spec.media != "bridged":
            return
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            if can.begins_turns:
                async with harness.session(harness.config(manual=True)) as session:
                    await session.event(SessionReady)
                    before = len(harness.peer.received)
                    await session.takes(BeginTurnCommand(id="begin"), "begins_turns is True")
                    await wait_until(
                        "begins_turns is True, and BeginTurnCommand reaches the provider: tell it that the caller begins, or leave "
                        "begins_turns out",
                        lambda: len(harness.peer.received) > before,
                    )
                return
            told = await _texts_of_a_turn(harness, begins=True)
            assert not told or told <= await _texts_of_a_turn(harness), (
                "begins_turns is False, and the provider is told of BeginTurnCommand: declare begins_turns=True, or the control "
                "plane never sends it"
            )

    async def test_a_model_may_say_nothing(
        self, subject: PairUnderTest, peer_factory: PeerFactory, tmp_path: Path
    ) -> None:
        """A turn that the model chooses not to answer is reported by `TurnUnanswered`, where the peer can choose so."""
        can = subject.spec.capabilities
        async with adapter_harness(subject, peer_factory, tmp_path) as harness:
            choose = getattr(harness.peer, "prepare_silence", None)
            config = harness.config(floor="model") if "model" in can.floors else None
            if choose is None or config is None or config.turn_detection is None or "turn" not in can.answers_after:
                return
            async with harness.session(config) as session:
                choose()
                item = await session.caller_says("one moment please")
                await session.until(
                    f"TurnUnanswered(item={item!r}): the model chose to say nothing. Without it the control plane waits for an "
                    "answer until the turn fails",
                    lambda: any(each.item == item for each in session.of(TurnUnanswered)),
                )
                assert not session.of(ReplyStarted), f"a reply was started for an unanswered turn{session.describe()}"
                await session.caller_says("now I am back")
                await session.answer()


def _causes(can: Capabilities) -> Iterator[_Cause]:
    if can.turn_detection & {"server_vad", "semantic_vad"}:
        yield "turn"
    if "manual" in can.turn_detection:
        yield "commit"
    if can.tools != "none":
        yield "tool_result"


async def _answered(session: HarnessSession, cause: _Cause) -> None:
    """Let the model answer; it does so by itself exactly if that is declared."""
    what = _CAUSES[cause]
    if session.answers_after(cause):
        await session.until(
            f"the model's answer without a command after {what}: answers_after has {cause!r}, so the control plane does not ask "
            f"for it. Take {cause!r} out where the provider waits to be asked",
            session.unasked_replies,
        )
        await session.reply_ended(session.unasked_replies()[0])
        return
    command = session.reply_command()
    try:
        await session.send(command)
    except AgentFieldError:
        if not session.unasked_replies():  # otherwise the refusal follows from the answer that came unasked
            raise
    started = await session.until(
        "ReplyStarted",
        lambda: session.unasked_replies() or [each for each in session.of(ReplyStarted) if each.command == command.id],
    )
    await session.reply_ended(started[0])
    await session.close()
    assert not session.unasked_replies(), (
        f"answers_after lacks {cause!r}, and the model answered by itself after {what}: add {cause!r}, or the control plane asks "
        f"for a second answer{session.describe()}"
    )


async def _texts_of_a_turn(harness: AdapterHarness, *, begins: bool = False) -> int:
    """Return how many texts the provider receives from the begin of a turn of push to talk to its commit."""
    async with harness.session(harness.config(manual=True)) as session:
        await session.event(SessionReady)
        before = len(harness.peer.received)
        if begins and not await session.is_taken(BeginTurnCommand(id="begin")):
            return 0  # refused, as it may be
        await session.caller_says("where is my order")
        return len(harness.peer.received) - before
