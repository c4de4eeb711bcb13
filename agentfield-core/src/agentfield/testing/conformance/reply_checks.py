"""Replies: one that is long enough to be spoken over, and the checks of a complete one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentfield.realtime.commands import ToolResultCommand
from agentfield.realtime.events import ReplyAudio, ReplyEnded, ReplyStarted, ReplyTranscript, ToolRequested
from agentfield.testing.conformance.harness.adapter_harness import LONG_TEXT, TOOL
from agentfield.testing.conformance.harness.harness_session import HarnessSession
from agentfield.testing.conformance.harness.waiting import wait_until

__all__ = ["assert_complete", "call_tool", "peer_member", "start_long_reply"]

_HEARD_MS = 300


async def start_long_reply(session: HarnessSession) -> ReplyStarted:
    """Start a long reply and wait until some of it was heard."""
    if session.can.say == "none":
        peer_member(session, "prepare_reply", "the pair has no say")(LONG_TEXT)
        await session.caller_says("tell me about the warehouse")
        started = await session.answer_started()
    else:
        started = await session.start_reply(session.say_command(LONG_TEXT))
    if session.caller is not None:
        caller = session.caller
        await wait_until("the caller hears the reply", lambda: caller.heard_ms > _HEARD_MS, session.describe)
    elif "audio" in session.config.modalities:
        await session.event(ReplyAudio, where=lambda each: each.reply == started.reply)
    return started


def peer_member(session: HarnessSession, name: str, because: str) -> Any:
    """Return a method of the peer; fail the calling test with its purpose if the peer lacks it."""
    method = getattr(session.peer, name, None)
    if method is None:
        pytest.fail(
            f"{because}, so {type(session.peer).__name__} needs the method {name}: see agentfield.testing.peer.ProviderPeer",
            pytrace=False,
        )
    return method


def assert_complete(session: HarnessSession, ended: ReplyEnded) -> None:
    """Check that a reply is complete, with the transcript and audio that the pair declares.

    Raises:
        AssertionError: It is not.
    """
    can = session.can
    assert ended.status == "completed", f"the reply did not complete{session.describe()}"
    pieces = [each for each in session.of(ReplyTranscript) if each.reply == ended.reply]
    final = [each.text for each in pieces if each.final]
    if can.agent_transcript == "none":
        assert not pieces, f"agent_transcript is none, but there is a transcript{session.describe()}"
    else:
        assert final, (
            f"agent_transcript is {can.agent_transcript}, but there is no final transcript{session.describe()}"
        )
        assert ended.text == final[-1], f"ReplyEnded has another text than the final transcript{session.describe()}"
    if can.agent_transcript == "final":
        assert len(pieces) == len(final), (
            f"agent_transcript is final, but there are partial transcripts{session.describe()}"
        )
    if can.agent_transcript == "streaming":
        assert len(pieces) > len(final), (
            "agent_transcript is streaming, and the final ReplyTranscript came without any piece before it: emit the pieces "
            f'with final=False as they arrive, or declare "final"{session.describe()}'
        )
    sound = b"".join(each.data for each in session.of(ReplyAudio) if each.reply == ended.reply)
    speaks = "audio" in session.config.modalities
    assert ended.audio == speaks, f"ReplyEnded.audio is wrong{session.describe()}"
    if session.output is None:
        assert not sound, f"audio of direct media must not pass through the control plane{session.describe()}"
    elif speaks:
        assert sound, f"the reply has no audio{session.describe()}"
        assert len(sound) % session.output.frame == 0, "audio ends in the middle of a sample"
        audio_ms = ended.audio_ms
        assert audio_ms is None or abs(audio_ms - session.output.ms(len(sound))) <= 1, (
            f"audio_ms is {audio_ms}{session.describe()}"
        )


async def call_tool(
    session: HarnessSession, target: str = TOOL, arguments: str = '{"word": "walnut"}'
) -> ToolRequested:
    """Let the model call a tool, and send a result, which it answers by itself or not as `answers_after` says."""
    before = len(session.of(ToolRequested))
    session.peer.call_tool(target, arguments)
    if session.answers_itself:
        await session.caller_says("look up the word")
        ended = await session.answer()
    else:
        ended = await session.reply((TOOL,))
    call = await session.event(ToolRequested, before + 1)
    assert call.reply == ended.reply, f"the call has another reply's id{session.describe()}"
    assert ended.tools == 1, f"the reply does not count its call{session.describe()}"
    session.expect_answer()
    await session.send(ToolResultCommand(call_id=call.call_id, output=json.dumps({"found": f"walnut-{call.call_id}"})))
    return call
