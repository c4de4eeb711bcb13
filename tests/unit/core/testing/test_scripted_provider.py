"""The scripted provider: order of its events, recorded commands, and mismatches of script and session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import agentfield_openai.plugin
from agentfield.errors import ProviderError, ProviderUnavailable
from agentfield.plugins import Manifest, Registry, TransportSpec, hookimpl
from agentfield.plugins.manifest.references import load_attribute
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import (
    AddTextCommand,
    AppendAudioCommand,
    CancelReplyCommand,
    CommitTurnCommand,
    EndCommand,
    ReplyCommand,
    SayCommand,
    ToolResultCommand,
)
from agentfield.realtime.config import SessionConfig, SessionDeclaration, ToolSpec
from agentfield.realtime.events import (
    Event,
    Interrupted,
    ReplyAudio,
    ReplyEnded,
    SessionClosed,
    SessionReady,
    TurnStarted,
)
from agentfield.testing.scripted import ModelRequest, ScriptedAnswer, ScriptedCall, ScriptedProvider, ToolUse

PCM = AudioFormat("pcm16", 24_000)
FAST = 100.0
PAIRS = ("openai/webrtc", "openai/websocket")


@dataclass(frozen=True)
class Runtime:
    """An adapter runtime."""

    base_url: str
    key: None = None
    logger: logging.Logger = logging.root
    data_dir: Path = Path()

    def clock(self) -> float:
        return 0.0

    def child(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("an adapter that follows a script starts no process")


@asynccontextmanager
async def adapter_of(registry: Registry, name: str) -> AsyncIterator[Any]:
    """Enter the adapter of a pair as the control plane does."""
    spec = registry.resolve(*name.split("/"))
    runtime = Runtime(registry.provider(spec.provider).default_url)
    async with load_attribute(spec.factory)(runtime) as adapter:
        yield adapter


def config(name: str = "scripted/websocket", **fields: Any) -> SessionConfig:
    """Return the configuration of a session; its one tool is `shop.look`."""
    provider, transport = name.split("/")
    declared = SessionDeclaration(
        **{"name": "voice", "provider": provider, "transport": transport, "floor": "handler"} | fields
    )
    tool = ToolSpec(target="shop.look", parameters={"type": "object"})
    return SessionConfig(
        session_id="ses_000001",
        target="shop.voice",
        declaration=declared,
        model="m-1",
        voice="v-1",
        transcription="ears",
        tools=(tool,),
        **({"turn_detection": None} if transport == "audio_turns" else {}),
    )


@asynccontextmanager
async def a_call(script: ScriptedProvider, conf: SessionConfig) -> AsyncIterator[ScriptedCall]:
    """Open a session, on direct media after negotiating a call."""
    declared = conf.declaration
    async with adapter_of(Registry.of([script]), f"{declared.provider}/{declared.transport}") as adapter:
        if declared.transport == "webrtc":
            made = await adapter.attach((await adapter.negotiate("offer", conf)).ref, conf)
        else:
            made = await adapter.open(conf, PCM)
        try:
            yield made
        finally:
            await made.close()


async def told(call: ScriptedCall, until: type[Any]) -> list[Event]:
    """Return the events of a call up to one of a type."""
    seen: list[Event] = []
    async with asyncio.timeout(60):
        async for event in call.events():
            seen.append(event)
            if isinstance(event, until):
                return seen
    raise AssertionError(seen)


def kinds(events: list[Event]) -> list[str]:
    """Return the types of events, each run of one type once."""
    types = [event.type for event in events]
    return [kind for n, kind in enumerate(types) if n == 0 or types[n - 1] != kind]


async def test_events_have_the_order_of_a_real_call() -> None:
    """Direct media: ready, the caller's turn, then the speech with its playout, with matching ids."""
    script = ScriptedProvider(speed=FAST)
    async with a_call(script, config("scripted/webrtc")) as call:
        await call.says("Hello?")
        await call.send(SayCommand(id="s-1", text="Good morning."))
        events = await told(call, until=ReplyEnded)
        rest = [await anext(call.events())]
    assert kinds(events + rest) == [
        "session.ready",
        "turn.started",
        "turn.stopped",
        "turn.committed",
        "turn.transcript",
        "reply.started",
        "playout.started",
        "reply.transcript",
        "reply.ended",
        "playout.stopped",
    ]
    ended = events[-1]
    assert isinstance(ended, ReplyEnded)
    assert (ended.command, ended.text, ended.audio_ms) == ("s-1", "Good morning.", script.duration_ms("Good morning."))
    assert call.commands == [SayCommand(id="s-1", text="Good morning.")]
    assert call.conversation == [("caller", "Hello?"), ("agent", "Good morning.")]


async def test_carried_audio_is_silence_of_the_right_duration() -> None:
    """At a person's speed 15 characters take a second, in the requested format."""
    async with a_call(ScriptedProvider(), config()) as call:
        await call.send(SayCommand(id="s-1", text="x" * 15))
        events = await told(call, until=ReplyEnded)
    audio = b"".join(event.data for event in events if isinstance(event, ReplyAudio))
    assert PCM.ms(len(audio)) == 1000
    assert set(audio) == {0}


async def test_a_recorded_turn_has_the_scripted_text() -> None:
    """A recording without a scripted text is a mismatch."""
    script = ScriptedProvider(speed=FAST)
    async with a_call(script, config("scripted/audio_turns")) as call:
        call.queue_recording("Where is it?")
        await call.send(AppendAudioCommand(data=b"\0\0"))
        await call.send(CommitTurnCommand(item="mine"))
        assert call.conversation == [("caller", "Where is it?")]
        await call.send(CommitTurnCommand())
    with pytest.raises(AssertionError, match="does not say what was said in it"):
        script.verify()


async def test_the_model_gives_the_scripted_answers() -> None:
    """Texts, tool uses and functions of tool results are used in order, each once."""
    script = ScriptedProvider(speed=FAST)
    asked: list[ModelRequest] = []

    def look_back(what: ModelRequest) -> str:
        asked.append(what)
        return f"It is {what.results['shop.look']['state']}."

    script.answers(ScriptedAnswer("A moment.", uses=(ToolUse("shop.look", number="427"),)), look_back)
    async with a_call(script, config(floor="model")) as call:
        await call.says("Where is 427?")
        first = await told(call, until=ReplyEnded)
        (requested,) = [event for event in first if event.type == "tool.requested"]
        assert (requested.name, requested.arguments) == ("shop.look", '{"number": "427"}')
        await call.send(ToolResultCommand(call_id=requested.call_id, output='{"state": "lost"}'))
        await call.send(ReplyCommand(id="r-2", instructions="be kind"))
        second = await told(call, until=ReplyEnded)
    assert isinstance(first[-1], ReplyEnded)
    assert (first[-1].text, first[-1].tools, first[-1].command) == ("A moment.", 1, None)
    assert isinstance(second[-1], ReplyEnded)
    assert (second[-1].text, second[-1].command) == ("It is lost.", "r-2")
    assert asked == [ModelRequest("Where is 427?", "be kind", ("shop.look",), {"shop.look": {"state": "lost"}})]
    script.verify(done=True)


async def test_mismatches_are_raised_together() -> None:
    """Missing answers, unused answers and unoffered tools are in one AssertionError."""
    script = ScriptedProvider(speed=FAST)
    async with a_call(script, config(floor="model")) as call:
        await call.says("Hello?")
        script.answers(ToolUse("shop.lok"), "unwanted")
        await call.says("Again?")
    with pytest.raises(AssertionError) as caught:
        script.verify(done=True)
    assert str(caught.value) == (
        "The script and the session disagree:\n"
        "  - the model was asked for an answer after the caller said 'Hello?', and the script has none: script.answers(...)\n"
        "  - the script uses the tool shop.lok, the model is offered: shop.look\n"
        "  - the model was not asked for what the script still has: 'unwanted'"
    )
    script.verify(done=True)


@pytest.mark.parametrize("name", ["scripted/webrtc", "scripted/websocket"])
async def test_speech_pauses_until_the_caller_interrupts_it(name: str) -> None:
    """The interruption is exactly after the text of the pause, and that text counts as heard."""
    script = ScriptedProvider(speed=FAST)
    direct = name.endswith("webrtc")
    async with a_call(script, config(name)) as call:
        await call.says("Where is it?", pause="I found it.")
        await call.send(SayCommand(id="s-1", text="I found it. It is stuck in customs."))
        saying = asyncio.create_task(call.says("Stop!"))
        if not direct:
            # the control plane stops it as soon as it hears the caller
            await told(call, until=ReplyAudio)
            await told(call, until=TurnStarted)
            await call.send(CancelReplyCommand(reply="reply-2"))
        await saying
        events = await told(call, until=Interrupted if direct else ReplyEnded)
    last = events[-1]
    if isinstance(last, Interrupted):
        whole = script.duration_ms("I found it. It is stuck in customs.")
        assert last.heard_ms == -(-whole * 11 // 35)
    else:
        assert isinstance(last, ReplyEnded)
        assert (last.status, last.text) == ("cancelled", "I found it.")


async def test_unused_pauses_and_break_offs_are_mismatches() -> None:
    """A pause or break-off that no speech reached is an error at the end."""
    script = ScriptedProvider(speed=FAST)
    script.break_off("Good evening")
    async with a_call(script, config()) as call:
        call.pause_after("Good night")
        await call.send(SayCommand(id="s-1", text="Good morning."))
    with pytest.raises(AssertionError) as caught:
        script.verify(done=True)
    assert str(caught.value) == (
        "The script and the session disagree:\n"
        "  - nothing was said that holds 'Good evening', after which it was to break off\n"
        "  - nothing was said that holds 'Good night', after which it was to pause"
    )


async def test_faults_can_be_scripted() -> None:
    """Refusals, speech that breaks off, errors, and a dropped connection that takes no commands."""
    script = ScriptedProvider(speed=FAST)
    script.refusal = ProviderError("no credit", code="insufficient_quota")
    with pytest.raises(ProviderError, match="no credit"):
        async with a_call(script, config()):
            pass
    script.refusal = None
    script.break_off("I found", "server_error")
    async with a_call(script, config()) as call:
        await call.send(SayCommand(id="s-1", text="I found it."))
        broken = (await told(call, until=ReplyEnded))[-1]
        call.fails("rate_limited", "slow down")
        assert (await anext(call.events())).type == "error"
        call.drops()
        assert isinstance((await told(call, until=SessionClosed))[-1], SessionClosed)
        with pytest.raises(ProviderUnavailable):
            await call.send(AddTextCommand(item="i", text="hello"))
    assert isinstance(broken, ReplyEnded)
    assert (broken.status, broken.why, broken.text) == ("failed", "server_error", "I found")


async def test_the_end_is_emitted_once() -> None:
    """`EndCommand` closes the session; a caller who speaks afterwards is an error of the test."""
    async with a_call(ScriptedProvider(), config()) as call:
        await call.send(EndCommand())
        call.hangs_up()
        assert kinds(await told(call, until=SessionClosed)) == ["session.ready", "session.ended"]
        with pytest.raises(AssertionError, match=r"the call of shop\.voice is over"):
            await call.says("Anybody?")


async def test_it_replaces_installed_providers() -> None:
    """Pairs keep their capabilities, providers their names and prices; keys and addresses are removed, and the notes say so."""
    real, script = Registry.discover(), ScriptedProvider()
    stood = script.replace_providers(real)
    for spec, _ in real.pairs():
        mine = stood.resolve(spec.provider, spec.transport)
        assert mine.capabilities == spec.capabilities
        assert mine.notes == f"scripted for {spec.name}"
        info, was = stood.provider(spec.provider), real.provider(spec.provider)
        assert (info.models, info.voices, info.prices) == (was.models, was.voices, was.prices)
        assert (info.key_setting, info.url_setting) == (None, None)
    async with adapter_of(stood, "openai/websocket") as adapter:
        call = await adapter.open(config("openai/websocket"), PCM)
        assert await anext(call.events()) == SessionReady(model="m-1", voice="v-1")
        await call.close()


def test_it_adds_absent_first_party_pairs() -> None:
    """The notes say that their capabilities are assumed."""
    stood = ScriptedProvider().replace_providers(Registry.of([]))
    assert stood.resolve("openai", "webrtc").notes == (
        "scripted for openai/webrtc, which is not installed; what it can do is assumed"
    )


class Pager:
    """A plugin with a transport."""

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        pager = TransportSpec(
            name="pager",
            client="server",
            media="bridged",
            summary="a pager",
            factory="pager:transport",
            formats=frozenset({"pcmu/8000"}),
        )
        return Manifest(api=(2, 0), transports=(pager,))


async def test_it_works_over_third_party_transports() -> None:
    """A bridged third-party transport carries it, by itself and in place of another provider."""
    script = ScriptedProvider()
    for registry, name in (
        (Registry.of([script, Pager()]), "scripted/pager"),
        (script.replace_providers(Registry.of([agentfield_openai.plugin, Pager()])), "openai/pager"),
    ):
        async with adapter_of(registry, name) as adapter:
            call = await adapter.open(config(name), AudioFormat("pcmu", 8000))
            assert call.pair.media == "bridged"
            await call.send(SayCommand(id="s-1", text="x" * 15))
            events = await told(call, until=ReplyEnded)
            audio = b"".join(event.data for event in events if isinstance(event, ReplyAudio))
            assert (len(audio), set(audio)) == (8000, {0xFF})
            await call.close()


def test_it_replaces_the_preferred_one_of_two_plugins() -> None:
    """A preference between two plugins is kept."""

    class Other:
        @hookimpl
        def agentfield_manifest(self) -> Manifest:
            return agentfield_openai.plugin.agentfield_manifest()

    both = Registry.of([agentfield_openai.plugin, Other()], prefer=dict.fromkeys(PAIRS, "Other"))
    stood = ScriptedProvider().replace_providers(both)
    assert [record.distribution for spec, record in stood.pairs() if spec.name in PAIRS] == ["Other", "Other"]
    assert stood.resolve("openai", "webrtc").notes == "scripted for openai/webrtc"


async def test_two_providers_are_independent() -> None:
    """Each registry reaches its own provider."""
    one, two = ScriptedProvider(), ScriptedProvider()
    async with a_call(one, config()), a_call(two, config()):
        assert (len(one.calls), len(two.calls)) == (1, 1)
