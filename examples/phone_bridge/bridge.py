"""A telephone line for a session: plays a recording into the call in real time and records the answer.

    python bridge.py CALLER.wav --target front-desk.phone --save answer.wav [--keys 1#]

A real bridge reads from and writes to its line instead of the two files; the rest stays the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import wave
from collections import deque
from contextlib import suppress
from pathlib import Path

import aiohttp

from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError
from agentfield.wire.rest import StartRequest

FRAME = 0.02  # seconds: the usual frame of a telephone line
SILENCE_AFTER = 1.5  # seconds of silence after the recording, so that the end of the turn is detected


class Line:
    """The caller's end of the line: sends the recording and records the received audio, both in real time."""

    def __init__(self, recording: Path) -> None:
        with wave.open(str(recording)) as source:
            if source.getsampwidth() != 2 or source.getnchannels() != 1:
                sys.exit(f"{recording}: a mono recording of 16-bit samples is needed")
            self.rate = source.getframerate()
            self.speech = source.readframes(source.getnframes())
        self.frame = int(self.rate * FRAME) * 2
        self.heard = bytearray()
        self._queue: deque[bytes | str] = deque()  # audio to play, and the names of marks in between

    def receive(self, item: bytes | str) -> None:
        """Queue audio or a mark."""
        self._queue.append(item)

    def clear(self) -> None:
        """Discard everything that was not played, marks included."""
        self._queue.clear()

    def play(self) -> list[str]:
        """Play one frame and return the marks that were reached."""
        frame, reached = bytearray(), []
        while self._queue and len(frame) < self.frame:
            item = self._queue.popleft()
            if isinstance(item, str):
                reached.append(item)
                continue
            missing = self.frame - len(frame)
            frame += item[:missing]
            if len(item) > missing:
                self._queue.appendleft(item[missing:])
        self.heard += frame.ljust(self.frame, b"\0")
        while self._queue and isinstance(self._queue[0], str):
            reached.append(str(self._queue.popleft()))
        return reached

    def spoken(self) -> list[bytes]:
        """Return the frames of the recording and of a silence after it."""
        sound = self.speech + bytes(self.frame * round(SILENCE_AFTER / FRAME))
        return [sound[at : at + self.frame] for at in range(0, len(sound) - self.frame + 1, self.frame)]


async def carry(socket: aiohttp.ClientWebSocketResponse, line: Line, *, keys: str, hold: float) -> None:
    """Send and play one frame per tick until `hold` seconds after the recording, then hang up."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    frames = line.spoken()
    for number in range(len(frames) + round(hold / FRAME)):
        await asyncio.sleep(begin + number * FRAME - loop.time())
        await socket.send_bytes(frames[number] if number < len(frames) else bytes(line.frame))
        for mark in line.play():
            await socket.send_json({"type": "mark", "name": mark})
        if number == len(frames):
            for digit in keys:
                await socket.send_json({"type": "dtmf", "digit": digit})
    await socket.send_json({"type": "hangup"})


async def listen(socket: aiohttp.ClientWebSocketResponse, line: Line) -> None:
    """Receive from the control plane until the connection closes."""
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY:
            line.receive(message.data)
            continue
        frame = json.loads(message.data)
        match frame["type"]:
            case "mark":
                line.receive(frame["name"])
            case "clear":
                line.clear()
            case "event":
                show(frame["event"])
            case "error":
                print(f"error: {frame['problem'].get('detail')}", file=sys.stderr)
            case "ended":
                print(f"the call is over: {frame['reason']}")


def show(event: dict[str, object]) -> None:
    """Print the final transcripts of both sides."""
    if event["type"] in ("turn.transcript", "reply.transcript") and event.get("final"):
        print(f"{'caller' if event['type'].startswith('turn') else 'agent '}: {event['text']}")


async def call(options: argparse.Namespace) -> None:
    """Start a session, make the call and save the received audio."""
    line = Line(options.recording)
    async with ControlPlaneClient(options.url) as client, aiohttp.ClientSession() as http:
        session = await client.start_session(StartRequest(target=options.target, caller=options.caller))
        if session.media_url is None:
            sys.exit(f"{session.target} runs over {session.transport}, which has no audio WebSocket")
        headers = {"Authorization": f"Bearer {session.token}"}
        params = {"format": "pcm16", "rate": str(line.rate)}
        async with http.ws_connect(session.media_url, headers=headers, params=params, heartbeat=10) as socket:
            listening = asyncio.create_task(listen(socket, line))
            with suppress(ConnectionError):
                await carry(socket, line, keys=options.keys, hold=options.hold)
            await listening
    with wave.open(str(options.save), "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(line.rate)
        target.writeframes(bytes(line.heard))
    print(f"the received audio is in {options.save}; the call: af session workflows {session.session_id}")


def main() -> None:
    """Parse the command line and make the call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path, help="a mono 16-bit WAV file of 8, 16, 24 or 48 kHz")
    parser.add_argument("--target", default="front-desk.phone", help="the session to call")
    parser.add_argument("--caller", default=None, help="the caller's name or number")
    parser.add_argument("--keys", default="", help="keys to press after the recording, such as 1#")
    parser.add_argument("--hold", type=float, default=6.0, help="seconds to listen after the recording")
    parser.add_argument("--save", type=Path, default=Path("heard.wav"), help="file for the received audio")
    parser.add_argument("--url", default=None, help="the control plane, by default the one that runs here")
    try:
        asyncio.run(call(parser.parse_args()))
    except AgentFieldError as error:
        sys.exit(f"error: {error.message}\nhint: {error.hint}")


if __name__ == "__main__":
    main()
