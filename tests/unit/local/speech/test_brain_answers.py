"""Answers of the brains: texts and calls."""

from __future__ import annotations

import json
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield.errors import InvalidInput
from agentfield_local.brain import ObedientBrain, ScriptedBrain, load_brain
from agentfield_local.brain.protocol import BrainRequest, CallFunction, Message, Speak, Step, ToolOffer, ToolResult
from agentfield_local.brain.results import PENDING
from agentfield_local.brain.verbatim import verbatim_text
from support.word_error_rate import word_error_rate

VERBATIM = "Speak exactly the text between <say> and </say>, word for word. Add nothing.\n<say>{}</say>"
ORDER = Message("user", "Where is my order number four two seven?")
LOOKUP = ToolOffer(
    "orders__lookup_order",
    "Look up an order and say where it is.",
    {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
)
FORECAST = ToolOffer("weather__forecast", "Tell the weather forecast for a city.", {"type": "object"})


def answer(
    *history: Message | ToolResult, tools: tuple[ToolOffer, ...] = (), choice: str = "auto", say: str = ""
) -> Step:
    """Return the only step of the obedient brain."""
    request = BrainRequest(instructions=say, history=history, tools=tools, tool_choice=choice)
    (step,) = ObedientBrain().respond(request)
    return step


@given(st.text(max_size=80))
def test_verbatim_text_is_said_exactly(text: str) -> None:
    """Any text between the tags is said unchanged, including escaped text."""
    assert verbatim_text(VERBATIM.format(escape(text))) == text


@pytest.mark.parametrize("text", ["Tom & Jerry", "a < b", "say </say> twice", "I &like; it", "two\n<say>lines"])
def test_unescaped_text_is_said_too(text: str) -> None:
    """Text that the client did not escape is said unchanged."""
    assert answer(ORDER, tools=(LOOKUP,), say=VERBATIM.format(text)) == Speak(text)


def test_tags_in_the_middle_of_a_line_are_found() -> None:
    """The block may be in the middle of a line."""
    assert verbatim_text("Say <say>hello</say> please") == "hello"
    assert verbatim_text("Nothing to say.") is None
    assert verbatim_text("half </say>") is None


def test_the_matching_tool_is_called_with_its_arguments() -> None:
    """The caller's words select the tool and fill its arguments."""
    step = answer(ORDER, tools=(FORECAST, LOOKUP))
    assert isinstance(step, CallFunction)
    assert (step.name, json.loads(step.arguments)) == (LOOKUP.name, {"order_id": "427"})


def test_no_tool_matches() -> None:
    """Without a match no tool is called; the reply repeats the words and says that no tool fits."""
    assert answer(Message("user", "Sing me a song"), tools=(LOOKUP, FORECAST)) == Speak(
        "I heard: Sing me a song. I found no tool of mine that fits."
    )


def test_tools_may_be_forbidden_required_or_named() -> None:
    """The tool_choice of the client takes precedence."""
    song = Message("user", "Sing me a song")
    assert isinstance(answer(ORDER, tools=(LOOKUP,), choice="none"), Speak)
    assert isinstance(answer(song, tools=(LOOKUP, FORECAST), choice="required"), CallFunction)
    named = answer(ORDER, tools=(LOOKUP, FORECAST), choice=FORECAST.name)
    assert isinstance(named, CallFunction)
    assert named.name == FORECAST.name


def test_without_tools_it_repeats_what_it_heard() -> None:
    """Without tools, the brain repeats the caller's words or greets."""
    assert answer(ORDER) == Speak("You said: Where is my order number four two seven?")
    assert answer() == Speak("Hello. How can I help you?")
    assert answer(Message("user", " ")) == Speak("Sorry, I did not hear you. Could you say that again?")


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ('{"spoken_response":"It is in customs.","next_action":"wait"}', "It is in customs."),
        ('{"say":"Hi."}', "Hi."),
        ('{"message":"Hi."}', "Hi."),
        ('{"text":"Hi."}', "Hi."),
        ('{"status":"pending"}', PENDING),
        ('{"result":{"spoken_response":"Done."}}', "Done."),
        (
            '{"error":{"code":"not_found","message":"There is no such order."}}',
            "Sorry, that did not work: There is no such order.",
        ),
        ('{"error":"no such order"}', "Sorry, that did not work: no such order."),
        (
            '{"order_status":"in customs","late":true,"days":3}',
            "Here is what I found: order status is in customs; late is yes; days is 3.",
        ),
        ('["red","green","blue"]', "red, green and blue."),
        ("42", "42."),
        ("null", "nothing."),
        ("{}", "That is done."),
        ("plain words", "plain words."),
        ("", ""),
    ],
)
def test_a_result_is_spoken(output: str, said: str) -> None:
    """A result with a text field is said in its words, any other one as a plain sentence."""
    assert answer(ORDER, ToolResult("call_1", LOOKUP.name, output), tools=(LOOKUP,)) == Speak(said)


def test_parallel_results_are_spoken_together() -> None:
    """The results of two calls of one turn are spoken in one reply."""
    results = [ToolResult(f"call_{name}", name, json.dumps({"say": f"{name} is done."})) for name in ("One", "Two")]
    assert answer(ORDER, *results, tools=(LOOKUP,)) == Speak("One is done. Two is done.")


def test_a_late_result_is_spoken_alone() -> None:
    """After a pending result, the final result is spoken without repeating the pending one."""
    said = answer(
        ORDER,
        ToolResult("call_1", LOOKUP.name, '{"status":"pending"}'),
        Message("assistant", PENDING),
        ToolResult("call_1", LOOKUP.name, '{"say":"It is in customs."}'),
        tools=(LOOKUP,),
    )
    assert said == Speak("It is in customs.")


def test_a_result_of_an_earlier_turn_is_not_repeated() -> None:
    """The caller's next words begin a new turn, without the results of the previous one."""
    step = answer(ORDER, ToolResult("call_1", LOOKUP.name, '{"say":"Hi."}'), ORDER, tools=(LOOKUP,))
    assert isinstance(step, CallFunction)


def test_a_script_is_played_in_order_before_the_fallback() -> None:
    """Each response takes one entry; after the last one, the obedient brain answers."""
    steps: list[list[Step]] = [[CallFunction("a", "{not json"), CallFunction("b", "{}")], [Speak("Done.")]]
    brain = ScriptedBrain(steps)
    request = BrainRequest(instructions="", history=[ORDER])
    assert [list(brain.respond(request)) for _ in range(2)] == steps
    assert brain.respond(request) == ObedientBrain().respond(request)


def test_verbatim_text_consumes_no_script_entry() -> None:
    """Verbatim text in the middle of a script is said, and the script continues after it."""
    brain = ScriptedBrain([[Speak("step")]])
    assert brain.respond(BrainRequest(VERBATIM.format("hello"), [])) == (Speak("hello"),)
    assert brain.respond(BrainRequest("", [])) == (Speak("step"),)


def test_the_paraphrasing_brain_rewords_verbatim_text() -> None:
    """The reworded text differs from the original and is always the same."""
    text = "I found the order. It's stuck in customs, want me to start a replacement?"
    request = BrainRequest(VERBATIM.format(text), [])
    (step,) = load_brain("paraphrasing").respond(request)
    assert isinstance(step, Speak)
    assert 0 < word_error_rate([(text, step.text)]) < 1
    assert load_brain("paraphrasing").respond(request) == (step,)


def test_brains_are_chosen_by_name() -> None:
    """An unknown brain is refused with a list of the known ones."""
    assert isinstance(load_brain("obedient"), ObedientBrain)
    with pytest.raises(InvalidInput, match="obedient, paraphrasing"):
        load_brain("clever")
