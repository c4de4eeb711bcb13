"""The record of each speech: that it began, what became of it, and the answer to who asked for it."""

from __future__ import annotations

from agentfield_server.sessions.board import Board
from agentfield_server.sessions.effects import ResolveReply, ResolveSpeech, Spoken
from agentfield_server.sessions.utterance import Speech

__all__ = ["Answers"]


class Answers:
    """Beginnings and ends, each told once."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.parked: dict[str, tuple[Speech, Spoken]] = {}
        """By reply: asked replies that called tools; answered when the model has spoken about the results."""

    def lost(self, speech_id: str, asked: str | None) -> None:
        """Close the record of a speech of an earlier control plane: nobody knows how much of it was heard."""
        unknown = dict.fromkeys(("verbatim", "heard_ms", "heard_text", "heard_method"))
        told = {"generated": "", "interrupted": False, "stale": False, "failed": "control_plane_restart"}
        self._board.record("speech.ended", speech_id=speech_id, asked=asked, remaining="", **unknown, **told)

    def begin(self, speech: Speech) -> None:
        """A speech is under way."""
        if not speech.recorded:
            speech.recorded = True
            turn_id = speech.turn.turn_id if speech.turn else None
            self._board.record(
                "speech.started", speech_id=speech.id, kind=speech.kind, asked=speech.asked, turn_id=turn_id
            )

    def close(self, speech: Speech, *, failed: str | None, stale: bool) -> None:
        """A speech is over."""
        spoken = speech.spoken(self._board.now, failed=failed, stale=stale)
        self._board.record("speech.ended", speech_id=speech.id, **spoken.as_json())
        if spoken.generated:
            self._board.remember(speech.told(spoken))
        clean = failed is None and not spoken.interrupted
        if clean and speech.tool_calls and speech.op_id is not None and speech.reply is not None:
            self.parked[speech.reply] = (speech, spoken)
        else:
            self._answer(speech, spoken)

    def unpark(self, reply: str) -> None:
        """Answer an asked reply with what it was before its tools; the model will say no more about it."""
        parked = self.parked.pop(reply, None)
        if parked is not None:
            self._answer(*parked)

    def unpark_all(self) -> None:
        """Answer all of them."""
        for reply in list(self.parked):
            self.unpark(reply)

    def _answer(self, speech: Speech, spoken: Spoken) -> None:
        if speech.op_id is None:
            return
        if speech.kind == "reply":
            self._board.ops.answer(ResolveReply(speech.op_id, spoken, tuple(speech.called)))
        else:
            self._board.ops.answer(ResolveSpeech(speech.op_id, spoken))
