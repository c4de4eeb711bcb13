"""One completion: queries the brain, synthesises speech and emits chunks, with the faults of the behaviour."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentfield_local.audio.codecs import Encoder
from agentfield_local.brain.protocol import CallFunction, Speak, Step
from agentfield_local.brain.tokens import text_tokens
from agentfield_local.chat.behaviour import ChatBehaviour
from agentfield_local.chat.chunks import ChunkBuilder
from agentfield_local.chat.generations import AUDIO_SECONDS, Generation
from agentfield_local.chat.prompt import BrainInput
from agentfield_local.chat.recordings import CHAT_RATE
from agentfield_local.chat.refusals import ChatRefusal, overloaded, upstream_failed
from agentfield_local.speech.clauses import split_text
from agentfield_local.speech.pool import EngineBusy, EnginePool
from agentfield_local.wire.ids import new_id

__all__ = ["Completion", "StreamBroken", "engine_refusal"]

_log = logging.getLogger(__name__)
_PCM = {"type": "audio/pcm"}
_CHUNK_BYTES = 4800
_TOKEN_MS = 50
_TOKEN_CHARACTERS = 4


class StreamBroken(Exception):
    """The behaviour breaks the stream off here."""


class _LengthReached(Exception):
    """The token limit is reached."""


@dataclass(slots=True)
class _Progress:
    has_content: bool = False
    """Whether a piece of content was sent."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion in progress.

    Args:
        pool: The engines.
        generation: Its record, updated on the way.
        chunks: Builds its chunks.
        emit: Sends a chunk; returns when the next one can be queued.
        behaviour: Variants and faults.
        speaks: Whether text is spoken or written.
        limit: Token limit.
        wants_usage: Whether it ends with a usage chunk.
        continued: Whether the conversation has an earlier completion.
    """

    pool: EnginePool
    generation: Generation
    chunks: ChunkBuilder
    emit: Callable[[dict[str, Any]], Awaitable[None]]
    behaviour: ChatBehaviour
    speaks: bool
    limit: int | None = None
    wants_usage: bool = False
    continued: bool = False
    _progress: _Progress = field(default_factory=_Progress)

    async def run(self, conversation: BrainInput) -> None:
        """Emit all chunks, from the role to the usage.

        Raises:
            StreamBroken: The behaviour breaks the stream.
        """
        if self.behaviour.stall == "before":
            await self._stall()
        if self.continued and self.behaviour.switches_at == "next_answer":
            self._change_head()
        await self.emit(self.chunks.begin())
        try:
            reason = await self._content(conversation)
        except ChatRefusal as refusal:
            self.generation.finish_reason = "error"
            await self.emit(self.chunks.error(refusal))
            return
        self.generation.finish_reason = reason
        await self.emit(self.chunks.finish(reason, self._expires_at()))
        if self.wants_usage and self.behaviour.usage != "absent":
            await self.emit(self.chunks.usage(self.generation.usage))

    async def steps(self, conversation: BrainInput) -> Sequence[Step]:
        """Return the brain's answer, and count its input.

        Raises:
            ChatRefusal: The engines are overloaded, or failed.
        """
        self.generation.usage = conversation.usage
        try:
            return await self.pool.respond(conversation.request)
        except Exception as error:
            raise engine_refusal(error) from error

    def take(self, text: str) -> str:
        """Return the part of a text that the token limit allows, and count it."""
        usage = self.generation.usage
        kept = text if self.limit is None else text[: max(0, self.limit - usage.output) * _TOKEN_CHARACTERS]
        usage.output_text += text_tokens(kept)
        self.generation.said += kept
        return kept

    async def _content(self, conversation: BrainInput) -> str:
        """Emit the content and return the finish reason."""
        steps = await self.steps(conversation)
        calls = 0
        try:
            for step in steps:
                match step:
                    case Speak(text) if self.speaks:
                        await self._speak(text)
                    case Speak(text):
                        await self._write(text)
                    case CallFunction(name, arguments):
                        await self._emit_call(calls, name, arguments)
                        calls += 1
        except _LengthReached:
            return "length"
        return "tool_calls" if calls else "stop"

    async def _send(self, chunk: dict[str, Any]) -> None:
        """Emit a piece of content; inject mid-stream faults after the first one."""
        await self.emit(chunk)
        if self._progress.has_content:
            return
        self._progress.has_content = True
        if self.behaviour.stall == "middle":
            await self._stall()
        if self.behaviour.switches_at == "mid_answer":
            self._change_head()
        if self.behaviour.stream_error is not None:
            raise ChatRefusal(self.behaviour.stream_error)
        if self.behaviour.ending == "broken":
            raise StreamBroken

    async def _stall(self) -> None:
        if self.behaviour.stall_seconds is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(self.behaviour.stall_seconds)

    def _change_head(self) -> None:
        if self.behaviour.switches is not None:
            self.chunks.head = self.generation.head = self.chunks.head.changed(self.behaviour)

    def _expires_at(self) -> int | None:
        if not self.speaks or not self.behaviour.expires_at:
            return None
        return self.generation.head.created + AUDIO_SECONDS

    async def _emit_call(self, index: int, name: str, arguments: str) -> None:
        self.generation.usage.output_text += text_tokens(name + arguments)
        for chunk in self.chunks.call(index, new_id("call"), name, arguments):
            await self._send(chunk)

    async def _write(self, text: str) -> None:
        for piece in split_text(text):
            kept = self.take(piece)
            if kept:
                await self._send(self.chunks.text(kept))
            if kept != piece:
                raise _LengthReached

    async def _speak(self, text: str) -> None:
        speech = _Speech(Encoder(self.pool.engines.tts.rate, _PCM), split_text(text))
        clauses = self.pool.speak(text)
        while (clause := await self._next_clause(clauses)) is not None:
            speech.pending += speech.encoder.feed(clause)
            words = self.take(speech.words.pop(0)) if speech.words else ""
            await self._send_clause(speech, words)
        speech.pending += speech.encoder.flush()
        await self._send_clause(speech, "".join(self.take(piece) for piece in speech.words), last=True)
        for piece in speech.late:
            await self._send(self.chunks.words(piece))

    async def _next_clause(self, clauses: AsyncIterator[bytes]) -> bytes | None:
        try:
            return await anext(clauses, None)
        except Exception as error:
            raise engine_refusal(error) from error

    async def _send_clause(self, speech: _Speech, words: str, *, last: bool = False) -> None:
        """Emit the words and the audio of a clause; audio that does not fill a chunk waits for the next one."""
        together = ""
        match self.behaviour.transcript:
            case "after_audio":
                speech.late.extend([words] if words else [])
            case "with_audio":
                together = words
            case _ if words:
                await self._send(self.chunks.words(words))
        for data in speech.pieces(self.chunks.size(_CHUNK_BYTES), last=last):
            await self._send(self.chunks.audio(data, together))
            together = ""
            await self._count(len(data))
        if together:
            await self._send(self.chunks.words(together))

    async def _count(self, size: int) -> None:
        """Count emitted audio, and limit it to the generation speed of the behaviour.

        Raises:
            _LengthReached: The token limit is reached.
        """
        ms = size * 1000 / (CHAT_RATE * 2)
        self.generation.audio_ms += ms
        usage = self.generation.usage
        usage.output_audio += max(1, round(ms / _TOKEN_MS))
        if self.limit is not None and usage.output >= self.limit:
            raise _LengthReached
        if self.behaviour.generation_speed is not None:
            await asyncio.sleep(ms / 1000 / self.behaviour.generation_speed)


@dataclass(slots=True)
class _Speech:
    """Synthesis of one text.

    Attributes:
        encoder: Encodes the voice's audio.
        words: Words of the clauses that are not synthesised yet.
        pending: Audio that does not fill a chunk yet.
        late: Words to send after all audio.
    """

    encoder: Encoder
    words: list[str]
    pending: bytearray = field(default_factory=bytearray)
    late: list[str] = field(default_factory=list)

    def pieces(self, size: int, *, last: bool) -> Iterator[bytes]:
        """Yield audio in pieces of this size; the rest only if it is the last."""
        while len(self.pending) >= size or (self.pending and last):
            data = bytes(self.pending[:size])
            del self.pending[:size]
            yield data


def engine_refusal(error: Exception) -> ChatRefusal:
    """Return the refusal for an engine error; log the error itself, which clients do not see."""
    match error:
        case ChatRefusal():
            return error
        case EngineBusy():
            return overloaded()
        case _:
            _log.warning("a completion failed", exc_info=error)
            return upstream_failed()
