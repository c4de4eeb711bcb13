"""Calls with a provider whose model answers by itself: playback, formats, tools, silence, push to talk and handles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentfield.errors import AgentFieldError, CapabilityMissing, InvalidInput
from agentfield.plugins import Manifest, RecordedEvent, hookimpl
from agentfield.realtime.commands import (
    AddTextCommand,
    AppendAudioCommand,
    BeginTurnCommand,
    CancelReplyCommand,
    CommitTurnCommand,
    ReplyCommand,
    ToolResultCommand,
)
from agentfield.realtime.events import (
    Interrupted,
    ProviderFault,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    SessionResumable,
    ToolCancelled,
    ToolRequested,
    TurnCommitted,
    TurnStarted,
    TurnTranscript,
    TurnUnanswered,
)
from agentfield.wire.rest import StartRequest
from support.server.bridged_calls import PCM24, Caller, Installation, run_installation
from support.server.live_model import HEARS, LiveModelPlugin, LiveSession, live_agent
from support.waiting import until


class Watch:
    """A plugin that keeps what the control plane records."""

    def __init__(self) -> None:
        self.turns: list[RecordedEvent] = []
        self.events: list[RecordedEvent] = []

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        return Manifest(api=(2, 1))

    @hookimpl
    async def agentfield_session_turn(self, event: RecordedEvent) -> None:
        self.turns.append(event)

    @hookimpl
    async def agentfield_dag_event(self, event: RecordedEvent) -> None:
        self.events.append(event)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the bodies of the recorded events of a type."""
        return [dict(event.body) for event in self.events if event.type == kind]

    async def recorded(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until a number of events of a type is recorded, and return their bodies."""
        await until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)


@pytest.fixture
def watch() -> Watch:
    """The events of the control planes of a test."""
    return Watch()


@asynccontextmanager
async def installed(
    home: Path, plugin: LiveModelPlugin, *plugins: object, **declared: Any
) -> AsyncIterator[Installation]:
    """Run an installation with the provider and its agent."""
    async with run_installation(home, plugins=(plugin, *plugins), agent=partial(live_agent, **declared)) as made:
        yield made


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveModelPlugin:
    """The provider."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    return LiveModelPlugin()


async def talking(it: Installation, plugin: LiveModelPlugin) -> tuple[str, Caller, LiveSession]:
    """Start a call; return its id, its caller and the provider's session."""
    session = await it.start()
    caller = await it.call(session)
    provider = await plugin.adapter.session()
    await it.state(session, "live")
    return session.session_id, caller, provider


def said(provider: LiveSession, item: str, text: str) -> None:
    """Let the caller say something that the provider hears."""
    provider.tell(TurnStarted(item=item), TurnCommitted(item=item), TurnTranscript(item=item, text=text))


async def hears(caller: Caller, ms: float) -> None:
    """Wait until the caller has received some audio."""
    await until(lambda: PCM24.ms(len(caller.audio)) >= ms)


# --- playback


async def test_playback_ends_at_the_word_of_the_provider(tmp_path: Path, plugin: LiveModelPlugin, watch: Watch) -> None:
    """The provider says that it was interrupted: the caller's buffer is cleared, and how much was heard is recorded."""
    async with installed(tmp_path, plugin, watch) as it:
        _, caller, provider = await talking(it, plugin)
        said(provider, "i1", "Tell me all.")
        provider.answers("r1", 9000, whole=False)
        await hears(caller, 300)
        provider.tell(
            Interrupted(reply="r1"), ReplyEnded(reply="r1", status="cancelled", why="interrupted", text="All.")
        )
        await caller.frame("clear")
        [ended] = await watch.recorded("speech.ended")
        assert ended["interrupted"]
        assert 0 < ended["heard_ms"] <= PCM24.ms(len(caller.audio)) < 9000
        assert caller.heard.index("clear") == len(caller.heard) - 1 - caller.heard[::-1].index("clear")
        assert "audio" not in caller.heard[caller.heard.index("clear") :]
        assert not [command for command in provider.sent if isinstance(command, CancelReplyCommand)]


async def test_the_caller_stops_what_is_only_still_played(
    tmp_path: Path, plugin: LiveModelPlugin, watch: Watch
) -> None:
    """The reply was generated long before it is heard: the caller's speech stops its playback."""
    async with installed(tmp_path, plugin, watch) as it:
        _, caller, provider = await talking(it, plugin)
        said(provider, "i1", "Tell me all.")
        provider.answers("r1", 9000)
        await hears(caller, 300)
        provider.tell(TurnStarted(item="i2"))
        await caller.frame("clear")
        [ended] = await watch.recorded("speech.ended")
        assert ended["interrupted"]
        assert PCM24.ms(len(caller.audio)) < 9000


# --- formats, modalities and voices


async def test_audio_has_another_format_in_each_direction(tmp_path: Path, plugin: LiveModelPlugin) -> None:
    """The caller's 24 kHz reach the provider as 16 kHz; the provider's 24 kHz reach the caller in full length."""
    async with installed(tmp_path, plugin) as it:
        _, caller, provider = await talking(it, plugin)
        for _ in range(10):
            await caller.socket.send_bytes(bytes(PCM24.size(100)))
        pieces = [AppendAudioCommand]
        await until(lambda: HEARS.ms(sum(len(c.data) for c in provider.sent if isinstance(c, *pieces))) >= 900)
        said(provider, "i1", "Hello.")
        provider.answers("r1", 500)
        await until(lambda: any(frame["event"]["type"] == "playout.stopped" for frame in caller.of("event")))
        assert PCM24.ms(len(caller.audio)) == 500
        assert HEARS.ms(sum(len(c.data) for c in provider.sent if isinstance(c, *pieces))) <= 1000


async def test_a_session_has_the_modalities_and_voices_of_its_model(tmp_path: Path, plugin: LiveModelPlugin) -> None:
    """A declaration that names neither runs on an audio-only model, with that model's voice."""
    async with installed(tmp_path, plugin, model="audio-only") as it:
        await talking(it, plugin)
        [config] = plugin.adapter.configs
        assert (config.modalities, config.voice) == (("audio",), "zoe")


@pytest.mark.parametrize(
    ("declared", "asked", "error", "words"),
    [
        (
            {"modalities": ["text"], "model": "audio-only"},
            {},
            CapabilityMissing,
            "with audio-only cannot run this session",
        ),
        (
            {"modalities": ["audio", "text"]},
            {"model": "audio-only"},
            CapabilityMissing,
            "modalities has audio, not text",
        ),
        ({"voice": "ann", "model": "audio-only"}, {}, InvalidInput, "no voice 'ann' for the model 'audio-only'"),
        ({"model": "audio-only"}, {"voice": "ann"}, InvalidInput, "It has: zoe"),
        ({"voice": "zoe"}, {}, InvalidInput, "no voice 'zoe'. It has: ann, ben"),
        ({"transcription": "ears-1"}, {}, CapabilityMissing, "transcription is own, not model"),
    ],
)
async def test_what_a_model_lacks_is_refused(
    tmp_path: Path,
    plugin: LiveModelPlugin,
    declared: dict[str, Any],
    asked: dict[str, Any],
    error: type[AgentFieldError],
    words: str,
) -> None:
    """Modalities and voices are those of the model, whether the declaration or the start names it."""
    async with installed(tmp_path, plugin, **declared) as it:
        with pytest.raises(error) as refused:
            await it.client.start_session(StartRequest(target="shop.voice", caller="ann", **asked))
        assert words in refused.value.message


# --- who continues, silence, calls that are taken back


async def test_the_model_goes_on_by_itself_after_its_tool(
    tmp_path: Path, plugin: LiveModelPlugin, watch: Watch
) -> None:
    """The result goes to the model, which is not asked; its answer belongs to the turn of the call."""
    async with installed(tmp_path, plugin, watch) as it:
        _, _, provider = await talking(it, plugin)
        said(provider, "i1", "Look.")
        provider.tell(
            ReplyStarted(reply="r1"),
            ToolRequested(call_id="c1", name="shop.look", arguments="{}", reply="r1"),
            ReplyEnded(reply="r1", tools=1),
        )
        result = await provider.asked(ToolResultCommand)
        assert result.output == "7"
        assert result.id
        provider.answers("r2", 100, text="Seven.")
        ended = await watch.recorded("speech.ended", 2)
        assert [body["generated"] for body in ended] == ["", "Seven."]
        turns = [body for body in await watch.recorded("execution.ended", 2) if body.get("kind") == "turn"]
        assert len(turns) <= 1
        assert not [command for command in provider.sent if isinstance(command, ReplyCommand)]
        assert not watch.of("warning")


async def test_a_call_that_is_taken_back_is_recorded_and_not_answered(
    tmp_path: Path, plugin: LiveModelPlugin, watch: Watch
) -> None:
    """The execution runs on, because its target does not ask to be cancelled; the provider gets no result."""
    async with installed(tmp_path, plugin, watch) as it:
        _, _, provider = await talking(it, plugin)
        said(provider, "i1", "Look.")
        provider.tell(
            ReplyStarted(reply="r1"),
            ToolRequested(call_id="c1", name="shop.look", arguments="{}", reply="r1"),
            ToolCancelled(call_id="c1"),
            ReplyEnded(reply="r1", tools=1),
        )
        [body] = await watch.recorded("tool.cancelled")
        assert body["call_id"] == "c1"
        said(provider, "i2", "And now?")
        provider.answers("r2", 100)
        await watch.recorded("speech.ended", 2)
        assert not [command for command in provider.sent if isinstance(command, ToolResultCommand)]


async def test_silence_is_an_answer(tmp_path: Path, plugin: LiveModelPlugin, watch: Watch) -> None:
    """A turn to which the model says nothing succeeds; its event names the session's target and caller."""
    async with installed(tmp_path, plugin, watch) as it:
        _, caller, provider = await talking(it, plugin)
        said(provider, "i1", "Hm.")
        provider.tell(TurnUnanswered(item="i1"))
        [body] = await watch.recorded("turn.unanswered")
        assert (body["item"], body["target"], body["caller"]) == ("i1", "shop.voice", "ann")
        await until(lambda: any(frame["event"]["type"] == "turn.unanswered" for frame in caller.of("event")))
        await until(lambda: any(e.type == "execution.ended" and e.body["status"] == "succeeded" for e in watch.events))
        assert not watch.of("warning")


async def test_turn_hooks_learn_whose_turn_it_is(tmp_path: Path, plugin: LiveModelPlugin, watch: Watch) -> None:
    """The hook of turns gets target and caller with each turn."""
    async with installed(tmp_path, plugin, watch) as it:
        _, _, provider = await talking(it, plugin)
        said(provider, "i1", "Hello.")
        await until(lambda: bool(watch.turns))
        [turn] = watch.turns
        assert (turn.body["text"], turn.body["target"], turn.body["caller"]) == ("Hello.", "shop.voice", "ann")


async def test_a_refused_command_is_named(tmp_path: Path, plugin: LiveModelPlugin, watch: Watch) -> None:
    """The provider repeats the id of the command that it refuses: the warning says which command that was."""
    async with installed(tmp_path, plugin, watch) as it:
        _, caller, provider = await talking(it, plugin)
        await caller.says(type="text", text="Hello.")
        added = await provider.asked(AddTextCommand)
        provider.tell(ProviderFault(code="no_room", message="the context is full", command=added.id))
        [warning] = await watch.recorded("warning")
        assert warning == {"code": "no_room", "message": "add_text was refused: the context is full"}


# --- push to talk


async def test_a_caller_that_presses_a_key_begins_its_turn(tmp_path: Path, plugin: LiveModelPlugin) -> None:
    """The begin, the audio and the commit of a turn reach the provider in order, each with an id; no answer is requested."""
    async with installed(tmp_path, plugin, turn_detection=None) as it:
        _, caller, provider = await talking(it, plugin)
        await caller.says(type="begin")
        await caller.socket.send_bytes(bytes(PCM24.size(100)))
        await caller.says(type="commit")
        commit = await provider.asked(CommitTurnCommand)
        begin = await provider.asked(BeginTurnCommand)
        kinds = [type(command) for command in provider.sent]
        assert kinds[0] is BeginTurnCommand
        assert kinds[-1] is CommitTurnCommand
        assert kinds.count(AppendAudioCommand) >= 1
        assert begin.id != commit.id
        provider.tell(TurnCommitted(item="i1"), TurnTranscript(item="i1", text="Hello."))
        provider.answers("r1", 200)
        await hears(caller, 200)
        assert not [command for command in provider.sent if isinstance(command, ReplyCommand)]


# --- handles


async def test_a_lost_session_is_resumed_by_its_handle(tmp_path: Path, plugin: LiveModelPlugin, watch: Watch) -> None:
    """The new session continues by the last handle and is not told the conversation again; without it, it is told all."""
    async with installed(tmp_path, plugin, watch) as it:
        _, caller, provider = await talking(it, plugin)
        said(provider, "i1", "First.")
        provider.answers("r1", 50)
        await watch.recorded("speech.ended")
        plugin.adapter.handles.add("h-1")
        provider.tell(SessionResumable(handle="h-1"), SessionClosed(reason="provider_error", retry=True))
        second = await plugin.adapter.session(2)
        said(second, "i2", "Second.")
        second.answers("r2", 50)
        await watch.recorded("speech.ended", 2)
        assert second.handle == "h-1"
        assert not [command for command in second.sent if isinstance(command, AddTextCommand)]
        plugin.adapter.handles.clear()
        second.tell(SessionClosed(reason="provider_error", retry=True))
        third = await plugin.adapter.session(3)
        await third.asked(AddTextCommand, 4)
        assert third.handle is None
        assert [c.text for c in third.sent if isinstance(c, AddTextCommand)] == [
            "First.",
            "An answer.",
            "Second.",
            "An answer.",
        ]
        assert "h-1" not in str(watch.events) + str(caller.frames)


async def test_a_handle_outlives_the_control_plane(tmp_path: Path, plugin: LiveModelPlugin, watch: Watch) -> None:
    """After a restart the returning caller's call continues by the stored handle, with what followed the handle."""
    async with installed(tmp_path, plugin, watch) as it:
        session = await it.start()
        caller = await it.call(session)
        provider = await plugin.adapter.session()
        said(provider, "i1", "First.")
        provider.answers("r1", 50)
        await watch.recorded("speech.ended")
        plugin.adapter.handles.add("h-1")
        provider.tell(SessionResumable(handle="h-1"))
        said(provider, "i2", "Second.")
        provider.answers("r2", 50)
        await watch.recorded("speech.ended", 2)
        port = it.plane.url.rpartition(":")[2]
    async with installed(tmp_path, plugin, watch) as it:
        session = session.model_copy(
            update={"media_url": (session.media_url or "").replace(port, it.plane.url.rpartition(":")[2])}
        )
        caller = await it.call(session)
        second = await plugin.adapter.session(2)
        await it.state(session, "live")
        await second.asked(AddTextCommand, 2)
        assert second.handle == "h-1"
        assert [c.text for c in second.sent if isinstance(c, AddTextCommand)] == ["Second.", "An answer."]
        second.answers("r3", 200)
        await hears(caller, 200)
