"""The two routes over real HTTP and WebSockets, with a recording runtime in the control plane's place."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from agentfield.errors import AgentFieldError, Forbidden, ProviderError, SessionEnded
from agentfield.realtime.caller import CallerAudio, CallerDtmf, CallerGone, CallerMark
from agentfield.realtime.transport import Evidence
from agentfield_twilio import leg as leg_module
from agentfield_twilio.leg import TwilioLeg
from agentfield_twilio.plugin import agentfield_manifest
from agentfield_twilio.routes import connect_twiml, twilio
from agentfield_twilio.signature import signature

TOKEN = "token-of-the-account"
BASE = "/api/v1/transports/twilio"
SID = "MZ1"
CONNECTED = {"event": "connected", "protocol": "Call", "version": "1.0.0"}
START = {
    "event": "start",
    "streamSid": SID,
    "start": {
        "accountSid": "AC1",
        "callSid": "CA1",
        "streamSid": SID,
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {"target": "shop.phone", "caller": "+49", "campaign": "spring"},
    },
}


class Runtime:
    """A transport runtime that records its calls."""

    logger = logging.getLogger("twilio.test")
    data_dir = Path("unused")

    def __init__(self) -> None:
        self.outside = "https://voice.example"
        self.starts: list[dict[str, Any]] = []
        self.heard: list[Any] = []
        self.legs: asyncio.Queue[TwilioLeg] = asyncio.Queue()
        self.refuse: AgentFieldError | None = None
        self.over = asyncio.Event()
        self.news = asyncio.Event()

    def clock(self) -> float:
        return 0.0

    def setting(self, name: str) -> SecretStr | None:
        assert name == "TWILIO_AUTH_TOKEN"
        return SecretStr(TOKEN)

    def url(self, path: str) -> str:
        return f"{self.outside}{BASE}{path}"

    async def start_session(self, target: str, **given: Any) -> str:
        self.starts.append({"target": target, **given})
        return "ses_1"

    async def carry(self, session_id: str, leg: TwilioLeg) -> str:
        assert session_id == "ses_1"
        if self.refuse is not None:
            raise self.refuse
        self.legs.put_nowait(leg)
        reading = asyncio.create_task(self._read(leg))
        over = asyncio.create_task(self.over.wait())
        await asyncio.wait({reading, over}, return_when=asyncio.FIRST_COMPLETED)
        for task in (reading, over):
            task.cancel()
        await asyncio.gather(reading, over, return_exceptions=True)
        return "closed" if self.over.is_set() else "gone"

    async def end_session(self, session_id: str, reason: str = "caller_hangup") -> None:
        raise AssertionError(session_id)

    async def _read(self, leg: TwilioLeg) -> None:
        async for heard in leg.input():
            self.heard.append(heard)
            self.news.set()


@pytest.fixture
async def it() -> AsyncIterator[Any]:
    """A server that calls `verify` first, as the control plane does."""
    runtime = Runtime()
    (info,) = agentfield_manifest().transports
    async with twilio(runtime) as transport:

        def served(name: str) -> Any:
            async def handle(request: web.Request) -> web.StreamResponse:
                try:
                    evidence = await transport.verify(request)
                except Forbidden as error:
                    return web.Response(status=403, text=error.code)
                return await getattr(transport, name)(request, evidence)

            return handle

        app = web.Application()
        for route in info.routes:
            app.router.add_route(route.method, BASE + route.path, served(route.handler))
        async with TestClient(TestServer(app)) as client:
            yield SimpleNamespace(runtime=runtime, client=client)


def signed(url: str, form: dict[str, str] | None = None) -> dict[str, str]:
    return {"X-Twilio-Signature": signature(TOKEN, url, (form or {}).items())}


async def webhook(it: Any, target: str = "shop.phone", **form: str) -> tuple[int, str]:
    form = {"CallSid": "CA1", "From": "+49", **form}
    url = f"https://voice.example{BASE}/voice/{target}"
    response = await it.client.post(f"{BASE}/voice/{target}", data=form, headers=signed(url, form))
    return response.status, await response.text()


async def stream(it: Any, *messages: dict[str, Any]) -> Any:
    socket = await it.client.ws_connect(f"{BASE}/media", headers=signed(f"wss://voice.example{BASE}/media"))
    for message in messages or (CONNECTED, START):
        await socket.send_json(message)
    return socket


async def told(socket: Any, event: str, **parts: Any) -> None:
    await socket.send_json({"event": event, "streamSid": SID, **parts})


async def media(socket: Any, data: bytes) -> None:
    await told(socket, "media", media={"track": "inbound", "payload": base64.b64encode(data).decode()})


async def until(it: Any, condition: Any) -> list[Any]:
    """Wait until the received input fits, checked at each input."""
    async with asyncio.timeout(10):
        while not condition(it.runtime.heard):
            it.runtime.news.clear()
            await it.runtime.news.wait()
    return it.runtime.heard


async def heard(it: Any, count: int) -> list[Any]:
    return await until(it, lambda found: len(found) >= count)


async def test_the_webhook_connects_the_call_to_the_public_stream_url(it):
    """The TwiML has the public URL, the session of the path, and the caller."""
    status, text = await webhook(it, From="+49 <17&0>")
    root = ET.fromstring(text)
    found = root.find("Connect/Stream")
    assert (status, found.attrib["url"]) == (200, f"wss://voice.example{BASE}/media")
    assert {each.attrib["name"]: each.attrib["value"] for each in found} == {
        "target": "shop.phone",
        "caller": "+49 <17&0>",
    }
    assert it.runtime.starts == []


def test_parameters_are_escaped_in_twiml():
    """The complete TwiML."""
    assert connect_twiml("wss://a.example/m", {"target": 'd."p"'}) == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Response><Connect><Stream url="wss://a.example/m"><Parameter name="target" value=\'d."p"\'/></Stream></Connect>'
        "</Response>"
    )


async def test_a_stream_starts_a_session_and_is_carried(it):
    """Target and caller are parameters, further ones are metadata, and the call id is the idempotency key."""
    socket = await stream(it)
    leg = await it.runtime.legs.get()
    assert it.runtime.starts == [
        {
            "target": "shop.phone",
            "evidence": Evidence("twilio-signature", {"AccountSid": "AC1", "CallSid": "CA1", "StreamSid": SID}),
            "caller": "+49",
            "metadata": {"campaign": "spring", "call_sid": "CA1"},
            "idempotency_key": "CA1",
        }
    ]
    assert (leg.format.name, leg.marks, leg.paced, leg.listening, leg.writable) == ("pcmu/8000", True, True, True, True)
    await leg.play("r1", b"\xff\x7f")
    await leg.mark("m1")
    await leg.clear()
    assert [json.loads((await socket.receive()).data)["event"] for _ in range(3)] == ["media", "mark", "clear"]
    await media(socket, b"\x11" * 160)
    await told(socket, "dtmf", dtmf={"digit": "7"})
    await leg.mark("m2")
    await told(socket, "mark", mark={"name": "m1"})
    await told(socket, "mark", mark={"name": "m2"})
    await told(socket, "stop")
    assert await heard(it, 4) == [
        CallerAudio(b"\x11" * 160),
        CallerDtmf("7"),
        CallerMark("m2"),
        CallerGone("", hung_up=True),
    ]


async def test_a_lost_connection_is_no_hang_up(it):
    """The caller may return with another stream of the call."""
    socket = await stream(it)
    await it.runtime.legs.get()
    await socket.close()
    assert await heard(it, 1) == [CallerGone("the connection was lost", hung_up=False)]


async def test_a_silent_connection_is_lost(it, monkeypatch):
    """A stream without messages is treated as lost, since Twilio sends silence too."""
    monkeypatch.setattr(leg_module, "_RECEIVE_TIMEOUT", 0.05)
    socket = await stream(it)
    assert await heard(it, 1) == [CallerGone("Twilio sent nothing for 0.05 s", hung_up=False)]
    assert (await socket.receive()).type is WSMsgType.CLOSE
    await socket.close()


async def test_audio_ahead_of_real_time_is_discarded(it, caplog):
    """Audio more than 5 s ahead is discarded with one log line; the stream continues."""
    socket = await stream(it)
    for _ in range(40):
        await media(socket, b"\x11" * 8000)
    await told(socket, "dtmf", dtmf={"digit": "1"})
    await until(it, lambda found: CallerDtmf("1") in found)
    assert 5 <= len([each for each in it.runtime.heard if isinstance(each, CallerAudio)]) <= 39
    assert caplog.text.count("audio faster than it can be said") == 1
    await socket.close()


async def test_too_many_invalid_messages_end_the_stream(it):
    """Twenty invalid messages are discarded; the next one ends the stream."""
    socket = await stream(it)
    await it.runtime.legs.get()
    for _ in range(20):
        await socket.send_bytes(b"\0")
    await told(socket, "dtmf", dtmf={"digit": "1"})
    assert await heard(it, 1) == [CallerDtmf("1")]
    await socket.send_str("no json")
    assert await heard(it, 2) == [CallerDtmf("1"), CallerGone("too many messages did not fit", hung_up=False)]


async def test_an_ended_session_hangs_up_and_is_not_connected_again(it):
    """The stream is closed, and the webhook answers a redirected call with a hang-up."""
    socket = await stream(it)
    await it.runtime.legs.get()
    it.runtime.over.set()
    assert (await socket.receive()).data == 1000
    assert "<Hangup/>" in (await webhook(it))[1]
    assert "<Connect>" in (await webhook(it, CallSid="CA2"))[1]


@pytest.mark.parametrize(
    ("refusal", "code", "again"),
    [
        (SessionEnded("over"), 1008, "<Hangup/>"),
        (ProviderError("the provider refused"), 1011, "<Connect>"),
    ],
)
async def test_a_refused_session_closes_the_stream(it, refusal, code, again):
    """The close code says whether a retry may help."""
    it.runtime.refuse = refusal
    socket = await stream(it)
    message = await socket.receive()
    assert (message.data, message.extra) == (code, refusal.message)
    assert again in (await webhook(it))[1]


async def test_unsigned_requests_are_refused(it):
    """Both routes need a signature for their own URL."""
    assert (await it.client.post(f"{BASE}/voice/shop.phone", data={"CallSid": "CA1"})).status == 403
    wrong = signed(f"https://voice.example{BASE}/media")
    response = await it.client.get(f"{BASE}/media", headers={**wrong, "Sec-WebSocket-Key": "x"})
    assert (response.status, await response.text()) == (403, "twilio_signature")
