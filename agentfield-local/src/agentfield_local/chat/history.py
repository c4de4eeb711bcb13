"""From the messages of a request to what a brain reads: recordings become words, calls and results find each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agentfield_local.brain.protocol import BrainRequest, ToolOffer, ToolResult
from agentfield_local.brain.protocol import Message as Said
from agentfield_local.chat.audio import Hearing, decode_audio
from agentfield_local.chat.refusals import invalid
from agentfield_local.chat.request import Assistant, ChatRequest, InputAudioPart, Message, System, TextPart, Tool, User
from agentfield_local.realtime.usage import Usage, text_tokens
from agentfield_local.speech.protocols import SPEECH_RATE

__all__ = ["Conversation", "Recordings", "decode_recordings", "read_conversation", "recall"]

_AUDIO_TOKEN_MS = 100
_TAG = "<say>"
Recordings = dict[tuple[int, int], bytes]
"""The recordings of a request by message and part, 16 kHz s16le mono."""


@dataclass(slots=True)
class Conversation:
    """What a brain reads, and what reading it costs."""

    request: BrainRequest
    usage: Usage = field(default_factory=Usage)


def decode_recordings(messages: Sequence[Message]) -> Recordings:
    """Return every recording of a request; slow, for a worker thread.

    Raises:
        ChatRefusal: One cannot be decoded; it is named.
    """
    found: Recordings = {}
    for index, message in enumerate(messages):
        if isinstance(message, User) and not isinstance(message.content, str):
            for number, part in enumerate(message.content):
                if isinstance(part, InputAudioPart):
                    param = f"messages[{index}].content[{number}].input_audio"
                    found[index, number] = decode_audio(part.input_audio, param)
    return found


def recall(messages: Sequence[Message], spoken: Callable[[str], str | None]) -> dict[str, str]:
    """Return the words behind the audio ids that assistant messages name.

    Args:
        messages: The messages.
        spoken: Returns the words of an answer's audio, None for an unknown or expired id.

    Raises:
        ChatRefusal: An id is unknown.
    """
    words: dict[str, str] = {}
    for index, message in enumerate(messages):
        if isinstance(message, Assistant) and message.audio is not None:
            text = spoken(message.audio.id)
            if text is None:
                raise invalid("The audio is unknown or has expired.", f"messages[{index}].audio.id")
            words[message.audio.id] = text
    return words


async def read_conversation(
    request: ChatRequest, recordings: Recordings, recalled: dict[str, str], hearing: Hearing
) -> Conversation:
    """Return what the brain reads of a request; recordings that were not heard before are transcribed.

    Args:
        request: The request.
        recordings: Its recordings.
        recalled: The words of the audio that its assistant messages name.
        hearing: What hears.

    Raises:
        Busy: Too much waits for the engine.
    """
    reader = _Reader(recordings, recalled, hearing, request.session_id or "")
    for index, message in enumerate(request.messages):
        await reader.read(index, message)
    tools = [
        ToolOffer(tool.function.name, tool.function.description, tool.function.parameters)
        for tool in request.tools or ()
    ]
    reader.usage.input_text += sum(text_tokens(tool.name + tool.description) for tool in tools)
    instructions, history = _told("\n\n".join(reader.system), reader.history, request.messages[-1])
    brain = BrainRequest(
        instructions=instructions,
        history=history,
        tools=tools,
        tool_choice=request.choice,
        metadata=request.metadata or {},
    )
    return Conversation(brain, reader.usage)


def _told(system: str, history: list[Said | ToolResult], last: Message) -> tuple[str, list[Said | ToolResult]]:
    """Return instructions and history; a typed last message that the system has said to read out is an instruction."""
    typed = last.content if isinstance(last, User) and isinstance(last.content, str) else ""
    if _TAG in system and typed.strip().startswith(_TAG):
        return f"{system}\n{typed.strip()}", history[:-1]
    return system, history


class _Reader:
    """One pass over the messages."""

    def __init__(self, recordings: Recordings, recalled: dict[str, str], hearing: Hearing, session: str) -> None:
        self.history: list[Said | ToolResult] = []
        self.system: list[str] = []
        self.usage = Usage()
        self._recordings = recordings
        self._recalled = recalled
        self._hearing = hearing
        self._names: dict[str, str] = {}
        self._place = hashlib.sha256(session.encode()).digest()

    async def read(self, index: int, message: Message) -> None:
        match message:
            case System(content=content):
                self._typed("system", text := _joined(content))
                self.system.append(text)
            case User(content=content):
                await self._user(index, content)
            case Assistant():
                self._assistant(message)
            case Tool(tool_call_id=call_id, content=content):
                self._typed("tool", text := _joined(content))
                self.history.append(ToolResult(call_id, self._names[call_id], text))

    async def _user(self, index: int, content: str | Sequence[TextPart | InputAudioPart]) -> None:
        parts: Sequence[TextPart | InputAudioPart]
        parts = [TextPart(type="text", text=content)] if isinstance(content, str) else content
        said: list[str] = []
        for number, part in enumerate(parts):
            if isinstance(part, TextPart):
                self._typed("user", part.text)
                said.append(part.text)
            else:
                pcm = self._recordings[index, number]
                self._place, text = await self._hearing.words(self._place, pcm)
                self.usage.input_audio += -(-len(pcm) * 1000 // (SPEECH_RATE * 2 * _AUDIO_TOKEN_MS))
                said.append(text)
        self.history.append(Said("user", " ".join(filter(None, said))))

    def _assistant(self, message: Assistant) -> None:
        text = _joined(message.content)
        if not text and message.audio is not None:
            text = self._recalled[message.audio.id]
        self._typed("assistant", text)
        if text:
            self.history.append(Said("assistant", text))
        for call in message.tool_calls or ():
            self._names[call.id] = call.function.name
            self.usage.input_text += text_tokens(call.function.name + call.function.arguments)

    def _typed(self, role: str, text: str) -> None:
        self.usage.input_text += text_tokens(text)
        self._place = hashlib.sha256(self._place + json.dumps([role, text]).encode()).digest()


def _joined(content: str | Sequence[TextPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content)
