"""Providers whose model goes on by itself, takes calls back, stays silent, announces its end late and resumes by a handle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentfield.realtime.commands import AddTextCommand, ReplyCommand, ToolResultCommand, UpdateCommand
from agentfield.realtime.events import (
    PlayoutStarted,
    ReplyEnded,
    ReplyStarted,
    SessionExpiring,
    SessionReady,
    SessionResumable,
    ToolCancelled,
    TurnCommitted,
    TurnTranscript,
    TurnUnanswered,
)
from agentfield_server.sessions.conversation.effects import CancelTool, CloseTurn, Rotate, RunTool, StoreHandle
from agentfield_server.sessions.conversation.inputs import (
    CallerBegan,
    OfferAccepted,
    Rotated,
    Snapshot,
    TextInput,
    ToolFinished,
    ToolStarted,
)
from support.server.machine import WEBSOCKET, SimulatedCall

LIVE = replace(
    WEBSOCKET,
    say="none",
    uninterruptible=False,
    floors=frozenset({"model"}),
    turn_detection=frozenset({"server_vad", "manual"}),
    transcription="own",
    interruption="server",
    truncation="none",
    answers_after=frozenset({"turn", "commit", "tool_result"}),
    begins_turns=True,
    resumption="handle",
    echoes=frozenset(),
)
"""Capabilities of a provider that does all by itself."""


def talking(*, can: Any = LIVE, **fields: Any) -> SimulatedCall:
    """Return a call on the model's floor."""
    return SimulatedCall(media="bridged", capabilities=can, floor="model", **fields).under_way()


def calling_a_tool(name: str = "shop.look", *, can: Any = LIVE) -> SimulatedCall:
    """Return a call whose model has called one tool in its first reply."""
    call = talking(can=can)
    call.speaks("a", "hello")
    call.feed(ReplyStarted(reply="r1"))
    call.tool("c1", name)
    call.feed(ReplyEnded(reply="r1", tools=1), ToolStarted("c1", "exe_tool"))
    return call


# --- who continues


def test_a_model_that_continues_by_itself_is_not_asked() -> None:
    """After the result of its tool the model answers by itself; its turn stays open until then, and has both speeches."""
    call = calling_a_tool()
    call.feed(ToolFinished(call_id="c1", value=7))
    assert [command.output for command in call.sent(ToolResultCommand)] == ["7"]
    call.wait(5)
    assert not call.sent(ReplyCommand)
    assert not call.closed(), "the turn was closed before its answer"
    call.heard("r2", "It is seven.")
    assert list(call.closed().values()) == ["succeeded"]
    [closed] = call.all(CloseTurn)
    assert closed.output is not None
    assert [spoken["generated"] for spoken in closed.output["spoken"]] == ["It is seven."]
    assert not call.sent(ReplyCommand)
    assert not call.recorded("warning")


def test_a_model_that_should_continue_and_says_nothing_is_given_up() -> None:
    """Without an answer the turn is closed after a while, with a warning."""
    call = calling_a_tool()
    call.feed(ToolFinished(call_id="c1", value=7))
    call.wait(16)
    assert [body["code"] for body in call.recorded("warning")] == ["model_silent"]
    assert len(call.closed()) == 1


def test_a_late_result_is_always_asked_about() -> None:
    """A result that follows as text continues nothing by itself."""
    call = calling_a_tool()
    call.wait(21)
    assert [command.output for command in call.sent(ToolResultCommand)] == ['{"status":"pending"}']
    call.heard("r2", "One moment.")
    call.feed(ToolFinished(call_id="c1", value=7))
    assert "7" in call.sent(AddTextCommand)[-1].text
    assert len(call.sent(ReplyCommand)) == 1


def test_a_committed_turn_is_answered_by_the_model_where_it_says_so() -> None:
    """Push to talk: only a provider that does not answer a commit by itself is asked."""
    for can, asked in ((LIVE, 0), (replace(LIVE, answers_after=frozenset({"turn"})), 1)):
        call = talking(can=can, turn_detection=None)
        call.feed(TurnCommitted(item="a"), TurnTranscript(item="a", text="hello"))
        call.wait(2)
        assert len(call.sent(ReplyCommand)) == asked
        assert not call.recorded("warning")


def test_a_typed_text_is_always_asked_about() -> None:
    """A text is added, then the answer is requested."""
    call = talking()
    call.feed(TextInput("hello"))
    assert [type(command) for command in (*call.sent(AddTextCommand), *call.sent(ReplyCommand))] == [
        AddTextCommand,
        ReplyCommand,
    ]


def test_a_rotation_asks_for_what_the_model_would_have_said_by_itself() -> None:
    """The new session does not know of the results: it is told, and asked to go on."""
    call = calling_a_tool()
    call.feed(ToolFinished(call_id="c1", value=7), SessionExpiring(expires_at=call.now + 5000 + 4))
    call.wait(4)
    assert len(call.all(Rotate)) == 1
    call.ready()
    call.wait(6)
    assert any("7" in command.text for command in call.sent(AddTextCommand))
    assert len(call.sent(ReplyCommand)) == 1


# --- silence


def test_a_model_may_choose_silence() -> None:
    """The turn succeeds without a speech: no warning, nothing spoken, nothing awaited."""
    call = talking(on_error="Sorry?")
    call.speaks("a", "hmm")
    call.feed(TurnUnanswered(item="a"))
    [turn] = call.closed().items()
    assert call.recorded("turn.unanswered") == [{"turn_id": turn[0], "item": "a"}]
    assert turn[1] == "succeeded"
    call.wait(20)
    assert not call.recorded("warning")
    assert not call.recorded("speech.started")


def test_a_model_may_say_nothing_about_results() -> None:
    """Silence after a tool ends the turn as well."""
    call = calling_a_tool()
    call.feed(ToolFinished(call_id="c1", value=7), TurnUnanswered(item="a"))
    assert list(call.closed().values()) == ["succeeded"]
    call.wait(16)
    assert not call.recorded("warning")


def test_silence_to_a_request_frees_the_slot() -> None:
    """A model that was asked and chooses silence does not block the next answer."""
    call = talking(can=replace(LIVE, answers_after=frozenset()), turn_detection=None)
    call.feed(TurnCommitted(item="a"), TurnTranscript(item="a", text="hmm"), TurnUnanswered(item="a"))
    call.feed(TurnCommitted(item="b"), TurnTranscript(item="b", text="hello"))
    assert len(call.sent(ReplyCommand)) == 2
    call.wait(20)
    assert [body["code"] for body in call.recorded("warning")] == ["reply_not_started"]


# --- calls that are taken back


@pytest.mark.parametrize(("tool", "cancelled"), [("shop.look", 0), ("shop.stop", 1)])
def test_a_call_that_is_taken_back_gets_no_answer(tool: str, cancelled: int) -> None:
    """Its execution is cancelled if its target asks for that; its late result is dropped, and the model is not asked to go on."""
    call = calling_a_tool(tool)
    call.feed(ToolCancelled(call_id="c1"))
    assert [effect.call_id for effect in call.all(CancelTool)] == ["c1"] * cancelled
    assert call.recorded("tool.cancelled") == [{"call_id": "c1", "execution_id": "exe_tool"}]
    call.feed(ToolFinished(call_id="c1", value=7))
    call.wait(30)
    assert not call.sent(ToolResultCommand)
    assert not call.sent(ReplyCommand)
    assert not call.recorded("tool.answered")
    assert len(call.closed()) == 1


def test_the_other_calls_of_the_reply_are_still_answered() -> None:
    """Only the call that is taken back has no result."""
    call = talking()
    call.speaks("a", "hello")
    call.feed(ReplyStarted(reply="r1"))
    call.tool("c1")
    call.tool("c2")
    call.feed(ReplyEnded(reply="r1", tools=2), ToolCancelled(call_id="c1"), ToolFinished(call_id="c2", value=2))
    assert [command.call_id for command in call.sent(ToolResultCommand)] == ["c2"]


def test_a_pending_call_that_is_taken_back_adds_nothing_later() -> None:
    """A result that was announced as pending is dropped too."""
    call = calling_a_tool()
    call.wait(21)
    call.feed(ToolCancelled(call_id="c1"), ToolFinished(call_id="c1", value=7))
    assert not call.sent(AddTextCommand)


def test_an_unknown_call_that_is_taken_back_changes_nothing() -> None:
    """Neither an unknown call nor an answered one."""
    call = calling_a_tool()
    call.feed(ToolFinished(call_id="c1", value=7))
    assert call.feed(ToolCancelled(call_id="c1"), ToolCancelled(call_id="c9")) == []


# --- expiry and handles


def test_an_expiry_that_is_announced_late_rotates() -> None:
    """The provider says in the call that it ends the session soon: another one takes over before that."""
    call = talking()
    call.feed(SessionExpiring(expires_at=call.now + 5000 + 50))
    call.wait(26)
    assert len(call.all(Rotate)) == 1


def test_an_expiry_that_is_announced_late_ends_in_time() -> None:
    """Where nothing can take over, the handler is warned at once, and the call ends before the provider ends it."""
    call = talking(can=replace(LIVE, resumption="none"))
    call.feed(SessionExpiring(expires_at=call.now + 5000 + 40))
    assert [body["code"] for body in call.recorded("warning")] == ["provider_expires"]
    call.wait(26)
    assert call.reason == "provider_expired"


def test_a_replacement_that_knows_the_conversation_is_told_only_the_rest() -> None:
    """What came before the handle is not repeated; what followed it is."""
    call = talking()
    call.speaks("a", "first question")
    call.heard("r1", "first answer")
    call.feed(SessionResumable(handle="h-1"))
    stored = call.all(StoreHandle)[-1]
    assert (stored.handle, stored.known) == ("h-1", 2)
    call.speaks("b", "second question")
    call.heard("r2", "second answer")
    call.feed(SessionExpiring(expires_at=call.now + 5000 + 50))
    call.wait(26)
    call.feed(Rotated(stored.known), SessionReady())
    assert [command.text for command in call.sent(AddTextCommand)] == ["second question", "second answer"]


def test_a_replacement_without_a_handle_is_told_everything() -> None:
    """If the provider no longer knows the handle, the new session receives the conversation so far."""
    call = talking()
    call.speaks("a", "first question")
    call.heard("r1", "first answer")
    call.feed(SessionResumable(handle="h-1"), SessionExpiring(expires_at=call.now + 5000 + 50))
    call.wait(26)
    call.ready()
    assert [command.text for command in call.sent(AddTextCommand)] == ["first question", "first answer"]


def test_a_handle_outlives_the_control_plane() -> None:
    """After a restart the resumed session is told only what followed the handle."""
    history = tuple({"role": "caller", "turn_id": f"exe_{n}", "text": f"words {n}"} for n in range(4))
    snapshot = Snapshot(handler_epoch=1, turns=4, history=history, history_count=10)
    call = SimulatedCall(media="bridged", capabilities=LIVE, floor="model", snapshot=snapshot)
    call.feed(OfferAccepted(), Rotated(9))
    call.live()
    assert [command.text for command in call.sent(AddTextCommand)] == ["words 3"]


@pytest.mark.parametrize("resumption", ["replay", "stateless"])
def test_a_handle_is_for_pairs_that_declare_it(resumption: str) -> None:
    """Nothing is stored for other pairs, nor of a handle that is too long."""
    call = talking(can=replace(LIVE, resumption=resumption))
    assert call.feed(SessionResumable(handle="h-1")) == []
    call = talking()
    call.feed(SessionResumable(handle="h" * 16_385))
    assert not call.all(StoreHandle)
    assert [body["code"] for body in call.recorded("warning")] == ["handle_too_long"]


def test_a_handle_is_in_no_text() -> None:
    """Neither the event nor the effect shows the handle when it is printed."""
    assert "h-secret" not in repr(SessionResumable(handle="h-secret")) + repr(StoreHandle("h-secret"))


# --- the rest of what such a provider needs


def test_a_provider_that_never_repeats_its_model_is_not_warned_about() -> None:
    """The record says that it is unverified; a pair that otherwise repeats them is still warned about."""
    quiet = talking(model=None, voice=None)
    assert not quiet.recorded("warning")
    for can, warned in ((LIVE, []), (replace(LIVE, echoes=frozenset({"model"})), ["unverified"])):
        call = SimulatedCall(media="bridged", capabilities=can, floor="model").live(model=None, voice=None)
        assert [body["verified"] for body in call.recorded("provider.attached")] == [False]
        assert [body["code"] for body in call.recorded("warning")] == warned


def test_a_transcription_without_a_model_is_awaited() -> None:
    """The provider transcribes by itself: a turn waits for its words although no model is named."""
    call = talking()
    call.machine.state.config = call.machine.state.config.model_copy(update={"transcription": None})
    call.speaks("a")
    call.feed(ReplyStarted(reply="r1"), PlayoutStarted(reply="r1"))
    assert not call.recorded("turn.committed")
    call.feed(TurnTranscript(item="a", text="hello"))
    assert [body["text"] for body in call.recorded("turn.committed")] == ["hello"]


def test_push_to_talk_interrupts_at_its_begin() -> None:
    """The caller presses the key: the reply stops before the turn is committed."""
    call = talking(can=replace(LIVE, interruption="client"), turn_detection=None)
    call.feed(TurnCommitted(item="a"), TurnTranscript(item="a", text="hello"), ReplyStarted(reply="r1"))
    call.feed(PlayoutStarted(reply="r1"), CallerBegan())
    assert call.machine.speech.active is not None
    assert call.machine.speech.active.interrupted


def test_a_provider_that_cannot_be_told_is_not_told() -> None:
    """A pair without `uninterruptible` gets no update of that setting."""
    call = SimulatedCall(
        media="bridged", capabilities=replace(LIVE, say="best_effort"), floor="model", greeting="Hello."
    )
    call.live()
    assert not call.sent(UpdateCommand)


def test_a_tool_runs_once_for_a_call_that_is_taken_back_and_repeated() -> None:
    """A call id is used once, also when its call was taken back."""
    call = calling_a_tool()
    call.feed(ToolCancelled(call_id="c1"))
    call.tool("c1")
    assert len(call.all(RunTool)) == 1
