"""The media socket over a real WebSocket, with a scripted provider."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentfield.errors import LimitExceeded, ProviderError, ProviderUnavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import (
    AddTextCommand,
    AppendAudioCommand,
    CancelReplyCommand,
    CommitTurnCommand,
    EndCommand,
    SayCommand,
)
from agentfield.realtime.events import ReplyAudio, ReplyStarted, SessionClosed, SessionReady, TurnStarted
from agentfield.wire.rest import StartResponse
from agentfield_server.api.callers import media_socket as media
from agentfield_server.media.convert import converter
from support.server.bridged_calls import PCM24, PROTOCOL, Caller, Installation, run_installation
from support.waiting import until

SECOND = b"\1\0" * 24000


@pytest.fixture
async def it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    """An installation with a scripted provider."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with run_installation(tmp_path) as made:
        yield made


async def refused(it: Installation, url: str, **options: Any) -> dict[str, Any]:
    """Request a media socket that is refused; return the problem document."""
    options.setdefault("headers", {}).update(
        {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "x" * 22 + "==",
        }
    )
    async with it.http.get("http" + url.removeprefix("http").removeprefix("ws"), **options) as response:
        problem: dict[str, Any] = json.loads(await response.text())
        assert problem["status"] == response.status
        return problem


# --- a whole call


async def test_a_call_from_first_frame_to_hangup(it: Installation) -> None:
    """The caller sends audio, gets audio, confirms marks, hangs up and receives `ended`."""
    session = await it.start()
    caller, provider = await it.live(session)
    assert caller.frames[0] == {
        "type": "ready",
        "session_id": session.session_id,
        "format": {"codec": "pcm16", "rate": 24000, "channels": 1},
    }
    await caller.socket.send_bytes(SECOND)
    assert (await provider.asked(AppendAudioCommand)).data == SECOND
    provider.caller_says("hello")
    say = await provider.asked(SayCommand)
    assert say.text == "You said hello."
    await it.speaks(provider, say.id, 500)
    await until(lambda: any(f["event"]["type"] == "playout.stopped" for f in caller.of("event")))
    assert PCM24.ms(len(caller.audio)) == 500
    assert len(caller.of("mark")) >= 2
    assert not any(f["event"]["type"] == "reply.audio" for f in caller.of("event"))
    await caller.says(type="hangup")
    assert (await caller.frame("ended"))["reason"] == "caller_hangup"
    assert await caller.closed() == 1000
    assert provider.sent[-1] == EndCommand(id=provider.sent[-1].id)
    assert provider.closed


async def test_the_start_returns_the_media_url(it: Installation) -> None:
    """A session on bridged media has a media URL and no offer URL; one on direct media has no media URL."""
    session = await it.start()
    assert session.media_url == f"ws{it.plane.url.removeprefix('http')}/api/v1/sessions/{session.session_id}/media"
    assert session.offer_url is None
    assert session.turns_url is None
    other = await it.start("shop.page")
    assert other.media_url is None
    assert other.offer_url is not None


async def test_barge_in_clears_and_reports_the_heard_part(it: Installation) -> None:
    """Caller speech during a reply clears the rest, and the provider gets the heard length derived from the marks."""
    session = await it.start()
    caller, provider = await it.live(session)
    provider.caller_says("hello")
    say = await provider.asked(SayCommand)
    provider.tell(ReplyStarted(reply="r1", command=say.id), ReplyAudio(reply="r1", data=SECOND * 20))
    await until(lambda: len(caller.of("mark")) >= 3)
    provider.tell(TurnStarted(item="i2"))
    await caller.frame("clear")
    cancel = await provider.asked(CancelReplyCommand)
    assert cancel.reply == "r1"
    assert 200 <= cancel.heard_ms <= PCM24.ms(len(caller.audio))
    await until(lambda: any(f["event"]["type"] == "interrupted" for f in caller.of("event")))
    (told,) = [f["event"] for f in caller.of("event") if f["event"]["type"] == "interrupted"]
    assert (told["heard_ms"], told["method"]) == (cancel.heard_ms, "marks")
    assert "audio" not in caller.heard[caller.heard.index("clear") :]
    assert len(provider.sent) - provider.sent.index(cancel) <= 2


@pytest.mark.parametrize(
    ("query", "form"), [("?format=pcmu", "pcmu/8000"), ("?format=pcm16&rate=24000", "pcm16/24000")]
)
async def test_a_format_of_the_provider_is_not_converted(it: Installation, query: str, form: str) -> None:
    """Audio in the provider's format passes unchanged."""
    session = await it.start()
    caller, provider = await it.live(session, query)
    assert it.adapter.opened[0][1].name == form
    await caller.socket.send_bytes(bytes(range(160)))
    assert (await provider.asked(AppendAudioCommand)).data == bytes(range(160))


@pytest.mark.parametrize("form", ["pcm16/8000", "pcm16/16000", "pcm16/48000", "pcma/8000"])
async def test_another_format_is_converted_both_ways(it: Installation, form: str) -> None:
    """A format that the provider lacks is converted to the provider's best format and back."""
    codec, rate = form.split("/")
    session = await it.start()
    caller, provider = await it.live(session, f"?format={codec}&rate={rate}")
    audio = AudioFormat(codec, int(rate))  # type: ignore[arg-type]
    assert it.adapter.opened[0][1] == PCM24
    speech = converter(PCM24, audio)(SECOND)
    for at in range(0, len(speech), audio.size(20)):
        await caller.socket.send_bytes(speech[at : at + audio.size(20)])

    def heard() -> float:
        return PCM24.ms(sum(len(c.data) for c in provider.sent if isinstance(c, AppendAudioCommand)))

    await until(lambda: heard() > 970)
    provider.caller_says("hello")
    await it.speaks(provider, (await provider.asked(SayCommand)).id, 400)
    await until(lambda: audio.ms(len(caller.audio)) > 395)


async def test_text_dtmf_and_commit_frames_arrive(it: Installation) -> None:
    """Text becomes a turn, a DTMF digit an event, a commit the end of the caller's speech."""
    session = await it.start()
    caller, provider = await it.live(session)
    await caller.says(type="commit")
    await provider.asked(CommitTurnCommand)
    await caller.says(type="dtmf", digit="7")
    await caller.says(type="text", text="my order")
    assert (await provider.asked(AddTextCommand)).text == "my order"
    assert (await provider.asked(SayCommand)).text == "You said my order."


# --- the connection breaks


async def test_a_reconnecting_caller_continues_the_session(it: Installation) -> None:
    """A lost connection does not end the session: the next one continues the same provider conversation."""
    session = await it.start()
    caller, provider = await it.live(session)
    await caller.leave()
    again = await it.call(session)
    await again.frame("ready")
    await again.socket.send_bytes(SECOND)
    await provider.asked(AppendAudioCommand)
    assert len(it.adapter.opened) == 1
    assert (await it.client.get_session(session.session_id)).state == "live"


async def test_a_second_connection_takes_over(it: Installation) -> None:
    """The newer of two connections carries the call; the older one gets the error `replaced`."""
    session = await it.start()
    first, _ = await it.live(session)
    second = await it.call(session)
    assert (await first.frame("error"))["problem"]["code"] == "replaced"
    assert await first.closed() == 1000
    await second.frame("ready")
    assert not second.of("error")


async def test_the_end_of_a_session_reaches_its_caller(it: Installation) -> None:
    """For every way to end a session, the caller gets the reason as the last frame."""
    session = await it.start()
    caller, _ = await it.live(session)
    await it.client.end_session(session.session_id)
    ended = await caller.frame("ended")
    assert ended["reason"] == "operator"
    assert await caller.closed() == 1000
    assert caller.frames[-1] == ended


async def test_a_provider_that_ends_the_session_ends_the_call(it: Installation) -> None:
    """A provider that closes during a call ends the session with its reason."""
    session = await it.start()
    caller, provider = await it.live(session)
    provider.tell(SessionClosed(reason="provider_error", message="no more credit"))
    ended = await caller.frame("ended")
    assert (ended["reason"], ended["detail"]) == ("provider_error", "no more credit")


async def test_a_busy_provider_is_a_retryable_error(it: Installation) -> None:
    """A retryable refusal reaches the caller as an error; the session waits for another attempt."""
    session = await it.start()
    it.adapter.refuse = ProviderUnavailable("the server had an error")
    caller = await it.call(session)
    assert (await caller.frame("error"))["problem"]["code"] == "provider_unavailable"
    assert await caller.closed() == 1011
    it.adapter.refuse = None
    await it.live(session)


async def test_a_final_refusal_of_the_provider_ends_the_session(it: Installation) -> None:
    """A final refusal reaches the caller and ends the session with the provider's message."""
    session = await it.start()
    it.adapter.refuse = ProviderError("the model is not there", code="model_not_found")
    caller = await it.call(session)
    assert (await caller.frame("error"))["problem"]["code"] == "model_not_found"
    assert await caller.closed() == 1008
    async with asyncio.timeout(60):
        async for event in it.client.session_events(session.session_id):
            if event.get("type") == "session.state" and event["body"]["state"] == "ended":
                break
    row = await it.client.get_session(session.session_id)
    assert (row.end_reason, row.end_detail) == ("provider_error", "model_not_found: the model is not there")


async def test_a_shutdown_releases_the_session_without_ending_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart keeps the session: the caller reconnects, and a new provider session gets the history."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with run_installation(tmp_path) as first:
        session = await first.start()
        caller, provider = await first.live(session)
        provider.caller_says("hello")
        await provider.asked(SayCommand)
        session_id = session.session_id
    assert caller.socket.closed
    assert not caller.of("ended")
    async with run_installation(tmp_path) as second:
        row = await second.client.get_session(session_id)
        assert row.state in ("connecting", "live")
        back = session.model_copy(
            update={"media_url": f"ws{second.plane.url.removeprefix('http')}/api/v1/sessions/{session_id}/media"}
        )
        await second.live(back)
        provider = await second.adapter.socket()
        assert "hello" in (await provider.asked(AddTextCommand)).text


# --- authentication


async def test_a_page_sends_its_token_as_a_subprotocol_that_is_never_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A browser sends its token as the second subprotocol; the first is selected, and no log line contains the token."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with run_installation(tmp_path) as it:
        session = await it.start()
        caller = await it.call(session, protocols=(PROTOCOL, session.token))
        await caller.frame("ready")
        assert caller.socket.protocol == PROTOCOL
        problem = await refused(it, session.media_url or "", headers={"Sec-WebSocket-Protocol": session.token})
        assert problem["code"] == "unsupported_protocol"
        await caller.says(type="hangup")
        await caller.frame("ended")
    assert session.token not in caplog.text


@pytest.mark.parametrize("wrong", ["ek_af_" + "x" * 40, "another"])
async def test_a_wrong_token_is_refused(it: Installation, wrong: str) -> None:
    """An unknown token, or one of another session, is refused before the upgrade."""
    session = await it.start()
    token = (await it.start()).token if wrong == "another" else wrong
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await it.call(session, protocols=(PROTOCOL, token))
    assert caught.value.status in (401, 403)
    assert not it.adapter.opened


# --- refused before the socket is opened


@pytest.mark.parametrize(
    "query", ["?format=opus", "?format=pcm16&rate=44100", "?format=pcmu&rate=16000", "?rate=x", "?format=pcm16&rate=²"]
)
async def test_an_unknown_format_is_refused_with_the_known_ones(it: Installation, query: str) -> None:
    """An unknown format is refused by name, and the problem lists the supported formats."""
    session = await it.start()
    problem = await refused(it, f"{session.media_url}{query}")
    assert problem["code"] == "unsupported_format"
    assert "pcm16/24000" in problem["available"]
    assert "pcmu/8000" in problem["hint"]


async def test_the_socket_is_refused_for_other_media(it: Installation) -> None:
    """Direct media, an unknown session, an ended one, and a plain GET: each has its own problem."""
    direct = await it.start("shop.page")
    base = f"{it.plane.url}/api/v1/sessions"
    assert (await refused(it, f"{base}/{direct.session_id}/media"))["code"] == "wrong_media"
    assert (await refused(it, f"{base}/ses_none/media"))["code"] == "unknown_session"
    session = await it.start()
    async with it.http.get(f"{base}/{session.session_id}/media") as response:
        assert response.status == 426
        assert (await response.json(content_type=None))["code"] == "websocket_required"
    await it.client.end_session(session.session_id)
    assert (await refused(it, f"{base}/{session.session_id}/media"))["code"] == "session_ended"


async def test_a_start_beyond_the_key_s_limit_is_refused_without_the_provider(it: Installation) -> None:
    """Beyond a key's session limit a start is refused with 429; the end of a session frees its lease."""
    sessions = [await it.start() for _ in range(4)]
    with pytest.raises(LimitExceeded) as caught:
        await it.start()
    assert caught.value.code == "provider_busy"
    await it.client.end_session(sessions[0].session_id)
    await it.start()


# --- invalid frames


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\1", "odd_audio"),
        (b"\0" * (256 * 1024 + 2), "frame_too_large"),
        ("hello", "malformed_json"),
        ("[" * 10_000, "unrepresentable"),
        ('{"a":' * 40 + "1" + "}" * 40, "unrepresentable"),
        ('{"type":"mark","type":"text"}', "malformed_json"),
        ("[]", "bad_frame"),
        ("null", "bad_frame"),
        ('{"type":"fly"}', "bad_frame"),
        ('{"type":"dtmf","digit":"55"}', "bad_frame"),
        ('{"type":"text","text":""}', "bad_frame"),
        ('{"type":"text"}', "bad_frame"),
        ('{"type":"mark","name":"m","more":1}', "bad_frame"),
        ('{"type":"text","text":"' + "x" * 70_000 + '"}', "frame_too_large"),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_an_invalid_frame_is_answered_and_the_call_continues(
    it: Installation, frame: str | bytes, code: str
) -> None:
    """Every kind of invalid frame is answered with a typed error, and the call continues."""
    session = await it.start()
    caller, provider = await it.live(session)
    await (caller.socket.send_bytes(frame) if isinstance(frame, bytes) else caller.socket.send_str(frame))
    problem = (await caller.frame("error"))["problem"]
    assert problem["code"] == code
    assert problem["hint"]
    await caller.socket.send_bytes(SECOND[:960])
    assert (await provider.asked(AppendAudioCommand)).data == SECOND[:960]


async def test_too_many_bad_frames_end_the_connection(it: Installation) -> None:
    """Twenty invalid frames are answered; one more closes the connection, not the session."""
    session = await it.start()
    caller, _ = await it.live(session)
    for _ in range(21):
        await caller.socket.send_str("nonsense")
    assert await caller.closed() == 1008
    assert (await it.client.get_session(session.session_id)).state == "live"


async def test_an_oversized_frame_ends_the_connection(it: Installation) -> None:
    """A frame of several megabytes is not read."""
    session = await it.start()
    caller, _ = await it.live(session)
    await caller.socket.send_bytes(b"\0" * (2 * 1024 * 1024))
    assert await caller.closed() == 1009
    assert (await it.client.get_session(session.session_id)).state == "live"


async def test_audio_faster_than_real_time_is_dropped(it: Installation) -> None:
    """A caller that sends a minute at once gets one warning, and the excess is dropped."""
    session = await it.start()
    caller, provider = await it.live(session)
    for _ in range(60):
        for at in range(0, len(SECOND), 9600):
            await caller.socket.send_bytes(SECOND[at : at + 9600])
    await caller.says(type="commit")
    await provider.asked(CommitTurnCommand)
    heard = PCM24.ms(sum(len(c.data) for c in provider.sent if isinstance(c, AppendAudioCommand)))
    assert 4000 <= heard <= 20_000
    assert {f["problem"]["code"] for f in caller.of("error")} == {"audio_too_fast"}


async def test_a_caller_that_does_not_read_is_disconnected_alone(
    it: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that does not read is aborted; the provider's events continue."""
    monkeypatch.setattr("agentfield.realtime.bridge.reply_player._SEND_TIMEOUT", 0.3)
    monkeypatch.setattr("agentfield.realtime.bridge.reply_player.LEAD_MS", 600_000)
    session = await it.start()
    socket = await it.http.ws_connect(session.media_url or "", headers={"Authorization": f"Bearer {session.token}"})
    provider = await it.adapter.socket()
    await it.state(session, "live")
    transport = socket._conn.transport  # type: ignore[union-attr]
    transport.pause_reading()  # type: ignore[union-attr]
    provider.caller_says("hello")
    say = await provider.asked(SayCommand)
    provider.tell(ReplyStarted(reply="r1", command=say.id), ReplyAudio(reply="r1", data=SECOND * 590))
    provider.caller_says("are you there")
    await provider.asked(CancelReplyCommand)
    assert (await it.client.get_session(session.session_id)).state == "live"
    transport.abort()  # type: ignore[union-attr]
    await socket.close()


async def pings(caller: Caller, count: int, *, answer: bool) -> None:
    """Receive the given number of pings, with or without answers."""
    while count:
        message = await caller.socket.receive()
        assert message.type in (aiohttp.WSMsgType.PING, aiohttp.WSMsgType.TEXT)
        if message.type is aiohttp.WSMsgType.PING:
            count -= 1
            if answer:
                await caller.socket.pong(message.data)


async def quiet(it: Installation, session: StartResponse, beat: float) -> tuple[Caller, Any]:
    """Connect a caller that answers pings by hand; set the heartbeat to a number of seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, "_HEARTBEAT", beat)
        caller = await it.call(session, autoping=False)
        provider = await it.adapter.socket()
        await it.state(session, "live")
    caller._reader.cancel()
    await asyncio.gather(caller._reader, return_exceptions=True)
    return caller, provider


async def test_a_silent_caller_that_answers_pings_is_kept(it: Installation) -> None:
    """A silent caller stays connected while it answers pings, and its own pings are answered."""
    caller, provider = await quiet(it, await it.start(), 0.3)
    await pings(caller, 4, answer=True)
    await caller.socket.ping(b"there?")
    while (message := await caller.socket.receive()).type is not aiohttp.WSMsgType.PONG:
        if message.type is aiohttp.WSMsgType.PING:
            await caller.socket.pong(message.data)
    assert message.data == b"there?"
    await caller.socket.send_bytes(SECOND)
    assert (await provider.asked(AppendAudioCommand)).data == SECOND


async def test_a_silent_caller_that_answers_no_ping_is_disconnected(it: Installation) -> None:
    """A connection without pongs is closed, and the caller may reconnect."""
    session = await it.start()
    caller, provider = await quiet(it, session, 0.05)
    still_open = (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.PING)
    while (message := await caller.socket.receive()).type in still_open:
        pass
    assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    again = await it.call(session)
    await again.frame("ready")
    await again.socket.send_bytes(SECOND)
    assert (await provider.asked(AppendAudioCommand)).data == SECOND


async def test_a_session_that_is_not_ready_yet_takes_audio(it: Installation) -> None:
    """Audio that arrives before the provider is ready is not lost."""
    it.adapter.ready = None
    session = await it.start()
    caller = await it.call(session)
    await caller.frame("ready")
    await caller.socket.send_bytes(SECOND)
    provider = await it.adapter.socket()
    provider.tell(SessionReady(model="m-1", voice="v-1"))
    assert (await provider.asked(AppendAudioCommand)).data == SECOND


async def test_many_lost_connections_leave_the_session_intact(it: Installation) -> None:
    """Many connections that are lost at the same time do not change the session."""
    session = await it.start()
    callers = await asyncio.gather(*[it.call(session) for _ in range(10)])
    await asyncio.gather(*[caller.leave() for caller in callers])
    await it.live(session)
    assert len(it.adapter.opened) == 1
