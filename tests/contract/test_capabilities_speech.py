"""Capabilities of speech, each used through the whole control plane on every pair that declares it."""

from __future__ import annotations

from typing import Any

import pytest

from agentfield.errors import AgentFieldError
from agentfield_local.faults.variants import BEHAVIOUR_VARIANTS
from support.contract import variants
from support.contract.brains import ScriptedBrain
from support.contract.callers import Recorded
from support.contract.installation import PAIRS, Installation, declared, target
from support.contract.scenarios import Case, proof
from support.contract.session import ObservedSession

LONG = "This is a long sentence, and nobody will want to hear all of it. " * 5 + "So there."
REALTIME = tuple(pair for pair in PAIRS if pair[1] != "audio_turns")
EXACT = tuple(pair for pair in PAIRS if pair[1] == "websocket")
METHODS = {"webrtc": "provider", "websocket": "marks", "audio_turns": "wallclock"}


async def repeat(session: Any) -> None:
    """Repeat the caller's words."""
    turn = await session.input()
    await session.say(turn.text or "nothing")


async def hand_over(session: Any) -> None:
    """Let the model answer."""
    await session.input()
    await session.reply()


async def model(session: Any) -> None: ...


async def spoken(talk: ObservedSession, count: int = 1) -> dict[str, Any]:
    """Speak a turn and return the record of its answer."""
    assert await talk.connect()
    await talk.speak()
    return await talk.recorded("speech.ended", count)


def settings_at_the_provider(here: Installation) -> dict[str, Any]:
    """Return the settings of a Realtime session at the provider, after all updates."""
    if here.server.calls:
        call = here.server.calls[-1]
        payloads = [call.session_payload, *call.session_updates]
    else:
        payloads = here.server.sessions[-1].session_updates
    merged: dict[str, Any] = {}
    for payload in payloads:
        merged |= payload.get("audio", {}).get("input", {})
    return merged


@proof(PAIRS, variants.HEARING, variants.TURNS, variants.ORDERS, variants.STRANGE)
async def test_the_handler_has_the_floor(case: Case) -> None:
    """With floor `handler` the caller hears exactly what the handler says."""
    async with case.installation(declared(case.pair, repeat)) as here, here.talk(target(case.pair)) as talk:
        said = await spoken(talk)
        await talk.until(lambda: talk.heard)
        assert (said["asked"], said["generated"], len(talk.of("speech.ended"))) == ("hello", "hello", 1)
        assert here.voice.spoken[1:] == ["hello"]


@proof(PAIRS, variants.HEARING, variants.TURNS, variants.COUNTING, variants.STRANGE)
async def test_the_model_has_the_floor(case: Case) -> None:
    """With floor `model` the model answers by itself, once, and the caller hears it."""
    async with case.installation(declared(case.pair, model)) as here, here.talk(target(case.pair)) as talk:
        said = await spoken(talk)
        await talk.until(lambda: talk.heard)
        assert (said["asked"], said["generated"]) == (None, "You said: hello.")
        assert [turn["text"] for turn in talk.of("turn.committed")] == ["hello"]


@proof(PAIRS, variants.SPEAKING, variants.PHASES, variants.ORDERS)
async def test_reworded_speech_is_recorded_as_spoken(case: Case) -> None:
    """A model that rewords a requested text is recorded with the words that it spoke."""
    app = declared(case.pair, repeat)
    async with case.installation(app, brain=ScriptedBrain(rewords=True)) as here, here.talk(target(case.pair)) as talk:
        said = await spoken(talk)
        assert (said["asked"], said["generated"], said["verbatim"]) == ("hello", "Sure, hi", False)


@proof(EXACT, variants.ORDERS, variants.SOUND, variants.STRANGE)
async def test_exact_words_are_heard_exactly(case: Case) -> None:
    """A session with `say="exact"` bypasses a rewording model; the caller hears the exact words completely."""
    app = declared(case.pair, repeat, say="exact")
    async with case.installation(app, brain=ScriptedBrain(rewords=True)) as here, here.talk(target(case.pair)) as talk:
        said = await spoken(talk)
        assert (said["generated"], said["verbatim"], said["interrupted"]) == ("hello", True, False)
        assert here.voice.spoken[1:] == ["hello"]
        assert talk.medium.heard_ms() == pytest.approx(len("hello") * 50 + 40, abs=40)


@proof(EXACT)
async def test_exact_words_that_cannot_be_spoken_fail(case: Case) -> None:
    """Exact words that the provider cannot speak, or only in part, are recorded as failed; the session continues."""
    async with case.installation(declared(case.pair, repeat, say="exact")) as here:
        usual, here.server.behaviour = here.server.behaviour, BEHAVIOUR_VARIANTS["refuse_speech"]
        async with here.talk(target(case.pair)) as talk:
            said = await spoken(talk)
            assert (said["generated"], said["verbatim"], bool(said["failed"])) == ("", None, True)
            here.server.behaviour = usual
            await talk.speak()
            said = await talk.recorded("speech.ended", 2)
            assert (said["generated"], said["failed"]) == ("hello", None)


@proof(REALTIME, variants.TURNS, kind=["server_vad", "semantic_vad"])
async def test_the_end_of_a_turn_is_found(case: Case, kind: str) -> None:
    """The provider gets the declared turn detection, and the turn is committed when the caller stops speaking."""
    app = declared(case.pair, repeat, turn_detection={"type": kind})
    async with case.installation(app) as here, here.talk(target(case.pair)) as talk:
        await spoken(talk)
        assert settings_at_the_provider(here)["turn_detection"]["type"] == kind


@proof(PAIRS, variants.TURNS, variants.HEARING, floor=["handler", "model"])
async def test_push_to_talk(case: Case, floor: str) -> None:
    """Without turn detection the caller commits the turn, and it is answered once with either floor."""
    app = declared(case.pair, repeat if floor == "handler" else model, turn_detection=None)
    async with case.installation(app) as here, here.talk(target(case.pair)) as talk:
        assert await talk.connect()
        await talk.speak()
        await talk.medium.commit()
        await talk.recorded("speech.ended")
        assert [turn["text"] for turn in talk.of("turn.committed")] == ["hello"]
        assert len(talk.of("speech.ended")) == 1
        if case.pair in REALTIME:
            assert settings_at_the_provider(here)["turn_detection"] is None


@proof(PAIRS, variants.SPEAKING, variants.PHASES, variants.STREAM)
async def test_a_text_session_is_not_spoken(case: Case) -> None:
    """A text-only session answers in text, and nothing is spoken."""
    app = declared(case.pair, repeat, modalities=("text",))
    async with case.installation(app) as here, here.talk(target(case.pair)) as talk:
        said = await spoken(talk)
        assert (said["generated"], said["failed"], talk.heard) == ("hello", None, False)
        assert here.voice.spoken[1:] == []


@proof(PAIRS, variants.HEARING, variants.TURNS)
async def test_transcripts_of_the_caller(case: Case) -> None:
    """Partial transcripts arrive while the caller speaks where they are declared; the recorded turn has the final one."""
    app = declared(case.pair, repeat)
    async with case.installation(app, hears=["good morning"]) as here, here.talk(target(case.pair)) as talk:
        await spoken(talk)
        await talk.until(lambda: any(event["final"] for event in words(talk, "turn.transcript")))
        told = [(event["text"], event["final"]) for event in words(talk, "turn.transcript")]
        assert told[-1] == ("good morning", True)
        assert bool(told[:-1]) == (case.pair in REALTIME and here.server.behaviour.transcript_deltas != "none")
        assert [turn["text"] for turn in talk.of("turn.committed")] == ["good morning"]


@proof(PAIRS, variants.SPEAKING, variants.STREAM, variants.SOUND, variants.STRANGE)
async def test_transcripts_of_the_agent(case: Case) -> None:
    """The agent's words arrive in pieces and in order while it speaks, before the speech is recorded."""
    app = declared(case.pair, model)
    async with case.installation(app, brain=ScriptedBrain()) as here, here.talk(target(case.pair)) as talk:
        await spoken(talk)

        def pieces() -> str:
            return "".join(event["text"] for event in words(talk, "reply.transcript") if not event["final"]).strip()

        await talk.until(lambda: len(pieces()) >= len("You said: hello."))
        assert pieces() == "You said: hello."


def words(talk: ObservedSession, kind: str) -> list[dict[str, Any]]:
    """Return the live events of a type, from the session's stream or the caller's."""
    answers = talk.medium.answers if isinstance(talk.medium, Recorded) else []
    return talk.live(kind) or [event for answer in answers for event in answer if event.get("type") == kind]


@proof(PAIRS, variants.HEARING)
async def test_who_transcribes_the_caller(case: Case) -> None:
    """Without a configured transcription model the provider gets the declared default."""
    async with case.installation(declared(case.pair, repeat)) as here, here.talk(target(case.pair)) as talk:
        await spoken(talk)
        config = (await here.client.get_session(talk.id)).config
        (spec,) = [spec for spec, _ in here.plane.registry.pairs() if (spec.provider, spec.transport) == case.pair]
        assert config["transcription"] == spec.capabilities.default_transcription
        if case.pair in REALTIME:
            assert settings_at_the_provider(here)["transcription"]["model"] == config["transcription"]
        else:
            assert any(request.path.endswith("/audio/transcriptions") for request in here.server.requests)


async def long_winded(session: Any) -> None:
    """Speak a long text, then let the model answer."""
    await session.input()
    await session.say(LONG)
    await session.input()
    await session.reply()


@proof(PAIRS, variants.CUTTING, variants.SPEAKING, variants.SOUND, variants.ORDERS, variants.STRANGE)
async def test_the_caller_interrupts(case: Case) -> None:
    """Speech over a reply stops it; the heard part is recorded with its source, and the model's history ends there."""
    brain = ScriptedBrain()
    app = declared(case.pair, long_winded, floor="handler")
    async with case.installation(app, brain=brain) as here, here.talk(target(case.pair)) as talk:
        assert await talk.connect()
        await talk.speak()
        await talk.until(lambda: talk.medium.heard_ms() > 1000 and words(talk, "reply.transcript"))
        await talk.speak()
        cut = await talk.recorded("speech.ended")
        await talk.recorded("speech.ended", 2)
    assert cut["interrupted"]
    assert cut["heard_ms"] > 0
    told = here.server.behaviour.announce_truncation
    assert cut["heard_method"] == (METHODS[case.pair[1]] if told else "wallclock")
    assert cut["heard_text"]
    assert LONG.startswith(cut["heard_text"])
    assert cut["heard_text"] + " " + cut["remaining"] == LONG
    (known,) = [text for role, text in brain.history() if role == "assistant"]
    assert LONG.startswith(known.strip(" …"))
    assert len(known) < len(LONG)


@proof(REALTIME)
async def test_a_short_word_does_not_interrupt(case: Case) -> None:
    """With `interrupt_after_ms` a word that is shorter lets the speech go on, whoever interrupts; it is recorded as a backchannel."""
    app = declared(case.pair, long_winded, floor="handler", interrupt_after_ms=2000)
    async with case.installation(app) as here, here.talk(target(case.pair)) as talk:
        assert await talk.connect()
        await talk.speak()
        await talk.until(lambda: talk.medium.heard_ms() > 500)
        await talk.speak(0.3)
        said = await talk.recorded("speech.ended")
    assert (said["interrupted"], said["generated"]) == (False, LONG)
    assert len(talk.of("backchannel")) == 1


@proof(PAIRS, variants.ORDERS, variants.STRANGE)
async def test_the_caller_types(case: Case) -> None:
    """Typed text is a turn like any other."""
    async with case.installation(declared(case.pair, repeat)) as here, here.talk(target(case.pair)) as talk:
        await spoken(talk)
        await talk.type("I can also type")
        said = await talk.recorded("speech.ended", 2)
        assert (said["asked"], said["failed"]) == ("I can also type", None)
        assert [turn["text"] for turn in talk.of("turn.committed")] == ["hello", "I can also type"]


@proof(PAIRS, variants.ORDERS)
async def test_the_caller_types_first(case: Case) -> None:
    """Typed text before the caller connects is refused with a hint; with recorded turns it opens the session."""
    async with case.installation(declared(case.pair, repeat)) as here, here.talk(target(case.pair)) as talk:
        if case.pair in REALTIME:
            with pytest.raises(AgentFieldError) as refused:
                await talk.type("too early")
            assert (refused.value.code, bool(refused.value.hint)) == ("not_live", True)
            await spoken(talk)
            return
        await talk.type("I type first")
        assert (await talk.recorded("speech.ended"))["asked"] == "I type first"
        assert [turn["text"] for turn in talk.of("turn.committed")] == ["I type first"]
