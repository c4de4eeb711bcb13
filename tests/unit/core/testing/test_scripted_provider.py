"""The scripted provider by itself: the order of what it tells, what it records, and how it says that a script is wrong."""

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
    """What the control plane gives a factory."""

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
    """Open a session at the provider, or make a call to it."""
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
    """Return what a call told, up to an event of a type."""
    seen: list[Event] = []
    async with asyncio.timeout(60):
        async for event in call.events():
            seen.append(event)
            if isinstance(event, until):
                return seen
    raise AssertionError(seen)


def kinds(events: list[Event]) -> list[str]:
    """Return the types of events, runs of one type as one."""
    types = [event.type for event in events]
    return [kind for n, kind in enumerate(types) if n == 0 or types[n - 1] != kind]


async def test_a_turn_and_a_say_come_in_the_order_of_a_real_call() -> None:
    """Direct media: ready, the caller's turn, the speech with its playback; each with ids that belong together."""
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


async def test_carried_audio_is_silence_of_the_right_length() -> None:
    """At the speed of a person 15 letters last a second, in the format that was asked for."""
    async with a_call(ScriptedProvider(), config()) as call:
        await call.send(SayCommand(id="s-1", text="x" * 15))
        events = await told(call, until=ReplyEnded)
    audio = b"".join(event.data for event in events if isinstance(event, ReplyAudio))
    assert PCM.ms(len(audio)) == 1000
    assert set(audio) == {0}


async def test_a_recorded_turn_has_the_words_that_the_script_says() -> None:
    """Where the caller commits, the words come from the script; a recording without any is a mistake of the script."""
    script = ScriptedProvider(speed=FAST)
    async with a_call(script, config("scripted/audio_turns")) as call:
        call.queue_recording("Where is it?")
        await call.send(AppendAudioCommand(data=b"\0\0"))
        await call.send(CommitTurnCommand(item="mine"))
        assert call.conversation == [("caller", "Where is it?")]
        await call.send(CommitTurnCommand())
    with pytest.raises(AssertionError, match="does not say what was said in it"):
        script.verify()


async def test_the_model_answers_by_the_script() -> None:
    """Words, a tool, its result given to a function, in order; each asked for once, on the model's floor by itself."""
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


async def test_a_script_that_does_not_fit_is_told_in_words() -> None:
    """No answer left, a tool that nobody offers, answers that nobody wanted: one AssertionError names them all."""
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
async def test_speech_stands_still_until_the_caller_speaks_over_it(name: str) -> None:
    """The caller speaks exactly after the words that the test names, and that much counts as heard."""
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


async def test_what_never_came_about_is_told() -> None:
    """Speech that was to stand still or to break off, and was never said, is a mistake of the script at its end."""
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


async def test_faults_of_a_provider_can_be_had() -> None:
    """A refusal, a speech that breaks off, an error, a line that breaks and takes no more commands."""
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


async def test_the_end_is_told_once_and_then_nobody_speaks() -> None:
    """`EndCommand` closes the session; a caller who would still speak is a mistake of the test."""
    async with a_call(ScriptedProvider(), config()) as call:
        await call.send(EndCommand())
        call.hangs_up()
        assert kinds(await told(call, until=SessionClosed)) == ["session.ready", "session.ended"]
        with pytest.raises(AssertionError, match=r"the call of shop\.voice is over"):
            await call.says("Anybody?")


async def test_it_stands_in_for_what_is_installed() -> None:
    """Pairs keep what they can do and providers their names and prices; keys and addresses are gone, and it is said."""
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


def test_it_stands_in_for_pairs_of_ours_that_are_not_installed() -> None:
    """Without the plugin, the pair is there all the same, and it is said that what it can do is assumed."""
    stood = ScriptedProvider().replace_providers(Registry.of([]))
    assert stood.resolve("openai", "webrtc").notes == (
        "scripted for openai/webrtc, which is not installed; what it can do is assumed"
    )


class Pager:
    """A plugin with a transport of its own."""

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


async def test_it_meets_transports_of_strangers() -> None:
    """A bridged transport that it does not know carries it, by itself and standing in for somebody else."""
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


def test_of_two_plugins_it_stands_in_for_the_preferred_one() -> None:
    """Where two claim a pair and one was chosen, the choice stays."""

    class Other:
        @hookimpl
        def agentfield_manifest(self) -> Manifest:
            return agentfield_openai.plugin.agentfield_manifest()

    both = Registry.of([agentfield_openai.plugin, Other()], prefer=dict.fromkeys(PAIRS, "Other"))
    stood = ScriptedProvider().replace_providers(both)
    assert [record.distribution for spec, record in stood.pairs() if spec.name in PAIRS] == ["Other", "Other"]
    assert stood.resolve("openai", "webrtc").notes == "scripted for openai/webrtc"


async def test_two_scripts_share_nothing() -> None:
    """Each registry reaches its own script."""
    one, two = ScriptedProvider(), ScriptedProvider()
    async with a_call(one, config()), a_call(two, config()):
        assert (len(one.calls), len(two.calls)) == (1, 1)
