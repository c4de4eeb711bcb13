"""Capabilities of speaking and listening, each used once through the whole control plane on every pair that declares it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentfield_local.behaviour import Behaviour
from contract.callers import Recorded
from contract.contract_kit import PAIRS, Installation, Mind, Pair, Talk, declared, installation, name_of, target
from unit.waiting import until

LONG = "This is a long sentence, and nobody will want to hear all of it. " * 5 + "So there."
REALTIME = tuple(pair for pair in PAIRS if pair[1] != "audio_turns")
EXACT = tuple(pair for pair in PAIRS if pair[1] == "websocket")
METHODS = {"webrtc": {"provider"}, "websocket": {"marks"}, "audio_turns": {"wallclock"}}

everywhere = pytest.mark.parametrize("pair", PAIRS, ids=name_of)


async def repeat(session: Any) -> None:
    """Repeat what the caller says."""
    turn = await session.input()
    await session.say(turn.text or "nothing")


async def hand_over(session: Any) -> None:
    """Let the model answer."""
    await session.input()
    await session.reply()


async def model(session: Any) -> None: ...


async def spoken(talk: Talk, count: int = 1) -> dict[str, Any]:
    """Speak a turn and return what was said to it."""
    assert await talk.connect()
    await talk.speak()
    return await talk.recorded("speech.ended", count)


def settings_at_the_provider(here: Installation) -> dict[str, Any]:
    """Return what the provider was told of a Realtime session, all updates together."""
    if here.server.calls:
        call = here.server.calls[-1]
        payloads = [call.session_payload, *call.session_updates]
    else:
        payloads = here.server.sessions[-1].session_updates
    merged: dict[str, Any] = {}
    for payload in payloads:
        merged |= payload.get("audio", {}).get("input", {})
    return merged


@everywhere
async def test_the_handler_has_the_floor(tmp_path: Path, pair: Pair) -> None:
    """On the handler's floor nothing is said but what it says, and the caller hears it."""
    async with installation(tmp_path, declared(pair, repeat)) as here, here.talk(target(pair)) as talk:
        said = await spoken(talk)
        await talk.until(lambda: talk.heard)
        assert (said["asked"], said["generated"], len(talk.of("speech.ended"))) == ("hello", "hello", 1)
        assert here.voice.spoken[1:] == ["hello"]


@everywhere
async def test_the_model_has_the_floor(tmp_path: Path, pair: Pair) -> None:
    """On the model's floor it answers by itself, once, and the caller hears it."""
    async with installation(tmp_path, declared(pair, model)) as here, here.talk(target(pair)) as talk:
        said = await spoken(talk)
        await talk.until(lambda: talk.heard)
        assert (said["asked"], said["generated"]) == (None, "You said: hello.")
        assert [turn["text"] for turn in talk.of("turn.committed")] == ["hello"]


@everywhere
async def test_other_words_than_asked_are_told(tmp_path: Path, pair: Pair) -> None:
    """A model that rewords what it is to say is recorded as it spoke, and not as it was told."""
    app = declared(pair, repeat)
    async with installation(tmp_path, app, brain=Mind(rewords=True)) as here, here.talk(target(pair)) as talk:
        said = await spoken(talk)
        assert (said["asked"], said["generated"], said["verbatim"]) == ("hello", "Sure, hi", False)


@pytest.mark.parametrize("pair", EXACT, ids=name_of)
async def test_exact_words_are_heard_exactly(tmp_path: Path, pair: Pair) -> None:
    """Where a session demands exact words, a model that likes others is not asked; the caller hears these to their end."""
    app = declared(pair, repeat, say="exact")
    async with installation(tmp_path, app, brain=Mind(rewords=True)) as here, here.talk(target(pair)) as talk:
        said = await spoken(talk)
        assert (said["generated"], said["verbatim"], said["interrupted"]) == ("hello", True, False)
        assert here.voice.spoken[1:] == ["hello"]
        assert talk.medium.heard_ms() == pytest.approx(len("hello") * 50 + 40, abs=40)


@pytest.mark.parametrize("kind", ["server_vad", "semantic_vad"])
@pytest.mark.parametrize("pair", REALTIME, ids=name_of)
async def test_the_end_of_a_turn_is_found(tmp_path: Path, pair: Pair, kind: str) -> None:
    """The provider is asked for the detection that is declared, and the turn is taken when the caller stops."""
    app = declared(pair, repeat, turn_detection={"type": kind})
    async with installation(tmp_path, app) as here, here.talk(target(pair)) as talk:
        await spoken(talk)
        assert settings_at_the_provider(here)["turn_detection"]["type"] == kind


@pytest.mark.parametrize("floor", ["handler", "model"])
@everywhere
async def test_push_to_talk(tmp_path: Path, pair: Pair, floor: str) -> None:
    """Without detection the turn is over when the caller says so, and it is answered once on either floor."""
    app = declared(pair, repeat if floor == "handler" else model, turn_detection=None)
    async with installation(tmp_path, app) as here, here.talk(target(pair)) as talk:
        assert await talk.connect()
        await talk.speak()
        await talk.medium.commit()
        await talk.recorded("speech.ended")
        assert [turn["text"] for turn in talk.of("turn.committed")] == ["hello"]
        assert len(talk.of("speech.ended")) == 1
        if pair in REALTIME:
            assert settings_at_the_provider(here)["turn_detection"] is None


@everywhere
async def test_an_agent_of_text_is_not_heard(tmp_path: Path, pair: Pair) -> None:
    """A session of text only answers in words, and nothing is spoken."""
    app = declared(pair, repeat, modalities=("text",))
    async with installation(tmp_path, app) as here, here.talk(target(pair)) as talk:
        said = await spoken(talk)
        assert (said["generated"], said["failed"], talk.heard) == ("hello", None, False)
        assert here.voice.spoken[1:] == []


@everywhere
async def test_words_of_the_caller(tmp_path: Path, pair: Pair) -> None:
    """Where they are declared partial they are told while they come; they are final when the turn is recorded."""
    app = declared(pair, repeat)
    async with installation(tmp_path, app, hears=["good morning"]) as here:
        here.server.behaviour = Behaviour(transcript_deltas="words")
        async with here.talk(target(pair)) as talk:
            await spoken(talk)
            told = [(event["text"], event["final"]) for event in words(talk, "turn.transcript")]
            assert told[-1] == ("good morning", True)
            assert bool(told[:-1]) == (pair in REALTIME)
            assert [turn["text"] for turn in talk.of("turn.committed")] == ["good morning"]


@everywhere
async def test_words_of_the_agent(tmp_path: Path, pair: Pair) -> None:
    """The agent's words are told in pieces while it speaks, in order, before what it said is recorded."""
    app = declared(pair, model)
    async with installation(tmp_path, app, brain=Mind()) as here, here.talk(target(pair)) as talk:
        await spoken(talk)
        pieces = [event["text"] for event in words(talk, "reply.transcript") if not event["final"]]
        assert "".join(pieces).strip() == "You said: hello."


def words(talk: Talk, kind: str) -> list[dict[str, Any]]:
    """Return the live events of a kind, wherever they are told."""
    answers = talk.medium.answers if isinstance(talk.medium, Recorded) else []
    return talk.live(kind) or [event for answer in answers for event in answer if event.get("type") == kind]


@everywhere
async def test_who_transcribes_the_caller(tmp_path: Path, pair: Pair) -> None:
    """A session that names no model for it has the declared one, and the provider is asked for that."""
    async with installation(tmp_path, declared(pair, repeat)) as here, here.talk(target(pair)) as talk:
        await spoken(talk)
        config = (await here.client.get_session(talk.id)).config
        (spec,) = [spec for spec, _ in here.plane.registry.pairs() if (spec.provider, spec.transport) == pair]
        assert config["transcription"] == spec.capabilities.default_transcription
        if pair in REALTIME:
            assert settings_at_the_provider(here)["transcription"]["model"] == config["transcription"]
        else:
            assert any(request.path.endswith("/audio/transcriptions") for request in here.server.requests)


async def long_winded(session: Any) -> None:
    """Speak for long, then let the model answer."""
    await session.input()
    await session.say(LONG)
    await session.input()
    await session.reply()


@everywhere
async def test_the_caller_interrupts(tmp_path: Path, pair: Pair) -> None:
    """Speech over a reply stops it; what was heard is recorded with how that is known, and the model knows no more."""
    mind = Mind()
    app = declared(pair, long_winded, floor="handler")
    async with installation(tmp_path, app, brain=mind) as here, here.talk(target(pair)) as talk:
        assert await talk.connect()
        await talk.speak()
        await until(lambda: talk.medium.heard_ms() > 1000, 20)
        await talk.speak()
        cut = await talk.recorded("speech.ended")
        await talk.recorded("speech.ended", 2)
    assert cut["interrupted"]
    assert 0 < cut["heard_ms"] < 10_000
    assert cut["heard_method"] in METHODS[pair[1]]
    assert cut["heard_text"]
    assert LONG.startswith(cut["heard_text"])
    assert cut["heard_text"] + " " + cut["remaining"] == LONG
    (known,) = [text for role, text in mind.history() if role == "assistant"]
    assert LONG.startswith(known.strip())
    assert len(known) < len(LONG) / 2


@everywhere
async def test_the_caller_types(tmp_path: Path, pair: Pair) -> None:
    """What the caller types is a turn like any other."""
    async with installation(tmp_path, declared(pair, repeat)) as here, here.talk(target(pair)) as talk:
        await spoken(talk)
        await talk.type("I can also type")
        said = await talk.recorded("speech.ended", 2)
        assert (said["asked"], said["failed"]) == ("I can also type", None)
        assert [turn["text"] for turn in talk.of("turn.committed")] == ["hello", "I can also type"]
