"""The example agents, unchanged, take calls over every transport, in real processes with a local provider server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfield_cli.demo.speech import SpeechServer
from agentfield_local.brain.scripted import paraphrase
from support.audio import tone_samples
from support.processes.installation import (
    CANARY,
    EXAMPLES,
    Installation,
    provider_settings,
    run_installation,
    speech_server,
)
from support.processes.live_call import LiveCall, calling, of_kind, tree
from support.processes.recordings import clip
from support.word_error_rate import word_error_rate

SEED = EXAMPLES / "voice_support" / "agent.py"
PHONE = EXAMPLES / "phone_bridge" / "agent.py"
TARGET = "voice-support.voice"
WANTED = {"provider": "openai", "transport": "webrtc", "model": "gpt-realtime-2", "voice": "marin"}
SWAPPED = {
    "webrtc": {},
    "websocket": {"transport": "websocket"},
    "audio_turns": {
        "provider": "openrouter",
        "transport": "audio_turns",
        "model": "openai/gpt-audio",
        "voice": "alloy",
    },
}
"""The decorator's keywords that differ per transport; the handler is the same."""
REPLY = "I found the order. It's stuck in customs — want me to start a replacement?"
ASKED = {
    "synthetic/01": "where is my order number four two seven",
    "synthetic/03": "can you check the customs status for me",
    "synthetic/02": "i would like to start a replacement please",
}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A provider server without speech models that rewords every say and sends caller transcripts 1.5 s late."""
    flags = ("--engines", "synthetic", "--brain", "paraphrasing", "--late-transcript", "1500")
    with speech_server(tmp_path_factory.mktemp("tones"), *flags) as server:
        yield server.url


def swapped(transport: str, folder: Path) -> Path:
    """Return the example for a transport: the keywords are replaced, and its own node id lets all run side by side."""
    if not SWAPPED[transport]:
        return SEED
    text = SEED.read_text()
    for name, value in SWAPPED[transport].items():
        before = f'{name}="{WANTED[name]}"'
        assert text.count(before) == 1
        text = text.replace(before, f'{name}="{value}"')
    file = folder / f"{transport}.py"
    file.write_text(text.replace("voice-support", f"voice-{transport}"))
    return file


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory, speech: SpeechServer) -> Iterator[Installation]:
    """One installation with an agent per transport; one server with real speech engines is every provider."""
    folder = tmp_path_factory.mktemp("spoken")
    agents = [PHONE, *(swapped(transport, folder) for transport in SWAPPED)]
    with run_installation(folder / "installation", *agents, env=provider_settings(speech.url)) as it:
        yield it


def turns_in_order(events: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Check that the log has `count` turns in order, each followed by its own speech; return the speeches."""
    turns = [event["body"]["turn_id"] for event in of_kind(events, "turn.committed")]
    begun = [event["body"]["turn_id"] for event in of_kind(events, "speech.started")]
    assert len(turns) == count
    assert begun == turns
    order = [event["type"] for event in events if event["type"] in ("turn.committed", "speech.started", "speech.ended")]
    assert order == ["turn.committed", "speech.started", "speech.ended"] * count
    seqs = [event["seq"] for event in events if "seq" in event]
    assert seqs == list(range(1, len(seqs) + 1))
    return [event["body"] for event in of_kind(events, "speech.ended")]


async def check_tree(live: LiveCall, count: int, node: str = "voice-support") -> None:
    """Check that the session has `count` turns, each with one call of the reasoner."""
    expected: list[tuple[str, str, str, str | None]] = [("session", f"{node}.voice", "succeeded", None)]
    for number in range(1, count + 1):
        expected.append(("turn", f"{node}.voice", "succeeded", "session 1"))
        expected.append(("call", f"{node}.resolve_turn", "succeeded", f"turn {number}"))
    dag = await live.dag()
    assert tree(dag) == expected
    assert dag.session_id == live.id
    assert [call.input["turn"]["id"] for call in dag.executions if call.kind == "call"] == [
        turn.id for turn in dag.executions if turn.kind == "turn"
    ]


@pytest.mark.speech
@pytest.mark.realtime
@pytest.mark.parametrize("transport", SWAPPED)
async def test_spoken_turns_are_transcribed_answered_and_recorded(
    seeds: Installation, speech: SpeechServer, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On each transport the caller hears every answer; turns, texts and tree are recorded, and the key is not leaked."""
    caplog.set_level(logging.DEBUG)
    wanted = WANTED | SWAPPED[transport]
    node = "voice-support" if transport == "webrtc" else f"voice-{transport}"
    asked = dict(list(ASKED.items())[: 3 if transport == "webrtc" else 1])
    async with seeds.client() as client:
        async with calling(client, f"{node}.voice", **wanted) as live:
            answers = [await live.say(clip(name)) for name in asked]
            view = await live.hang_up()
        stream = await live.raw_events()
        said = turns_in_order(live.events, len(asked))
        await check_tree(live, len(asked), node)
    heard = [await speech.transcribe(answer.audio) for answer in answers]
    assert (view.state, view.end_reason, view.turns) == ("ended", "caller_hangup", len(asked))
    assert (view.provider, view.transport, view.model, view.voice) == tuple(wanted.values())
    assert word_error_rate(zip(asked.values(), [answer.caller for answer in answers], strict=True)) <= 0.15
    assert word_error_rate([(REPLY, words) for words in heard]) <= 0.15, heard
    for each in said:
        assert (each["asked"], each["generated"], each["verbatim"]) == (REPLY, REPLY, True)
        assert 3_000 < each["heard_ms"] < 10_000
        assert (each["interrupted"], each["stale"], each["failed"]) == (False, False, None)
    everything = {**seeds.everything(), "the event stream": stream}
    assert live.id.encode() in stream
    assert len([name for name, data in everything.items() if live.id.encode() in data]) >= 2
    assert [name for name, data in everything.items() if CANARY.encode() in data] == []
    assert CANARY not in repr(live.events) + caplog.text


@pytest.mark.speech
@pytest.mark.realtime
async def test_the_model_answers_a_session_with_an_empty_handler(seeds: Installation, speech: SpeechServer) -> None:
    """A session with an empty handler on a 16 kHz call: the model repeats the caller's words as speech."""
    name, asked = next(iter(ASKED.items()))
    async with seeds.client() as client:
        wanted = {"provider": "openai", "transport": "websocket", "model": "gpt-realtime-2"}
        async with calling(client, "front-desk.phone", rate=16_000, **wanted) as live:
            answer = await live.say(clip(name))
            view = await live.hang_up()
        dag = await live.dag()
    assert (view.end_reason, view.turns) == ("caller_hangup", 1)
    assert word_error_rate([(asked, answer.caller)]) <= 0.15
    (said,) = [event["body"] for event in live.recorded("speech.ended")]
    assert said["generated"].startswith("You said: ")
    assert word_error_rate([(asked, said["generated"].removeprefix("You said: "))]) <= 0.15
    assert word_error_rate([(said["generated"], await speech.transcribe(answer.audio))]) <= 0.15
    target = "front-desk.phone"
    assert tree(dag) == [("session", target, "succeeded", None), ("turn", target, "succeeded", "session 1")]
    assert dag.session_id == live.id


async def test_late_transcripts_and_reworded_speech_are_recorded(tmp_path: Path, tones: str) -> None:
    """With transcripts 1.5 s late and every say reworded, three turns stay in order and none is recorded as verbatim."""
    with run_installation(tmp_path, SEED, env=provider_settings(tones)) as it:
        async with it.client() as client, calling(client, TARGET) as live:
            for _ in range(3):
                await live.say(tone_samples())
            view = await live.hang_up()
            await check_tree(live, 3)
        written = it.everything()
    assert (view.end_reason, view.turns) == ("caller_hangup", 3)
    for said in turns_in_order(live.events, 3):
        assert (said["asked"], said["generated"], said["verbatim"]) == (REPLY, paraphrase(REPLY), False)
    assert [name for name, data in written.items() if CANARY.encode() in data] == []
