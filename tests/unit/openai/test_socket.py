"""The WebSocket: retries while a call becomes known, re-attachment after a drop, and one end."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest
from pydantic import SecretStr
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from agentfield.adapterkit.http import http_session
from agentfield.errors import NotFound, ProviderError, ProviderUnavailable
from agentfield.realtime.commands import SayCommand
from agentfield.realtime.events import (
    Event,
    ProviderFault,
    ReplyStarted,
    SessionClosed,
    SessionReady,
    TurnTranscript,
    Warned,
)
from agentfield.realtime.provider import ProviderSession
from agentfield_openai.calls import CallsClient
from agentfield_openai.codec.dialect import Dialect
from agentfield_openai.provider import RealtimeProvider
from agentfield_openai.socket import RealtimeSocket
from agentfield_openai.webrtc_adapter import WebRtcAdapter
from agentfield_openai.websocket_adapter import WebSocketAdapter
from support.providers.openai import CANARY, PCM, config
from support.waiting import until

Handler = Callable[[ServerConnection, int], Awaitable[None]]
LOGGER = logging.getLogger("test")
REF = {"call_id": "rtc_1"}


class FakeProvider:
    """A WebSocket server whose handler receives the number of the connection; `refusals` are sent first."""

    def __init__(self, handler: Handler, refusals: list[int]) -> None:
        self.handler = handler
        self.refusals = refusals
        self.requests: list[Request] = []
        self.received: list[dict[str, Any]] = []
        self.accepted = 0
        self.url = ""

    def gate(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        if not self.refusals:
            return None
        body = json.dumps({"error": {"code": "nope", "message": f"Incorrect API key provided: {CANARY}"}})
        return connection.respond(HTTPStatus(self.refusals.pop(0)), body)

    async def serve(self, connection: ServerConnection) -> None:
        self.accepted += 1
        await self.handler(connection, self.accepted)

    @property
    def provider(self) -> RealtimeProvider:
        return RealtimeProvider(title="OpenAI", base_url=self.url, key=SecretStr(CANARY), key_setting="OPENAI_API_KEY")


@asynccontextmanager
async def provider(handler: Handler, *refusals: int) -> AsyncIterator[FakeProvider]:
    fake = FakeProvider(handler, list(refusals))
    async with serve(fake.serve, "127.0.0.1", 0, process_request=fake.gate) as server:
        fake.url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/v1"
        yield fake


@asynccontextmanager
async def adapter(fake: FakeProvider, *, confirm_timeout: float = 5.0) -> AsyncIterator[WebRtcAdapter]:
    async with http_session() as http:
        calls = CallsClient(fake.provider, http)
        yield WebRtcAdapter(fake.provider, calls, LOGGER, time.time, confirm_timeout=confirm_timeout)


async def silent(connection: ServerConnection, _: int) -> None:
    await connection.wait_closed()


async def polite(connection: ServerConnection, number: int) -> None:
    """Confirm configurations; drop the first connection after a say, end the second one after it."""
    await connection.send(json.dumps({"type": "session.created", "session": {"model": "gpt-realtime-2"}}))
    async for message in connection:
        event = json.loads(message)
        if event["type"] == "session.update":
            await connection.send(json.dumps({"type": "session.updated", "session": event["session"]}))
        elif number == 1:
            await connection.close(1012)
        else:
            metadata = event["response"]["metadata"]
            await connection.send(
                json.dumps({"type": "response.created", "response": {"id": "resp_1", "metadata": metadata}})
            )
            await connection.close(1000)


async def all_of(session: ProviderSession) -> list[Event]:
    async with asyncio.timeout(60):
        return [event async for event in session.events()]


async def test_an_unknown_new_call_is_retried() -> None:
    """404 right after the creation of a call is retried; key and call id are sent in the right places."""
    async with provider(silent, 404, 404) as fake:
        sideband = RealtimeSocket.call(fake.provider, "rtc_1", LOGGER, retry_delays=(0.01, 0.01))
        await sideband.open()
        assert [request.path for request in fake.requests] == ["/v1/realtime?call_id=rtc_1"] * 3
        assert fake.requests[-1].headers["Authorization"] == f"Bearer {CANARY}"
        await sideband.close()
        await sideband.close()


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (401, ProviderError), (429, ProviderError), (503, ProviderUnavailable)]
)
async def test_a_refusal_to_attach_is_typed_and_never_shows_the_key(
    status: int, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """A permanent refusal is raised at once, others after all attempts; neither error nor log shows the key."""
    caplog.set_level(logging.DEBUG)
    async with provider(silent, *[status] * 3) as fake:
        with pytest.raises(kind) as caught:
            await RealtimeSocket.call(fake.provider, "rtc_1", LOGGER, retry_delays=(0.01, 0.01)).open()
        assert type(caught.value) is kind
        assert len(fake.requests) == (1 if status in {401, 429} else 3)
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name != "websockets.server")
    assert CANARY not in f"{caught.value}{caught.value!r}{ours}"


async def test_a_refused_connection_is_unavailable() -> None:
    """A port without a listener is a typed error."""
    nobody = RealtimeProvider(title="OpenAI", base_url="http://127.0.0.1:9/v1", key=SecretStr(CANARY))
    with pytest.raises(ProviderUnavailable, match="could not be reached"):
        await RealtimeSocket.call(nobody, "rtc_1", LOGGER, retry_delays=()).open()


async def test_a_dropped_sideband_is_reattached() -> None:
    """A drop is a warning, our configuration is sent again, commands wait for the connection, the end comes once."""
    async with provider(polite) as fake, adapter(fake) as client:
        session = await client.attach(REF, config())
        reading = asyncio.create_task(all_of(session))
        await session.send(SayCommand(id="spk_1", text="lost with the connection"))
        await until(lambda: fake.accepted == 2)
        await session.send(SayCommand(id="spk_2", text="heard"))
        events = await reading
    assert isinstance(events[0], SessionReady)
    assert [e.code for e in events if isinstance(e, Warned)] == ["reattached"]
    assert [e.command for e in events if isinstance(e, ReplyStarted)] == ["spk_2"]
    assert events[-1] == SessionClosed(reason="closed")
    assert len([e for e in events if isinstance(e, SessionReady)]) == 1
    with pytest.raises(ProviderUnavailable):
        await session.send(SayCommand(id="spk_3", text="too late"))


async def test_an_unknown_call_after_a_drop_has_ended() -> None:
    """A drop followed by 404 is the end of the call, not an error."""

    async def drop(connection: ServerConnection, _: int) -> None:
        await connection.recv()
        fake.refusals.append(404)
        await connection.close(1011)

    async with provider(drop) as fake, adapter(fake) as client:
        session = await client.attach(REF, config())
        assert [e for e in await all_of(session) if isinstance(e, SessionClosed)] == [SessionClosed(reason="closed")]


async def test_a_sideband_that_keeps_dropping_is_given_up() -> None:
    """The number of re-attachments is limited; the end has a reason."""

    async def flap(connection: ServerConnection, _: int) -> None:
        await connection.close(1012)

    async with provider(flap) as fake, adapter(fake) as client:
        session = await client.attach(REF, config())
        events = await all_of(session)
        assert fake.accepted <= 6
    assert isinstance(events[-1], SessionClosed)
    assert events[-1].reason == "provider_error"


async def test_a_provider_that_does_not_confirm_is_used_unverified() -> None:
    """Without session.updated the call continues with a warning, and without an echo no model is reported."""
    async with provider(silent) as fake, adapter(fake, confirm_timeout=0.1) as client:
        session = await client.attach(REF, config())
        reading = asyncio.create_task(all_of(session))
        await session.close()
        events = await reading
    assert [type(e) for e in events] == [Warned, SessionReady, SessionClosed]
    assert events[1] == SessionReady()


async def test_a_refused_configuration_fails_the_attachment() -> None:
    """If the provider refuses our settings, the attachment fails."""

    async def refuse(connection: ServerConnection, _: int) -> None:
        event = json.loads(await connection.recv())
        error = {"code": "invalid_value", "message": "Invalid value: 'x'.", "event_id": event["event_id"]}
        await connection.send(json.dumps({"type": "error", "error": error}))
        await connection.wait_closed()

    async with provider(refuse) as fake, adapter(fake) as client:
        with pytest.raises(ProviderError) as caught:
            await client.attach(REF, config())
    assert caught.value.data["provider_code"] == "invalid_value"


async def test_large_and_broken_frames_do_not_stop_the_events() -> None:
    """A frame of 16 MiB and one that is not JSON pass, the second with a warning."""

    async def odd(connection: ServerConnection, _: int) -> None:
        await connection.send(json.dumps({"type": "response.output_audio.delta", "delta": "A" * (16 * 1024 * 1024)}))
        await connection.send("{")
        await connection.send(b"\xff\x00")

    async with provider(odd) as fake, adapter(fake, confirm_timeout=0.1) as client:
        events = await all_of(await client.attach(REF, config()))
    assert [e.code for e in events if isinstance(e, Warned)].count("invalid_event") == 2


async def test_closing_releases_a_waiting_sender() -> None:
    """A command that waits for a dropped sideband fails as soon as the session is closed."""

    async def drop(connection: ServerConnection, _: int) -> None:
        await connection.recv()
        await connection.close(1012)

    async with provider(drop) as fake, adapter(fake) as client:
        session = await client.attach(REF, config())
        sending = asyncio.create_task(session.send(SayCommand(id="spk_1", text="x")))
        await asyncio.sleep(0)
        await session.close()
        with pytest.raises(ProviderUnavailable):
            await sending


@pytest.mark.parametrize("direct", [True, False])
async def test_no_command_waits_after_the_end(direct: bool) -> None:
    """After the last event nobody reopens a dropped connection: commands fail, although the events were not read on."""
    gone = asyncio.Event()

    async def expire(connection: ServerConnection, _: int) -> None:
        await confirm(connection)
        await connection.send(json.dumps({"type": "error", "error": EXPIRED}))
        connection.transport.abort()
        gone.set()

    async with provider(expire) as fake, adapter(fake) as calls, own(fake) as sockets:
        session = await (calls.attach(REF, config()) if direct else sockets.open(config(), PCM))
        events = session.events()
        async for event in events:
            if isinstance(event, SessionClosed):
                break
        await gone.wait()
        said = [session.send(SayCommand(id=f"spk_{number}", text="x")) for number in range(3)]
        async with asyncio.timeout(5):
            # the first one may be written before the loss is known
            *_, last = await asyncio.gather(*said, return_exceptions=True)
        assert isinstance(last, ProviderUnavailable)
        await session.close()
        await events.aclose()


# sessions of their own ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def own(fake: FakeProvider, *, confirm_timeout: float = 5.0) -> AsyncIterator[WebSocketAdapter]:
    async with http_session() as http:
        yield WebSocketAdapter(fake.provider, http, LOGGER, time.time, confirm_timeout=confirm_timeout)


async def confirm(connection: ServerConnection) -> None:
    """Receive and confirm the initial configuration."""
    event = json.loads(await connection.recv())
    await connection.send(json.dumps({"type": "session.updated", "session": event["session"]}))


EXPIRED = {"type": "invalid_request_error", "code": "session_expired", "message": "Over.", "event_id": None}
QUOTA = {"type": "insufficient_quota", "code": "some_new_code", "message": "Pay.", "event_id": None}


async def test_a_websocket_session_names_its_model_in_the_address() -> None:
    """The upgrade carries the model and the caller's hash, and offers no compression."""

    async def once(connection: ServerConnection, _: int) -> None:
        await confirm(connection)
        await connection.wait_closed()

    async with provider(once) as fake, own(fake) as client:
        session = await client.open(config(model="gpt realtime/2"), PCM)
        (request,) = fake.requests
        assert request.path == "/v1/realtime?model=gpt%20realtime%2F2"
        assert request.headers["OpenAI-Safety-Identifier"] == "hash-of-the-caller"
        assert request.headers["Authorization"] == f"Bearer {CANARY}"
        assert "Sec-WebSocket-Extensions" not in request.headers
        await session.close()


async def test_a_dialect_changes_paths_headers_and_event_names() -> None:
    """A service of another plugin has its own paths, headers and event names."""
    dialect = Dialect(
        "other",
        headers={"X-Beta": "1"},
        events={"session.configured": "session.updated"},
        safety_header="X-User",
        socket_path="/talk",
    )

    async def other(connection: ServerConnection, _: int) -> None:
        event = json.loads(await connection.recv())
        await connection.send(json.dumps({"type": "session.configured", "session": event["session"]}))
        await connection.wait_closed()

    async with provider(other) as fake, http_session() as http:
        service = dataclasses.replace(fake.provider, title="Other", dialect=dialect)
        session = await WebSocketAdapter(service, http, LOGGER, time.time).open(config(), PCM)
        (request,) = fake.requests
        assert request.path == "/v1/talk?model=gpt-realtime-2"
        assert (request.headers["X-Beta"], request.headers["X-User"]) == ("1", "hash-of-the-caller")
        reading = asyncio.create_task(all_of(session))
        await session.close()
        assert [e.type for e in await reading] == ["session.ready", "session.updated", "session.ended"]


async def test_a_session_closed_before_its_start_is_unavailable() -> None:
    """A close instead of a confirmation is a typed error with the close code, without the key."""

    async def slam(connection: ServerConnection, _: int) -> None:
        await connection.close(1013, f"come back with {CANARY}")

    async with provider(slam) as fake, own(fake) as client:
        with pytest.raises(ProviderUnavailable, match="1013") as caught:
            await client.open(config(), PCM)
    assert CANARY not in str(caught.value)


async def test_a_fatal_error_before_the_start_is_a_refusal() -> None:
    """A fatal error instead of a confirmation is a refusal with the provider's code."""

    async def poor(connection: ServerConnection, _: int) -> None:
        await connection.send(json.dumps({"type": "error", "error": QUOTA}))
        await connection.wait_closed()

    async with provider(poor) as fake, own(fake) as client:
        with pytest.raises(ProviderError) as caught:
            await client.open(config(), PCM)
    assert caught.value.data["provider_code"] == "some_new_code"


@pytest.mark.parametrize(
    ("code", "closed"),
    [
        (1000, SessionClosed(reason="closed")),
        (
            1012,
            SessionClosed(
                reason="provider_error", message="The connection to the provider was lost (code 1012).", retry=True
            ),
        ),
        (4000, SessionClosed(reason="provider_error", message="The connection to the provider was lost (code 4000).")),
    ],
)
async def test_the_end_of_a_websocket_session_tells_whether_to_retry(code: int, closed: SessionClosed) -> None:
    """The adapter never reattaches such a session, since the provider does not keep it."""

    async def leave(connection: ServerConnection, _: int) -> None:
        await confirm(connection)
        await connection.close(code)

    async with provider(leave) as fake, own(fake) as client:
        events = await all_of(await client.open(config(), PCM))
        assert events[-1] == closed
        assert fake.accepted == 1


@pytest.mark.parametrize("direct", [True, False])
async def test_a_fatal_error_prevents_reattachment(direct: bool) -> None:
    """A fatal error followed by a drop ends the session with the provider's message."""

    async def ruin(connection: ServerConnection, _: int) -> None:
        await confirm(connection)
        await connection.send(json.dumps({"type": "error", "error": QUOTA}))
        await connection.close(1012)

    async with provider(ruin) as fake, adapter(fake) as calls, own(fake) as sockets:
        session = await (calls.attach(REF, config()) if direct else sockets.open(config(), PCM))
        events = await all_of(session)
        assert [e.fatal for e in events if isinstance(e, ProviderFault)] == [True]
        assert events[-1] == SessionClosed(reason="provider_error", message="Pay.")
        assert fake.accepted == 1


async def test_items_are_retrieved_after_a_gap() -> None:
    """On the new connection our configuration is sent first, then the retrieval of the turn without a transcript."""
    asked: list[dict[str, Any]] = []

    async def gap(connection: ServerConnection, number: int) -> None:
        await confirm(connection)
        if number == 1:
            await connection.send(json.dumps({"type": "input_audio_buffer.committed", "item_id": "item_u"}))
            await connection.close(1012)
            return
        asked.append(json.loads(await connection.recv()))
        words = [{"type": "input_audio", "transcript": "Where is it?"}]
        turn = {"id": "item_u", "type": "message", "role": "user", "content": words}
        await connection.send(json.dumps({"type": "conversation.item.retrieved", "item": turn}))
        await connection.close(1000)

    async with provider(gap) as fake, adapter(fake) as client:
        events = await all_of(await client.attach(REF, config()))
    assert [(each["type"], each["item_id"]) for each in asked] == [("conversation.item.retrieve", "item_u")]
    assert [(e.item, e.text) for e in events if isinstance(e, TurnTranscript)] == [("item_u", "Where is it?")]
