"""The built-in call page with recorded turns: hold to talk, hear the answer, interrupt it, leave."""

from __future__ import annotations

import array
import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Page, expect

from agentfield.realtime.commands import CancelReplyCommand
from agentfield.recordings import audible
from agentfield_server.api.pages import PageRoutes
from support.audio import tone, wav
from support.browser.chromium import Watched, chromium, line, watched_page
from support.providers.scripted_turns import Scripted
from support.server.recorded_turns import Installation, run_installation
from support.waiting import until_async

TALK = "Hold to talk"


@pytest.fixture
async def it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    """Return an installation whose agent speaks long enough to be heard and interrupted."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with run_installation(tmp_path, Scripted(seconds=1.0)) as made:
        yield made


@pytest.fixture
async def watched(it: Installation, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Watched]:
    """Return the call page of a started session in a browser whose microphone records a tone."""
    microphone = tmp_path / "hum.wav"
    microphone.write_bytes(wav(tone(120000)))
    session = await it.start(getattr(request, "param", "kiosk.polite"))
    async with chromium(microphone) as browser:
        watched = await watched_page(await browser.new_context(), session.page_url)
        yield watched
        assert await watched.violations() == []
        assert watched.complaints == []


async def _heard(page: Page) -> None:
    """Wait until the agent is audible."""
    await until_async(lambda: _level(page), lambda level: level > 0.2)


async def _level(page: Page) -> float:
    loud: float = await page.evaluate("document.querySelector('agentfield-call').call.levels().agent")
    return loud


async def _talk(page: Page, seconds: float = 0.6) -> None:
    """Hold the button while the caller speaks."""
    button = page.locator(".af-push")
    await button.hover()
    await page.mouse.down()
    await expect(button).to_have_attribute("aria-pressed", "true")
    await asyncio.sleep(seconds)  # this is how long the caller speaks
    await page.mouse.up()
    await expect(button).to_have_attribute("aria-pressed", "false")


async def test_a_page_talks_by_holding_a_button(it: Installation, watched: Watched) -> None:
    """The greeting is heard, a turn is recorded and sent, its answer is heard and shown, and hanging up ends the session."""
    it.script.hears += ["tea"]
    page = watched.page
    await page.get_by_role("button", name="Start the call").click()
    await expect(page.locator(".af-pill")).to_have_attribute("data-state", "live")
    await _heard(page)
    await expect(line(page, "agent")).to_have_text("Welcome.")
    await _talk(page)
    await expect(line(page, "caller")).to_have_text("tea")
    await expect(line(page, "agent", 1)).to_have_text("You said tea.")
    provider = await it.script.session()
    (turn,) = provider.turns
    assert audible(turn)
    assert 0.3 < len(array.array("h", turn)) / 24_000 < 3
    session_id = await watched.session_id()
    await page.get_by_role("button", name="Hang up").click()
    await expect(page.locator(".af-pill")).to_have_attribute("data-state", "ended")
    assert (await it.client.get_session(session_id)).end_reason == "caller_hangup"


@pytest.mark.parametrize("watched", ["kiosk.recorded"], indirect=True)
async def test_talking_does_not_stop_a_notice(it: Installation, watched: Watched) -> None:
    """The notice stays audible while the button is held and after it, is marked, and the turn is answered after it."""
    it.script.seconds = 4.0
    it.script.hears += ["tea"]
    page = watched.page
    await page.get_by_role("button", name="Start the call").click()
    await _heard(page)
    await _talk(page)
    await expect(line(page, "caller")).to_have_text("tea")
    assert await _level(page) > 0.2
    await expect(page.locator(".af-mark", has_text="cannot be interrupted")).to_be_visible()
    await expect(line(page, "agent", 1)).to_have_text("You said tea.")
    provider = await it.script.session()
    assert not [command for command in provider.sent if isinstance(command, CancelReplyCommand)]


async def test_talking_stops_the_answer(it: Installation, watched: Watched) -> None:
    """Pressing the button silences the agent; the turn that follows cancels its speech."""
    it.script.holds.add("You said tea.")
    it.script.seconds = 20.0
    it.script.hears += ["tea", "stop"]
    page = watched.page
    await page.get_by_role("button", name="Start the call").click()
    await expect(page.locator(".af-pill")).to_have_attribute("data-state", "live")
    await _talk(page)
    await expect(line(page, "caller")).to_have_text("tea")
    await _heard(page)
    it.script.seconds = 1.0
    button = page.locator(".af-push")
    await button.press("Enter", delay=500)
    await until_async(lambda: _level(page), lambda level: level < 0.05)
    await expect(line(page, "caller", 1)).to_have_text("stop")
    provider = await it.script.session()
    assert [command for command in provider.sent if isinstance(command, CancelReplyCommand)]
    await expect(page.locator('.af-line[data-role="agent"]', has_text="You said stop.")).to_be_visible()


async def test_typed_words_are_answered_aloud(it: Installation, watched: Watched) -> None:
    """Typed words are answered through the event stream and heard."""
    page = watched.page
    await page.get_by_role("button", name="Start the call").click()
    await expect(page.locator(".af-pill")).to_have_attribute("data-state", "live")
    await expect(line(page, "agent")).to_have_text("Welcome.")
    await page.get_by_label("Type instead of speaking").fill("coffee")
    await page.get_by_role("button", name="Send").click()
    await _heard(page)
    await expect(line(page, "agent", 1)).to_have_text("You said coffee.")
    await expect(page.get_by_role("button", name=TALK)).to_be_enabled()


_SEND = """
async () => {
  const {TurnCall} = await import('/agentfield/turn_call.js');
  const {TurnPlayer} = await import('/agentfield/turn_audio.js');
  const played = [];
  TurnPlayer.prototype.play = (data) => played.push(atob(data));
  const call = new TurnCall({session_id: 'ses_1', transport: 'audio_turns'}, 'ek_af_test');
  const errors = [];
  call.addEventListener('error', ({detail}) => errors.push(detail.code));
  await call.connect({audio: new Blob(['first'], {type: 'audio/wav'})});
  await new Promise((resolve) => call.addEventListener('answer', ({detail}) => { if (!detail.on) resolve(); }));
  const refused = await call.speak(new Blob(['refused'], {type: 'audio/ogg'})).catch((error) => error.code);
  return {played, errors, refused};
}
"""


class _Peer:
    """A control plane whose answers break off once and which refuses one recording."""

    def __init__(self) -> None:
        self.turns: list[tuple[str, str, str]] = []
        self.over = asyncio.Event()

    async def events(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b'id: 1\ndata: {"seq":1,"type":"session.state","body":{"state":"live"}}\n\n')
        await stream.write(_sound("r9", "outside") + _sound("r1", "one"))
        await self.over.wait()
        return stream

    async def turn(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        self.turns.append((request.headers["Idempotency-Key"], request.content_type, body))
        if body == "refused":
            return web.json_response({"code": "empty_turn", "detail": "Nothing."}, status=422)
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b'event: turn\ndata: {"item":"i1"}\n\n' + _sound("r2", "two"))
        if len(self.turns) == 1:
            assert request.transport is not None
            request.transport.abort()
            return stream
        await stream.write(_sound("r2", "three") + b'event: execution.ended\ndata: {"type":"execution.ended"}\n\n')
        return stream

    async def serve(self) -> TestServer:
        app = web.Application()
        app.router.add_get("/api/v1/sessions/ses_1/events", self.events)
        app.router.add_post("/api/v1/sessions/ses_1/turns", self.turn)
        for route in PageRoutes(None).routes():
            app.router.add_route(route.method, route.path, route.handler)
        server = TestServer(app)
        await server.start_server()
        return server


def _sound(reply: str, data: str) -> bytes:
    event = {"type": "reply.audio", "reply": reply, "data": base64.b64encode(data.encode()).decode(), "rate": 24000}
    return f"event: live\ndata: {json.dumps(event)}\n\n".encode()


async def test_a_broken_answer_is_resumed() -> None:
    """The page repeats a broken request with the same key, plays no piece twice, and shows refusals."""
    peer = _Peer()
    server = await peer.serve()
    try:
        async with chromium(None) as browser:
            page = await browser.new_page()
            await page.goto(str(server.make_url("/call")))
            seen = await page.evaluate(_SEND)
    finally:
        peer.over.set()
        await server.close()
    assert seen["played"] == ["outside", "one", "two", "three"]
    assert (seen["refused"], seen["errors"]) == ("empty_turn", ["empty_turn"])
    keys = [key for key, _, _ in peer.turns]
    assert keys[0] == keys[1] != keys[2]
    assert [turn[1:] for turn in peer.turns] == [("audio/wav", "first")] * 2 + [("audio/ogg", "refused")]
