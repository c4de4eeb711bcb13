"""Record of each speech: its beginning, its outcome, and the answer to the command that asked for it."""

from __future__ import annotations

from agentfield_server.sessions.conversation.effects import ResolveReply, ResolveSpeech, Spoken
from agentfield_server.sessions.conversation.speech.utterance import Utterance
from agentfield_server.sessions.conversation.state import MachineState

__all__ = ["SpeechLog"]


class SpeechLog:
    """Records the beginning and the end of each speech once.

    Args:
        state: State shared with the other parts.
    """

    def __init__(self, state: MachineState) -> None:
        self._state = state
        self.awaiting_tools: dict[str, tuple[Utterance, Spoken]] = {}
        """Replies of the handler that called tools, by reply: answered when the model has spoken about the results."""

    def lost(self, speech_id: str, asked: str | None) -> None:
        """Close the record of a speech that a restart cut off: how much of it was heard is unknown."""
        unknown = dict.fromkeys(("verbatim", "heard_ms", "heard_text", "heard_method"))
        outcome = {"generated": "", "interrupted": False, "stale": False, "failed": "control_plane_restart"}
        self._state.record("speech.ended", speech_id=speech_id, asked=asked, remaining="", **unknown, **outcome)

    def begin(self, speech: Utterance) -> None:
        """Record that a speech has begun, once."""
        if not speech.recorded:
            speech.recorded = True
            turn_id = speech.turn.turn_id if speech.turn else None
            known = {"speech_id": speech.id, "kind": speech.kind, "asked": speech.asked, "turn_id": turn_id}
            self._state.record("speech.started", **known, **({} if speech.interruptible else {"interruptible": False}))

    def close(self, speech: Utterance, *, failed: str | None, stale: bool) -> None:
        """Record the outcome of a speech, and answer its command unless tools are awaited."""
        spoken = speech.outcome(self._state.now, failed=failed, stale=stale)
        called = {"tool_calls": speech.tool_calls} if speech.tool_calls else {}
        turn_id = speech.turn.turn_id if speech.turn else None
        self._state.record("speech.ended", speech_id=speech.id, turn_id=turn_id, **spoken.as_json(), **called)
        if spoken.generated:
            self._state.add_history(speech.history_entry(spoken))
        clean = failed is None and not spoken.interrupted
        if clean and speech.tool_calls and speech.op_id is not None and speech.reply is not None:
            self.awaiting_tools[speech.reply] = (speech, spoken)
        else:
            self._answer(speech, spoken)

    def answer_without_tools(self, reply: str) -> None:
        """Answer a reply with its outcome before its tools; the model will not speak about their results."""
        awaiting_tools = self.awaiting_tools.pop(reply, None)
        if awaiting_tools is not None:
            self._answer(*awaiting_tools)

    def answer_all(self) -> None:
        """Answer every reply that waits for tools."""
        for reply in list(self.awaiting_tools):
            self.answer_without_tools(reply)

    def _answer(self, speech: Utterance, spoken: Spoken) -> None:
        if speech.op_id is None:
            return
        if speech.kind == "reply":
            self._state.ops.answer(ResolveReply(speech.op_id, spoken, tuple(speech.call_notes)))
        else:
            self._state.ops.answer(ResolveSpeech(speech.op_id, spoken))
