"""The beginning of a call: what the caller says before the call is live, and speech that nobody can interrupt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentfield import Limits, Say
from contract.test_capabilities_speech import model, repeat
from support.contract.callers import Recorded
from support.contract.installation import PAIRS, declared, target
from support.contract.scenarios import Case, proof

NOTICE = "This call is recorded. You may object at any time. " * 2
CARRIED = tuple(pair for pair in PAIRS if pair[1] != "webrtc")


@proof(CARRIED, floor=["handler", "model"])
async def test_what_is_said_before_the_call_is_live_does_not_interrupt(case: Case, floor: str) -> None:
    """The greeting is heard to its end, and the turn that was spoken meanwhile is answered."""
    app = declared(case.pair, repeat if floor == "handler" else model, greeting=NOTICE)
    async with case.installation(app) as here, here.talk(target(case.pair)) as talk:
        if not isinstance(talk.medium, Recorded):
            here.server.behaviour = replace(here.server.behaviour, created_delay_ms=1000)
            await talk.medium.connect()
        await talk.speak(3.0 if isinstance(talk.medium, Recorded) else 0.5)
        greeting = await talk.recorded("speech.ended")
        assert (greeting["asked"], greeting["interrupted"], greeting["remaining"]) == (NOTICE, False, "")
        answer = await talk.recorded("speech.ended", 2)
        assert answer["generated"] in ("hello", "You said: hello.")
        await talk.until(lambda: [done for done in talk.of("execution.ended") if done["kind"] == "turn"])


@proof(PAIRS, floor=["handler", "model"])
async def test_an_uninterruptible_greeting_is_heard_to_its_end(case: Case, floor: str) -> None:
    """Speech of the caller during it is a turn that waits; it is answered once, after the greeting."""
    app = declared(case.pair, repeat if floor == "handler" else model, greeting=Say(NOTICE, interruptible=False))
    async with case.installation(app) as here, here.talk(target(case.pair)) as talk:
        assert await talk.connect()
        await talk.recorded("speech.started")
        if not isinstance(talk.medium, Recorded):
            await talk.until(lambda: talk.medium.heard_ms() > 500)
        await talk.speak()
        said = await talk.recorded("speech.ended")
        assert (said["asked"], said["interrupted"], said["remaining"]) == (NOTICE, False, "")
        answer = await talk.recorded("speech.ended", 2)
        assert answer["generated"] in ("hello", "You said: hello.")
        await talk.until(lambda: [done for done in talk.of("execution.ended") if done["kind"] == "turn"])
        assert len(talk.of("speech.ended")) == 2


@proof(PAIRS)
async def test_an_uninterruptible_say_is_heard_to_its_end(case: Case) -> None:
    """The handler's own text is protected as a declared one is; the next turn comes when it was heard."""

    async def tell(session: Any) -> None:
        await session.input()
        await session.say(NOTICE, interruptible=False)

    async with case.installation(declared(case.pair, tell)) as here, here.talk(target(case.pair)) as talk:
        assert await talk.connect()
        await talk.speak()
        await talk.until(lambda: talk.heard)
        await talk.speak()
        for count in (1, 2):
            said = await talk.recorded("speech.ended", count)
            assert (said["asked"], said["interrupted"], said["remaining"]) == (NOTICE, False, "")


@proof(PAIRS, floor=["handler", "model"])
async def test_an_uninterruptible_goodbye_is_heard_to_its_end(case: Case, floor: str) -> None:
    """A caller who speaks over the goodbye does not stop it; the session ends when it was heard."""
    limits = Limits(idle=1.5, warn=0)
    goodbye = Say(NOTICE, interruptible=False)
    app = declared(case.pair, repeat if floor == "handler" else model, limits=limits, goodbye=goodbye)
    async with case.installation(app) as here, here.talk(target(case.pair)) as talk:
        assert await talk.connect()
        await talk.speak()
        await talk.until(lambda: [each for each in talk.of("speech.started") if each["kind"] == "goodbye"])
        await talk.speak()
        assert (await talk.ended())["reason"] == "limit_idle"
        said = talk.of("speech.ended")[-1]
        assert (said["asked"], said["interrupted"], said["remaining"]) == (NOTICE, False, "")


@proof(CARRIED, floor=["handler", "model"], when=["connecting", "speaking", "answered"])
async def test_a_caller_who_hangs_up_at_once_leaves_nothing_open(case: Case, floor: str, when: str) -> None:
    """A hang-up before the call is live, with a turn, or with its answer under way, closes the turn and the session."""
    app = declared(case.pair, repeat if floor == "handler" else model, greeting="Hello.")
    async with case.installation(app) as here, here.talk(target(case.pair)) as talk:
        if when == "connecting":
            await talk.medium.connect()
        else:
            assert await talk.connect()
        await talk.speak()
        if when == "answered":
            await talk.recorded("turn.committed")
        await talk.hang_up()
        assert (await talk.ended())["reason"] == "caller_hangup"
