"""The first program, unchanged, takes calls: pointed at a server of its provider's protocol, through real processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfield_local.brain.scripted import paraphrase
from call_kit import CANARY, EXAMPLES, LiveCall, calling, clip, house, of_kind, provider, speech_server, tone, tree
from wer import word_error_rate

SEED = EXAMPLES / "voice_support" / "agent.py"
TARGET = "voice-support.voice"
TOOL = "voice-support.resolve_turn"
REPLY = "I found the order. It's stuck in customs — want me to start a replacement?"
ASKED = {
    "synthetic/01": "where is my order number four two seven",
    "synthetic/03": "can you check the customs status for me",
    "synthetic/02": "i would like to start a replacement please",
}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that does not stick to the words of a say and is late with the caller's, without speech models."""
    flags = ("--engines", "synthetic", "--brain", "paraphrasing", "--late-transcript", "1500")
    with speech_server(tmp_path_factory.mktemp("tones"), *flags) as server:
        yield server.url


def three_turns(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check that a log holds three turns in order, each followed by its own speech, and return the speeches."""
    turns = [event["body"]["turn_id"] for event in of_kind(events, "turn.committed")]
    begun = [event["body"]["turn_id"] for event in of_kind(events, "speech.started")]
    assert len(turns) == 3
    assert begun == turns
    order = [event["type"] for event in events if event["type"] in ("turn.committed", "speech.started", "speech.ended")]
    assert order == ["turn.committed", "speech.started", "speech.ended"] * 3
    seqs = [event["seq"] for event in events if "seq" in event]
    assert seqs == list(range(1, len(seqs) + 1))
    return [event["body"] for event in of_kind(events, "speech.ended")]


async def the_tree_is_right(live: LiveCall) -> None:
    """Check that the session holds three turns, and each turn its call of the reasoner."""
    expected: list[tuple[str, str, str, str | None]] = [("session", TARGET, "succeeded", None)]
    for number in (1, 2, 3):
        expected.append(("turn", TARGET, "succeeded", "session 1"))
        expected.append(("call", TOOL, "succeeded", f"turn {number}"))
    assert tree(await live.dag()) == expected
    dag = await live.dag()
    assert [call.input["turn"]["id"] for call in dag.executions if call.kind == "call"] == [
        turn.id for turn in dag.executions if turn.kind == "turn"
    ]


@pytest.mark.speech
async def test_three_spoken_turns_are_understood_answered_and_heard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A caller speaks three times and hears each answer; turns, words and tree are recorded, the key is nowhere."""
    caplog.set_level(logging.DEBUG)
    with speech_server(tmp_path / "speech") as speech, house(tmp_path / "house", SEED, env=provider(speech.url)) as it:
        async with it.client() as client:
            wanted = {"provider": "openai", "transport": "webrtc", "model": "gpt-realtime-2", "voice": "marin"}
            async with calling(client, TARGET, **wanted) as live:
                answers = [await live.say(clip(name)) for name in ASKED]
                view = await live.hang_up()
            stream = await live.raw_events()
            spoken = three_turns(live.events)
            await the_tree_is_right(live)
        heard = [await speech.words(answer.audio) for answer in answers]
        written = it.everything()
    assert (view.state, view.end_reason, view.turns) == ("ended", "caller_hangup", 3)
    assert (view.provider, view.transport, view.model, view.voice) == tuple(wanted.values())
    assert word_error_rate(zip(ASKED.values(), [answer.caller for answer in answers], strict=True)) <= 0.15
    assert word_error_rate([(REPLY, words) for words in heard]) <= 0.15, heard
    for said in spoken:
        assert (said["asked"], said["generated"], said["verbatim"]) == (REPLY, REPLY, True)
        assert 3_000 < said["heard_ms"] < 10_000
        assert (said["interrupted"], said["stale"], said["failed"]) == (False, False, None)
    everything = {**written, "the event stream": stream}
    assert live.id.encode() in stream
    assert len([name for name, data in everything.items() if live.id.encode() in data]) >= 2
    assert [name for name, data in everything.items() if CANARY.encode() in data] == []
    assert CANARY not in repr(live.events) + caplog.text


async def test_a_model_that_uses_other_words_late_is_recorded_as_it_spoke(tmp_path: Path, tones: str) -> None:
    """With transcripts 1.5 s late and every say reworded, three turns stay in order and nothing passes for verbatim."""
    with house(tmp_path, SEED, env=provider(tones)) as it:
        async with it.client() as client, calling(client, TARGET) as live:
            for _ in range(3):
                await live.say(tone())
            view = await live.hang_up()
            await the_tree_is_right(live)
        written = it.everything()
    assert (view.end_reason, view.turns) == ("caller_hangup", 3)
    for said in three_turns(live.events):
        assert (said["asked"], said["generated"], said["verbatim"]) == (REPLY, paraphrase(REPLY), False)
    assert [name for name, data in written.items() if CANARY.encode() in data] == []
