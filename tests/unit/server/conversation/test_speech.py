"""Speech: one reply slot; words asked for, generated and heard; interruption; staleness."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentfield.realtime.commands import CancelReplyCommand, Command, ReplyCommand, SayCommand, UpdateCommand
from agentfield.realtime.events import (
    Interrupted,
    PlayoutCleared,
    PlayoutStarted,
    PlayoutStopped,
    ProviderFault,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    TurnCommitted,
    TurnDiscarded,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
)
from agentfield_server.sessions.conversation.effects import ResolveReply, ResolveSpeech, SendCommand
from agentfield_server.sessions.conversation.inputs import CancelSpeech, HandlerSay
from agentfield_server.sessions.conversation.text_compare import (
    heard_prefix,
    is_beginning,
    is_same_model,
    is_verbatim,
    normalised_words,
    unheard_rest,
)
from support.server.machine import SimulatedCall


def commands(call: SimulatedCall) -> list[str]:
    return [effect.command.type for effect in call.all(SendCommand)]


def test_say_resolves_when_it_was_heard() -> None:
    """A say resolves after generation and playback, verbatim, with the heard words."""
    call = SimulatedCall().live()
    op_id = call.say("It's here, now!")
    assert call.sent(SayCommand)[0].text == "It's here, now!"
    command = call.spoken_command()
    call.feed(ReplyStarted(reply="r1", command=command), PlayoutStarted(reply="r1"))
    call.feed(ReplyEnded(reply="r1", command=command, text="its here  now", audio=True))
    assert call.answer(op_id) is None
    call.wait(2)
    call.feed(PlayoutStopped(reply="r1"))
    answer = call.answer(op_id)
    assert isinstance(answer, ResolveSpeech)
    spoken = answer.spoken
    assert (spoken.verbatim, spoken.heard_ms, spoken.heard_text) == (True, 2000, "its here  now")
    assert (spoken.heard_method, spoken.interrupted, spoken.remaining) == ("provider", False, "")
    assert [body["kind"] for body in call.recorded("speech.started")] == ["say"]
    assert call.recorded("speech.ended")[0]["generated"] == "its here  now"


def test_paraphrase_is_not_verbatim() -> None:
    """A model that says something else is not reported as verbatim."""
    call = SimulatedCall().live()
    op_id = call.say("Your order is stuck.")
    call.heard("r1", "I am afraid the order is stuck.", call.spoken_command())
    assert call.answer(op_id).spoken.verbatim is False


def test_playback_that_is_never_reported_ends_by_estimate() -> None:
    """Without a report of playback a speech resolves after its estimated duration and 15 s."""
    call = SimulatedCall().live()
    text = "x" * 150
    op_id = call.say(text)
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()))
    call.feed(ReplyEnded(reply="r1", text=text, audio=True))
    call.wait(24)
    assert call.answer(op_id) is None
    call.wait(2)
    assert call.answer(op_id).spoken.heard_method == "wallclock"


def test_speeches_are_sent_one_at_a_time_in_order() -> None:
    """The second say is sent when the first was heard."""
    call = SimulatedCall().live()
    call.say("one")
    second = call.say("two")
    assert [say.text for say in call.sent(SayCommand)] == ["one"]
    call.heard("r1", "one", call.spoken_command())
    assert [say.text for say in call.sent(SayCommand)] == ["one", "two"]
    call.heard("r2", "two", call.spoken_command())
    assert call.answer(second).spoken.verbatim is True


def test_refused_say_is_sent_again() -> None:
    """A say that meets a busy provider is sent again, and recorded once."""
    call = SimulatedCall().live()
    op_id = call.say("one")
    command = call.spoken_command()
    call.feed(ProviderFault(code="busy", message="busy", retry=True, command=command))
    assert len(call.sent(SayCommand)) == 1
    call.wait(1)
    assert len(call.sent(SayCommand)) == 2
    call.heard("r1", "one", command)
    assert call.answer(op_id).spoken.failed is None
    assert len(call.recorded("speech.started")) == 1


def test_finally_refused_say_fails() -> None:
    """A say that the provider finally refuses resolves as failed with the provider's code."""
    call = SimulatedCall().live()
    op_id = call.say("one")
    call.feed(ProviderFault(code="invalid_value", message="no", command=call.spoken_command()))
    assert call.answer(op_id).spoken.failed == "invalid_value"


def test_say_that_never_begins_fails() -> None:
    """A say that the provider ignores fails after 15 s, and the next one follows."""
    call = SimulatedCall().live()
    first = call.say("one")
    call.say("two")
    call.wait(16)
    assert call.answer(first).spoken.failed == "provider_timeout"
    assert call.sent(SayCommand)[-1].text == "two"


def test_interrupted_say_reports_what_was_heard() -> None:
    """An interrupted say resolves with the heard beginning and the remaining words."""
    call = SimulatedCall().live()
    text = "alpha beta gamma delta epsilon zeta eta theta"
    op_id = call.say(text)
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
    call.feed(ReplyTranscript(reply="r1", text="alpha beta gamma "), ReplyTranscript(reply="r1", text="delta"))
    call.wait(1)
    call.feed(Interrupted(reply="r1", heard_ms=900, method="provider"), PlayoutCleared(reply="r1"))
    call.feed(ReplyEnded(reply="r1", status="cancelled", why="interrupted"))
    spoken = call.answer(op_id).spoken
    assert (spoken.interrupted, spoken.heard_ms, spoken.heard_method) == (True, 900, "provider")
    assert (spoken.heard_text, spoken.remaining) == ("alpha beta", "gamma delta epsilon zeta eta theta")
    assert spoken.generated == "alpha beta gamma delta"
    assert spoken.verbatim is None  # cut off before it could differ


def test_a_speech_that_was_cut_off_is_not_reworded() -> None:
    """Cut off within the words asked for, nothing is known; other words are other words, cut off or not."""
    for generated, verbatim in (("Your order is st", None), ("", None), ("I am afraid", False)):
        call = SimulatedCall().live()
        op_id = call.say("Your order is stuck.")
        call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
        call.feed(ReplyTranscript(reply="r1", text=generated)) if generated else None
        call.wait(1)
        call.feed(Interrupted(reply="r1", heard_ms=300, method="provider"), PlayoutCleared(reply="r1"))
        call.feed(ReplyEnded(reply="r1", status="cancelled", why="interrupted"))
        assert call.answer(op_id).spoken.verbatim is verbatim, generated
        assert call.recorded("speech.ended")[0]["verbatim"] is verbatim


@given(asked=st.text(), said=st.text(), length=st.integers(0, 40))
def test_every_beginning_is_a_beginning(asked: str, said: str, length: int) -> None:
    """A text is a beginning of itself, and each of its beginnings in whole words is one; more words are none."""
    words = normalised_words(asked)
    assert is_beginning(asked, " ".join(words[:length]))
    assert is_beginning(asked, asked)
    assert not is_beginning(asked, f"{asked} one more")
    assert is_beginning(asked, said) or not is_verbatim(asked, said)


def test_a_model_that_stops_early_used_other_words() -> None:
    """A speech that was generated to its end and lacks words is not verbatim."""
    call = SimulatedCall().live()
    op_id = call.say("Your order is stuck in customs.")
    call.heard("r1", "Your order is stuck.", call.spoken_command())
    assert call.answer(op_id).spoken.verbatim is False


def test_interruption_after_generation() -> None:
    """Generation is faster than playback: a generated reply can be interrupted while it plays."""
    call = SimulatedCall().live()
    op_id = call.say("alpha beta gamma delta")
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
    call.feed(ReplyEnded(reply="r1", text="alpha beta gamma delta", audio=True))
    call.wait(1)
    call.feed(Interrupted(reply="r1"), PlayoutCleared(reply="r1"))
    spoken = call.answer(op_id).spoken
    assert (spoken.heard_ms, spoken.heard_method, spoken.heard_text) == (1000, "wallclock", "alpha beta")


def test_heard_position_may_arrive_after_the_end() -> None:
    """A measurement that arrives a moment after the cancelled reply is used."""
    call = SimulatedCall().live()
    op_id = call.say("alpha beta gamma delta epsilon")
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
    call.wait(2)
    call.feed(TurnStarted(item="b"))
    call.feed(ReplyEnded(reply="r1", status="cancelled", why="interrupted", text="alpha beta gamma delta", audio=True))
    assert call.answer(op_id) is None
    call.wait(0.2)
    call.feed(Interrupted(reply="r1", heard_ms=900, method="provider"), PlayoutCleared(reply="r1"))
    spoken = call.answer(op_id).spoken
    assert (spoken.heard_ms, spoken.heard_method, spoken.heard_text) == (900, "provider", "alpha beta")


def test_incomplete_reply_reports_its_reason() -> None:
    """A reply that the provider broke off is reported with the reason."""
    call = SimulatedCall().live()
    op_id = call.say("alpha beta")
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()))
    call.feed(ReplyEnded(reply="r1", status="incomplete", why="max_output_tokens", text="alpha"))
    assert call.answer(op_id).spoken.failed == "max_output_tokens"


def test_reply_with_an_unlisted_tool_is_refused() -> None:
    """`reply(tools=...)` can only narrow the allowlist."""
    call = SimulatedCall().live()
    call.taken()
    op_id = call.reply(tools=("shop.secret",))
    assert call.answer(op_id).problem["code"] == "unlisted_tool"
    assert call.sent(ReplyCommand) == []


def test_interruption_before_anything_was_heard() -> None:
    """If nothing played, nothing was heard."""
    call = SimulatedCall().live()
    op_id = call.say("alpha beta")
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), Interrupted(reply="r1"))
    call.wait(4)
    spoken = call.answer(op_id).spoken
    assert (spoken.heard_ms, spoken.heard_text, spoken.remaining) == (0, "", "alpha beta")


def test_carried_audio_is_truncated_by_the_machine() -> None:
    """Where the control plane carries the audio, the caller's speech cancels the reply once; the measurement is awaited."""
    call = SimulatedCall(media="bridged").live()
    op_id = call.say("alpha beta gamma delta")
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
    call.feed(ReplyEnded(reply="r1", text="alpha beta gamma delta", audio=True, audio_ms=4400))
    call.wait(1)
    call.feed(TurnStarted(item="a"))
    assert call.sent(CancelReplyCommand) == [CancelReplyCommand(reply="r1", heard_ms=1000)]
    assert call.answer(op_id) is None
    call.feed(Interrupted(reply="r1", heard_ms=2300, method="marks"))
    assert len(call.sent(CancelReplyCommand)) == 1
    spoken = call.answer(op_id).spoken
    assert (spoken.heard_ms, spoken.heard_method, spoken.interrupted) == (2300, "marks", True)
    assert (spoken.heard_text, spoken.remaining) == ("alpha beta", "gamma delta")


def test_say_for_an_older_turn_is_stale() -> None:
    """A say that answers an older turn than the newest is not spoken."""
    call = SimulatedCall().live()
    call.taken("a")
    call.speaks("b", "wait, something else")
    op_id = call.say("late answer")
    spoken = call.answer(op_id).spoken
    assert (spoken.stale, spoken.generated, spoken.remaining) == (True, "", "late answer")
    assert call.sent(SayCommand) == []
    assert call.recorded("speech.ended")[0]["stale"] is True


def test_stale_say_is_spoken_on_request() -> None:
    """`stale="speak"` speaks it nevertheless."""
    call = SimulatedCall().live()
    call.taken("a")
    call.speaks("b", "wait")
    call.say("late answer", stale="speak")
    assert [say.text for say in call.sent(SayCommand)] == ["late answer"]


def test_noise_does_not_make_a_say_stale() -> None:
    """A say waits until a new turn has words; noise is discarded and the say is spoken."""
    call = SimulatedCall().live()
    call.taken("a")
    call.speaks("b")
    call.say("answer")
    assert call.sent(SayCommand) == []
    call.feed(TurnTranscript(item="b", text=""))
    assert [say.text for say in call.sent(SayCommand)] == ["answer"]


def test_say_waits_while_the_caller_speaks() -> None:
    """A say waits until the caller is silent."""
    call = SimulatedCall().live()
    call.feed(TurnStarted(item="b"))
    call.say("hello")
    assert call.sent(SayCommand) == []
    call.feed(TurnStopped(item="b"), TurnDiscarded(item="b", why="cleared"))
    assert len(call.sent(SayCommand)) == 1


def test_interruption_is_off_during_an_uninterruptible_say() -> None:
    """Interruption is off during an uninterruptible say; turns committed meanwhile wait."""
    call = SimulatedCall().live()
    call.taken("a")
    call.say("please listen", interruptible=False)
    op_id = call.input()
    assert commands(call) == ["update", "say"]
    assert call.sent(UpdateCommand)[0].interruptible is False
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()))
    call.speaks("b", "but")
    assert call.answer(op_id) is None
    call.feed(ReplyEnded(reply="r1", text="please listen", audio=True), PlayoutStopped(reply="r1"))
    assert call.sent(UpdateCommand)[-1].interruptible is True
    assert call.answer(op_id).turn.text == "but"


def test_cancel_speech() -> None:
    """A queued say is cancelled unspoken, an active one is stopped."""
    call = SimulatedCall().live()
    first, second = call.say("one two three"), call.say("four")
    call.feed(ReplyStarted(reply="r1", command=call.spoken_command()), PlayoutStarted(reply="r1"))
    call.wait(1)
    for op_id in (second, first):
        call.feed(CancelSpeech(op_id=call.op(), epoch=call.epoch, speech_op=op_id))
    assert call.answer(second).spoken.interrupted is True
    assert call.sent(CancelReplyCommand) == [CancelReplyCommand(reply="r1", heard_ms=1000)]
    call.feed(ReplyEnded(reply="r1", status="cancelled", why="asked", text="one two three"))
    assert call.answer(first).spoken.interrupted is True
    assert len(call.sent(SayCommand)) == 1


def test_reply_resolves_with_its_outcome() -> None:
    """`reply` gives the turn to the model with instructions and tools, and resolves with the heard words."""
    call = SimulatedCall().live()
    call.taken()
    op_id = call.reply(instructions="be brief", tools=("shop.look",))
    (command,) = call.sent(ReplyCommand)
    assert (command.instructions, command.tools) == ("be brief", ("shop.look",))
    call.heard("r1", "all is well", command.id)
    answer = call.answer(op_id)
    assert isinstance(answer, ResolveReply)
    assert (answer.spoken.asked, answer.spoken.verbatim, answer.spoken.generated) == (None, None, "all is well")


def test_unasked_reply_on_handler_floor_is_stopped() -> None:
    """A reply that the machine did not request (a caller's own page, a race) is stopped, with a warning."""
    call = SimulatedCall().live()
    call.feed(ReplyStarted(reply="rx"))
    assert call.sent(CancelReplyCommand) == [CancelReplyCommand(reply="rx")]
    assert call.recorded("warning")[0]["code"] == "unasked_reply"


def test_repeated_command_is_executed_once() -> None:
    """A command that a node sends again after a reconnect is executed once and gets the same answer."""
    call = SimulatedCall().live()
    say = HandlerSay(op_id="x", epoch=call.epoch, text="one")
    call.feed(say, say)
    call.heard("r1", "one", call.spoken_command())
    first = call.answer("x")
    assert call.feed(say) == [first]
    assert len(call.sent(SayCommand)) == 1


def test_comparison_of_texts() -> None:
    """Texts are compared by words; a heard text is cut at words and never longer than the text."""
    assert is_verbatim("Don't  STOP\u2014now.", "dont stop now")
    assert not is_verbatim("stop", "do not stop")
    assert heard_prefix("alpha beta", 10_000) == "alpha beta"
    assert heard_prefix("alpha beta", 0) == heard_prefix("alpha beta", 100) == ""
    assert unheard_rest("One, two; three.", "one two") == "three."
    assert is_same_model("m", "m")
    assert is_same_model("m", "m-2026-01-02")
    assert not is_same_model("m", "m-mini")


def test_reply_that_ends_without_a_start() -> None:
    """A speech whose start was never reported still ends."""
    call = SimulatedCall().live()
    op_id = call.say("one")
    call.feed(ReplyEnded(reply="r1", command=call.spoken_command(), text="one"))
    assert call.answer(op_id).spoken.generated == "one"


def test_commands_are_of_the_neutral_vocabulary() -> None:
    """Everything sent to a provider is a command of the neutral vocabulary."""
    call = SimulatedCall(greeting="welcome").live()
    assert all(isinstance(effect.command, Command) for effect in call.all(SendCommand))
    assert call.recorded("speech.started")[0]["kind"] == "greeting"
    call.feed(TurnCommitted(item="a"))
