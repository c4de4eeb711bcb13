"""Brain input of a request: its messages with recordings transcribed and tool results matched to their calls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agentfield_local.brain.protocol import BrainRequest, ToolOffer, ToolResult
from agentfield_local.brain.protocol import Message as BrainMessage
from agentfield_local.brain.tokens import TokenUsage, text_tokens
from agentfield_local.chat.recordings import RecordingTranscriber, decode_audio
from agentfield_local.chat.refusals import invalid
from agentfield_local.chat.request import (
    AssistantMessage,
    ChatRequest,
    InputAudioPart,
    Message,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
)
from agentfield_local.speech.protocols import SPEECH_RATE

__all__ = ["BrainInput", "Recordings", "decode_recordings", "read_messages", "recall_spoken_words"]

_AUDIO_TOKEN_MS = 100
_SAY_TAG = "<say>"
Recordings = dict[tuple[int, int], bytes]
"""Recordings of a request by index of message and part, 16 kHz s16le mono."""


@dataclass(slots=True)
class BrainInput:
    """What the brain reads, and the usage of reading it."""

    request: BrainRequest
    usage: TokenUsage = field(default_factory=TokenUsage)


def decode_recordings(messages: Sequence[Message]) -> Recordings:
    """Return all recordings of a request; slow, so run it in a worker thread.

    Raises:
        ChatRefusal: A recording cannot be decoded; the error names it.
    """
    found: Recordings = {}
    for index, message in enumerate(messages):
        if isinstance(message, UserMessage) and not isinstance(message.content, str):
            for number, part in enumerate(message.content):
                if isinstance(part, InputAudioPart):
                    param = f"messages[{index}].content[{number}].input_audio"
                    found[index, number] = decode_audio(part.input_audio, param)
    return found


def recall_spoken_words(messages: Sequence[Message], spoken: Callable[[str], str | None]) -> dict[str, str]:
    """Return the words of the audio ids in assistant messages.

    Args:
        messages: The messages.
        spoken: Returns the words of an audio id; None for an unknown or expired one.

    Raises:
        ChatRefusal: An id is unknown or has expired.
    """
    words: dict[str, str] = {}
    for index, message in enumerate(messages):
        if isinstance(message, AssistantMessage) and message.audio is not None:
            text = spoken(message.audio.id)
            if text is None:
                raise invalid("The audio is unknown or has expired.", f"messages[{index}].audio.id")
            words[message.audio.id] = text
    return words


async def read_messages(
    request: ChatRequest, recordings: Recordings, recalled: dict[str, str], transcriber: RecordingTranscriber
) -> BrainInput:
    """Return the brain input of a request; transcribe its new recordings.

    Args:
        request: The request.
        recordings: Its recordings.
        recalled: Words of the audio ids in its assistant messages.
        transcriber: Transcribes recordings.

    Raises:
        EngineBusy: The queue of an engine is full.
    """
    reader = _Reader(recordings, recalled, transcriber, request.session_id or "")
    for index, message in enumerate(request.messages):
        await reader.read(index, message)
    tools = [
        ToolOffer(tool.function.name, tool.function.description, tool.function.parameters)
        for tool in request.tools or ()
    ]
    reader.usage.input_text += sum(text_tokens(tool.name + tool.description) for tool in tools)
    instructions, history = _split_instruction("\n\n".join(reader.system), reader.history, request.messages[-1])
    brain = BrainRequest(
        instructions=instructions,
        history=history,
        tools=tools,
        tool_choice=request.choice,
        metadata=request.metadata or {},
    )
    return BrainInput(brain, reader.usage)


def _split_instruction(
    system: str, history: list[BrainMessage | ToolResult], last: Message
) -> tuple[str, list[BrainMessage | ToolResult]]:
    """Return instructions and history.

    A typed last message that begins with `<say>` is an instruction if the system message announces that tag.
    """
    typed = last.content if isinstance(last, UserMessage) and isinstance(last.content, str) else ""
    if _SAY_TAG in system and typed.strip().startswith(_SAY_TAG):
        return f"{system}\n{typed.strip()}", history[:-1]
    return system, history


class _Reader:
    """Converts the messages one by one."""

    def __init__(
        self, recordings: Recordings, recalled: dict[str, str], transcriber: RecordingTranscriber, session: str
    ) -> None:
        self.history: list[BrainMessage | ToolResult] = []
        self.system: list[str] = []
        self.usage = TokenUsage()
        self._recordings = recordings
        self._recalled = recalled
        self._transcriber = transcriber
        self._tool_names: dict[str, str] = {}
        self._digest = hashlib.sha256(session.encode()).digest()

    async def read(self, index: int, message: Message) -> None:
        match message:
            case SystemMessage(content=content):
                self._add_text("system", text := _join_text(content))
                self.system.append(text)
            case UserMessage(content=content):
                await self._user(index, content)
            case AssistantMessage():
                self._assistant(message)
            case ToolMessage(tool_call_id=call_id, content=content):
                self._add_text("tool", text := _join_text(content))
                self.history.append(ToolResult(call_id, self._tool_names[call_id], text))

    async def _user(self, index: int, content: str | Sequence[TextPart | InputAudioPart]) -> None:
        parts: Sequence[TextPart | InputAudioPart]
        parts = [TextPart(type="text", text=content)] if isinstance(content, str) else content
        texts: list[str] = []
        for number, part in enumerate(parts):
            if isinstance(part, TextPart):
                self._add_text("user", part.text)
                texts.append(part.text)
            else:
                pcm = self._recordings[index, number]
                self._digest, text = await self._transcriber.words(self._digest, pcm)
                self.usage.input_audio += -(-len(pcm) * 1000 // (SPEECH_RATE * 2 * _AUDIO_TOKEN_MS))
                texts.append(text)
        self.history.append(BrainMessage("user", " ".join(filter(None, texts))))

    def _assistant(self, message: AssistantMessage) -> None:
        text = _join_text(message.content)
        if not text and message.audio is not None:
            text = self._recalled[message.audio.id]
        self._add_text("assistant", text)
        if text:
            self.history.append(BrainMessage("assistant", text))
        for call in message.tool_calls or ():
            self._tool_names[call.id] = call.function.name
            self.usage.input_text += text_tokens(call.function.name + call.function.arguments)

    def _add_text(self, role: str, text: str) -> None:
        self.usage.input_text += text_tokens(text)
        self._digest = hashlib.sha256(self._digest + json.dumps([role, text]).encode()).digest()


def _join_text(content: str | Sequence[TextPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content)
