"""Capabilities of speaking and listening, each used once through the whole control plane on every pair that declares it."""

from __future__ import annotations

from typing import Any

import pytest

from agentfield.errors import AgentFieldError
from agentfield_local.positions import BEHAVIOURS
from contract import positions as p
from contract.brains import Mind
from contract.callers import Recorded
from contract.cells import Cell, proof
from contract.contract_kit import PAIRS, Installation, declared, target
from contract.talk import Talk

LONG = "This is a long sentence, and nobody will want to hear all of it. " * 5 + "So there."
REALTIME = tuple(pair for pair in PAIRS if pair[1] != "audio_turns")
EXACT = tuple(pair for pair in PAIRS if pair[1] == "websocket")
METHODS = {"webrtc": "provider", "websocket": "marks", "audio_turns": "wallclock"}


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


@proof(PAIRS, p.HEARING, p.TURNS, p.ORDERS, p.STRANGE)
async def test_the_handler_has_the_floor(cell: Cell) -> None:
    """On the handler's floor nothing is said but what it says, and the caller hears it."""
    async with cell.installation(declared(cell.pair, repeat)) as here, here.talk(target(cell.pair)) as talk:
        said = await spoken(talk)
        await talk.until(lambda: talk.heard)
        assert (said["asked"], said["generated"], len(talk.of("speech.ended"))) == ("hello", "hello", 1)
        assert here.voice.spoken[1:] == ["hello"]


@proof(PAIRS, p.HEARING, p.TURNS, p.COUNTING, p.STRANGE)
async def test_the_model_has_the_floor(cell: Cell) -> None:
    """On the model's floor it answers by itself, once, and the caller hears it."""
    async with cell.installation(declared(cell.pair, model)) as here, here.talk(target(cell.pair)) as talk:
        said = await spoken(talk)
        await talk.until(lambda: talk.heard)
        assert (said["asked"], said["generated"]) == (None, "You said: hello.")
        assert [turn["text"] for turn in talk.of("turn.committed")] == ["hello"]


@proof(PAIRS, p.SPEAKING, p.PHASES, p.ORDERS)
async def test_other_words_than_asked_are_told(cell: Cell) -> None:
    """A model that rewords what it is to say is recorded as it spoke, and not as it was told."""
    app = declared(cell.pair, repeat)
    async with cell.installation(app, brain=Mind(rewords=True)) as here, here.talk(target(cell.pair)) as talk:
        said = await spoken(talk)
        assert (said["asked"], said["generated"], said["verbatim"]) == ("hello", "Sure, hi", False)


@proof(EXACT, p.ORDERS, p.SOUND, p.STRANGE)
async def test_exact_words_are_heard_exactly(cell: Cell) -> None:
    """Where a session demands exact words, a model that likes others is not asked; the caller hears these to their end."""
    app = declared(cell.pair, repeat, say="exact")
    async with cell.installation(app, brain=Mind(rewords=True)) as here, here.talk(target(cell.pair)) as talk:
        said = await spoken(talk)
        assert (said["generated"], said["verbatim"], said["interrupted"]) == ("hello", True, False)
        assert here.voice.spoken[1:] == ["hello"]
        assert talk.medium.heard_ms() == pytest.approx(len("hello") * 50 + 40, abs=40)


@proof(EXACT)
async def test_exact_words_that_cannot_be_spoken_are_told(cell: Cell) -> None:
    """Exact words that the provider does not speak, or only in part, are recorded as failed; the session goes on."""
    async with cell.installation(declared(cell.pair, repeat, say="exact")) as here:
        usual, here.server.behaviour = here.server.behaviour, BEHAVIOURS["refuse_speech"]
        async with here.talk(target(cell.pair)) as talk:
            said = await spoken(talk)
            assert (said["generated"], said["verbatim"], bool(said["failed"])) == ("", False, True)
            here.server.behaviour = usual
            await talk.speak()
            said = await talk.recorded("speech.ended", 2)
            assert (said["generated"], said["failed"]) == ("hello", None)


@proof(REALTIME, p.TURNS, kind=["server_vad", "semantic_vad"])
async def test_the_end_of_a_turn_is_found(cell: Cell, kind: str) -> None:
    """The provider is asked for the detection that is declared, and the turn is taken when the caller stops."""
    app = declared(cell.pair, repeat, turn_detection={"type": kind})
    async with cell.installation(app) as here, here.talk(target(cell.pair)) as talk:
        await spoken(talk)
        assert settings_at_the_provider(here)["turn_detection"]["type"] == kind


@proof(PAIRS, p.TURNS, p.HEARING, floor=["handler", "model"])
async def test_push_to_talk(cell: Cell, floor: str) -> None:
    """Without detection the turn is over when the caller says so, and it is answered once on either floor."""
    app = declared(cell.pair, repeat if floor == "handler" else model, turn_detection=None)
    async with cell.installation(app) as here, here.talk(target(cell.pair)) as talk:
        assert await talk.connect()
        await talk.speak()
        await talk.medium.commit()
        await talk.recorded("speech.ended")
        assert [turn["text"] for turn in talk.of("turn.committed")] == ["hello"]
        assert len(talk.of("speech.ended")) == 1
        if cell.pair in REALTIME:
            assert settings_at_the_provider(here)["turn_detection"] is None


@proof(PAIRS, p.SPEAKING, p.PHASES, p.STREAM)
async def test_an_agent_of_text_is_not_heard(cell: Cell) -> None:
    """A session of text only answers in words, and nothing is spoken."""
    app = declared(cell.pair, repeat, modalities=("text",))
    async with cell.installation(app) as here, here.talk(target(cell.pair)) as talk:
        said = await spoken(talk)
        assert (said["generated"], said["failed"], talk.heard) == ("hello", None, False)
        assert here.voice.spoken[1:] == []


@proof(PAIRS, p.HEARING, p.TURNS)
async def test_words_of_the_caller(cell: Cell) -> None:
    """Where they are declared partial they are told while they come; they are final when the turn is recorded."""
    app = declared(cell.pair, repeat)
    async with cell.installation(app, hears=["good morning"]) as here, here.talk(target(cell.pair)) as talk:
        await spoken(talk)
        told = [(event["text"], event["final"]) for event in words(talk, "turn.transcript")]
        assert told[-1] == ("good morning", True)
        assert bool(told[:-1]) == (cell.pair in REALTIME and here.server.behaviour.transcript_deltas != "none")
        assert [turn["text"] for turn in talk.of("turn.committed")] == ["good morning"]


@proof(PAIRS, p.SPEAKING, p.STREAM, p.SOUND, p.STRANGE)
async def test_words_of_the_agent(cell: Cell) -> None:
    """The agent's words are told in pieces while it speaks, in order, before what it said is recorded."""
    app = declared(cell.pair, model)
    async with cell.installation(app, brain=Mind()) as here, here.talk(target(cell.pair)) as talk:
        await spoken(talk)
        pieces = [event["text"] for event in words(talk, "reply.transcript") if not event["final"]]
        assert "".join(pieces).strip() == "You said: hello."


def words(talk: Talk, kind: str) -> list[dict[str, Any]]:
    """Return the live events of a kind, wherever they are told."""
    answers = talk.medium.answers if isinstance(talk.medium, Recorded) else []
    return talk.live(kind) or [event for answer in answers for event in answer if event.get("type") == kind]


@proof(PAIRS, p.HEARING)
async def test_who_transcribes_the_caller(cell: Cell) -> None:
    """A session that names no model for it has the declared one, and the provider is asked for that."""
    async with cell.installation(declared(cell.pair, repeat)) as here, here.talk(target(cell.pair)) as talk:
        await spoken(talk)
        config = (await here.client.get_session(talk.id)).config
        (spec,) = [spec for spec, _ in here.plane.registry.pairs() if (spec.provider, spec.transport) == cell.pair]
        assert config["transcription"] == spec.capabilities.default_transcription
        if cell.pair in REALTIME:
            assert settings_at_the_provider(here)["transcription"]["model"] == config["transcription"]
        else:
            assert any(request.path.endswith("/audio/transcriptions") for request in here.server.requests)


async def long_winded(session: Any) -> None:
    """Speak for long, then let the model answer."""
    await session.input()
    await session.say(LONG)
    await session.input()
    await session.reply()


@proof(PAIRS, p.CUTTING, p.SPEAKING, p.SOUND, p.ORDERS, p.STRANGE)
async def test_the_caller_interrupts(cell: Cell) -> None:
    """Speech over a reply stops it; what was heard is recorded with how that is known, and the model knows no more."""
    mind = Mind()
    app = declared(cell.pair, long_winded, floor="handler")
    async with cell.installation(app, brain=mind) as here, here.talk(target(cell.pair)) as talk:
        assert await talk.connect()
        await talk.speak()
        await talk.until(lambda: talk.medium.heard_ms() > 1000 and words(talk, "reply.transcript"))
        await talk.speak()
        cut = await talk.recorded("speech.ended")
        await talk.recorded("speech.ended", 2)
    assert cut["interrupted"]
    assert cut["heard_ms"] > 0
    told = here.server.behaviour.announce_truncation
    assert cut["heard_method"] == (METHODS[cell.pair[1]] if told else "wallclock")
    assert cut["heard_text"]
    assert LONG.startswith(cut["heard_text"])
    assert cut["heard_text"] + " " + cut["remaining"] == LONG
    (known,) = [text for role, text in mind.history() if role == "assistant"]
    assert LONG.startswith(known.strip(" …"))
    assert len(known) < len(LONG)


@proof(PAIRS, p.ORDERS, p.STRANGE)
async def test_the_caller_types(cell: Cell) -> None:
    """What the caller types is a turn like any other."""
    async with cell.installation(declared(cell.pair, repeat)) as here, here.talk(target(cell.pair)) as talk:
        await spoken(talk)
        await talk.type("I can also type")
        said = await talk.recorded("speech.ended", 2)
        assert (said["asked"], said["failed"]) == ("I can also type", None)
        assert [turn["text"] for turn in talk.of("turn.committed")] == ["hello", "I can also type"]


@proof(PAIRS, p.ORDERS)
async def test_the_caller_types_first(cell: Cell) -> None:
    """What is typed before the caller has called is refused with what to do; where a turn makes the call, it is one."""
    async with cell.installation(declared(cell.pair, repeat)) as here, here.talk(target(cell.pair)) as talk:
        if cell.pair in REALTIME:
            with pytest.raises(AgentFieldError) as refused:
                await talk.type("too early")
            assert (refused.value.code, bool(refused.value.hint)) == ("not_live", True)
            await spoken(talk)
            return
        await talk.type("I type first")
        assert (await talk.recorded("speech.ended"))["asked"] == "I type first"
        assert [turn["text"] for turn in talk.of("turn.committed")] == ["I type first"]
