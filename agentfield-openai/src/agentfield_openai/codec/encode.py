"""Commands to client events."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from agentfield.errors import CapabilityMissing, InvalidInput
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import (
    AddText,
    AppendAudio,
    CancelReply,
    Command,
    CommitTurn,
    End,
    Reply,
    Say,
    SendToolResult,
    Update,
)
from agentfield_openai.codec.heard import Cut, cuts
from agentfield_openai.codec.ledger import Asked, Ledger
from agentfield_openai.codec.ledger import Reply as Known
from agentfield_openai.codec.session import SessionObject

__all__ = ["Encoder"]

ClientEvent = dict[str, Any]

_SAY = (
    "You are a text-to-speech voice. Speak exactly the text between <say> and </say>, word for word, in its language. "
    "Add nothing, answer nothing.\n<say>{text}</say>"
)


class Encoder:
    """Turns commands into what the provider reads.

    Args:
        session: The session object as it should be.
        ledger: The memory of the call.
        floor_tools: Whether the model only has tools in replies that offer them.
        audio: The format of the audio that passes through us; None where none does.
    """

    def __init__(
        self, session: SessionObject, ledger: Ledger, *, floor_tools: bool, audio: AudioFormat | None = None
    ) -> None:
        self._session = session
        self._ledger = ledger
        self._floor_tools = floor_tools
        self._audio = audio

    def encode(self, command: Command) -> list[ClientEvent]:
        """Return the client events of a command, in order.

        Raises:
            CapabilityMissing: This pair cannot do it.
            InvalidInput: A reply names a tool that the session does not declare.
        """
        match command:
            case Say():
                return [self._create("say", command.id, self._say(command))]
            case Reply():
                return [self._create("reply", command.id, self._reply(command))]
            case CancelReply():
                return self._cancel(command)
            case Update():
                return [self.update(interruptible=command.interruptible)]
            case AddText():
                return [self._item(Asked("add_text"), self._message(command))]
            case SendToolResult():
                return [self._item(Asked("tool_result"), self._output(command))]
            case CommitTurn():
                return [{"type": "input_audio_buffer.commit", "event_id": self._ledger.note(Asked("commit"))}]
            case AppendAudio():
                return [self._append(command)]
            case End():
                return []

    def update(self, *, interruptible: bool) -> ClientEvent:
        """Return the event that brings the provider's configuration to ours."""
        ledger = self._ledger
        ledger.interruptible = interruptible
        ledger.updates.append(interruptible)
        session = self._session.update(interruptible=interruptible, voice=not ledger.voiced)
        return {"type": "session.update", "event_id": ledger.note(Asked("update")), "session": session}

    def _create(self, kind: str, command: str, response: dict[str, Any]) -> ClientEvent:
        asked = Asked("say" if kind == "say" else "reply", command)
        self._ledger.awaited.set(command, asked)
        metadata = {"af_kind": kind, "af_id": command}
        return {
            "type": "response.create",
            "event_id": self._ledger.note(asked),
            "response": {**response, "metadata": metadata},
        }

    def _say(self, command: Say) -> dict[str, Any]:
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

    def _reply(self, command: Reply) -> dict[str, Any]:
        response: dict[str, Any] = {"conversation": "auto"}
        if command.instructions:
            parts = (self._session.instructions, command.instructions)
            response["instructions"] = "\n\n".join(part for part in parts if part)
        if self._floor_tools or command.tools is not None:
            tools = self._session.tools(self._known(command.tools))
            response["tools"] = tools
            response["tool_choice"] = "auto" if tools else "none"
        return response

    def _known(self, targets: Sequence[str] | None) -> Sequence[str] | None:
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

    def _cancel(self, command: CancelReply) -> list[ClientEvent]:
        reply = self._ledger.replies.get(command.reply)
        generating = reply is None or not reply.ended
        events: list[ClientEvent] = []
        if generating and not (self._audio is not None and reply is not None and reply.asked_to_stop):
            event_id = self._ledger.note(Asked("cancel"))
            # whichever there is, where it is not known yet
            name = {"response_id": command.reply} if command.reply else {}
            events.append({"type": "response.cancel", "event_id": event_id, **name})
        if self._audio is None and (reply is None or reply.playout in {"none", "playing"}):
            events.append({"type": "output_audio_buffer.clear", "event_id": self._ledger.note(Asked("cancel"))})
        if reply is None:
            return events
        reply.asked_to_stop = True
        if self._audio is not None and command.heard_ms is not None and not reply.was_cut:
            reply.was_cut = True
            events += self._cut(reply, command.heard_ms, self._audio)
        return events

    def _cut(self, reply: Known, heard_ms: int, audio: AudioFormat) -> list[ClientEvent]:
        """Let the conversation hold what was heard of a reply: there the provider believes that everything was."""
        received = [(part, int(audio.ms(part.size))) for part in reply.parts.values()]
        return [self._cut_item(cut) for cut in cuts(received, heard_ms, generating=not reply.ended)]

    def _cut_item(self, cut: Cut) -> ClientEvent:
        if cut.ms is None:
            return self._ledger.delete(cut.item)
        return {
            "type": "conversation.item.truncate",
            "event_id": self._ledger.note(Asked("cut")),
            "item_id": cut.item,
            "content_index": cut.index,
            "audio_end_ms": cut.ms,
        }

    def spoken(self, item: str, text: str, *, instead_of: str | None = None) -> list[ClientEvent]:
        """Return the events that put words into the conversation which were spoken by other means.

        Args:
            item: Id of the new item.
            text: What was heard; nothing adds no item.
            instead_of: An earlier item that the new one takes the place of.
        """
        events: list[ClientEvent] = []
        if text:
            event = self._item(Asked("cut"), self._message(AddText(item=item, text=text, role="assistant")))
            if instead_of is not None:
                event["previous_item_id"] = self._ledger.item_id(instead_of)
            events.append(event)
        if instead_of is not None:
            events.append(self._ledger.delete(self._ledger.item_id(instead_of)))
        return events

    def _item(self, asked: Asked, item: dict[str, Any]) -> ClientEvent:
        return {"type": "conversation.item.create", "event_id": self._ledger.note(asked), "item": item}

    def _message(self, command: AddText) -> dict[str, Any]:
        kind = "output_text" if command.role == "assistant" else "input_text"
        return {
            "type": "message",
            "id": self._ledger.item_id(command.item),
            "role": command.role,
            "content": [{"type": kind, "text": command.text}],
        }

    def _output(self, command: SendToolResult) -> dict[str, Any]:
        return {
            "type": "function_call_output",
            "id": self._ledger.output_id(command.call_id),
            "call_id": command.call_id,
            "output": command.output,
        }

    def _append(self, command: AppendAudio) -> ClientEvent:
        if self._audio is None:
            raise CapabilityMissing(
                "Audio of the caller goes straight to the provider on this pair; it cannot be sent from here.",
                hint="use a pair whose media is bridged",
            )
        return {"type": "input_audio_buffer.append", "audio": base64.b64encode(command.data).decode()}
