"""Agent tests with the fixture `call`: transports, interruptions, tools, limits, failures."""

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
from agentfield.testing.scripted import ModelRequest, ScriptedAnswer, ScriptedProvider, ToolUse
from agentfield_server.app import ControlPlane
from agentfield_server.testing.harness import ControlPlaneHarness
from agentfield_server.testing.pytest_plugin import StartCall

EXAMPLES = "../../../examples"
SUPPORT = f"{EXAMPLES}/voice_support/agent.py"
TOOLS = [f"{EXAMPLES}/voice_tools/{name}.py" for name in ("voice", "orders", "refunds")]
FOUND = "I found the order. It's stuck in customs — want me to start a replacement?"


def shop_agent(**declared: Any) -> Agent:
    """Return an agent that repeats each turn, and raises on "boom"."""
    app = Agent("shop", registry=Registry.of([]))

    @app.session("voice", **({"provider": "scripted", "transport": "webrtc"} | declared))
    async def voice(session: Any) -> None:
        turn = await session.input()
        if turn.text == "boom":
            message = "the shop is on fire"
            raise RuntimeError(message)
        if turn.text is None:
            await session.say(f"Pardon? ({turn.text_missing})")
        else:
            await session.say(f"You said {turn.text}. Is that right?")

    return app


# --- an example, unchanged


async def test_an_example_is_called_unchanged(call: StartCall) -> None:
    """The example declares openai/webrtc; the transcript shows that the scripted provider replaces it."""
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
        assert caller.transcript == (
            "voice-support.voice, scripted for openai/webrtc, handler floor\n"
            "  caller: Where is my order?\n"
            "    call voice-support.resolve_turn: succeeded\n"
            f"  agent: {FOUND}\n"
            "  ended: caller_hangup"
        )


async def test_an_interruption_is_reproducible(call: StartCall) -> None:
    """The agent pauses after the given words and is interrupted there; exactly those words are recorded as heard."""
    async with call(SUPPORT) as caller:
        turn = await caller.says("Where is my order?", pause="I found the order.")
        late = await caller.says("Never mind.")
        spoken = await turn.speaks("I found").interrupted(heard="I found the order.")
        assert spoken.remaining == "It's stuck in customs — want me to start a replacement?"
        await late.speaks(re.compile(r"customs .* replacement\?$"))
        assert "agent: I found the order. [cut off; unheard: It's stuck" in caller.transcript


# --- every transport


@pytest.mark.parametrize("transport", ["webrtc", "websocket", "audio_turns"])
async def test_every_transport_has_the_same_api(call: StartCall, transport: str) -> None:
    """One test body passes on each transport: a turn, typed text, an interruption, a hang-up."""
    async with call(shop_agent(transport=transport)) as caller:
        assert await caller.run("hello") == "You said hello. Is that right?"
        typed = await caller.types("in writing")
        await typed.speaks("You said in writing.")
        turn = await caller.says("long", pause="You said long.")
        after = await caller.says("stop")
        await turn.speaks("You said").interrupted(heard="You said long.")
        await after.speaks("You said stop.")
        assert await caller.hangs_up() == "caller_hangup"


async def test_keys_and_push_to_talk(call: StartCall) -> None:
    """The media socket accepts keys and manual turns; keys on WebRTC raise `CapabilityMissing`."""
    async with call(shop_agent(transport="websocket", turn_detection=None)) as caller:
        assert await caller.run("one") == "You said one. Is that right?"
        assert await caller.run("two") == "You said two. Is that right?"
        await caller.presses("5")
        await (await caller.says("three")).ended()
        assert "caller: (key 5)" in caller.transcript
    async with call(shop_agent()) as caller:
        with pytest.raises(CapabilityMissing, match="no keys"):
            await caller.presses("5")


async def test_a_greeting_is_spoken_before_any_turn(call: StartCall) -> None:
    """A greeting is expected with `caller.speaks` and can be interrupted."""
    async with call(shop_agent(greeting="Welcome to the shop."), pause="Welcome") as caller:
        turn = await caller.says("hi")
        await caller.speaks("Welcome").interrupted(heard="Welcome")
        await turn.speaks("You said hi.")


async def test_a_short_word_does_not_interrupt(call: StartCall) -> None:
    """With `interrupt_after_ms` the agent continues after a short word, and longer speech interrupts it."""
    async with call(shop_agent(transport="websocket", interrupt_after_ms=300)) as caller:
        turn = await caller.says("short", pause="You said short.")
        await caller.says("mhm")
        await caller.listens()
        await turn.speaks(exactly="You said short. Is that right?")
        assert "caller: (too short to interrupt)" in caller.transcript
        turn = await caller.says("long", pause="You said long.")
        await caller.says("stop it now", lasting=2.0)
        await turn.speaks("You said").interrupted(heard="You said long.")


async def test_uninterruptible_speech_is_played_completely(call: StartCall) -> None:
    """Speech during an uninterruptible say does not stop it; the turn is handled afterwards."""
    app = Agent("shop", registry=Registry.of([]))

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


async def test_a_legal_notice_is_heard_to_its_end(call: StartCall) -> None:
    """The example's notice cannot be interrupted, on any transport; what was said meanwhile is handled after it."""
    async with call(f"{EXAMPLES}/legal_notice/agent.py", pause="This call is recorded.") as caller:
        turn = await caller.says("hello?")
        await caller.listens()
        notice = await caller.speaks("This call is recorded.")
        assert (notice.interrupted, notice.remaining) == (False, "")
        await turn.speaks(exactly="I have noted: hello?")


async def test_caller_and_metadata_reach_the_handler(call: StartCall) -> None:
    """Caller and metadata given to `call` are attributes of the session."""
    app = Agent("shop", registry=Registry.of([]))

    @app.session("voice", provider="scripted", transport="websocket")
    async def voice(session: Any) -> None:
        await session.input()
        await session.say(f"Hello {session.caller} from {session.metadata['city']}.")

    async with call(app, caller="ann", metadata={"city": "Ulm"}) as caller:
        assert await caller.run("hi") == "Hello ann from Ulm."


# --- the model


async def test_the_model_uses_tools_of_other_nodes(call: StartCall) -> None:
    """On the model floor the scripted model calls a real tool on another node and speaks its result."""
    async with call(*TOOLS, session="voice-desk.voice") as caller:
        caller.model_answers(
            ToolUse("orders.lookup_order", order_number="427"),
            lambda asked: asked.results["orders.lookup_order"]["message"],
        )
        turn = await caller.says("Where is order 427?")
        await turn.calls("orders.lookup_order").with_input(order_number="427").succeeded({"status": "stuck in customs"})
        await turn.calls("refunds.request_approval").never()
        await turn.speaks(exactly="Order 427 is stuck in customs.")


@pytest.mark.parametrize("transport", ["webrtc", "websocket", "audio_turns"])
async def test_the_model_is_interrupted(call: StartCall, transport: str) -> None:
    """An answer on the model floor is interrupted at the given words, and the next turn is answered."""
    async with call(shop_agent(transport=transport, floor="model")) as caller:
        caller.model_answers("It is on its way. Shall I tell you more?", "You are welcome.")
        turn = await caller.says("Where is it?", pause="It is on its way.")
        thanks = await caller.says("Thank you.")
        await turn.speaks("It is on its way.").interrupted(heard="It is on its way.")
        await thanks.speaks(exactly="You are welcome.")


async def test_a_scripted_answer_that_raises_fails_the_test(
    call: StartCall, scripted_provider: ScriptedProvider
) -> None:
    """An exception in a function of the script fails the test with its message."""
    scripted_provider.answers(lambda asked: asked.results["shop.look"])
    with pytest.raises(AssertionError, match=r"the script's answer raised KeyError: 'shop\.look'"):
        async with call(shop_agent(transport="websocket", floor="model")) as caller:
            await caller.run("Where is it?")


async def test_a_tool_that_was_not_offered_is_refused(call: StartCall) -> None:
    """A scripted call of an unlisted tool is refused by the session, and the transcript shows the refusal."""
    async with call(*TOOLS, session="voice") as caller:
        caller.model_answers(ToolUse("orders.delete_all", listed=False), "I cannot do that.")
        turn = await caller.says("Delete everything.")
        await turn.speaks("I cannot do that.")
        assert "tool orders.delete_all: refused (not_listed)" in caller.transcript


async def test_the_handler_hands_a_turn_to_the_model(call: StartCall) -> None:
    """`session.reply(instructions=...)` sends text, instructions and tool results to the scripted model."""
    app = Agent("shop", registry=Registry.of([]))
    asked: list[ModelRequest] = []

    @app.session("voice", provider="scripted", transport="websocket")
    async def voice(session: Any) -> None:
        await session.input()
        await session.reply(instructions="be brief")

    def brief(what: ModelRequest) -> ScriptedAnswer:
        asked.append(what)
        return ScriptedAnswer("Yes.")

    async with call(app) as caller:
        caller.model_answers(brief)
        assert await caller.run("Is it open?") == "Yes."
    assert asked == [ModelRequest("Is it open?", "be brief", ())]


async def test_paraphrased_speech_is_recorded(call: StartCall, scripted_provider: ScriptedProvider) -> None:
    """With `reword` the scripted provider paraphrases; requested and spoken text are both recorded."""
    scripted_provider.reword = lambda text: text.replace("You said", "I heard")
    async with call(shop_agent()) as caller:
        turn = await caller.says("hi")
        spoken = await turn.speaks("I heard hi.")
        assert (spoken.asked, spoken.verbatim) == ("You said hi. Is that right?", False)
        assert "[asked: You said hi. Is that right?]" in caller.transcript


# --- failures


async def test_a_handler_exception_is_expected_or_reported(call: StartCall) -> None:
    """An expected exception fails its turn and the next one is answered; an unexpected exception fails the test."""
    async with call(shop_agent(on_error="Something went wrong.")) as caller:
        turn = await caller.says("boom")
        await turn.fails("the shop is on fire")
        await caller.speaks("Something went wrong.")
        assert await caller.run("again") == "You said again. Is that right?"
    with pytest.raises(AssertionError, match="the handler raised, and the test did not expect it"):
        async with call(shop_agent()) as caller:
            await (await caller.says("boom")).ended()


async def test_a_stale_answer_is_not_said(call: StartCall) -> None:
    """A new turn during a reasoner call makes the old answer stale, and only the new answer is spoken."""
    app = Agent("shop", registry=Registry.of([]))
    go_on = asyncio.Event()

    @app.reasoner()
    async def think(text: str) -> str:
        if text == "first":
            await go_on.wait()
        return f"about {text}"

    @app.session("voice", provider="scripted", transport="webrtc")
    async def voice(session: Any) -> None:
        turn = await session.input()
        await session.say(await session.call("shop.think", text=turn.text))

    async with call(app) as caller:
        first = await caller.says("first")
        await first.calls("shop.think")
        second = await caller.says("second")
        go_on.set()
        await first.speaks("about first").stale()
        await second.speaks("about second")
        assert "agent, unsaid: about first [stale: the caller had gone on]" in caller.transcript


async def test_a_failed_transcription_is_a_turn_without_text(call: StartCall) -> None:
    """A turn whose transcription failed reaches the handler without text."""
    async with call(shop_agent()) as caller:
        turn = await caller.says("mumble", failed="too_noisy")
        assert turn.text is None
        await turn.speaks("Pardon? (too_noisy)")
        assert "caller: (no words: too_noisy)" in caller.transcript


async def test_scripted_provider_faults_are_recorded(call: StartCall, scripted_provider: ScriptedProvider) -> None:
    """Truncated speech, a fatal provider error and a wrong model are each recorded."""
    async with call(shop_agent()) as caller:
        scripted_provider.break_off("You said", code="server_error")
        turn = await caller.says("hi")
        await turn.speaks("You said").failed("server_error")
        (await scripted_provider.call()).fails("no_credit", "pay first", fatal=True)
        await caller.ended("provider_error")
    scripted_provider.ready_event = SessionReady(model="another", voice="scripted-1")
    async with call(shop_agent()) as caller:
        await caller.ended("mismatch")


@pytest.mark.parametrize("transport", ["webrtc", "websocket", "audio_turns"])
async def test_a_refused_call_raises_the_error_of_the_provider(
    call: StartCall, scripted_provider: ScriptedProvider, transport: str
) -> None:
    """`call` raises the provider's refusal with its code."""
    scripted_provider.refusal = ProviderError("no credit", code="insufficient_quota")
    with pytest.raises(ProviderError, match="no credit") as caught:
        async with call(shop_agent(transport=transport)):
            pass
    assert caught.value.code == "insufficient_quota"


async def test_a_lost_provider_connection_is_replaced(call: StartCall, scripted_provider: ScriptedProvider) -> None:
    """On a pair with replay the new provider connection gets the conversation of the lost one."""
    async with call(shop_agent(transport="websocket")) as caller:
        assert await caller.run("hello") == "You said hello. Is that right?"
        before = await scripted_provider.call()
        before.drops()
        while (now := await scripted_provider.call()) is before:  # noqa: ASYNC110 - it is opened by the session
            await asyncio.sleep(0.01)
        await caller.speaks("You said hello.")
        assert await caller.run("again") == "You said again. Is that right?"
        assert ("caller", "hello") in now.conversation


async def test_limits_are_reached_without_waiting(call: StartCall) -> None:
    """Idle, duration, turn and cost limits are reached without waiting, by advancing the session's clock."""
    async with call(shop_agent(goodbye="Goodbye.")) as caller:
        await caller.run("hello")
        await caller.waits(60)
        await caller.ended("limit_idle")
        await caller.speaks("Goodbye.")
    async with call(shop_agent(limits=Limits(duration=600, idle=10_000))) as caller:
        await caller.waits(600)
        await caller.ended("limit_duration")
    async with call(shop_agent(limits=Limits(turns=1))) as caller:
        await caller.run("hello")
        with pytest.raises(AssertionError, match=r"did not become a turn|was discarded"):
            await caller.says("again")
        await caller.ended("limit_turns")
    async with call(shop_agent(floor="model", limits=Limits(cost=0.5))) as caller:
        caller.model_answers(ScriptedAnswer("Expensive.", usage=Usage(cost=1.0)))
        await caller.says("hello")
        await caller.ended("limit_cost")


# --- the control plane


async def test_control_plane_and_client_are_those_of_the_call(
    control_plane: ControlPlane, agentfield_client: ControlPlaneClient, call: StartCall
) -> None:
    """All fixtures of a test share one control plane, and its agents' reasoners can be executed over REST."""
    app = shop_agent()

    @app.reasoner()
    async def double(n: int) -> int:
        return 2 * n

    async with call(app) as caller:
        assert (await agentfield_client.execute("shop.double", {"n": 4})).output == 8
        assert (await agentfield_client.get_session(caller.session_id)).state == "live"
        assert caller.client.url == control_plane.url
    assert [view.end_reason for view in await agentfield_client.list_sessions()] == ["caller_hangup"]


async def test_concurrent_calls_are_separate(call: StartCall) -> None:
    """Two concurrent callers have separate turns and transcripts."""
    async with call(app := shop_agent()) as one:
        await one.run("one")
        with pytest.raises(Exception, match="running already"):
            async with call(app):
                pass
        async with call(SUPPORT) as two:
            await two.run("two")
            await one.run("three")
            assert "two" not in one.transcript
            assert "three" not in two.transcript


async def test_concurrent_harnesses_share_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two harnesses in one process have separate control planes, providers, clocks and sessions."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path / "keys"))
    monkeypatch.delenv("AGENTFIELD_URL", raising=False)

    async def one_test(number: int) -> str:
        harness = ControlPlaneHarness(tmp_path / str(number), ())
        async with harness.plane() as plane, harness.call(shop_agent(transport="websocket")) as caller:
            await caller.run(f"number {number}")
            if number == 1:
                await caller.waits(60)
                await caller.ended("limit_idle")
            assert len(await caller.client.list_sessions()) == 1
            assert caller.client.url == plane.url
            return caller.transcript

    one, two = await asyncio.gather(one_test(1), one_test(2))
    assert "number 2" not in one
    assert "number 1" not in two
    assert "limit_idle" not in two


async def test_errors_of_call_name_the_wrong_argument(call: StartCall) -> None:
    """A missing file, a missing agent, an unknown session and an unknown pair are each named by the error."""
    with pytest.raises(InvalidInput, match=r"There is no agent file 'nowhere\.py'"):
        async with call("nowhere.py"):
            pass
    with pytest.raises(InvalidInput, match="it makes no Agent nothing"):
        async with call(f"{SUPPORT}:nothing"):
            pass
    with pytest.raises(InvalidInput, match=r"declared: shop\.voice\."):
        async with call(shop_agent(), session="video"):
            pass
    with pytest.raises(UnsupportedPair, match="acme"):
        async with call(shop_agent(provider="acme")):
            pass
