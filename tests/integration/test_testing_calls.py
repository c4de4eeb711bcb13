"""What a test of an agent can express: every transport, interruptions, tools, limits, failures; with the fixture `call`."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from agentfield import Agent, Limits
from agentfield.client import ControlPlaneClient
from agentfield.errors import CapabilityMissing, InvalidInput, ProviderError, UnsupportedPair
from agentfield.plugins import Registry
from agentfield.realtime.events import SessionReady, Usage
from agentfield.testing.answers import Answer, Asked, Use
from agentfield.testing.scripted import Scripted
from agentfield_server.app import ControlPlane
from agentfield_server.testing.house import House
from agentfield_server.testing.plugin import Call

EXAMPLES = "../../examples"
SUPPORT = f"{EXAMPLES}/voice_support/agent.py"
TOOLS = [f"{EXAMPLES}/voice_tools/{name}.py" for name in ("voice", "orders", "refunds")]
FOUND = "I found the order. It's stuck in customs — want me to start a replacement?"


def desk(**declared: Any) -> Agent:
    """Return an agent that repeats what it hears, and raises when it hears "boom"."""
    app = Agent("desk", registry=Registry.of([]))

    @app.session("voice", **({"provider": "scripted", "transport": "webrtc"} | declared))
    async def voice(session: Any) -> None:
        turn = await session.input()
        if turn.text == "boom":
            message = "the desk is on fire"
            raise RuntimeError(message)
        if turn.text is None:
            await session.say(f"Pardon? ({turn.text_missing})")
        else:
            await session.say(f"You said {turn.text}. Is that right?")

    return app


# --- the seed's example, unchanged


async def test_the_first_program_is_called_as_it_is(call: Call) -> None:
    """Its declared pair is openai/webrtc; the story says who stands in for it."""
    async with call(f"{SUPPORT}:app", session="voice") as caller:
        turn = await caller.says("Where is my order?")
        done = await turn.calls("voice-support.resolve_turn").with_input(turn=turn).succeeded()
        assert done.output["next_action"] == "offer_replacement"
        spoken = await turn.speaks(exactly=FOUND)
        assert (spoken.verbatim, spoken.heard_method) == (True, "provider")
        tree = await turn.tree()
        assert tree == (
            "turn",
            "voice-support.voice",
            "succeeded",
            [("call", "voice-support.resolve_turn", "succeeded", [])],
        )
        assert str(tree) == "turn voice-support.voice: succeeded\n└─ call voice-support.resolve_turn: succeeded"
        assert await caller.hangs_up() == "caller_hangup"
        assert caller.story == (
            "voice-support.voice, scripted for openai/webrtc, handler floor\n"
            "  caller: Where is my order?\n"
            "    call voice-support.resolve_turn: succeeded\n"
            f"  agent: {FOUND}\n"
            "  ended: caller_hangup"
        )


async def test_an_interruption_is_at_the_same_place_each_time(call: Call) -> None:
    """The agent stands still after the named words, the caller speaks over it, and that much was heard."""
    async with call(SUPPORT) as caller:
        turn = await caller.says("Where is my order?", pause="I found the order.")
        late = await caller.says("Never mind.")
        spoken = await turn.speaks("I found").interrupted(heard="I found the order.")
        assert spoken.remaining == "It's stuck in customs — want me to start a replacement?"
        await late.speaks(re.compile(r"customs .* replacement\?$"))
        assert "agent: I found the order. [cut off; unheard: It's stuck" in caller.story


# --- every way for the audio


@pytest.mark.parametrize("transport", ["webrtc", "websocket", "audio_turns"])
async def test_each_transport_is_called_alike(call: Call, transport: str) -> None:
    """The same test, whoever carries the audio: a turn, typed words, an interruption, a hang-up."""
    async with call(desk(transport=transport)) as caller:
        assert await caller.run("hello") == "You said hello. Is that right?"
        typed = await caller.types("in writing")
        await typed.speaks("You said in writing.")
        turn = await caller.says("long", pause="You said long.")
        after = await caller.says("stop")
        await turn.speaks("You said").interrupted(heard="You said long.")
        await after.speaks("You said stop.")
        assert await caller.hangs_up() == "caller_hangup"


async def test_keys_and_push_to_talk(call: Call) -> None:
    """On the media socket there are keys; a caller who says when it is done needs no other script."""
    async with call(desk(transport="websocket", turn_detection=None)) as caller:
        assert await caller.run("one") == "You said one. Is that right?"
        assert await caller.run("two") == "You said two. Is that right?"
        await caller.presses("5")
        await (await caller.says("three")).over()
        assert "caller: (key 5)" in caller.story
    async with call(desk()) as caller:
        with pytest.raises(CapabilityMissing, match="no keys"):
            await caller.presses("5")


async def test_a_greeting_is_spoken_before_any_turn(call: Call) -> None:
    """It can be expected of the caller, and spoken over."""
    async with call(desk(greeting="Welcome to the desk."), pause="Welcome") as caller:
        turn = await caller.says("hi")
        await caller.speaks("Welcome").interrupted(heard="Welcome")
        await turn.speaks("You said hi.")


async def test_a_short_word_does_not_interrupt(call: Call) -> None:
    """With `interrupt_after_ms` a word passes as listening, and the agent goes on; said for longer, it stops the agent."""
    async with call(desk(transport="websocket", interrupt_after_ms=300)) as caller:
        turn = await caller.says("short", pause="You said short.")
        await caller.says("mhm")
        await caller.listens()
        await turn.speaks(exactly="You said short. Is that right?")
        assert "caller: (too short to interrupt)" in caller.story
        turn = await caller.says("long", pause="You said long.")
        await caller.says("stop it now", lasting=2.0)
        await turn.speaks("You said").interrupted(heard="You said long.")


async def test_speech_that_nothing_may_stop(call: Call) -> None:
    """The caller speaks over it, it is spoken to its end, and the turn waits until then."""
    app = Agent("desk", registry=Registry.of([]))

    @app.session("voice", provider="scripted", transport="webrtc")
    async def voice(session: Any) -> None:
        turn = await session.input()
        await session.say(f"This is important: {turn.text}. Thank you.", interruptible=False)

    async with call(app) as caller:
        first = await caller.says("one", pause="This is important")
        second = await caller.says("two")
        await caller.listens()
        await first.speaks(exactly="This is important: one. Thank you.")
        await second.speaks("This is important: two.")


async def test_who_calls_is_told(call: Call) -> None:
    """Caller and metadata reach the handler."""
    app = Agent("desk", registry=Registry.of([]))

    @app.session("voice", provider="scripted", transport="websocket")
    async def voice(session: Any) -> None:
        await session.input()
        await session.say(f"Hello {session.caller} from {session.metadata['city']}.")

    async with call(app, caller="ann", metadata={"city": "Ulm"}) as caller:
        assert await caller.run("hi") == "Hello ann from Ulm."


# --- the model


async def test_the_model_uses_tools_of_other_nodes(call: Call) -> None:
    """Three files, model floor: the script says which tool the model picks, the tool is real, its result is in the answer."""
    async with call(*TOOLS, session="voice-desk.voice") as caller:
        caller.model_answers(
            Use("orders.lookup_order", order_number="427"),
            lambda asked: asked.results["orders.lookup_order"]["message"],
        )
        turn = await caller.says("Where is order 427?")
        await turn.calls("orders.lookup_order").with_input(order_number="427").succeeded({"status": "stuck in customs"})
        await turn.calls("refunds.request_approval").never()
        await turn.speaks(exactly="Order 427 is stuck in customs.")


@pytest.mark.parametrize("transport", ["webrtc", "websocket", "audio_turns"])
async def test_the_model_is_spoken_over(call: Call, transport: str) -> None:
    """On the model's floor as well: the answer is cut off where the test says, and the next one is given."""
    async with call(desk(transport=transport, floor="model")) as caller:
        caller.model_answers("It is on its way. Shall I tell you more?", "You are welcome.")
        turn = await caller.says("Where is it?", pause="It is on its way.")
        thanks = await caller.says("Thank you.")
        await turn.speaks("It is on its way.").interrupted(heard="It is on its way.")
        await thanks.speaks(exactly="You are welcome.")


async def test_an_answer_that_raises_is_told(call: Call, scripted: Scripted) -> None:
    """A function of the script with a mistake in it fails the test in words, not the session in silence."""
    scripted.answers(lambda asked: asked.results["desk.look"])
    with pytest.raises(AssertionError, match=r"the script's answer raised KeyError: 'desk\.look'"):
        async with call(desk(transport="websocket", floor="model")) as caller:
            await caller.run("Where is it?")


async def test_a_tool_that_nobody_offered_is_refused(call: Call) -> None:
    """A model that makes up a tool can be played on purpose; the session refuses it and the story shows that."""
    async with call(*TOOLS, session="voice") as caller:
        caller.model_answers(Use("orders.delete_all", listed=False), "I cannot do that.")
        turn = await caller.says("Delete everything.")
        await turn.speaks("I cannot do that.")
        assert "tool orders.delete_all: refused (not_listed)" in caller.story


async def test_the_handler_hands_a_turn_to_the_model(call: Call) -> None:
    """`session.reply(instructions=...)` asks the script, which sees what it was asked."""
    app = Agent("desk", registry=Registry.of([]))
    asked: list[Asked] = []

    @app.session("voice", provider="scripted", transport="websocket")
    async def voice(session: Any) -> None:
        await session.input()
        await session.reply(instructions="be brief")

    def brief(what: Asked) -> Answer:
        asked.append(what)
        return Answer("Yes.")

    async with call(app) as caller:
        caller.model_answers(brief)
        assert await caller.run("Is it open?") == "Yes."
    assert asked == [Asked("Is it open?", "be brief", ())]


async def test_words_of_a_model_that_does_not_keep_to_them(call: Call, scripted: Scripted) -> None:
    """`reword` plays a provider that paraphrases: what was asked and what was said are two things."""
    scripted.reword = lambda text: text.replace("You said", "I heard")
    async with call(desk()) as caller:
        turn = await caller.says("hi")
        spoken = await turn.speaks("I heard hi.")
        assert (spoken.asked, spoken.verbatim) == ("You said hi. Is that right?", False)
        assert "[asked: You said hi. Is that right?]" in caller.story


# --- what goes wrong


async def test_a_handler_that_raises_is_expected_or_reported(call: Call) -> None:
    """The turn fails, `on_error` is spoken, the next turn is answered."""
    async with call(desk(on_error="Something went wrong.")) as caller:
        turn = await caller.says("boom")
        await turn.fails("the desk is on fire")
        await caller.speaks("Something went wrong.")
        assert await caller.run("again") == "You said again. Is that right?"
    with pytest.raises(AssertionError, match="the handler raised, and the test did not expect it"):
        async with call(desk()) as caller:
            await (await caller.says("boom")).over()


async def test_an_answer_that_comes_too_late_is_not_said(call: Call) -> None:
    """While a reasoner works the caller goes on: the old answer is stale, the new one is spoken."""
    app = Agent("desk", registry=Registry.of([]))
    go_on = asyncio.Event()

    @app.reasoner()
    async def think(text: str) -> str:
        if text == "first":
            await go_on.wait()
        return f"about {text}"

    @app.session("voice", provider="scripted", transport="webrtc")
    async def voice(session: Any) -> None:
        turn = await session.input()
        await session.say(await session.call("desk.think", text=turn.text))

    async with call(app) as caller:
        first = await caller.says("first")
        await first.calls("desk.think")
        second = await caller.says("second")
        go_on.set()
        await first.speaks("about first").stale()
        await second.speaks("about second")
        assert "agent, unsaid: about first [stale: the caller had gone on]" in caller.story


async def test_words_that_nobody_understood(call: Call) -> None:
    """A turn whose transcript failed reaches the handler without words."""
    async with call(desk()) as caller:
        turn = await caller.says("mumble", failed="too_noisy")
        assert turn.text is None
        await turn.speaks("Pardon? (too_noisy)")
        assert "caller: (no words: too_noisy)" in caller.story


async def test_faults_of_the_provider(call: Call, scripted: Scripted) -> None:
    """Speech that breaks off, a refusal, another model than asked for: all as they are recorded."""
    async with call(desk()) as caller:
        scripted.spoil("You said", code="server_error")
        turn = await caller.says("hi")
        await turn.speaks("You said").failed("server_error")
        (await scripted.call()).fails("no_credit", "pay first", fatal=True)
        await caller.ended("provider_error")
    scripted.echo = SessionReady(model="another", voice="scripted-1")
    async with call(desk()) as caller:
        await caller.ended("mismatch")


@pytest.mark.parametrize("transport", ["webrtc", "websocket", "audio_turns"])
async def test_a_refused_call_raises_what_the_caller_is_told(call: Call, scripted: Scripted, transport: str) -> None:
    """The provider's refusal reaches whoever calls, with its code."""
    scripted.refuse = ProviderError("no credit", code="insufficient_quota")
    with pytest.raises(ProviderError, match="no credit") as caught:
        async with call(desk(transport=transport)):
            pass
    assert caught.value.code == "insufficient_quota"


async def test_a_line_that_breaks_is_opened_again(call: Call, scripted: Scripted) -> None:
    """On a pair that replays, the next call at the provider knows what was said."""
    async with call(desk(transport="websocket")) as caller:
        assert await caller.run("hello") == "You said hello. Is that right?"
        before = await scripted.call()
        before.drops()
        while (now := await scripted.call()) is before:  # noqa: ASYNC110 - it is opened by the session
            await asyncio.sleep(0.01)
        await caller.speaks("You said hello.")
        assert await caller.run("again") == "You said again. Is that right?"
        assert ("caller", "hello") in now.conversation


async def test_limits_are_reached_without_waiting(call: Call) -> None:
    """The clock of the session goes on at once: idleness, duration, turns, cost."""
    async with call(desk(goodbye="Goodbye.")) as caller:
        await caller.run("hello")
        await caller.waits(60)
        await caller.ended("limit_idle")
        await caller.speaks("Goodbye.")
    async with call(desk(limits=Limits(duration=600, idle=10_000))) as caller:
        await caller.waits(600)
        await caller.ended("limit_duration")
    async with call(desk(limits=Limits(turns=1))) as caller:
        await caller.run("hello")
        with pytest.raises(AssertionError, match=r"did not become a turn|was discarded"):
            await caller.says("again")
        await caller.ended("limit_turns")
    async with call(desk(floor="model", limits=Limits(cost=0.5))) as caller:
        caller.model_answers(Answer("Expensive.", usage=Usage(cost=1.0)))
        await caller.says("hello")
        await caller.ended("limit_cost")


# --- the plane


async def test_control_plane_and_client_are_those_of_the_call(
    control_plane: ControlPlane, agentfield_client: ControlPlaneClient, call: Call
) -> None:
    """One control plane a test; reasoners of its agents can be executed over REST as well."""
    app = desk()

    @app.reasoner()
    async def double(n: int) -> int:
        return 2 * n

    async with call(app) as caller:
        assert (await agentfield_client.execute("desk.double", {"n": 4})).output == 8
        assert (await agentfield_client.get_session(caller.session_id)).state == "live"
        assert caller.client.url == control_plane.url
    assert [view.end_reason for view in await agentfield_client.list_sessions()] == ["caller_hangup"]


async def test_two_calls_at_once(call: Call) -> None:
    """Two callers of one agent: each has its own turns and its own story."""
    async with call(app := desk()) as one:
        await one.run("one")
        with pytest.raises(Exception, match="running already"):
            async with call(app):
                pass
        async with call(SUPPORT) as two:
            await two.run("two")
            await one.run("three")
            assert "two" not in one.story
            assert "three" not in two.story


async def test_two_tests_at_once_share_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two houses in one process: each has its own control plane, provider, clock and sessions."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path / "keys"))
    monkeypatch.delenv("AGENTFIELD_URL", raising=False)

    async def one_test(number: int) -> str:
        house = House(tmp_path / str(number), ())
        async with house.plane() as plane, house.call(desk(transport="websocket")) as caller:
            await caller.run(f"number {number}")
            if number == 1:
                await caller.waits(60)
                await caller.ended("limit_idle")
            assert len(await caller.client.list_sessions()) == 1
            assert caller.client.url == plane.url
            return caller.story

    one, two = await asyncio.gather(one_test(1), one_test(2))
    assert "number 2" not in one
    assert "number 1" not in two
    assert "limit_idle" not in two


async def test_what_cannot_be_called_says_why(call: Call) -> None:
    """No such file, no agent in it, no session named, a pair that nobody has: the error names what there is."""
    with pytest.raises(InvalidInput, match=r"There is no agent file 'nowhere\.py'"):
        async with call("nowhere.py"):
            pass
    with pytest.raises(InvalidInput, match="it makes no Agent nothing"):
        async with call(f"{SUPPORT}:nothing"):
            pass
    with pytest.raises(InvalidInput, match=r"declared: desk\.voice\."):
        async with call(desk(), session="video"):
            pass
    with pytest.raises(UnsupportedPair, match="acme"):
        async with call(desk(provider="acme")):
            pass
