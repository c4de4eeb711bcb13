"""One session of the fake: it hears, answers by itself, is interrupted, and calls functions."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from agentfield_gemini.testing.detection import ActivityDetector
from agentfield_gemini.testing.model import sound_ms, usage_metadata, voice
from agentfield_gemini.testing.validation import InvalidMessage, canonical, check_client_message, check_server_message

if TYPE_CHECKING:
    from agentfield_gemini.testing.live_server import LiveServer

__all__ = ["Conversation"]

_WITH_ACTIVITY = ("gemini-3.1-",)
"""Models that report voice activity, and send the transcript of a turn as one finished piece."""
_SPEED = 4
"""How much faster than it is played a reply is generated."""
_IDS = itertools.count(1)


class Conversation:
    """A session.

    Args:
        server: The server.
        socket: The connection.
    """

    def __init__(self, server: LiveServer, socket: web.WebSocketResponse) -> None:
        self._server = server
        self._socket = socket
        self._detector = ActivityDetector({})
        self._history: list[dict[str, Any]] = []
        self._reports_activity = False
        self._resumable = False
        self._answering: asyncio.Task[None] | None = None
        self._calls: set[str] = set()
        self._results: list[dict[str, Any]] = []
        self._words: list[str] = []
        self._spoken = ""
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Serve the session to its end."""
        try:
            async for message in self._socket:
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    continue
                try:
                    await self._receive(canonical(json.loads(message.data)))
                except InvalidMessage as error:
                    self._server.faults.append(str(error))
                    await self.close(1007, f"Invalid JSON payload received. {error}")
        finally:
            await self._stop_answering()

    async def close(self, code: int, reason: str) -> None:
        """Close the connection; a reason has at most 123 bytes."""
        await self._socket.close(code=code, message=reason.encode()[:123])

    async def send(self, **message: Any) -> None:
        """Send a valid message; as the service does, in a binary frame."""
        check_server_message(message)
        await self.send_unchecked(message)

    async def send_unchecked(self, message: Mapping[str, Any]) -> None:
        """Send any message."""
        self._server.sent.append(message)
        async with self._sending:
            await self._socket.send_bytes(json.dumps(message, ensure_ascii=False).encode())

    # --- messages of the client

    async def _receive(self, message: dict[str, Any]) -> None:
        check_client_message(message)
        match message:
            case {"realtimeInput": {"audio": {"mimeType": "audio/pcm;rate=16000", "data": str(data)}}}:
                await self._hear(base64.b64decode(data.replace("-", "+").replace("_", "/")))
                return
        self._server.received.append(json.dumps(message, ensure_ascii=False))
        match message:
            case {"setup": dict(setup)}:
                await self._set_up(setup)
            case {"realtimeInput": {"activityStart": _}} if self._detector.disabled:
                await self._activity_starts()
            case {"realtimeInput": {"activityEnd": _}} if self._detector.disabled:
                await self._activity_ends()
            case {"clientContent": dict(content)}:
                await self._take_content(content)
            case {"toolResponse": {"functionResponses": list(responses)}}:
                await self._take_results(responses)
            case _:
                raise InvalidMessage(f"not possible now: {sorted(message)}")

    async def _set_up(self, setup: dict[str, Any]) -> None:
        model = str(setup["model"]).removeprefix("models/")
        if model not in self._server.models:
            await self.close(1008, f"models/{model} is not found for API version v1beta, or is not supported for bidi.")
            return
        handle = setup.get("sessionResumption", {}).get("handle")
        if handle is not None:
            if handle not in self._server.handles:
                await self.close(1008, "BidiGenerateContent session not found")
                return
            self._history = list(self._server.handles[handle])
        self._resumable = "sessionResumption" in setup
        self._reports_activity = model.startswith(_WITH_ACTIVITY)
        self._detector = ActivityDetector(setup.get("realtimeInputConfig", {}).get("automaticActivityDetection", {}))
        await self.send(setupComplete={})
        await self._save()

    async def _take_content(self, content: dict[str, Any]) -> None:
        await self._interrupt()
        self._history += content.get("turns", [])
        if content.get("turnComplete"):
            self._answer()

    async def _take_results(self, responses: list[dict[str, Any]]) -> None:
        for response in responses:
            if response["id"] not in self._calls:
                self._server.faults.append(f"a result of an unknown call: {response['id']}")
                continue
            self._calls.discard(response["id"])
            self._results.append({"functionResponse": response})
        if not self._calls and self._results:
            self._history.append({"role": "user", "parts": self._results})
            self._results = []
            self._answer()

    # --- the caller

    async def _hear(self, data: bytes) -> None:
        for happened in self._detector.feed(data):
            match happened:
                case "start" if not self._detector.disabled:
                    await self._activity_starts()
                case "speech":
                    await self._transcribe(1)
                case "end":
                    await self._activity_ends()

    async def _activity_starts(self) -> None:
        self._words = self._server.take_announced().split(" ")
        self._spoken = ""
        if self._reports_activity:
            await self._voice_activity("ACTIVITY_START")
        await self._interrupt()
        if not self._detector.disabled:
            await self._transcribe(1)

    async def _activity_ends(self) -> None:
        self._detector.active = False
        if self._reports_activity:
            await self._voice_activity("ACTIVITY_END")
        await self._transcribe(len(self._words))
        self._history.append({"role": "user", "parts": [{"text": self._spoken}]})
        self._answer()

    async def _voice_activity(self, kind: str) -> None:
        await self.send(voiceActivity={"type": kind, "audioOffset": f"{self._detector.heard_ms / 1000:g}s"})

    async def _transcribe(self, count: int) -> None:
        """Send the next words of the transcript; some models send all of them at the end."""
        if self._reports_activity and count < len(self._words):
            return
        words, self._words = self._words[:count], self._words[count:]
        if not words:
            return
        piece = " ".join(words) if not self._spoken else " " + " ".join(words)
        self._spoken += piece
        transcription = {"text": piece, **({"finished": True} if self._reports_activity else {})}
        await self.send(serverContent={"inputTranscription": transcription})

    # --- the model

    async def _interrupt(self) -> None:
        if self._calls:
            cancelled, self._calls, self._results = sorted(self._calls), set(), []
            await self.send(toolCallCancellation={"ids": cancelled})
        if self._answering is not None and not self._answering.done():
            await self._stop_answering()
            await self.send(serverContent={"interrupted": True})
            await self.send(serverContent={"turnComplete": True}, usageMetadata=self._usage(0))
        self._answering = None

    async def _stop_answering(self) -> None:
        if self._answering is not None:
            self._answering.cancel()
            await asyncio.gather(self._answering, return_exceptions=True)

    def _answer(self) -> None:
        self._answering = asyncio.create_task(self._generate(), name="the fake of Gemini Live answers")

    async def _generate(self) -> None:
        model = self._server.model
        if calls := model.next_calls(self._server.calls_at_once):
            functions = [{"id": f"function-call-{next(_IDS)}", "name": name, "args": args} for name, args in calls]
            self._calls |= {str(each["id"]) for each in functions}
            self._history.append({"role": "model", "parts": [{"functionCall": each} for each in functions]})
            await self.send(toolCall={"functionCalls": functions})
            return
        if model.is_silent():
            await self.send(serverContent={"turnComplete": True}, usageMetadata=self._usage(0))
            return
        text = model.answer(self._history)
        began = asyncio.get_running_loop().time()
        said = ""
        for words, sound in voice(text):
            blob = {"mimeType": "audio/pcm;rate=24000", "data": base64.b64encode(sound).decode()}
            content: dict[str, Any] = {"modelTurn": {"parts": [{"inlineData": blob}]}}
            if words:
                said += words
                content["outputTranscription"] = {"text": words}
            await self.send(serverContent=content)
            self._remember(said)
            await asyncio.sleep(len(sound) / 2 / 24_000 / _SPEED)
        await self.send(serverContent={"generationComplete": True})
        # the end of the turn waits until the reply is played in real time
        await asyncio.sleep(max(0.0, began + sound_ms(text) / 1000 - asyncio.get_running_loop().time()))
        await self.send(serverContent={"turnComplete": True}, usageMetadata=self._usage(sound_ms(text)))
        await self._save()

    def _remember(self, said: str) -> None:
        """Keep what has been sent in the conversation, also what is interrupted later."""
        last = self._history[-1] if self._history else {}
        if last.get("role") == "model" and "text" in last["parts"][0] and said.startswith(last["parts"][0]["text"]):
            last["parts"][0]["text"] = said
        else:
            self._history.append({"role": "model", "parts": [{"text": said}]})

    def _usage(self, audio_out_ms: int) -> dict[str, Any]:
        return usage_metadata(self._history, self._detector.heard_ms, audio_out_ms)

    async def _save(self) -> None:
        """Give the client a handle of the conversation as it is now."""
        if self._server.noisy:
            await self.send_unchecked({"futureMessage": {"text": "unknown"}, "serverContent": {"futureField": 1}})
            await self.send_unchecked({"setupComplete": {}})
            await self.send_unchecked({"serverContent": {"turnComplete": True}})
        if self._resumable:
            handle = f"handle-{next(_IDS)}"
            self._server.handles[handle] = json.loads(json.dumps(self._history))
            await self.send(sessionResumptionUpdate={"newHandle": handle, "resumable": True})
