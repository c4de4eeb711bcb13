"""Makes one answer: asks the brain, lets the voice speak, and sends chunks as they come, faults of the switches included."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentfield_local.brain.protocol import Call, Say, Step
from agentfield_local.chat.audio import CHAT_RATE
from agentfield_local.chat.behaviour import ChatBehaviour
from agentfield_local.chat.chunks import Chunks
from agentfield_local.chat.generations import AUDIO_SECONDS, Generation
from agentfield_local.chat.history import Conversation
from agentfield_local.chat.refusals import ChatRefusal, overloaded, upstream_failed
from agentfield_local.engines_pool import Busy, EnginesPool
from agentfield_local.ids import new_id
from agentfield_local.media import Encoder
from agentfield_local.realtime.usage import text_tokens
from agentfield_local.speech.clauses import split_clauses

__all__ = ["Answer", "Broken", "as_refusal", "split_text"]

_log = logging.getLogger(__name__)
_PCM = {"type": "audio/pcm"}
_CHUNK_BYTES = 4800
_TOKEN_MS = 50
_TOKEN_LETTERS = 4


class Broken(Exception):
    """The switches say that the stream breaks off here."""


class _LengthReached(Exception):
    """The answer has as many tokens as it may have."""


@dataclass(slots=True)
class _Progress:
    begun: bool = False
    """Whether anything was said or called."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer in the making.

    Args:
        pool: The engines.
        generation: Its record, filled in as it goes.
        chunks: How its chunks look.
        emit: Sends a chunk; returns when there is room for more.
        behaviour: The switches.
        speaks: Whether words are spoken or written.
        limit: The most tokens it may have.
        wants_usage: Whether it ends with what it took.
        continued: Whether the conversation had an answer before.
    """

    pool: EnginesPool
    generation: Generation
    chunks: Chunks
    emit: Callable[[dict[str, Any]], Awaitable[None]]
    behaviour: ChatBehaviour
    speaks: bool
    limit: int | None = None
    wants_usage: bool = False
    continued: bool = False
    _progress: _Progress = field(default_factory=_Progress)

    async def run(self, conversation: Conversation) -> None:
        """Send the chunks, from the first to the usage.

        Raises:
            Broken: The stream is to break off without a word.
        """
        if self.behaviour.stall == "before":
            await self._stall()
        if self.continued and self.behaviour.switches_at == "next_answer":
            self._switch()
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

    async def steps(self, conversation: Conversation) -> Sequence[Step]:
        """Return what the brain wants, and count what it read.

        Raises:
            ChatRefusal: The engines have too much to do, or broke.
        """
        self.generation.usage = conversation.usage
        try:
            return await self.pool.respond(conversation.request)
        except Exception as error:
            raise as_refusal(error) from error

    def take(self, text: str) -> str:
        """Return as much of a text as the limit allows, and count it."""
        usage = self.generation.usage
        kept = text if self.limit is None else text[: max(0, self.limit - usage.output) * _TOKEN_LETTERS]
        usage.output_text += text_tokens(kept)
        self.generation.said += kept
        return kept

    async def _content(self, conversation: Conversation) -> str:
        """Send what is said and called, and return why it ended."""
        steps = await self.steps(conversation)
        calls = 0
        try:
            for step in steps:
                match step:
                    case Say(text) if self.speaks:
                        await self._speak(text)
                    case Say(text):
                        await self._write(text)
                    case Call(name, arguments):
                        await self._call(calls, name, arguments)
                        calls += 1
        except _LengthReached:
            return "length"
        return "tool_calls" if calls else "stop"

    async def _send(self, chunk: dict[str, Any]) -> None:
        """Send a piece of what is said or called; after the first one happen the faults of the switches."""
        await self.emit(chunk)
        if self._progress.begun:
            return
        self._progress.begun = True
        if self.behaviour.stall == "middle":
            await self._stall()
        if self.behaviour.switches_at == "mid_answer":
            self._switch()
        if self.behaviour.stream_error is not None:
            raise ChatRefusal(self.behaviour.stream_error)
        if self.behaviour.ending == "broken":
            raise Broken

    async def _stall(self) -> None:
        if self.behaviour.stall_seconds is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(self.behaviour.stall_seconds)

    def _switch(self) -> None:
        if self.behaviour.switches is not None:
            self.chunks.head = self.generation.head = self.chunks.head.switched(self.behaviour)

    def _expires_at(self) -> int | None:
        if not self.speaks or not self.behaviour.expires_at:
            return None
        return self.generation.head.created + AUDIO_SECONDS

    async def _call(self, index: int, name: str, arguments: str) -> None:
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
        while (clause := await self._clause(clauses)) is not None:
            speech.held += speech.encoder.feed(clause)
            words = self.take(speech.words.pop(0)) if speech.words else ""
            await self._send_clause(speech, words)
        speech.held += speech.encoder.flush()
        await self._send_clause(speech, "".join(self.take(piece) for piece in speech.words), last=True)
        for piece in speech.late:
            await self._send(self.chunks.words(piece))

    async def _clause(self, clauses: AsyncIterator[bytes]) -> bytes | None:
        try:
            return await anext(clauses, None)
        except Exception as error:
            raise as_refusal(error) from error

    async def _send_clause(self, speech: _Speech, words: str, *, last: bool = False) -> None:
        """Send the words and the audio of a clause; what does not fill a chunk waits for the next."""
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
        """Count audio that was sent, and do not outrun the switch of the speed.

        Raises:
            _LengthReached: It was the last that the limit allows.
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
    """A text that is being spoken."""

    encoder: Encoder
    words: list[str]
    held: bytearray = field(default_factory=bytearray)
    late: list[str] = field(default_factory=list)

    def pieces(self, size: int, *, last: bool) -> Iterator[bytes]:
        """Yield audio in pieces of this size, the rest only with the last one."""
        while len(self.held) >= size or (self.held and last):
            data = bytes(self.held[:size])
            del self.held[:size]
            yield data


def split_text(text: str) -> list[str]:
    """Cut a text where the voice cuts it; the pieces joined are the text."""
    found: list[str] = []
    begin = 0
    for clause in split_clauses(text):
        end, letters = begin, len("".join(clause.split()))
        while end < len(text) and letters:
            letters -= not text[end].isspace()
            end += 1
        found.append(text[begin:end])
        begin = end
    if begin < len(text):
        found[-1:] = ["".join((*found[-1:], text[begin:]))]
    return found


def as_refusal(error: Exception) -> ChatRefusal:
    """Return what a client is told of an error of the engines; what they said themselves goes to the log."""
    match error:
        case ChatRefusal():
            return error
        case Busy():
            return overloaded()
        case _:
            _log.warning("an answer failed", exc_info=error)
            return upstream_failed()
