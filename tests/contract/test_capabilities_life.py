"""Capabilities of a session's life: tools, limits, usage, what survives a restart, what the line carries beside speech."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentfield.realtime.config import Limits
from agentfield.wire.rest import StartRequest
from agentfield_local.behaviour import Behaviour
from agentfield_local.chat.behaviour import ChatBehaviour
from agentfield_local.server import LocalServer
from agentfield_local.speech.energy import EnergyVad, FixedStt
from agentfield_local.speech.protocols import SpeechEngines
from contract.callers import Carried, Direct, Recorded
from contract.contract_kit import (
    PAIRS,
    Installation,
    Mind,
    Pair,
    Talk,
    Voice,
    declared,
    enter,
    installation,
    name_of,
    target,
)
from contract.test_capabilities_speech import LONG, hand_over, model, repeat, settings_at_the_provider
from local_server_kit import tone

CARRIED = tuple(pair for pair in PAIRS if pair[1] == "websocket")
PRICED = tuple(pair for pair in PAIRS if pair[0] != "local")
TOOLS = ["desk.echo", "desk.broken", "desk.slow", "desk.held"]

everywhere = pytest.mark.parametrize("pair", PAIRS, ids=name_of)


@asynccontextmanager
async def calling(folder: Path, pair: Pair, app: Any, **how: Any) -> AsyncIterator[tuple[Installation, Talk]]:
    """Make a call over a pair."""
    async with installation(folder, app, **how) as here, here.talk(target(pair)) as talk:
        assert await talk.connect()
        yield here, talk


# --- tools


@everywhere
async def test_tools_work_fail_and_are_refused(tmp_path: Path, pair: Pair) -> None:
    """Calls of one answer run side by side; a failure, arguments that do not fit and a tool of nobody's are told to the model."""
    echoes = [("echo", '{"word": "a"}'), ("echo", '{"word": "b"}'), ("echo", '{"word": '), ("echo", '{"text": "c"}')]
    mind = Mind([*echoes, ("broken", "{}"), ("nobody", "{}")])
    app = declared(pair, model, tools=TOOLS)
    async with calling(tmp_path, pair, app, brain=mind) as (here, talk):
        await talk.speak()
        await talk.until(lambda: [said for said in talk.of("speech.ended") if said["generated"]])
        ran = {each.id: each.status for each in (await here.client.workflow(talk.id)).executions if each.kind == "tool"}
    assert sorted(ran.values()) == ["failed", "failed", "succeeded", "succeeded"]
    assert sorted(each["why"] for each in talk.of("tool.refused")) == ["bad_arguments", "not_listed"]
    results = mind.results()
    assert len(results) == 6
    assert sorted(app.echoed) == ["a", "b"]  # type: ignore[attr-defined]
    assert ['{"word":"a"}' in results, '{"word":"b"}' in results] == [True, True]
    assert sum("out of paper" in result for result in results) == 1


@everywhere
async def test_a_slow_tool_is_not_waited_for_in_silence(tmp_path: Path, pair: Pair) -> None:
    """The model is told that a tool takes longer and goes on; what comes later is told when it comes."""
    mind = Mind([("echo", '{"word": "a"}'), ("slow", "{}")])
    app = declared(pair, model, tools=TOOLS)
    async with calling(tmp_path, pair, app, brain=mind) as (_, talk):
        await talk.speak()
        await talk.until(lambda: any(told["pending"] for told in talk.of("tool.answered")))
        await talk.until(lambda: [said for said in talk.of("speech.ended") if said["generated"]])
        assert sorted("pending" in result for result in mind.results()) == [False, True]
        known = len(mind.asked)
        app.release.set()
        await talk.until(lambda: len(mind.asked) > known)
        assert "done at last" in str(mind.asked[-1].history)


@everywhere
async def test_a_tool_is_cancelled_by_an_interruption(tmp_path: Path, pair: Pair) -> None:
    """A tool that is declared so is cancelled when the caller speaks over the answer that asked for it."""
    app = declared(pair, model, tools=TOOLS)
    async with calling(tmp_path, pair, app, brain=Mind([("held", "{}")], while_saying=LONG)) as (here, talk):
        await talk.speak()
        await talk.recorded("tool.requested")
        await talk.until(lambda: talk.medium.heard_ms() > 500)
        await talk.speak()
        assert (await talk.recorded("speech.ended"))["interrupted"]
        await talk.until(lambda: [done for done in talk.of("execution.ended") if done["kind"] == "tool"])
        (tool,) = [each for each in (await here.client.workflow(talk.id)).executions if each.kind == "tool"]
        assert tool.status == "cancelled"


# --- limits


@pytest.mark.parametrize("limit", ["duration", "idle", "turns", "tool_calls"])
@everywhere
async def test_a_limit_ends_the_session_with_a_goodbye(tmp_path: Path, pair: Pair, limit: str) -> None:
    """The session says goodbye and ends with the limit as its reason."""
    values: dict[str, Any] = {"duration": 4.0, "idle": 1.5, "turns": 1, "tool_calls": 1}
    limits = Limits(**{limit: values[limit]}, warn=1.0)
    app = declared(pair, model, tools=TOOLS, limits=limits, goodbye="Goodbye.")
    calls = [("echo", '{"word": "a"}')] * 2 if limit == "tool_calls" else []
    async with calling(tmp_path, pair, app, brain=Mind(calls)) as (_, talk):
        await talk.speak()
        if limit == "turns":  # the one after the last that it may have
            await talk.recorded("speech.ended")
            await talk.speak()
        await expect_goodbye(talk, {"tool_calls": "tools"}.get(limit, limit))
        if limit == "duration":
            assert "limit_duration" in talk.outcome().warned


async def expect_goodbye(talk: Talk, limit: str) -> None:
    """Wait for the end by a limit."""
    assert (await talk.ended())["reason"] == f"limit_{limit}"
    last = talk.of("speech.ended")[-1]
    assert (last["asked"], last["generated"], last["failed"]) == ("Goodbye.", "Goodbye.", None)


@pytest.mark.parametrize("pair", PRICED, ids=name_of)
async def test_a_limit_of_cost_ends_the_session_with_a_goodbye(tmp_path: Path, pair: Pair) -> None:
    """What a session may cost is counted while it runs."""
    app = declared(pair, model, limits=Limits(cost=0.000_001), goodbye="Goodbye.")
    async with calling(tmp_path, pair, app, prices=price_list(tmp_path)) as (here, talk):
        here.server.chat.behaviour = ChatBehaviour(usage_cost=False)  # what it tells is that it costs nothing
        await talk.speak()
        await expect_goodbye(talk, "cost")
        assert talk.of("session.usage")[0]["cost"] >= 0.000_001


@pytest.mark.parametrize("pair", [pair for pair in PRICED if pair[0] == "openai"], ids=name_of)
async def test_what_has_no_price_is_told_and_not_taken_for_free(tmp_path: Path, pair: Pair) -> None:
    """A limit of cost that cannot be counted, since the published prices do not cover all that was used, is warned of."""
    app = declared(pair, model, limits=Limits(cost=0.000_001))
    async with calling(tmp_path, pair, app) as (_, talk):
        await talk.speak()
        await talk.recorded("speech.ended")
        await talk.until(lambda: "cost_unknown" in {each["code"] for each in talk.of("warning")})


def price_list(folder: Path) -> Path:
    """Write prices for everything that the models of a call use."""
    file = folder / "prices.toml"
    file.write_text('[openai."gpt-realtime-2"]\ninput_text = 4.0\noutput_text = 24.0\n')
    return file


@everywhere
async def test_what_was_used_is_told(tmp_path: Path, pair: Pair) -> None:
    """Each answer is counted, and transcription where the provider counts it; with its cost where it tells one."""
    app = declared(pair, model)
    async with calling(tmp_path, pair, app, prices=price_list(tmp_path)) as (here, talk):
        await talk.speak()
        await talk.recorded("speech.ended")
        await talk.until(lambda: any(used["kind"] == "reply" for used in talk.of("usage")))
        (used,) = [used for used in talk.of("usage") if used["kind"] == "reply"]
        (spec,) = [spec for spec, _ in here.plane.registry.pairs() if (spec.provider, spec.transport) == pair]
        assert used["usage"]["output_audio_tokens"] > 0
        if spec.capabilities.usage == "cost" or pair in PRICED:
            assert used["cost"] is not None
        await talk.hang_up()
        assert talk.of("session.usage")[0]["usage"]["reply"]["output_audio_tokens"] > 0


# --- what survives


@everywhere
async def test_a_restart_of_the_control_plane(tmp_path: Path, pair: Pair) -> None:
    """After a restart the caller speaks on in the same session, and the model still knows what was said before."""
    mind, voice = Mind(), Voice()
    engines = SpeechEngines(name="synthetic", vad=EnergyVad, stt=FixedStt(["tea", "coffee"]), tts=voice)
    async with LocalServer(engines, mind) as server:
        async with AsyncExitStack() as first:
            here = await enter(first, tmp_path, declared(pair, hand_over, floor="handler"), server, voice)
            started = await here.client.start_session(StartRequest(target=target(pair)))
            talk = Talk(here, started, here.medium(started))
            assert await talk.connect()
            await talk.speak()
            await talk.recorded("speech.ended")
            await talk.leave()
            if not isinstance(talk.medium, Direct):
                await talk.medium.close()
        async with AsyncExitStack() as second:
            here = await enter(second, tmp_path, declared(pair, hand_over, floor="handler"), server, voice)
            await speak_on(here, talk, mind)
    assert [turn["text"] for turn in talk.of("turn.committed")] == ["tea", "coffee"]


async def speak_on(here: Installation, before: Talk, mind: Mind) -> None:
    """Say something to a session that was there before, and expect an answer that knows of it."""
    direct = isinstance(before.medium, Direct)
    url = before.started.media_url
    if url is not None:
        url = f"ws{here.plane.url.removeprefix('http')}/{url.split('/', 3)[3]}"
    started = before.started.model_copy(update={"media_url": url})
    talk = Talk(here, started, before.medium if direct else here.medium(started))
    if direct:
        await talk.until(lambda: here.server.calls[-1].legs > 1)
    else:
        assert await talk.connect()
    await talk.speak()
    await talk.recorded("speech.ended", 2)
    # a provider that hears recordings makes words of them itself, once more
    first = talk.of("speech.ended")[0]["generated"]
    said = [(role, text.strip()) for role, text in mind.history()]
    assert said == [("user", "tea"), ("assistant", first), ("user", "coffee")]
    await talk.hang_up()
    await talk.close()
    await here.nothing_left(talk)
    before.events[:] = talk.events


@pytest.mark.parametrize("pair", CARRIED, ids=name_of)
async def test_another_session_takes_over_from_one_that_expires(tmp_path: Path, pair: Pair) -> None:
    """Before the provider ends its session a new one takes over between two turns, and knows what was said."""
    mind = Mind()
    app = declared(pair, hand_over, floor="handler", limits=Limits(duration=7200.0))
    async with installation(tmp_path, app, brain=mind, hears=["tea", "coffee"]) as here:
        here.server.behaviour = Behaviour(session_seconds=4)
        async with here.talk(target(pair)) as talk:
            assert await talk.connect()
            first = here.server.sessions[0]
            here.server.behaviour = Behaviour()
            await talk.speak()
            await talk.recorded("speech.ended")
            await talk.until(lambda: here.server.sessions and first not in here.server.sessions)
            await talk.speak()
            await talk.recorded("speech.ended", 2)
            said = [(role, text.strip()) for role, text in mind.history()]
            assert said == [("user", "tea"), ("assistant", "You said: tea."), ("user", "coffee")]
            assert "provider_rotated" in talk.outcome().warned


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair[1] != "webrtc"], ids=name_of)
async def test_a_session_may_be_longer_than_the_providers(tmp_path: Path, pair: Pair) -> None:
    """Where no session at the provider ends ours, hours may be asked for."""
    app = declared(pair, repeat, limits=Limits(duration=7200.0))
    async with installation(tmp_path, app) as here:
        assert (await here.call(target(pair))).said == (("hello", "hello", True, None),)


# --- what the line carries


@pytest.mark.parametrize("form", ["pcm16/24000", "pcmu/8000", "pcma/8000"])
@pytest.mark.parametrize("pair", CARRIED, ids=name_of)
async def test_a_format_is_taken_as_it_is(tmp_path: Path, pair: Pair, form: str) -> None:
    """A caller in a declared format is understood and hears an answer, and the provider was asked for that very format."""
    codec, rate = form.split("/")
    app, query = declared(pair, repeat), f"?format={codec}&rate={rate}"
    async with installation(tmp_path, app) as here, here.talk(target(pair), query) as talk:
        assert await talk.connect()
        await talk.speak()
        assert (await talk.recorded("speech.ended"))["generated"] == "hello"
        assert isinstance(talk.medium, Carried)
        assert talk.medium.heard_ms() == pytest.approx(290, abs=60)
        kind = {"pcm16": "audio/pcm", "pcmu": "audio/pcmu", "pcma": "audio/pcma"}[codec]
        assert settings_at_the_provider(here)["format"]["type"] == kind


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair[1] == "audio_turns"], ids=name_of)
async def test_samples_are_taken_and_given_as_they_are(tmp_path: Path, pair: Pair) -> None:
    """A recorded turn may be bare samples, and the answer is samples at the same rate."""
    async with installation(tmp_path, declared(pair, repeat)) as here, here.talk(target(pair)) as talk:
        answer = here.client.turn(talk.id, tone(500, 24_000), "audio/pcm;rate=24000")
        rates = {event["rate"] async for event in answer if event.get("type") == "reply.audio"}
        assert rates == {24_000}


@pytest.mark.parametrize("pair", CARRIED, ids=name_of)
async def test_keys_of_a_telephone_reach_the_handler(tmp_path: Path, pair: Pair) -> None:
    """A key is an event of the session, and recorded."""
    listening = asyncio.Event()

    async def keypad(session: Any) -> None:
        events = session.events()
        pressed = asyncio.ensure_future(anext(event.digit async for event in events if event.type == "dtmf"))
        await asyncio.sleep(0)
        await session.save()
        listening.set()
        await session.say(f"You pressed {await pressed}.")
        await session.input()

    async with calling(tmp_path, pair, declared(pair, keypad)) as (_, talk):
        await asyncio.wait_for(listening.wait(), 10)
        assert isinstance(talk.medium, Carried)
        await talk.medium.socket.says(type="dtmf", digit="7")
        assert (await talk.recorded("speech.ended"))["generated"] == "You pressed 7."
        assert talk.of("dtmf") == [{"digit": "7"}]


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair[1] != "websocket"], ids=name_of)
async def test_frames_have_no_way_where_audio_goes_another_one(tmp_path: Path, pair: Pair) -> None:
    """Formats and keys travel on the audio WebSocket; a pair without one refuses it by name, and a turn on direct media too."""
    async with installation(tmp_path, declared(pair, repeat)) as here, here.talk(target(pair)) as talk:
        socket = Carried(
            here.http, f"{here.plane.url.replace('http', 'ws')}/api/v1/sessions/{talk.id}/media", talk.started.token
        )
        await socket.connect()
        assert socket.refused == "wrong_media"
        if pair[1] == "webrtc":
            turns = Recorded(lambda data, kind: here.client.turn(talk.id, data, kind))
            await turns.speak(0.1)
            await talk.until(lambda: turns.refused)
            assert turns.refused == "wrong_media"
            await turns.close()
