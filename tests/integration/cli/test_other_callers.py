"""The WebSocket caller and the caller of recorded turns, against a scripted control plane."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import itertools
import json
import time
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import WSCloseCode, WSMsgType, web

from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError, LimitExceeded
from agentfield.wire.rest import StartRequest
from agentfield_cli.call.make_call import CallReport, call_failures, make_call
from agentfield_cli.call.recordings import FRAME, RATE, Samples, is_loud, read_recording, write_recording
from agentfield_cli.main import run
from agentfield_cli.terminal.output import Output

TOKEN = "ek_af_caller"
SES = "ses_1"


def tone(seconds: float, rate: int = RATE) -> Samples:
    at = np.arange(int(rate * seconds)) / rate
    return (9000 * np.sin(2 * np.pi * 440 * at)).astype(np.int16)


def loud_seconds(samples: Samples) -> float:
    """Return how many seconds of a 48 kHz recording are loud."""
    frames = samples[: samples.size // FRAME * FRAME].reshape(-1, FRAME)
    return sum(is_loud(frame) for frame in frames) * FRAME / RATE


class Peer:
    """A control plane with one session, which a test scripts."""

    def __init__(self) -> None:
        self.url = ""
        self.transport = "websocket"
        self.manual = False
        self.status = "succeeded"
        self.answer_seconds = 0.4
        self.clear_after: float | None = None
        self.drop_after: int | None = None
        self.cut_turns = 0
        self.fault: dict[str, Any] | None = None
        self.nag = False
        self.refusal: tuple[int, dict[str, Any]] | None = None
        self.ended = False
        self.frames: list[bytes] = []
        self.said: list[dict[str, Any]] = []
        self.opened: list[dict[str, str]] = []
        self.marks: dict[str, float] = {}
        self.audio_done: list[float] = []
        self.posts: list[tuple[float, str, str, bytes]] = []
        self.typed: list[str] = []
        self._events: list[dict[str, Any]] = []
        self._news = asyncio.Condition()
        self._executions: list[dict[str, Any]] = []
        self._turns = 0

    # --- the record

    async def note(self, type_: str, execution_id: str | None = None, /, **body: Any) -> None:
        at = time.time()
        event = {"type": type_, "at": at, "execution_id": execution_id, "session_id": SES, "body": body}
        await self._publish(event | {"seq": sum("seq" in known for known in self._events) + 1})

    async def live(self, **event: Any) -> None:
        await self._publish(event)

    async def _publish(self, event: dict[str, Any]) -> None:
        async with self._news:
            self._events.append(event)
            self._news.notify_all()

    async def begin_turn(self, text: str) -> str:
        """Record a turn with a started speech, whose execution has ended."""
        self._turns += 1
        turn = f"exe_{self._turns}"
        await self.note("execution.created", turn, kind="turn", target="n.voice", status="running")
        await self.note("turn.committed", turn_id=turn, item=f"item_{self._turns}", text=text)
        await self.note("speech.started", speech_id=f"spk_{self._turns}", kind="say", asked="Yes.", turn_id=turn)
        return turn

    async def end_turn(self, turn: str, heard_ms: int = 400) -> None:
        """Record that the answer was heard and the turn has ended."""
        number = turn.removeprefix("exe_")
        await self.note("speech.ended", speech_id=f"spk_{number}", asked="Yes.", generated="Yes.", heard_ms=heard_ms)
        problem = (
            {} if self.status == "succeeded" else {"problem": {"code": "handler_failed", "detail": "ValueError: no"}}
        )
        await self.note("execution.ended", turn, kind="turn", target="n.voice", status=self.status, **problem)
        view = {"id": turn, "run_id": "run_1", "kind": "turn", "target": "n.voice", "status": self.status}
        self._executions.append(view | {"created_at": 1.0} | problem)

    async def end(self, reason: str = "caller_hangup") -> None:
        if not self.ended:
            self.ended = True
            await self.note("session.state", state="ended", reason=reason)

    # --- the interface

    async def start(self, request: web.Request) -> web.Response:
        await request.read()
        base = f"{self.url}/api/v1/sessions/{SES}"
        ways = {
            "websocket": {"media_url": base.replace("http", "ws", 1) + "/media"},
            "audio_turns": {"turns_url": base + "/turns"},
        }
        value = {"session_id": SES, "run_id": "run_1", "target": "n.voice", "provider": "local", "model": "m"}
        value |= {
            "transport": self.transport,
            "floor": "handler",
            "token": TOKEN,
            "page_url": f"{self.url}/call#code=1",
        }
        return web.json_response(value | {"events_url": base + "/events"} | ways[self.transport], status=201)

    async def show(self, request: web.Request) -> web.Response:
        detection = None if self.manual else {"type": "server_vad"}
        value = {"id": SES, "run_id": "run_1", "target": "n.voice", "provider": "local", "transport": self.transport}
        value |= {"model": "m", "floor": "handler", "state": "created", "created_at": 1.0}
        return web.json_response(value | {"config": {"turn_detection": detection}})

    async def events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if request.query.get("audio") == "1" and self.transport == "audio_turns" and not self._events:
            await self.note("session.state", state="live")  # the first listener opens the call
        with contextlib.suppress(ConnectionResetError):  # the caller has heard enough
            async for event in self._tell():
                if event["type"] != "reply.audio" or request.query.get("audio") == "1":
                    await response.write(f"data: {json.dumps(event)}\n\n".encode())
        return response

    async def _tell(self) -> AsyncIterator[dict[str, Any]]:
        for number in itertools.count():
            async with self._news:
                await self._news.wait_for(partial(self._has, number))
            yield self._events[number]
            if self._events[number].get("body", {}).get("state") == "ended":
                return

    def _has(self, number: int) -> bool:
        return len(self._events) > number

    async def hang_up(self, request: web.Request) -> web.Response:
        await request.read()
        await self.end()
        return web.json_response({})

    async def graph(self, request: web.Request) -> web.Response:
        return web.json_response({"run_id": "run_1", "session_id": SES, "executions": self._executions})

    async def type(self, request: web.Request) -> web.Response:
        self.typed.append((await request.json())["text"])
        turn = await self.begin_turn(self.typed[-1])
        await self.live(**self.piece(f"reply_{turn}"))
        await self.end_turn(turn)
        return web.json_response({})

    async def media(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        if self.refusal is not None:
            return web.json_response(self.refusal[1], status=self.refusal[0])
        self.opened.append(dict(request.query))
        rate = int(request.query["rate"])
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        ready = {"type": "ready", "session_id": SES, "format": {"codec": "pcm16", "rate": rate, "channels": 1}}
        await socket.send_json(ready)
        if self.fault is not None:
            await socket.send_json({"type": "error", "problem": self.fault})
            await socket.close(code=WSCloseCode.INTERNAL_ERROR)
            return socket
        if self.nag:
            await socket.send_json({"type": "error", "problem": {"code": "bad_frame", "detail": "No such frame."}})
        await self.note("session.state", state="live")
        await socket.send_json({"type": "event", "event": {"type": "session.ready"}})
        quiet, spoke = 0, False
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                spoke = await self._control(socket, message.json(), rate, spoke=spoke)
                continue
            self.frames.append(message.data)
            if self.drop_after is not None and len(self.frames) > self.drop_after:
                self.drop_after = None
                await socket.close(code=WSCloseCode.GOING_AWAY)
                break
            loud = is_loud(np.frombuffer(message.data, "<i2"))
            quiet, spoke = (0, True) if loud else (quiet + 1, spoke)
            if spoke and quiet > 10 and not self.manual:
                spoke = False
                await self._answer(socket, rate)
        return socket

    async def _control(self, socket: web.WebSocketResponse, frame: dict[str, Any], rate: int, *, spoke: bool) -> bool:
        self.said.append(frame)
        match frame:
            case {"type": "mark", "name": name}:
                self.marks[name] = time.monotonic()
                await self.end_turn(name)
            case {"type": "commit"}:
                await self._answer(socket, rate)
                return False
            case {"type": "hangup"}:
                await self.end()
                await socket.send_json({"type": "ended", "reason": "caller_hangup", "detail": None})
                await socket.close()
        return spoke

    async def _answer(self, socket: web.WebSocketResponse, rate: int) -> None:
        turn = await self.begin_turn("hello")
        data = tone(self.answer_seconds, rate).tobytes()
        step = rate // 10 * 2
        for at in range(0, len(data), step):
            await socket.send_bytes(data[at : at + step])
        self.audio_done.append(time.monotonic())
        await socket.send_json({"type": "mark", "name": turn})
        if self.clear_after is not None:
            await asyncio.sleep(self.clear_after)  # the time in which the caller hears a part of it
            await socket.send_json({"type": "clear"})
            await self.end_turn(turn, heard_ms=int(self.clear_after * 1000))

    def piece(self, reply: str) -> dict[str, Any]:
        data = base64.b64encode(tone(self.answer_seconds, 24_000).tobytes()).decode()
        return {"type": "reply.audio", "reply": reply, "data": data, "rate": 24_000}

    async def turns(self, request: web.Request) -> web.StreamResponse:
        if self.refusal is not None:
            await request.read()
            return web.json_response(self.refusal[1], status=self.refusal[0])
        key, again = request.headers["Idempotency-Key"], {key for _, key, _, _ in self.posts}
        self.posts.append((time.monotonic(), key, request.content_type, await request.read()))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        turn = f"exe_{self._turns}" if key in again else await self.begin_turn("hello")
        await response.write(f'event: turn\ndata: {{"item": "item_{turn}"}}\n\n'.encode())
        piece = json.dumps(self.piece(f"reply_{turn}"))
        await response.write(f"event: live\ndata: {piece}\n\n".encode())
        if self.cut_turns:
            self.cut_turns -= 1
            assert request.transport is not None
            request.transport.abort()
            return response
        await self.live(**self.piece(f"reply_{turn}"))  # the session's own stream has it too
        await self.end_turn(turn)
        return response


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    app = web.Application()
    base = "/api/v1/sessions"
    app.router.add_post(base, peer.start)
    app.router.add_get(f"{base}/{SES}", peer.show)
    app.router.add_get(f"{base}/{SES}/events", peer.events)
    app.router.add_post(f"{base}/{SES}/end", peer.hang_up)
    app.router.add_get(f"{base}/{SES}/workflows", peer.graph)
    app.router.add_post(f"{base}/{SES}/input", peer.type)
    app.router.add_get(f"{base}/{SES}/media", peer.media)
    app.router.add_post(f"{base}/{SES}/turns", peer.turns)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    peer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield peer
    await runner.cleanup()


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    async with asyncio.timeout(seconds):
        yield


async def call(peer: Peer, *recordings: Samples, texts: tuple[str, ...] = (), rate: int = 24_000) -> CallReport:
    """Start the peer's session and call it."""
    async with within(60), ControlPlaneClient(peer.url) as client:
        started = await client.start_session(StartRequest(target="n.voice"))
        return await make_call(client, started, recordings, Output(), loopback=True, texts=texts, rate=rate)


async def af(*arguments: str) -> int:
    """Run a command line as a program would, beside the peer."""
    return await asyncio.to_thread(run, list(arguments))


# --- a WebSocket


async def test_a_recording_is_spoken_and_the_answer_heard(peer: Peer) -> None:
    """Frames of 20 ms are sent at the requested rate; the answer is played in real time and its mark reported once heard."""
    report = await call(peer, tone(0.5), rate=16_000)
    assert peer.opened == [{"format": "pcm16", "rate": "16000"}]
    assert max(map(len, peer.frames)) == 640
    spoken = np.frombuffer(b"".join(peer.frames), "<i2")
    frames = spoken[: spoken.size // 320 * 320].reshape(-1, 320)
    assert 0.4 < sum(is_loud(frame) for frame in frames) * 0.02 < 0.6
    assert report.heard is not None
    assert 0.3 < loud_seconds(report.heard) < 0.5
    assert peer.marks["exe_1"] - peer.audio_done[0] > 0.2  # it was sent at once and takes 0.4 s to hear
    assert report.turns == [{"caller": "hello", "asked": "Yes.", "generated": "Yes.", "heard_ms": 400}]
    (timing,) = report.timings
    assert timing["offer_to_answer_ms"] > 0
    assert timing["end_of_speech_to_first_audio_ms"] > 0
    assert report.end_reason == "caller_hangup"
    assert call_failures(report) == []


async def test_cleared_audio_is_not_heard(peer: Peer) -> None:
    """A clear stops playout at once: the rest is not in the recording, and its mark is never reported."""
    peer.answer_seconds, peer.clear_after = 5.0, 0.3
    report = await call(peer, tone(0.3))
    assert report.heard is not None
    assert 0.1 < loud_seconds(report.heard) < 1.5
    assert peer.marks == {}
    assert report.turns[0]["heard_ms"] == 300


async def test_a_broken_connection_is_reopened(peer: Peer) -> None:
    """A connection that breaks during the call is reopened, and the call continues."""
    peer.drop_after = 3
    report = await call(peer, tone(2.0))
    assert len(peer.opened) == 2
    assert len(report.turns) == 1
    assert report.end_reason == "caller_hangup"


async def test_push_to_talk_commits_each_recording(peer: Peer) -> None:
    """Without turn detection each recording is followed by a commit."""
    peer.manual = True
    report = await call(peer, tone(0.3), tone(0.3))
    assert [frame for frame in peer.said if frame["type"] == "commit"] == [{"type": "commit"}] * 2
    assert len(report.turns) == 2


async def test_a_refused_connection_ends_the_session(peer: Peer) -> None:
    """The refusal of the WebSocket is the error that the caller gets; the session ends."""
    problem = LimitExceeded("Acme is busy.", code="provider_busy", hint="wait").to_problem()
    peer.refusal = (429, problem)
    with pytest.raises(AgentFieldError, match=r"Acme is busy\.") as refused:
        await call(peer, tone(0.3))
    assert (refused.value.code, refused.value.hint) == ("provider_busy", "wait")
    assert peer.ended


async def test_a_refusal_during_the_call_ends_it(peer: Peer) -> None:
    """A problem with which the control plane closes the connection is the error; the caller does not reconnect."""
    peer.fault = LimitExceeded("Acme is full.", code="provider_busy").to_problem()
    with pytest.raises(LimitExceeded, match=r"Acme is full\."):
        await call(peer, tone(0.3))
    assert len(peer.opened) == 1
    assert peer.ended


async def test_a_refused_frame_does_not_end_the_call(peer: Peer, capfd: pytest.CaptureFixture[str]) -> None:
    """A problem without a close is printed, and the call continues."""
    peer.nag = True
    report = await call(peer, tone(0.3))
    assert len(report.turns) == 1
    assert "  refused No such frame.\n" in capfd.readouterr().out


# --- recorded turns


async def test_each_recording_is_one_post(peer: Peer) -> None:
    """A recording is posted as a WAV file; its answer is played once in real time before the next post."""
    peer.transport = "audio_turns"
    report = await call(peer, tone(0.5), tone(0.3), rate=16_000)
    assert [kind for _, _, kind, _ in peer.posts] == ["audio/wav"] * 2
    assert len({key for _, key, _, _ in peer.posts}) == 2
    with wave.open(io.BytesIO(peer.posts[0][3])) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16_000, 1, 8000)
    assert report.heard is not None
    assert 0.7 < loud_seconds(report.heard) < 0.9  # two answers of 0.4 s, each from two streams
    assert peer.posts[1][0] - peer.posts[0][0] > 0.4
    assert [turn["caller"] for turn in report.turns] == ["hello", "hello"]
    assert report.timings[0]["offer_to_answer_ms"] is None
    assert report.timings[0]["end_of_speech_to_first_audio_ms"] > 0


async def test_typed_text_is_a_turn(peer: Peer) -> None:
    """Typed text is sent as input; its answer arrives on the session's event stream."""
    peer.transport = "audio_turns"
    report = await call(peer, texts=("that is all",))
    assert peer.typed == ["that is all"]
    assert peer.posts == []
    assert [turn["caller"] for turn in report.turns] == ["that is all"]
    assert report.heard is not None
    assert 0.3 < loud_seconds(report.heard) < 0.5


async def test_a_broken_answer_stream_is_requested_again(peer: Peer) -> None:
    """A broken answer stream is requested again with the same key, and no audio is played twice."""
    peer.transport, peer.cut_turns = "audio_turns", 1
    report = await call(peer, tone(0.3))
    assert len(peer.posts) == 2
    assert len({key for _, key, _, _ in peer.posts}) == 1
    assert report.heard is not None
    assert 0.3 < loud_seconds(report.heard) < 0.5


async def test_a_refused_turn_ends_the_call(peer: Peer) -> None:
    """The refusal of a turn is the error that the caller gets, and the session is ended."""
    peer.transport = "audio_turns"
    peer.refusal = (429, LimitExceeded("Acme is busy.", code="provider_busy").to_problem())
    with pytest.raises(LimitExceeded, match="Acme is busy"):
        await call(peer, tone(0.3))
    assert peer.ended


# --- the command


@pytest.mark.parametrize("transport", ["websocket", "audio_turns"])
async def test_the_command_makes_the_call_over_the_sessions_transport(
    peer: Peer, transport: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`af session call` prints the same object over every transport and writes the heard audio."""
    peer.transport = transport
    write_recording(tmp_path / "a.wav", tone(0.3))
    audio, reply = str(tmp_path / "a.wav"), tmp_path / "reply.wav"
    code = await af("session", "call", "n.voice", "--audio", audio, "--save", str(reply), "--url", peer.url, "--json")
    told = json.loads(capfd.readouterr().out)
    assert code == 0
    names = {
        "session_id",
        "provider",
        "transport",
        "end_reason",
        "turns",
        "executions",
        "timings",
        "saved",
        "usage",
        "cost",
    }
    assert set(told) == names
    assert (told["transport"], told["end_reason"], len(told["turns"])) == (transport, "caller_hangup", 1)
    assert 0.3 < loud_seconds(read_recording(reply)) < 0.5
    if transport == "websocket":
        assert peer.opened == [{"format": "pcm16", "rate": "48000"}]  # the file's own


@pytest.mark.parametrize("as_json", [False, True])
async def test_a_failed_handler_fails_the_call(
    peer: Peer, tmp_path: Path, capfd: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    """If the handler raised in a turn, the command exits with 1 and names the error."""
    peer.status = "failed"
    write_recording(tmp_path / "a.wav", tone(0.3))
    arguments = ("session", "call", "n.voice", "--audio", str(tmp_path / "a.wav"), "--url", peer.url)
    assert await af(*arguments, *(["--json"] if as_json else [])) == 1
    out = capfd.readouterr().out
    if as_json:
        assert json.loads(out)["failures"] == ["a turn of n.voice failed: ValueError: no"]
    else:
        assert "failed: a turn of n.voice failed: ValueError: no\n" in out


async def test_a_start_prints_the_media_address(peer: Peer, capfd: pytest.CaptureFixture[str]) -> None:
    """`af session start` prints the media address of the session's transport and no other."""
    assert await af("session", "start", "n.voice", "--url", peer.url) == 0
    out = capfd.readouterr().out
    assert f"media    {peer.url.replace('http', 'ws', 1)}/api/v1/sessions/{SES}/media\n" in out
    assert "turns " not in out
    peer.transport = "audio_turns"
    assert await af("session", "start", "n.voice", "--url", peer.url) == 0
    out = capfd.readouterr().out
    assert f"turns    {peer.url}/api/v1/sessions/{SES}/turns\n" in out
    assert "media " not in out
    assert TOKEN not in out


async def test_a_call_without_input_is_refused(peer: Peer, capfd: pytest.CaptureFixture[str]) -> None:
    """A call without recordings and text is refused before a session is started."""
    assert await af("session", "call", "n.voice", "--url", peer.url) == 2
    assert capfd.readouterr().err == (
        "error: There is nothing to say in the call.\nhint: af session call n.voice --audio FILE\ncode: nothing_to_say\n"
    )
