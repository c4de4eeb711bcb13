"""Calls over providers that only resemble the protocol, or that fail in ways of their own: each ends as it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfield_local.faults.variants import BEHAVIOUR_VARIANTS
from contract.test_behaviour_variants import USUAL, call
from support.contract.installation import Installation, Pair, installation, selected, target
from support.contract.scenarios import Case

WEBSOCKET: Pair = ("openai", "websocket")
WEBRTC: Pair = ("openai", "webrtc")
TURNS: Pair = ("openrouter", "audio_turns")
CALLS = [
    *((WEBSOCKET, name) for name in ("metadata_not_echoed", "event_names_beta", "session_created_twice")),
    *((WEBRTC, name) for name in ("metadata_not_echoed", "event_names_beta", "session_created_twice")),
    (WEBSOCKET, "session_shape_beta"),
    (WEBSOCKET, "drop_at_once"),
    (WEBRTC, "session_shape_beta"),
    (WEBRTC, "drop_at_once"),
    (WEBRTC, "session_expires_early"),
    (TURNS, "content=words"),
]


@pytest.mark.parametrize(("pair", "name"), CALLS, ids=lambda value: value if isinstance(value, str) else value[1])
async def test_a_call_over_a_look_alike(pair: Pair, name: str, tmp_path: Path) -> None:
    """The call goes as usual or is refused with a typed error; the next one, to the provider itself, is as usual."""
    if not selected(pair):
        return
    await call(Case(tmp_path, pair, (name,)), again=True)


async def test_a_session_that_expires_early_is_replaced(tmp_path: Path) -> None:
    """A session on a WebSocket that ends before its time is replaced, and the conversation goes on in the next one."""
    if not selected(WEBSOCKET):
        return

    async with installation(tmp_path) as here:
        here.server.behaviour = BEHAVIOUR_VARIANTS["session_expires_early"]
        async with here.talk(target(WEBSOCKET)) as talk:
            await talk.connect()
            await talk.until(lambda: len(talk.of("provider.attached")) >= 2)
            here.server.behaviour = BEHAVIOUR_VARIANTS["phase_on_items"]
            await talk.until(lambda: len(talk.of("provider.attached")) >= 3)
            await talk.speak()
            said = await talk.recorded("speech.ended")
            assert (said["generated"], said["failed"]) == ("hello", None)
            warned = {each["code"] for each in talk.of("warning")}
            assert "provider_rotated" in warned
        assert talk.of("session.state")[-1]["reason"] == "caller_hangup"
        assert await usual(here)


async def test_a_session_that_always_expires_at_once_ends_with_that_reason(tmp_path: Path) -> None:
    """Replacements are limited: a provider whose sessions end at once ends the session as expired."""
    if not selected(WEBSOCKET):
        return
    async with installation(tmp_path) as here:
        here.server.behaviour = BEHAVIOUR_VARIANTS["session_expires_early"]
        async with here.talk(target(WEBSOCKET)) as talk:
            await talk.connect()
            assert (await talk.ended())["reason"] == "provider_expired"


async def usual(here: Installation) -> bool:
    return await here.call(target(WEBSOCKET)) == USUAL
