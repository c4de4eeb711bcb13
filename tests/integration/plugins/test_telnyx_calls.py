"""Telephone calls over a third-party transport plugin (Telnyx): signed events, commands and a media stream, with each provider."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentfield import Agent
from agentfield.plugins import Registry
from support.callers.telephone import Exchange
from support.callers.telnyx import API_KEY, BASE, CALL, FROM, TOKEN_HEADER, telnyx_exchange
from support.contract.installation import CANARY
from support.waiting import until

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Keep the node's key in the test's folder; check that no log line or file contains a secret, and no log line a number."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    caplog.set_level(logging.DEBUG)
    yield
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (CANARY, API_KEY):
        assert secret not in caplog.text
        assert secret.encode() not in files
    ours = "\n".join(each.getMessage() for each in caplog.records if each.name.startswith("agentfield.transport"))
    assert FROM not in ours


def shop_agent(provider: str = "local") -> Agent:
    """Return an agent that answers each turn with long speech, and announces each pressed key."""
    app = Agent("shop", registry=Registry.of([]))

    async def phone(session: Any) -> None:
        async def keys() -> None:
            async for event in session.events():
                if event.type == "dtmf":
                    await session.say(f"Key {event.digit}.")

        pressing = asyncio.create_task(keys())
        try:
            while True:
                turn = await session.input()
                if turn.text == "goodbye":
                    await session.end()
                await session.say(f"{session.caller}. {LONG}")
        finally:
            pressing.cancel()

    app.session("phone", provider=provider, transport="telnyx")(phone)
    return app


async def bodies(it: Exchange, session_id: str, kind: str) -> list[dict[str, Any]]:
    """Return the bodies of one type of a session's recorded events."""
    found = [event async for event in it.client.session_events(session_id) if "seq" in event]
    return [event["body"] for event in found if event["type"] == kind]


# --- whole calls


@pytest.mark.parametrize("provider", ["local", "openai"])
async def test_a_call_with_barge_in_marks_and_keys(provider: str, tmp_path: Path) -> None:
    """A call is answered, its stream starts the session; the caller's interruption, key and hang-up are recorded."""
    async with telnyx_exchange(
        tmp_path, shop_agent(provider), hears=("what is new", "go forward ten meters")
    ) as exchange:
        it = exchange.it
        wanted = await exchange.ring("shop.phone")
        assert wanted["stream_url"] == f"ws{it.plane.url.removeprefix('http')}{BASE}/media/shop.phone"
        assert not await it.client.list_sessions()
        phone = await exchange.open(wanted)
        session_id = await it.session()
        await phone.say(0)
        await until(lambda: len(phone.told) >= 3)
        assert not phone.clears
        await phone.say(1)
        await until(lambda: phone.clears)
        told = len(phone.heard)
        await until(lambda: len(phone.heard) > told)  # the second answer plays
        await phone.press("5")
        await until(lambda: "Key 5." in it.voice.spoken)
        await phone.hang_up()
        view = await it.ended(session_id)
        await until(lambda: exchange.telnyx.is_hung_up(CALL))
        turns = await bodies(it, session_id, "turn.committed")
        (interrupted, *_) = await bodies(it, session_id, "speech.ended")
        keys = await bodies(it, session_id, "dtmf")
    assert (view.end_reason, view.caller, view.provider, view.transport) == ("caller_hangup", FROM, provider, "telnyx")
    assert view.metadata == {"call_control_id": CALL}
    assert view.evidence == {
        "method": "telnyx-stream-token",
        "facts": {
            "call_control_id": CALL,
            "call_session_id": "ff55a038-6f5d-11ef-9692-02420aeffb1f",
            "stream_id": "32DE0DEA-53CB-4B21-89A4-9E1819C043BC",
        },
    }
    assert [turn["text"] for turn in turns] == ["what is new", "go forward ten meters"]
    assert interrupted["asked"] == f"{FROM}. {LONG}"
    assert interrupted["interrupted"] is True
    assert 0 < interrupted["heard_ms"] < 50 * len(interrupted["asked"])
    assert keys == [{"digit": "5"}]


async def test_marks_are_the_playback_position(tmp_path: Path) -> None:
    """The recorded heard length is between the confirmed marks and the audio that the telephone has played."""
    async with telnyx_exchange(tmp_path, shop_agent()) as exchange:
        phone = await exchange.open(await exchange.ring("shop.phone"))
        session_id = await exchange.it.session()
        await phone.say(0)
        await until(lambda: len(phone.told) >= 4)
        least = phone.positions[-3]
        await phone.say(1)
        await until(lambda: phone.clears)
        most = phone.cleared_at[0] + 20
        await phone.hang_up()
        await exchange.it.ended(session_id)
        heard = (await bodies(exchange.it, session_id, "speech.ended"))[0]["heard_ms"]
    assert least <= heard <= most


async def test_a_handler_that_ends_the_session_hangs_up(tmp_path: Path) -> None:
    """The stream is closed, and the call is hung up by a command."""
    async with telnyx_exchange(tmp_path, shop_agent(), hears=("goodbye",)) as exchange:
        phone = await exchange.open(await exchange.ring("shop.phone"))
        session_id = await exchange.it.session()
        await phone.say(0)
        assert await phone.closed() == 1000
        assert (await exchange.it.ended(session_id)).end_reason == "handler_ended"
        await until(lambda: exchange.telnyx.is_hung_up(CALL))


async def test_a_caller_without_a_number(tmp_path: Path) -> None:
    """A withheld number is no caller."""
    async with telnyx_exchange(tmp_path, shop_agent()) as exchange:
        phone = await exchange.open(await exchange.ring("shop.phone", caller=None), caller=None)
        session_id = await exchange.it.session()
        await phone.hang_up()
        assert (await exchange.it.ended(session_id)).caller is None


async def test_calls_are_hung_up_when_the_control_plane_stops(tmp_path: Path) -> None:
    """A call does not go on in silence after the control plane has stopped."""
    async with telnyx_exchange(tmp_path, shop_agent()) as exchange:
        phone = await exchange.open(await exchange.ring("shop.phone"))
        await exchange.it.session()
        telnyx = exchange.telnyx
        assert not telnyx.is_hung_up(CALL)
    assert telnyx.is_hung_up(CALL)
    assert phone.socket.closed


async def test_a_lost_stream_hangs_up(tmp_path: Path) -> None:
    """A stream whose connection is lost is not opened again by Telnyx, so the call is hung up."""
    async with telnyx_exchange(tmp_path, shop_agent()) as exchange:
        phone = await exchange.open(await exchange.ring("shop.phone"))
        await exchange.it.session()
        await phone.leave()
        await until(lambda: exchange.telnyx.is_hung_up(CALL))


async def test_a_stream_that_stopped_without_the_call_hangs_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Telnyx's event that a stream failed or stopped hangs up a call of ours, and no other."""
    async with telnyx_exchange(tmp_path, shop_agent()) as exchange:
        url = exchange.webhook("shop.phone")
        state = (await exchange.ring("shop.phone"))["client_state"]
        assert await exchange.telnyx.send_event(url, "streaming.stopped", "v3:other") == (200, "")
        await exchange.telnyx.send_event(
            url, "streaming.failed", CALL, client_state=state, failure_reason="connection_failed"
        )
        await until(lambda: exchange.telnyx.is_hung_up(CALL))
        assert not exchange.telnyx.is_hung_up("v3:other")
    assert "Telnyx could not open a media stream: connection_failed" in caplog.text


# --- refusals


async def test_an_invalid_signature_is_refused(tmp_path: Path) -> None:
    """Another key, another body, an old timestamp or none gets 403, and no command is sent."""
    async with telnyx_exchange(tmp_path, shop_agent()) as exchange:
        body = json.dumps({"data": {"event_type": "call.initiated", "payload": {"call_control_id": CALL}}}).encode()
        fresh, old = exchange.telnyx.signed(body), exchange.telnyx.signed(body, at=time.time() - 301)
        for headers, data in (
            ({}, body),
            (old, body),
            (fresh, body + b" "),
            ({**fresh, "telnyx-timestamp": "x"}, body),
        ):
            async with exchange.it.http.post(exchange.webhook("shop.phone"), data=data, headers=headers) as response:
                problem = await response.json()
            assert (response.status, problem["code"]) == (403, "telnyx_signature")
        assert not exchange.telnyx.commands


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"TELNYX_PUBLIC_KEY": ""}, "telnyx_settings_missing"),
        ({"TELNYX_API_KEY": ""}, "telnyx_settings_missing"),
        ({"TELNYX_PUBLIC_KEY": "no key"}, "telnyx_public_key"),
    ],
)
async def test_every_request_is_refused_without_the_keys(tmp_path: Path, settings: dict[str, str], code: str) -> None:
    """A control plane without a setting refuses every webhook and says which one it needs."""
    async with telnyx_exchange(tmp_path, shop_agent(), environ=settings) as exchange:
        status, text = await exchange.telnyx.send_event(exchange.webhook("shop.phone"), "call.initiated", CALL)
        assert (status, json.loads(text)["code"]) == (403, code)


async def test_a_token_opens_one_stream_of_one_session(tmp_path: Path) -> None:
    """A used, changed or missing token, and one of another session, gets 403, and no session starts."""
    async with telnyx_exchange(tmp_path, shop_agent()) as exchange:
        wanted = await exchange.ring("shop.phone")
        token, url = wanted["stream_auth_token"], wanted["stream_url"]
        other = url.replace("shop.phone", "shop.other")
        for address, given in ((url, ""), (url, "x"), (url, token[:-1]), (url, f"1{token}"), (other, token)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await exchange.it.http.ws_connect(address, headers={TOKEN_HEADER: given})
            assert refused.value.status == 403
        assert not await exchange.it.client.list_sessions()
        phone = await exchange.open(wanted)
        await exchange.it.session()
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await exchange.open(wanted)
        await phone.hang_up()


async def test_a_stream_of_another_call_or_format_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The stream is closed, the call of its token is hung up, and the log has the reason."""
    async with telnyx_exchange(tmp_path, shop_agent()) as exchange:
        for number, (given, why) in enumerate(
            (
                ({"call": "v3:another"}, "a stream of another call"),
                ({"encoding": "G722"}, "audio that is not PCMU at 8 kHz"),
            )
        ):
            call = f"v3:{number}"
            phone = await exchange.open(await exchange.ring("shop.phone", call=call), **{"call": call, **given})
            assert await phone.closed() == 1008
            assert f"a media stream is not carried: {why}" in caplog.text
            await until(lambda call=call: exchange.telnyx.is_hung_up(call))
        assert not await exchange.it.client.list_sessions()


async def test_a_call_for_an_unknown_session_is_hung_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The stream of a target that no node declares is closed, and the call hung up."""
    async with telnyx_exchange(tmp_path, shop_agent()) as exchange:
        phone = await exchange.open(await exchange.ring("shop.nobody"))
        assert await phone.closed() == 1008
        await until(lambda: exchange.telnyx.is_hung_up(CALL))
    assert "a media stream is not carried: No node declares the session 'shop.nobody'" in caplog.text


async def test_an_event_that_is_delivered_again_has_no_second_effect(tmp_path: Path) -> None:
    """Each command of a call has one id, so Telnyx executes it once; the first token stays valid."""
    async with telnyx_exchange(tmp_path, shop_agent()) as exchange:
        first = await exchange.ring("shop.phone")
        assert await exchange.ring("shop.phone") == first
        assert [action for _, action, _ in exchange.telnyx.commands] == ["answer", "streaming_start"]
        phone = await exchange.open(first)
        await exchange.it.session()
        await phone.hang_up()


async def test_a_refused_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A final refusal is logged and the event accepted; a temporary one fails it, so that Telnyx delivers it again."""
    async with telnyx_exchange(tmp_path, shop_agent()) as exchange:
        url = exchange.webhook("shop.phone")
        for refusal, expected in ((422, 200), (503, 502)):
            exchange.telnyx.refuse["answer"] = refusal
            status, _ = await exchange.telnyx.send_event(url, "call.initiated", CALL, direction="incoming")
            assert status == expected
        assert not exchange.telnyx.commands
    why = "Telnyx refused to answer the call (HTTP 422, 90018): Call has already ended"
    assert f"a call is not connected: {why}" in caplog.text


async def test_a_call_whose_stream_is_refused_is_hung_up(tmp_path: Path) -> None:
    """An answered call without a stream does not go on in silence."""
    async with telnyx_exchange(tmp_path, shop_agent()) as exchange:
        url = exchange.webhook("shop.phone")
        await exchange.telnyx.send_event(url, "call.initiated", CALL, direction="incoming")
        state = exchange.telnyx.command(CALL, "answer")["client_state"]
        exchange.telnyx.refuse["streaming_start"] = 422
        assert (await exchange.telnyx.send_event(url, "call.answered", CALL, client_state=state))[0] == 200
        await until(lambda: exchange.telnyx.is_hung_up(CALL))


async def test_events_of_other_calls_are_ignored(tmp_path: Path) -> None:
    """Calls that the application makes, and calls that something else answered, get no command."""
    async with telnyx_exchange(tmp_path, shop_agent()) as exchange:
        url = exchange.webhook("shop.phone")
        for kind, about in (
            ("call.initiated", {"direction": "outgoing"}),
            ("call.answered", {"client_state": "b3RoZXI="}),
            ("call.answered", {}),
            ("call.hangup", {}),
        ):
            assert (await exchange.telnyx.send_event(url, kind, CALL, **about))[0] == 200
        assert not exchange.telnyx.commands
