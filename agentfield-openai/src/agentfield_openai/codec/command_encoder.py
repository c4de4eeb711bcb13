"""Encodes commands as client events."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from agentfield.errors import CapabilityMissing, InvalidInput
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import (
    AddTextCommand,
    AppendAudioCommand,
    BeginTurnCommand,
    CancelReplyCommand,
    Command,
    CommitTurnCommand,
    EndCommand,
    ReplyCommand,
    SayCommand,
    ToolResultCommand,
    UpdateCommand,
)
from agentfield_openai.codec.session_object import SessionObject
from agentfield_openai.codec.state import CodecState, PendingEvent, ReplyState
from agentfield_openai.codec.truncation import Truncation, truncations

__all__ = ["CommandEncoder"]

ClientEvent = dict[str, Any]

_SAY = (
    "You are a text-to-speech voice. Speak exactly the text between <say> and </say>, word for word, in its language. "
    "Add nothing, answer nothing.\n<say>{text}</say>"
)


class CommandEncoder:
    """Encodes the commands of one session.

    Args:
        session: The requested session object.
        state: The state of the codec.
        floor_tools: Whether the model has tools only in replies that offer them (the handler has the floor).
        audio: Format of the audio on this connection; None if it carries none.
    """

    def __init__(
        self, session: SessionObject, state: CodecState, *, floor_tools: bool, audio: AudioFormat | None = None
    ) -> None:
        self._session = session
        self._state = state
        self._floor_tools = floor_tools
        self._audio = audio

    def encode(self, command: Command) -> list[ClientEvent]:
        """Return the client events of a command, in sending order.

        Raises:
            CapabilityMissing: The pair does not support the command.
            InvalidInput: A reply names a tool that the session does not declare.
        """
        match command:
            case SayCommand():
                return [self._create("say", command.id, self._say(command))]
            case ReplyCommand():
                return [self._create("reply", command.id, self._reply(command))]
            case CancelReplyCommand():
                return self._cancel(command)
            case UpdateCommand():
                return [self.update(interruptible=command.interruptible, command=command.id)]
            case AddTextCommand():
                return [self._item(PendingEvent("add_text", command.id or None), self._message(command))]
            case ToolResultCommand():
                return [self._item(PendingEvent("tool_result", command.id or None), self._output(command))]
            case CommitTurnCommand():
                pending = PendingEvent("commit", command.id or None)
                return [{"type": "input_audio_buffer.commit", "event_id": self._state.register(pending)}]
            case AppendAudioCommand():
                return [self._append(command)]
            case BeginTurnCommand() | EndCommand():
                return []  # a turn begins with its audio, and a session ends with its connection

    def update(self, *, interruptible: bool, initial: bool = False, command: str = "") -> ClientEvent:
        """Return the `session.update` event that applies our configuration; `initial` is the first of a connection."""
        state = self._state
        state.interruptible = interruptible
        state.updates.append(interruptible)
        voice = not state.voice_locked
        session = self._session.update(interruptible=interruptible, voice=voice, initial=initial)
        return {
            "type": "session.update",
            "event_id": state.register(PendingEvent("update", command or None)),
            "session": session,
        }

    def _create(self, kind: str, command: str, response: dict[str, Any]) -> ClientEvent:
        pending = PendingEvent("say" if kind == "say" else "reply", command)
        self._state.awaiting_reply.set(command, pending)
        metadata = {"af_kind": kind, "af_id": command}
        return {
            "type": "response.create",
            "event_id": self._state.register(pending),
            "response": {**response, "metadata": metadata},
        }

    def _say(self, command: SayCommand) -> dict[str, Any]:
        response: dict[str, Any] = {
            "conversation": "auto",
            "input": [],
            "instructions": _SAY.format(text=escape(command.text)),
            "output_modalities": [self._session.modality],
            "tools": [],
            "tool_choice": "none",
        }
        if self._session.options.say_reasoning_effort is not None:
            response["reasoning"] = {"effort": self._session.options.say_reasoning_effort}
        return response

    def _reply(self, command: ReplyCommand) -> dict[str, Any]:
        response: dict[str, Any] = {"conversation": "auto"}
        if command.instructions:
            parts = (self._session.instructions, command.instructions)
            response["instructions"] = "\n\n".join(part for part in parts if part)
        if self._floor_tools or command.tools is not None:
            tools = self._session.tools(self._check_tools(command.tools))
            response["tools"] = tools
            response["tool_choice"] = "auto" if tools else "none"
        return response

    def _check_tools(self, targets: Sequence[str] | None) -> Sequence[str] | None:
        for target in targets or ():
            if target not in self._session.names:
                declared = ", ".join(tool["name"] for tool in self._session.tools()) or "none"
                raise InvalidInput(
                    f"A reply may call {target}, which is none of the session's tools (declared: {declared}).",
                    code="unknown_tool",
                    hint="name it in tools=[...] of the session",
                    field="tools",
                )
        return targets

    def _cancel(self, command: CancelReplyCommand) -> list[ClientEvent]:
        reply = self._state.replies.get(command.reply)
        generating = reply is None or not reply.ended
        events: list[ClientEvent] = []
        if generating and not (self._audio is not None and reply is not None and reply.cancel_requested):
            event_id = self._state.register(PendingEvent("cancel"))
            # without an id the provider cancels the response in progress, whose id is not known yet
            name = {"response_id": command.reply} if command.reply else {}
            events.append({"type": "response.cancel", "event_id": event_id, **name})
        if self._audio is None and (reply is None or reply.playout in {"none", "playing"}):
            events.append(
                {"type": "output_audio_buffer.clear", "event_id": self._state.register(PendingEvent("cancel"))}
            )
        if reply is None:
            return events
        reply.cancel_requested = True
        if self._audio is not None and command.heard_ms is not None and not reply.is_truncated:
            reply.is_truncated = True
            events += self._truncate(reply, command.heard_ms, self._audio)
        return events

    def _truncate(self, reply: ReplyState, heard_ms: int, audio: AudioFormat) -> list[ClientEvent]:
        """Return the events that truncate a reply to what was heard; over a WebSocket the provider assumes all of it was."""
        received = [(part, int(audio.ms(part.size))) for part in reply.parts.values()]
        return [
            self._truncate_item(truncation)
            for truncation in truncations(received, heard_ms, generating=not reply.ended)
        ]

    def _truncate_item(self, truncation: Truncation) -> ClientEvent:
        if truncation.ms is None:
            return self._state.delete(truncation.item)
        return {
            "type": "conversation.item.truncate",
            "event_id": self._state.register(PendingEvent("cut")),
            "item_id": truncation.item,
            "content_index": truncation.index,
            "audio_end_ms": truncation.ms,
        }

    def record_spoken(self, item: str, text: str, *, instead_of: str | None = None) -> list[ClientEvent]:
        """Return the client events that add text to the conversation which the speech endpoint has spoken.

        Args:
            item: Id of the new item.
            text: The heard text; an empty one adds no item.
            instead_of: An earlier item that the new one replaces.
        """
        events: list[ClientEvent] = []
        if text:
            event = self._item(
                PendingEvent("cut"), self._message(AddTextCommand(item=item, text=text, role="assistant"))
            )
            if instead_of is not None:
                event["previous_item_id"] = self._state.item_id(instead_of)
            events.append(event)
        if instead_of is not None:
            events.append(self._state.delete(self._state.item_id(instead_of)))
        return events

    def _item(self, pending: PendingEvent, item: dict[str, Any]) -> ClientEvent:
        return {"type": "conversation.item.create", "event_id": self._state.register(pending), "item": item}

    def _message(self, command: AddTextCommand) -> dict[str, Any]:
        kind = "output_text" if command.role == "assistant" else "input_text"
        return {
            "type": "message",
            "id": self._state.item_id(command.item),
            "role": command.role,
            "content": [{"type": kind, "text": command.text}],
        }

    def _output(self, command: ToolResultCommand) -> dict[str, Any]:
        return {
            "type": "function_call_output",
            "id": self._state.output_id(command.call_id),
            "call_id": command.call_id,
            "output": command.output,
        }

    def _append(self, command: AppendAudioCommand) -> ClientEvent:
        if self._audio is None:
            raise CapabilityMissing(
                "On this pair the audio of the caller goes directly to the provider and cannot be sent from here.",
                hint="use a pair whose media is bridged",
            )
        return {"type": "input_audio_buffer.append", "audio": base64.b64encode(command.data).decode()}
