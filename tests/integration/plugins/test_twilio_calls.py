"""Telephone calls over a third-party transport plugin (Twilio), driven by a recorded media stream, with each provider."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfield import Agent
from agentfield.errors import AgentFieldError, Forbidden
from agentfield.plugins import Registry, SessionRequest
from agentfield.wire.rest import StartRequest
from support.callers.telephone import BASE, CALL, STREAM, TOKEN, Exchange, exchange, registry, twiml, utterances
from support.contract.installation import CANARY
from support.core.hooks import plugin
from support.waiting import until

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
FROM = "+4917012345"


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Keep the node's key in the test's folder; check that no log line or file contains a secret."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    caplog.set_level(logging.DEBUG)
    yield
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (CANARY, TOKEN):
        assert secret not in caplog.text
        assert secret.encode() not in files


def shop_agent(provider: str = "local", **declaration: Any) -> Agent:
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

    app.session("phone", provider=provider, transport="twilio", **declaration)(phone)
    app.session("page", provider=provider, transport="websocket")(phone)
    return app


async def events(it: Exchange, session_id: str) -> list[dict[str, Any]]:
    """Return the recorded events of an ended session."""
    return [event async for event in it.client.session_events(session_id) if "seq" in event]


def bodies(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event["body"] for event in found if event["type"] == kind]


# --- fixture and capabilities


def test_the_recorded_call_has_two_sentences() -> None:
    """The fixture has two utterances of 1 to 4 seconds, in frames of 20 ms."""
    first, second = utterances()
    assert 50 < len(first) < 200
    assert 100 < len(second) < 200
    assert {len(frame) for frame in first + second} == {160}


@pytest.mark.parametrize("provider", ["local", "openai"])
def test_each_provider_is_bridged_to_the_telephone(provider: str) -> None:
    """The pair has DTMF, no text input and no manual turns; `say` is that of the provider's WebSocket pair."""
    installed = registry()
    made = installed.resolve(provider, "twilio")
    over_socket = installed.resolve(provider, "websocket")
    assert made.bridged_from == f"{provider}/websocket"
    assert (made.capabilities.dtmf, made.capabilities.text_input) == (True, False)
    assert made.capabilities.turn_detection == over_socket.capabilities.turn_detection - {"manual"}
    assert made.capabilities.say == over_socket.capabilities.say
    carrier = installed.transport_plugin("twilio")
    assert carrier is not None
    assert carrier.distribution == "agentfield-twilio"


# --- whole calls


@pytest.mark.parametrize("provider", ["local", "openai"])
async def test_a_call_with_barge_in_marks_and_keys(provider: str, tmp_path: Path) -> None:
    """A media stream starts the session; the caller's interruption, key and hang-up are recorded."""
    async with exchange(tmp_path, shop_agent(provider), hears=("what is new", "go forward ten meters")) as it:
        stream = await it.ring("shop.phone")
        assert stream.url == f"ws{it.plane.url.removeprefix('http')}{BASE}/media"
        assert stream.parameters == {"target": "shop.phone", "caller": FROM}
        assert not await it.client.list_sessions()
        phone = await it.open(stream)
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
        found = await events(it, session_id)
    assert (view.end_reason, view.caller, view.provider, view.transport) == (
        "caller_hangup",
        FROM,
        provider,
        "twilio",
    )
    assert view.metadata == {"call_sid": CALL}
    facts = {"AccountSid": "AC5f4dcc3b5aa765d61d8327deb882cf99", "CallSid": CALL, "StreamSid": STREAM}
    assert view.evidence == {"method": "twilio-signature", "facts": facts}
    assert bodies(found, "session.created")[0]["evidence"] == view.evidence
    assert [turn["text"] for turn in bodies(found, "turn.committed")] == ["what is new", "go forward ten meters"]
    (interrupted, *_) = bodies(found, "speech.ended")
    assert interrupted["asked"] == f"{FROM}. {LONG}"
    assert interrupted["interrupted"] is True
    assert 0 < interrupted["heard_ms"] < 50 * len(interrupted["asked"])
    assert bodies(found, "dtmf") == [{"digit": "5"}]


async def test_marks_are_the_playback_position(tmp_path: Path) -> None:
    """The recorded heard length is between the confirmed marks and the audio that the telephone has played."""
    async with exchange(tmp_path, shop_agent()) as it:
        phone = await it.open(await it.ring("shop.phone"))
        session_id = await it.session()
        await phone.say(0)
        await until(lambda: len(phone.told) >= 4)
        least = phone.positions[-3]
        await phone.say(1)
        await until(lambda: phone.clears)
        most = phone.cleared_at[0] + 20
        await phone.hang_up()
        await it.ended(session_id)
        heard = bodies(await events(it, session_id), "speech.ended")[0]["heard_ms"]
    assert least <= heard <= most


async def test_exact_speech_is_converted_for_the_telephone(tmp_path: Path) -> None:
    """A session with say='exact' speaks the exact text, converted to the telephone's format."""
    async with exchange(tmp_path, shop_agent(say="exact")) as it:
        phone = await it.open(await it.ring("shop.phone"))
        session_id = await it.session()
        await phone.say(0)
        await until(lambda: len(phone.told) >= 3)
        await phone.hang_up()
        await it.ended(session_id)
        (speech,) = bodies(await events(it, session_id), "speech.ended")
    assert it.voice.spoken[-1] == f"{FROM}. {LONG}"
    assert speech["asked"] == f"{FROM}. {LONG}"


async def test_a_handler_that_ends_the_session_hangs_up(tmp_path: Path) -> None:
    """The stream is closed, the next webhook of the same call opens no stream, and another call is accepted."""
    async with exchange(tmp_path, shop_agent(), hears=("goodbye",)) as it:
        phone = await it.open(await it.ring("shop.phone"))
        session_id = await it.session()
        await phone.say(0)
        assert await phone.closed() == 1000
        assert (await it.ended(session_id)).end_reason == "handler_ended"
        status, text = await it.webhook("shop.phone")
        assert (status, twiml(text)) == (200, None)
        assert await it.ring("shop.phone", call="CAother")


async def test_a_second_stream_of_a_call_continues_its_session(tmp_path: Path) -> None:
    """Each new stream of a call takes over its session; a stream of another call starts another session."""
    async with exchange(tmp_path, shop_agent()) as it:
        stream = await it.ring("shop.phone")
        first = await it.open(stream)
        session_id = await it.session()
        await first.say(0)
        await until(lambda: first.told)
        await first.leave()
        second = await it.open(stream)
        await until(lambda: second.told)
        third = await it.open(stream)
        assert await second.closed() == 1000
        await until(lambda: third.told)
        assert [row.id for row in await it.client.list_sessions()] == [session_id]
        other = await it.open(await it.ring("shop.phone", call="CAother"), call="CAother")
        assert await it.session(2) != session_id
        await other.hang_up()
        await third.hang_up()
        assert (await it.ended(session_id)).end_reason == "caller_hangup"


# --- refusals


async def test_an_invalid_signature_is_refused(tmp_path: Path) -> None:
    """A wrong token, no signature or another URL gets 403 from webhook and stream, and no session starts."""
    async with exchange(tmp_path, shop_agent()) as it:
        status, text = await it.webhook("shop.phone", token="another-token")
        problem = json.loads(text)
        assert (status, problem["code"]) == (403, "twilio_signature")
        assert problem["detail"] == "The request is not signed by Twilio for this address."
        assert "AGENTFIELD_PUBLIC_URL" in problem["hint"]
        stream = await it.ring("shop.phone")
        for headers in ({}, it.signed(stream.url, token="another-token"), it.signed(stream.url + "x")):
            async with it.http.get(
                stream.url.replace("ws", "http", 1),
                headers={"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x" * 22, **headers},
            ) as response:
                assert response.status == 403
        assert not await it.client.list_sessions()


async def test_every_webhook_is_refused_without_an_auth_token(tmp_path: Path) -> None:
    """A control plane without TWILIO_AUTH_TOKEN refuses every webhook, also one signed with an empty token."""
    for settings in ({}, {"TWILIO_AUTH_TOKEN": ""}):
        async with exchange(tmp_path, shop_agent(), environ=settings) as it:
            for token in (TOKEN, ""):
                status, text = await it.webhook("shop.phone", token=token)
                assert (status, json.loads(text)["code"]) == (403, "twilio_token_missing")


async def test_the_webhook_signature_covers_the_query(tmp_path: Path) -> None:
    """A webhook URL with an encoded query string passes verification."""
    async with exchange(tmp_path, shop_agent()) as it:
        assert await it.ring("shop.phone", query="?line=1&name=J%C3%B6rg%20K")


async def test_a_call_for_a_session_without_the_telephone_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream for an undeclared session, or for one on another transport, is closed, and the log has the reason."""
    async with exchange(tmp_path, shop_agent()) as it:
        for target, why in (
            ("shop.page", "A call for shop.page came over twilio, but it is registered with transport 'websocket'"),
            ("shop.nobody", "No node declares the session 'shop.nobody'"),
        ):
            phone = await it.open(await it.ring(target))
            assert await phone.closed() == 1008
            assert f"a media stream is not carried: {why}" in caplog.text
        assert not await it.client.list_sessions()
        with pytest.raises(AgentFieldError) as caught:
            await it.client.start_session(StartRequest(target="shop.phone"))
        assert caught.value.code == "starts_elsewhere"
        assert caught.value.hint == f"callers come in at POST {BASE}/voice/{{target}}"


async def test_invalid_messages_are_ignored_up_to_a_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A few invalid messages are ignored and the call continues; more of them close the stream."""
    async with exchange(tmp_path, shop_agent()) as it:
        phone = await it.open(await it.ring("shop.phone"))
        session_id = await it.session()
        for junk in ("no json", "[]", '{"event":"media"}', '{"event":"weather"}'):
            await phone.socket.send_str(junk)
        await phone.say(0)
        await until(lambda: phone.told)
        for _ in range(20):
            await phone.socket.send_str("no json")
        await phone.closed()
        assert caplog.text.count("a message of a media stream is left out: no JSON") == 1
        await it.client.end_session(session_id)


async def test_another_plugin_may_refuse_a_caller(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An authorization hook of another plugin gets caller and evidence; its refusal closes the stream and is logged."""
    asked: list[SessionRequest] = []

    async def blocked(request: SessionRequest) -> None:
        asked.append(request)
        raise Forbidden("this number is blocked")

    gate = plugin("blocklist", session_authorize=blocked)
    async with exchange(tmp_path, shop_agent(), plugins=[gate]) as it:
        phone = await it.open(await it.ring("shop.phone"))
        assert await phone.closed() == 1008
        assert "a media stream is not carried: The plugin 'blocklist' refused the session" in caplog.text
        assert not await it.client.list_sessions()
    (one,) = asked
    assert (one.caller, one.principal, one.transport) == (FROM, "transport:twilio", "twilio")
    assert one.evidence is not None
    assert one.evidence.facts["CallSid"] == CALL


async def test_a_stream_with_an_invalid_first_message_is_closed(tmp_path: Path) -> None:
    """A stream whose first message is not `connected` is closed, and no session starts."""
    async with exchange(tmp_path, shop_agent()) as it:
        stream = await it.ring("shop.phone")
        for first in ("no json", '{"event":"start"}', '{"event":"media","streamSid":"MZ1","media":{}}'):
            socket = await it.http.ws_connect(stream.url, headers=it.signed(stream.url))
            await socket.send_str(first)
            await socket.receive()
            assert socket.close_code == 1008
        assert not await it.client.list_sessions()
