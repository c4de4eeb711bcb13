"""A telephone call over Twilio: it requests the webhook, opens the stream, plays a recorded call and plays what it receives in real time."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

import agentfield_local.plugin
import agentfield_openai.plugin
import agentfield_twilio.plugin
from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.plugins import Registry
from agentfield.wire.rest import SessionView
from agentfield_local.brain.obedient import ObedientBrain
from agentfield_local.server import LocalServer
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_local.speech.synthetic import EnergyVad, FixedStt
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings
from agentfield_twilio.signature import signature
from support.contract.installation import CANARY, Voice
from support.paths import PHONE_FIXTURES
from support.waiting import SECONDS, until, until_async

__all__ = ["BASE", "CALL", "STREAM", "TOKEN", "Exchange", "Phone", "Stream", "exchange", "recorded", "registry"]

BASE = "/api/v1/transports/twilio"
TOKEN = "twilio-canary-0f8a6b2c4d9e"
FRAME = 160
_QUIET = b"\xff" * FRAME


def recorded() -> list[dict[str, Any]]:
    """Return the messages of the recorded call."""
    lines = (PHONE_FIXTURES / "call.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


_MESSAGES = recorded()
_START = _MESSAGES[1]
CALL: str = _START["start"]["callSid"]
STREAM: str = _START["streamSid"]


def utterances() -> list[list[bytes]]:
    """Return the frames of each sentence of the recorded call; 160 ms without a frame separate two sentences."""
    found: list[list[bytes]] = [[]]
    quiet: list[bytes] = []
    for message in _MESSAGES:
        if message["event"] != "media":
            continue
        frame = base64.b64decode(message["media"]["payload"])
        if frame == _QUIET:
            quiet.append(frame)
            continue
        if len(quiet) >= 8 and found[-1]:
            found.append([])
        found[-1] += [*(quiet if found[-1] else []), frame]
        quiet = []
    return found


@dataclass(frozen=True)
class Stream:
    """The stream that the response of a webhook connects a call to."""

    url: str
    parameters: dict[str, str]


def twiml(text: str) -> Stream | None:
    """Return the stream that a TwiML response connects to, or None if it hangs up."""
    root = ET.fromstring(text)
    assert root.tag == "Response"
    if root.find("Hangup") is not None:
        return None
    stream = root.find("Connect/Stream")
    assert stream is not None
    named = {each.attrib["name"]: each.attrib["value"] for each in stream.findall("Parameter")}
    return Stream(stream.attrib["url"], named)


class Phone:
    """One stream of a call; a task of its own plays what is received in real time.

    Args:
        socket: The open stream.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.sent: list[dict[str, Any]] = []
        """The received messages, in order; audio as its length."""
        self.heard = bytearray()
        """The played audio that was not silence."""
        self.clears: list[float] = []
        """Milliseconds of audio that each clear discarded."""
        self.cleared_at: list[float] = []
        """Milliseconds that had been played when the clear arrived."""
        self.told: list[str] = []
        """Marks in the order in which they were echoed because they were played."""
        self.positions: list[float] = []
        """Milliseconds that had been played when each mark was echoed."""
        self._queue: deque[bytes | str] = deque()
        self._speech: deque[bytes] = deque()
        self._number = 1
        self._reader = asyncio.create_task(self._read(), name="what the phone is sent")
        self._line = asyncio.create_task(self._tick(), name="the phone's line")

    async def say(self, sentence: int) -> None:
        """Play a sentence of the recorded call to its end."""
        self._speech.extend(utterances()[sentence])
        await until(lambda: not self._speech)

    async def press(self, digit: str) -> None:
        """Press a key."""
        await self.send("dtmf", dtmf={"track": "inbound_track", "digit": digit})

    async def hang_up(self) -> None:
        """Hang up: Twilio says stop and closes the stream."""
        stop = next(message for message in _MESSAGES if message["event"] == "stop")
        await self.send("stop", stop=stop["stop"])
        await self.leave()

    async def leave(self) -> None:
        """Abort the connection."""
        self._line.cancel()
        await asyncio.gather(self._line, return_exceptions=True)
        await self.socket.close()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def closed(self) -> int | None:
        """Wait until the other side has closed the stream; return its code."""
        await asyncio.wait_for(asyncio.shield(self._reader), SECONDS)
        await self.leave()
        return self.socket.close_code

    async def send(self, event: str, **parts: Any) -> None:
        """Send a message of the stream."""
        self._number += 1
        await self.socket.send_json({"event": event, "streamSid": STREAM, "sequenceNumber": str(self._number), **parts})

    async def send_audio(self, number: int, frame: bytes) -> None:
        """Send 20 ms of audio."""
        payload = base64.b64encode(frame).decode()
        about = {"track": "inbound", "chunk": str(number + 1), "timestamp": str(number * 20)}
        await self.send("media", media={**about, "payload": payload})

    def check(self, told: dict[str, Any]) -> None:
        """Check the form of a message that was received."""
        assert told["streamSid"] == STREAM

    # --- inside

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        begin, chunk = loop.time(), 0
        with suppress(ConnectionError):
            while not self.socket.closed:
                await asyncio.sleep(begin + chunk * 0.02 - loop.time())
                frame = self._speech.popleft() if self._speech else _QUIET
                await self.send_audio(chunk, frame)
                await self._play()
                chunk += 1

    async def _play(self) -> None:
        free = FRAME
        while self._queue and (free or isinstance(self._queue[0], str)):
            item = self._queue.popleft()
            if isinstance(item, str):
                self.told.append(item)
                self.positions.append(len(self.heard) / 8)
                await self.send("mark", mark={"name": item})
                continue
            self.heard += item[:free]
            if len(item) > free:
                self._queue.appendleft(item[free:])
            free -= min(free, len(item))

    async def _read(self) -> None:
        async for message in self.socket:
            assert message.type is aiohttp.WSMsgType.TEXT
            told = json.loads(message.data)
            self.check(told)
            match told["event"]:
                case "media":
                    audio = base64.b64decode(told["media"]["payload"], validate=True)
                    self._queue.append(audio)
                    told = {"event": "media", "size": len(audio)}
                case "mark":
                    self._queue.append(told["mark"]["name"])
                case "clear":
                    await self._clear()
                case other:
                    raise AssertionError(other)
            self.sent.append(told)

    async def _clear(self) -> None:
        # Twilio echoes the marks of cleared audio at once
        dropped, self._queue = self._queue, deque()
        self.cleared_at.append(len(self.heard) / 8)
        self.clears.append(sum(len(each) for each in dropped if isinstance(each, bytes)) / 8)
        for name in dropped:
            if isinstance(name, str):
                await self.send("mark", mark={"name": name})


def registry(plugins: Sequence[object] = ()) -> Registry:
    """Return a registry with two providers and the telephone transport, all independent, and further plugins."""
    return Registry.of([agentfield_local.plugin, agentfield_openai.plugin, agentfield_twilio.plugin, *plugins])


@dataclass
class Exchange:
    """An installation that Twilio can reach."""

    plane: ControlPlane
    client: ControlPlaneClient
    http: aiohttp.ClientSession
    server: LocalServer
    voice: Voice
    phones: list[Phone] = field(default_factory=list)

    def signed(self, url: str, form: Mapping[str, str] | None = None, *, token: str = TOKEN) -> dict[str, str]:
        """Return the header of a request that Twilio signs."""
        return {"X-Twilio-Signature": signature(token, url, (form or {}).items())}

    async def webhook(self, target: str, *, call: str = CALL, token: str = TOKEN, query: str = "") -> tuple[int, str]:
        """Request the webhook; return status and body."""
        url = f"{self.plane.url}{BASE}/voice/{target}{query}"
        form = {"CallSid": call, "AccountSid": "AC1", "From": "+4917012345", "To": "+4930123", "CallStatus": "ringing"}
        async with self.http.post(url, data=form, headers=self.signed(url, form, token=token)) as response:
            return response.status, await response.text()

    async def ring(self, target: str, **options: Any) -> Stream:
        """Call a number; return the stream that its webhook connects the call to."""
        status, text = await self.webhook(target, **options)
        assert status == 200, text
        stream = twiml(text)
        assert stream is not None
        return stream

    async def open(self, stream: Stream, *, call: str = CALL) -> Phone:
        """Open the stream of a call."""
        socket = await self.http.ws_connect(stream.url, headers=self.signed(stream.url))
        await socket.send_json(_MESSAGES[0])
        start = copy.deepcopy(_START)
        start["start"]["customParameters"] = stream.parameters
        start["start"]["callSid"] = call
        await socket.send_json(start)
        phone = Phone(socket)
        self.phones.append(phone)
        return phone

    async def session(self, count: int = 1) -> str:
        """Wait until `count` sessions exist; return the id of the newest."""

        async def found() -> str | None:
            rows = await self.client.list_sessions()
            return rows[0].id if len(rows) >= count else None

        return str(await until_async(found))

    async def ended(self, session_id: str) -> SessionView:
        """Wait until a session has ended; return its view."""

        async def found() -> SessionView | None:
            view = await self.client.get_session(session_id)
            return view if view.state == "ended" else None

        view: SessionView = await until_async(found)
        return view


@asynccontextmanager
async def exchange(
    home: Path,
    app: Agent,
    *,
    hears: tuple[str, ...] = ("hello",),
    environ: Mapping[str, str] | None = None,
    plugins: Sequence[object] = (),
) -> AsyncIterator[Exchange]:
    """Run an installation with the telephone transport; afterwards no task of it may be left.

    Args:
        home: The control plane's folder.
        app: The agent.
        hears: The transcripts of the provider, turn by turn.
        environ: Settings instead of Twilio's token.
        plugins: Further plugins.
    """
    before = asyncio.all_tasks()
    voice = Voice()
    engines = SpeechEngines(name="synthetic", vad=EnergyVad, stt=FixedStt(hears), tts=voice)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(LocalServer(engines, ObedientBrain()))
        settings = {
            "OPENAI_API_KEY": CANARY,
            "OPENAI_BASE_URL": server.base_url,
            "AGENTFIELD_LOCAL_URL": server.base_url,
            **({"TWILIO_AUTH_TOKEN": TOKEN} if environ is None else environ),
        }
        plane = await stack.enter_async_context(
            control_plane(Settings(home=home, port=0), registry=registry(plugins), environ=settings)
        )
        app._url, app._api_key = plane.url, None
        await stack.enter_async_context(app)
        client = await stack.enter_async_context(ControlPlaneClient(plane.url))
        http = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
        made = Exchange(plane, client, http, server, voice)
        try:
            yield made
        finally:
            for phone in made.phones:
                await phone.leave()
    await until(lambda: not [task for task in asyncio.all_tasks() - before if _ours(task)])


def _ours(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and "/agentfield" in code.co_filename
