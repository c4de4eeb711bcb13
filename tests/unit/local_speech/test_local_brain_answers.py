"""What the brains say and call."""

from __future__ import annotations

import json
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield.errors import InvalidInput
from agentfield_local.brain import ObedientBrain, ScriptedBrain, load_brain
from agentfield_local.brain.protocol import BrainRequest, Call, Message, Say, Step, ToolOffer, ToolResult
from agentfield_local.brain.results import PENDING
from agentfield_local.brain.verbatim import verbatim_text
from wer import word_error_rate

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
    """Return the one step of the obedient brain."""
    request = BrainRequest(instructions=say, history=history, tools=tools, tool_choice=choice)
    (step,) = ObedientBrain().respond(request)
    return step


@given(st.text(max_size=80))
def test_a_verbatim_say_is_said_exactly(text: str) -> None:
    """Whatever stands between the tags is said as it is, also where it was escaped to be there."""
    assert verbatim_text(VERBATIM.format(escape(text))) == text


@pytest.mark.parametrize("text", ["Tom & Jerry", "a < b", "say </say> twice", "I &like; it", "two\n<say>lines"])
def test_text_that_was_not_escaped_is_said_too(text: str) -> None:
    """A client that escapes nothing is obeyed as well."""
    assert answer(ORDER, tools=(LOOKUP,), say=VERBATIM.format(text)) == Say(text)


def test_tags_in_the_middle_of_a_line_are_found() -> None:
    """The block need not stand on a line of its own."""
    assert verbatim_text("Say <say>hello</say> please") == "hello"
    assert verbatim_text("Nothing to say.") is None
    assert verbatim_text("half </say>") is None


def test_the_fitting_tool_is_called_with_its_arguments() -> None:
    """The words choose the tool and fill its arguments."""
    step = answer(ORDER, tools=(FORECAST, LOOKUP))
    assert isinstance(step, Call)
    assert (step.name, json.loads(step.arguments)) == (LOOKUP.name, {"order_id": "427"})


def test_it_says_when_no_tool_fits() -> None:
    """Nothing is called by luck; the caller hears what was understood and that no tool fits."""
    assert answer(Message("user", "Sing me a song"), tools=(LOOKUP, FORECAST)) == Say(
        "I heard: Sing me a song. I found no tool of mine that fits."
    )


def test_tools_may_be_forbidden_required_or_named() -> None:
    """The choice of the client goes over the brain's own."""
    song = Message("user", "Sing me a song")
    assert isinstance(answer(ORDER, tools=(LOOKUP,), choice="none"), Say)
    assert isinstance(answer(song, tools=(LOOKUP, FORECAST), choice="required"), Call)
    named = answer(ORDER, tools=(LOOKUP, FORECAST), choice=FORECAST.name)
    assert isinstance(named, Call)
    assert named.name == FORECAST.name


def test_without_tools_it_repeats_what_it_heard() -> None:
    """A caller is never left in silence."""
    assert answer(ORDER) == Say("You said: Where is my order number four two seven?")
    assert answer() == Say("Hello. How can I help you?")
    assert answer(Message("user", " ")) == Say("Sorry, I did not hear you. Could you say that again?")


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
    """What a tool gave back is said in its own words where it has some, else as a plain sentence."""
    assert answer(ORDER, ToolResult("call_1", LOOKUP.name, output), tools=(LOOKUP,)) == Say(said)


def test_parallel_results_are_spoken_together() -> None:
    """Two calls of one turn are answered in one reply."""
    results = [ToolResult(f"call_{name}", name, json.dumps({"say": f"{name} is done."})) for name in ("One", "Two")]
    assert answer(ORDER, *results, tools=(LOOKUP,)) == Say("One is done. Two is done.")


def test_a_late_result_is_spoken_alone() -> None:
    """After "one moment" the real result is said, and the pending one is not repeated."""
    said = answer(
        ORDER,
        ToolResult("call_1", LOOKUP.name, '{"status":"pending"}'),
        Message("assistant", PENDING),
        ToolResult("call_1", LOOKUP.name, '{"say":"It is in customs."}'),
        tools=(LOOKUP,),
    )
    assert said == Say("It is in customs.")


def test_a_result_of_an_earlier_turn_is_not_repeated() -> None:
    """The next thing the caller says is a new turn."""
    step = answer(ORDER, ToolResult("call_1", LOOKUP.name, '{"say":"Hi."}'), ORDER, tools=(LOOKUP,))
    assert isinstance(step, Call)


def test_a_script_is_played_in_order_and_then_left() -> None:
    """Each response takes a step; after the last one the obedient brain answers."""
    steps: list[list[Step]] = [[Call("a", "{not json"), Call("b", "{}")], [Say("Done.")]]
    brain = ScriptedBrain(steps)
    request = BrainRequest(instructions="", history=[ORDER])
    assert [list(brain.respond(request)) for _ in range(2)] == steps
    assert brain.respond(request) == ObedientBrain().respond(request)


def test_a_script_obeys_a_say_without_a_step() -> None:
    """A verbatim say in the middle of a script is obeyed and the script goes on after it."""
    brain = ScriptedBrain([[Say("step")]])
    assert brain.respond(BrainRequest(VERBATIM.format("hello"), [])) == (Say("hello"),)
    assert brain.respond(BrainRequest("", [])) == (Say("step"),)


def test_the_paraphrasing_brain_never_says_it_verbatim() -> None:
    """It says nearly the same in other words, always the same ones, so that the difference can be seen."""
    text = "I found the order. It's stuck in customs, want me to start a replacement?"
    request = BrainRequest(VERBATIM.format(text), [])
    (step,) = load_brain("paraphrasing").respond(request)
    assert isinstance(step, Say)
    assert 0 < word_error_rate([(text, step.text)]) < 1
    assert load_brain("paraphrasing").respond(request) == (step,)


def test_brains_are_chosen_by_name() -> None:
    """A brain that does not exist is refused with those that do."""
    assert isinstance(load_brain("obedient"), ObedientBrain)
    with pytest.raises(InvalidInput, match="obedient, paraphrasing"):
        load_brain("clever")
