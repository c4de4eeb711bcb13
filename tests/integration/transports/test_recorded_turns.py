"""Recorded turns over HTTP: post, streamed answer, interruption, repetition, refusal."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agentfield.errors import AgentFieldError, InvalidInput, ProviderError, ProviderUnavailable, SessionEnded
from agentfield.realtime.commands import AddTextCommand, CancelReplyCommand
from agentfield.realtime.events import Usage, UsageReported
from agentfield_server.access.attempts import UPLOADS_OF_SESSION
from support.audio import tone, wav
from support.providers.scripted_turns import Scripted, audio_of, message_types, read_events
from support.server.recorded_turns import RECORDING, Installation, run_installation
from support.waiting import until, until_async


@pytest.fixture
async def it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    """An installation with a scripted provider."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with run_installation(tmp_path) as made:
        yield made


async def test_a_recorded_turn_is_answered_with_events_and_audio(it: Installation) -> None:
    """The answer names the turn, carries audio and the recorded events with ids, and ends with the turn's execution."""
    session = await it.start()
    answer = await it.answer(session.session_id)
    assert answer[0].keys() == {"type", "item"}
    kinds = message_types(answer)
    assert {"turn.committed", "speech.started", "speech.ended", "reply.audio", "reply.started"} <= set(kinds)
    assert kinds[-1] == "execution.ended"
    assert answer[-1]["body"] == {"kind": "turn", "status": "succeeded", "target": "kiosk.counter"}
    committed = next(event for event in answer if event["type"] == "turn.committed")
    assert committed["body"]["item"] == answer[0]["item"]
    assert answer[-1]["execution_id"] == committed["body"]["turn_id"]
    assert audio_of(answer) == tone(20)
    (turn,) = it.script.sessions[0].turns
    assert turn == tone(300)


async def test_the_start_returns_the_turns_url(it: Installation) -> None:
    """A session of recorded turns has a turns URL and no other one."""
    session = await it.start()
    assert session.turns_url == f"{it.plane.url}/api/v1/sessions/{session.session_id}/turns"
    assert session.offer_url is None


async def test_a_conversation_has_several_turns_and_tools(it: Installation) -> None:
    """Several turns share one provider session; each answer has the tool calls of its own turn only."""
    it.script.hears += ["tea", "coffee"]
    session = await it.start("kiosk.prices")
    first = await it.answer(session.session_id)
    second = await it.answer(session.session_id)
    for answer, word in ((first, "tea"), (second, "coffee")):
        (ended,) = [event for event in answer if event["type"] == "speech.ended"]
        assert ended["body"]["asked"] == f"{word} is 3 euros"
        assert [e["body"]["kind"] for e in answer if e["type"] == "execution.ended"] == ["call", "turn"]
    assert len(it.script.sessions) == 1


async def test_a_new_turn_interrupts_the_answer(it: Installation) -> None:
    """A turn that is posted during an answer stops it; the first response ends, the second continues."""
    it.script.holds.add("You said hello.")
    it.script.hears += ["hello", "stop"]
    session = await it.start()
    first = asyncio.create_task(it.answer(session.session_id))
    provider = await it.script.session()
    await until(lambda: provider._speaking)
    second = await it.answer(session.session_id)
    assert [c for c in provider.sent if isinstance(c, CancelReplyCommand)]
    (cut,) = [event for event in await first if event["type"] == "speech.ended"]
    assert cut["body"]["interrupted"] is True
    assert "playout.cleared" in message_types(second)
    assert [e["body"]["asked"] for e in second if e["type"] == "speech.ended"][-1] == "You said stop."


async def test_a_repeated_request_gets_the_answer_from_the_beginning(it: Installation) -> None:
    """A repeated key returns the answer of its open or ended turn; the turn is not run again."""
    it.script.holds.add("You said hello.")
    session = await it.start()
    first = asyncio.create_task(it.answer(session.session_id, idempotency_key="one"))
    provider = await it.script.session()
    await until(lambda: provider._speaking)
    again = asyncio.create_task(it.answer(session.session_id, idempotency_key="one"))
    await asyncio.wait([again], timeout=0.1)
    provider.go_on(next(iter(provider._speaking)))
    whole = await first
    assert await again == whole
    assert await it.answer(session.session_id, idempotency_key="one") == whole
    assert len(provider.turns) == 1


async def test_a_disconnected_caller_does_not_lose_the_turn(it: Installation) -> None:
    """The turn continues without its reader, and a request with its key gets the whole answer."""
    it.script.holds.add("You said hello.")
    session = await it.start()
    lost = asyncio.create_task(it.answer(session.session_id, idempotency_key="one"))
    provider = await it.script.session()
    await until(lambda: provider._speaking)
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)
    provider.go_on(next(iter(provider._speaking)))
    answer = await it.answer(session.session_id, idempotency_key="one")
    assert message_types(answer)[-1] == "execution.ended"
    assert audio_of(answer) == tone(20)
    assert len(provider.turns) == 1


async def test_a_key_belongs_to_one_recording(it: Installation) -> None:
    """The same key with another recording is refused while the turn is kept."""
    session = await it.start()
    await it.answer(session.session_id, idempotency_key="one")
    error = await it.refused(session.session_id, wav(tone(200)), idempotency_key="one")
    assert (error.code, error.status) == ("idempotency_mismatch", 422)


async def test_after_a_restart_the_recorded_answer_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is no longer buffered is read from the store: the same events, without audio."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with run_installation(tmp_path) as it:
        session = await it.start()
        answer = await it.answer(session.session_id, idempotency_key="one")
    async with run_installation(tmp_path, Scripted()) as it:
        again = await it.answer(session.session_id, idempotency_key="one")
        assert again[0] == answer[0]
        recorded = [event for event in answer if "seq" in event]
        committed = next(event for event in recorded if event["type"] == "turn.committed")
        assert again[1:] == [event for event in recorded if event["seq"] >= committed["seq"]]
        error = await it.refused(session.session_id, wav(tone(200)), idempotency_key="one")
        assert error.code == "idempotency_mismatch"
        assert not [turn for provider in it.script.sessions for turn in provider.turns]


async def test_speech_outside_a_turn_reaches_the_audio_stream(it: Installation) -> None:
    """Opening the event stream with audio opens the call, and the greeting is sent there."""
    session = await it.start("kiosk.polite")
    async with it.following(session.session_id) as seen:
        await until(lambda: "speech.ended" in message_types(seen))
        assert audio_of(seen) == tone(20)
        (greeting,) = [event for event in seen if event["type"] == "speech.ended"]
        assert greeting["body"]["failed"] is None
        answer = await it.answer(session.session_id)
        await until(lambda: audio_of(seen) == tone(20) * 2)
        assert audio_of(answer) == tone(20)


async def test_the_audio_stream_fails_if_the_provider_refuses(it: Installation) -> None:
    """If the call cannot be opened, the stream with audio is refused; the one without audio still works."""
    it.script.refuse = ProviderError("no credits are left", code="no_credits")
    session = await it.start()
    url = f"{it.plane.url}/api/v1/sessions/{session.session_id}/events"
    async with it.http.get(f"{url}?audio=1") as response:
        assert response.status == 502
        assert (await response.json())["code"] == "no_credits"
    async with it.following(session.session_id, "") as seen:
        await until(lambda: "session.created" in message_types(seen))


async def test_the_audio_stream_of_an_ended_session_replays_its_events(it: Installation) -> None:
    """The stream with audio of an ended session sends the recorded events and opens no call."""
    session = await it.start()
    await it.client.end_session(session.session_id, reason="operator")
    async with it.following(session.session_id) as seen:
        await until(lambda: message_types(seen)[-1:] == ["session.state"])
    assert it.script.sessions == []


async def test_the_event_stream_without_audio_has_none(it: Installation) -> None:
    """A stream without `audio=1` has no audio."""
    session = await it.start()
    async with it.following(session.session_id, "") as seen:
        await it.answer(session.session_id)
        await until(lambda: "execution.ended" in message_types(seen))
        assert audio_of(seen) == b""
        assert "reply.started" in message_types(seen)


async def test_speech_without_a_listener_fails(it: Installation) -> None:
    """A reply to typed text without a listener fails with a reason instead of being generated."""
    session = await it.start()
    async with it.following(session.session_id):
        await until_async(lambda: _is_live(it, session.session_id))
    async with it.following(session.session_id, "") as seen:
        await until(lambda: "session.state" in message_types(seen))
        await _until_no_listener(it, session.session_id)
        await it.client.send_input(session.session_id, "are you there")
        await until(lambda: "speech.ended" in message_types(seen))
        (speech,) = [event for event in seen if event["type"] == "speech.ended"]
        assert speech["body"]["failed"] == "no_listener"


async def _is_live(it: Installation, session_id: str) -> bool:
    return (await it.client.get_session(session_id)).state == "live"


async def _until_no_listener(it: Installation, session_id: str) -> None:
    """Wait until the leg has no listener: the control plane has noticed that the stream with audio is closed."""
    leg = it.plane.sessions._live.get(session_id)._connection._bridge._attachment.leg  # type: ignore[union-attr]
    await until(lambda: not leg.listening)


async def test_typed_text_is_a_turn(it: Installation) -> None:
    """Typed text is answered on the stream with audio."""
    session = await it.start()
    async with it.following(session.session_id) as seen:
        await until_async(lambda: _is_live(it, session.session_id))
        await it.client.send_input(session.session_id, "hi there")
        await until(lambda: "execution.ended" in message_types(seen))
        (speech,) = [event for event in seen if event["type"] == "speech.ended"]
        assert speech["body"]["asked"] == "You said hi there."
        assert audio_of(seen) == tone(20)


async def test_typed_text_opens_the_call(it: Installation) -> None:
    """Text that is typed before the first recording opens the call and is its first turn."""
    session = await it.start()
    await it.client.send_input(session.session_id, "hi there", session.token)
    provider = await it.script.session()
    await until_async(lambda: _taken(it, session.session_id))
    (added,) = [command for command in provider.sent if isinstance(command, AddTextCommand)]
    assert added.text == "hi there"


async def _taken(it: Installation, session_id: str) -> bool:
    return (await it.client.get_session(session_id)).turns == 1


async def test_typed_text_fails_if_the_provider_refuses(it: Installation) -> None:
    """A final refusal is the error of the text's request, and ends the session with that reason."""
    it.script.refuse = ProviderError("no credits are left", code="no_credits")
    session = await it.start()
    with pytest.raises(ProviderError, match="no credits are left"):
        await it.client.send_input(session.session_id, "hi there")
    with pytest.raises(SessionEnded):
        await it.client.send_input(session.session_id, "hi there")
    async with asyncio.timeout(60):
        async for _ in it.client.session_events(session.session_id):
            pass  # the stream ends with the session
    view = await it.client.get_session(session.session_id)
    assert (view.end_reason, view.end_detail) == ("provider_error", "no_credits: no credits are left")


@pytest.mark.parametrize(
    ("says", "counts"),
    [("ice_failed", "ice_failed"), ("caller_hangup", "caller_hangup"), ("operator", "caller_hangup")],
)
async def test_a_caller_may_report_an_ice_failure(it: Installation, says: str, counts: str) -> None:
    """A caller may end its session as a hangup or an ICE failure, and not with the operator's reasons."""
    session = await it.start()
    await it.client.end_session(session.session_id, reason=says, token=session.token)
    view = await it.client.get_session(session.session_id)
    assert view.end_reason == counts
    assert ("UDP" in (view.end_detail or "")) == (counts == "ice_failed")


async def test_the_view_of_an_ended_session_has_its_usage(it: Installation) -> None:
    """The view of an ended session has usage by kind and cost; before the end it has neither."""
    session = await it.start()
    await it.answer(session.session_id)
    provider = await it.script.session()
    used = Usage(input_audio_tokens=100, output_text_tokens=7, cost=0.25)
    provider.tell(UsageReported(kind="reply", reply="r1", usage=used))
    async with it.following(session.session_id) as seen:
        await until(lambda: any(event.get("seq") and event["type"] == "usage" for event in seen))
    assert (await it.client.get_session(session.session_id)).usage is None
    await it.client.end_session(session.session_id)
    view = await it.client.get_session(session.session_id)
    assert view.cost == 0.25
    assert view.usage == {"reply": {"input_audio_tokens": 100, "output_text_tokens": 7}}


async def test_a_recording_without_words_is_discarded(it: Installation) -> None:
    """A recording without recognised words is discarded, and its answer ends with that event."""
    it.script.hears.append("")
    session = await it.start()
    answer = await it.answer(session.session_id)
    assert answer[-1]["type"] == "turn.discarded"
    whose = {"target": "kiosk.counter", "caller": None}
    assert answer[-1]["body"] == {"item": answer[0]["item"], "why": "empty", **whose}


async def test_the_end_of_the_session_ends_the_answer(it: Installation) -> None:
    """An open answer ends with the session's end, and no later turn is accepted."""
    it.script.holds.add("You said hello.")
    session = await it.start()
    running = asyncio.create_task(it.answer(session.session_id))
    provider = await it.script.session()
    await until(lambda: provider._speaking)
    await it.client.end_session(session.session_id, reason="operator")
    assert message_types(await running)[-1] in ("session.state", "execution.ended")
    error = await it.refused(session.session_id)
    assert isinstance(error, SessionEnded)
    assert error.status == 410


async def test_a_busy_provider_is_an_error_before_the_answer_starts(it: Installation) -> None:
    """A retryable refusal is the response's error; the same key may be tried again."""
    it.script.refuse = ProviderUnavailable("too much to do", code="too_busy")
    session = await it.start()
    error = await it.refused(session.session_id, idempotency_key="one")
    assert (error.code, error.status) == ("too_busy", 504)
    it.script.refuse = None
    assert message_types(await it.answer(session.session_id, idempotency_key="one"))[-1] == "execution.ended"


async def test_a_final_refusal_of_the_provider_ends_the_session(it: Installation) -> None:
    """A final refusal is the response's error, and the end of the session."""
    it.script.refuse = ProviderError("no credits are left", code="no_credits")
    session = await it.start()
    assert (await it.refused(session.session_id)).code == "no_credits"
    it.script.refuse = None
    assert isinstance(await it.refused(session.session_id), SessionEnded)


@pytest.mark.parametrize(
    ("audio", "media_type", "status", "code"),
    [
        (b"", "audio/wav", 422, "empty_turn"),
        (wav(b""), "audio/wav", 422, "empty_turn"),
        (wav(bytes(4800)), "audio/wav", 422, "empty_turn"),
        (b"\1" * 4801, "audio/pcm;rate=24000", 422, "invalid_audio"),
        (b"not a recording", "audio/webm", 422, "invalid_audio"),
        (RECORDING, "text/plain", 415, "unsupported_audio"),
        (RECORDING, "application/vnd.apple.mpegurl", 415, "unsupported_audio"),
        (bytes(2 * 8000 * 601), "audio/pcm;rate=8000", 413, "turn_too_long"),
        (bytes(25 * 1024 * 1024 + 1), "audio/wav", 413, "body_too_large"),
    ],
    ids=["no-bytes", "no-samples", "silence", "odd", "damaged", "text", "playlist", "ten-minutes", "large"],
)
async def test_an_invalid_recording_is_refused(
    it: Installation, audio: bytes, media_type: str, status: int, code: str
) -> None:
    """Each kind of bad recording has its own code and hint; the provider gets nothing, and the next turn is accepted."""
    session = await it.start()
    error = await it.refused(session.session_id, audio, media_type=media_type)
    assert (error.code, error.status) == (code, status)
    assert error.hint
    assert not it.script.sessions or not it.script.sessions[0].turns
    assert message_types(await it.answer(session.session_id))[-1] == "execution.ended"


@pytest.mark.parametrize(("target", "way"), [("webrtc", "offer"), ("websocket", "media")])
async def test_a_session_of_another_medium_names_the_right_route(it: Installation, target: str, way: str) -> None:
    """Turns for a session on another medium are refused with the route of that medium."""
    session = await it.start(f"kiosk.{target}")
    error = await it.refused(session.session_id)
    assert (error.code, error.status) == ("wrong_media", 409)
    assert f"/api/v1/sessions/{session.session_id}/{way}" in (error.hint or "")


async def test_only_the_session_s_own_token_opens_it(it: Installation) -> None:
    """A page posts turns with its token; the token of another session is refused."""
    session, other = await it.start(), await it.start()
    answer = await it.answer(session.session_id, token=session.token)
    assert message_types(answer)[-1] == "execution.ended"
    error = await it.refused(session.session_id, token=other.token)
    assert error.status in (401, 403)


async def test_the_answer_is_an_event_stream_as_documented(it: Installation) -> None:
    """On the wire: `turn` first, recorded events with an `id`, all others as `live` without one."""
    session = await it.start()
    url = f"{it.plane.url}/api/v1/sessions/{session.session_id}/turns"
    headers = {"Content-Type": "audio/wav"}
    async with it.http.post(url, data=io.BytesIO(RECORDING), headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        messages = read_events(await response.text())
    assert messages[0]["event"] == "turn"
    assert messages[0]["data"].keys() == {"item"}
    for message in messages[1:]:
        if message["id"] is None:
            assert message["event"] == "live"
        else:
            assert message["data"]["seq"] == int(message["id"])
            assert message["event"] == message["data"]["type"]
    (audio,) = [m["data"] for m in messages if m["data"].get("type") == "reply.audio"]
    assert audio.keys() == {"type", "reply", "data", "rate"}


async def test_an_invalid_idempotency_key_is_refused(it: Installation) -> None:
    """An Idempotency-Key is 1 to 255 printable characters."""
    session = await it.start()
    error = await it.refused(session.session_id, idempotency_key="x" * 256)
    assert isinstance(error, InvalidInput)


async def test_uploads_are_admitted_before_they_are_read(it: Installation) -> None:
    """A session whose uploads do not go on gets no further ones; another session does, and closed uploads make room."""
    stuck, other = await it.start(), await it.start()
    port = urlsplit(it.plane.url).port
    head = (
        f"POST /api/v1/sessions/{stuck.session_id}/turns HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Content-Type: audio/wav\r\nContent-Length: 1000000\r\n\r\n"
    )
    writers = []

    async def upload() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode())
        writers.append(writer)

    for _ in range(UPLOADS_OF_SESSION):
        await upload()

    async def full() -> bool:
        try:
            await it.answer(stuck.session_id, b"no recording")
        except AgentFieldError as error:
            return error.code == "too_many_at_once"
        return False

    async def filled() -> bool:
        if await full():
            return True
        await upload()  # the question is an upload as well: one of the others may have been refused in its place
        return False

    await until_async(filled)
    assert (await it.refused(other.session_id, b"no recording")).code != "too_many_at_once"
    for writer in writers:
        writer.close()

    async def admitted() -> bool:
        return not await full()

    await until_async(admitted)
