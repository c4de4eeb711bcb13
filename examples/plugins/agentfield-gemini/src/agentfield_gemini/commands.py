"""Commands to messages of the client, without state."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import AddTextCommand, ReplyCommand, SayCommand

__all__ = ["ACTIVITY_END", "ACTIVITY_START", "INPUT", "Message", "audio", "reply", "say", "text", "tool_response"]

Message = Mapping[str, Any]
INPUT = AudioFormat("pcm16", 16_000)
"""Format of the caller's audio."""
ACTIVITY_START: Message = {"realtimeInput": {"activityStart": {}}}
ACTIVITY_END: Message = {"realtimeInput": {"activityEnd": {}}}
_MIME = f"audio/pcm;rate={INPUT.rate}"


def audio(data: bytes) -> Message:
    """Return the message for a piece of the caller's audio."""
    return {"realtimeInput": {"audio": {"mimeType": _MIME, "data": base64.b64encode(data).decode()}}}


def say(command: SayCommand) -> Message:
    """Return the message that asks the model to say a text; how exactly it does is up to the model."""
    asked = f"Say the following to the caller now, word for word, and nothing else:\n{command.text}"
    return _content("user", asked, complete=True)


def reply(command: ReplyCommand) -> Message:
    """Return the message that asks the model to answer; it interrupts what the model says."""
    if not command.instructions:
        return {"clientContent": {"turnComplete": True}}
    return _content("user", f"Answer the caller now. For this answer: {command.instructions}", complete=True)


def text(command: AddTextCommand) -> Message:
    """Return the message that adds a text to the conversation; the model waits for more before it answers."""
    if command.role == "system":  # contents have the roles user and model only
        return _content("user", f"(Note, not said by the caller) {command.text}", complete=False)
    return _content("model" if command.role == "assistant" else "user", command.text, complete=False)


def tool_response(call_id: str, name: str, output: str) -> Message:
    """Return the message for the result of a tool call."""
    response = {"id": call_id, "name": name, "response": _result(output)}
    return {"toolResponse": {"functionResponses": [response]}}


def _content(role: str, words: str, *, complete: bool) -> Message:
    return {"clientContent": {"turns": [{"role": role, "parts": [{"text": words}]}], "turnComplete": complete}}


def _result(output: str) -> dict[str, Any]:
    try:
        value = json.loads(output)
    except ValueError:
        value = output
    return value if isinstance(value, dict) else {"output": value}
