"""The Live API without I/O: commands to messages and events, messages of the server to events.

Source: https://ai.google.dev/api/live. Messages are JSON; each of the server's may hold several fields at once.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from agentfield.adapterkit.json_fields import id_at, object_at, objects_at, parse_object, text_at
from agentfield.adapterkit.tool_names import ToolNames
from agentfield.errors import CapabilityMissing
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
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import (
    Event,
    ProviderFault,
    SessionClosed,
    SessionExpiring,
    SessionReady,
    SessionResumable,
    ToolCancelled,
    ToolRequested,
    TurnUnanswered,
    Usage,
    Warned,
)
from agentfield_gemini import commands as to_message
from agentfield_gemini.caller_turns import CallerTurns
from agentfield_gemini.commands import Message
from agentfield_gemini.options import GeminiOptions
from agentfield_gemini.replies import Replies
from agentfield_gemini.setup_message import setup_message
from agentfield_gemini.usage import usage_of

__all__ = ["LiveProtocol"]

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)s")
_HARMLESS = ("", "TURN_COMPLETE_REASON_UNSPECIFIED", "NEED_MORE_INPUT")
"""Reasons of the end of a turn that are no fault."""
_MAX_HANDLE = 16_384
_MAX_CALLS = 256
_MAX_KNOWN = 1024


class LiveProtocol:
    """Protocol state of one session.

    Args:
        config: The frozen configuration of the session.
        options: Its options.
        clock: Returns seconds since the epoch.
        clean: Makes a text of the server safe to show.
    """

    def __init__(
        self, config: SessionConfig, options: GeminiOptions, clock: Callable[[], float], clean: Callable[[str], str]
    ) -> None:
        self._config = config
        self._options = options
        self._clock = clock
        self._clean = clean
        self._names = ToolNames(tool.target for tool in config.tools)
        prefix = uuid4().hex[:12]  # the server has no ids of turns and replies
        self._turns = CallerTurns(prefix, transcribed=True)
        self._replies = Replies(prefix)
        self._manual = config.turn_detection is None
        self._speaking = False
        self._calls: dict[str, str] = {}
        """Calls without a result, each with the name of its function."""
        self._known_calls: deque[str] = deque(maxlen=_MAX_KNOWN)
        self._unanswered: str | None = None
        """The turn, or the turn of the tool results, that the model has not answered yet."""
        self._expiring = False
        self.ready = False
        """Whether the server has accepted the session."""

    def start(self, handle: str | None = None) -> Message:
        """Return the first message.

        Args:
            handle: The handle of a conversation to continue; None for a new one.
        """
        return setup_message(self._config, self._options, self._names, handle)

    # --- commands

    def send(self, command: Command) -> tuple[list[Message], list[Event]]:
        """Return the messages for a command, and the events that it causes without an answer of the server.

        Raises:
            CapabilityMissing: The Live API does not support the command.
        """
        match command:
            case AppendAudioCommand():
                heard = self._speaking or not self._manual
                return ([to_message.audio(command.data)] if heard and command.data else []), []
            case SayCommand():
                self._replies.expect(command.id)
                return [to_message.say(command)], []
            case ReplyCommand():
                self._check_tools(command.tools)
                self._replies.expect(command.id)
                return [to_message.reply(command)], []
            case CancelReplyCommand():
                return [], self._replies.cancel(command.reply)
            case AddTextCommand():
                self._replies.disturb()
                return [to_message.text(command)], []
            case ToolResultCommand():
                return self._tool_result(command), []
            case BeginTurnCommand() | CommitTurnCommand():
                return self._push_to_talk(command)
            case UpdateCommand() | EndCommand():
                return [], []  # the configuration cannot change; the session ends with its connection

    def _check_tools(self, tools: tuple[str, ...] | None) -> None:
        declared = tuple(tool.target for tool in self._config.tools)
        if tools is None or set(tools) == set(declared):
            return
        unknown = [target for target in tools if target not in self._names]
        if unknown:
            raise CapabilityMissing(
                f"The session does not declare the tool {unknown[0]}.",
                hint=f"declared are: {', '.join(declared) or '-'}",
            )
        raise CapabilityMissing(
            "Gemini Live offers all tools of a session in each reply.", hint="leave out tools=, or declare fewer tools"
        )

    def _tool_result(self, command: ToolResultCommand) -> list[Message]:
        name = self._calls.pop(command.call_id, None)
        if name is None:  # the server took the call back, or has its result
            return []
        self._unanswered = self._unanswered or self._turns.last
        return [to_message.tool_response(command.call_id, name, command.output)]

    def _push_to_talk(self, command: BeginTurnCommand | CommitTurnCommand) -> tuple[list[Message], list[Event]]:
        if not self._manual:
            raise CapabilityMissing(
                "This session detects the caller's turns by itself.", hint="declare turn_detection=None"
            )
        if isinstance(command, BeginTurnCommand):
            begun, self._speaking = self._speaking, True
            return ([] if begun else [to_message.ACTIVITY_START]), self._turns.start()
        ended, self._speaking = not self._speaking, False
        return ([] if ended else [to_message.ACTIVITY_END]), self._commit()

    # --- messages of the server

    def receive(self, raw: str | bytes) -> list[Event]:
        """Return the events of a message; none of one that is unknown."""
        message = parse_object(raw) or {}
        events: list[Event] = []
        if isinstance(message.get("setupComplete"), dict) and not self.ready:
            self.ready = True
            events.append(SessionReady())
        usage = usage_of(object_at(message, "usageMetadata"))
        events += self._voice_activity(object_at(message, "voiceActivity"))
        events += self._tool_calls(objects_at(object_at(message, "toolCall"), "functionCalls"))
        events += self._cancelled_calls(object_at(message, "toolCallCancellation").get("ids"))
        events += self._content(object_at(message, "serverContent"), usage)
        events += self._session_updates(message)
        return events

    def closed(self, code: int | None, reason: str, *, asked: bool) -> SessionClosed:
        """Return the last event.

        Args:
            code: The close code of the server, None if the connection broke.
            reason: Its reason.
            asked: Whether we ended the session or detached from it.
        """
        if asked:
            return SessionClosed()
        said = f" ({code}: {self._clean(reason)})" if code else ""
        if self._expiring or "deadline" in reason.lower():
            return SessionClosed(reason="provider_expired", message=f"Gemini Live ended the session{said}", retry=True)
        refused = code in (1003, 1007, 1008, 1009)
        what = "refused a message" if refused else "broke the connection off"
        return SessionClosed(reason="provider_error", message=f"Gemini Live {what}{said}", retry=not refused)

    def _voice_activity(self, activity: Mapping[str, Any]) -> list[Event]:
        at = _seconds(activity.get("audioOffset"))
        at_ms = None if at is None else int(at * 1000)
        match activity.get("type"):
            case "ACTIVITY_START":
                return self._turns.start(at_ms)
            case "ACTIVITY_END":
                return self._commit(at_ms)
        return []

    def _commit(self, at_ms: int | None = None) -> list[Event]:
        events = self._turns.commit(at_ms)
        if events:
            self._unanswered = self._turns.last
        return events

    def _tool_calls(self, calls: list[dict[str, Any]]) -> list[Event]:
        new = [each for each in calls if id_at(each, "id") and text_at(each, "name")]
        new = [each for each in new if each["id"] not in self._known_calls]
        if not new or len(self._calls) + len(new) > _MAX_CALLS:
            return []
        events = self._answer_begins()
        reply, started = self._replies.call()
        events += started
        for each in new:
            call, name = each["id"], str(text_at(each, "name"))
            self._calls[call] = name
            self._known_calls.append(call)
            arguments = each.get("args", {})
            events.append(
                ToolRequested(
                    call_id=call,
                    name=self._names.target(name),
                    arguments=json.dumps(arguments, ensure_ascii=False),
                    reply=reply,
                )
            )
        return [*events, *self._replies.end(tools=len(new)), *self._turns.settle()]

    def _cancelled_calls(self, ids: Any) -> list[Event]:
        known = [each for each in ids if isinstance(each, str) and each in self._calls] if isinstance(ids, list) else []
        for each in known:
            del self._calls[each]
        return [ToolCancelled(call_id=each) for each in known]

    def _content(self, content: Mapping[str, Any], usage: Usage | None) -> list[Event]:
        events: list[Event] = []
        heard = object_at(content, "inputTranscription")
        interim = object_at(content, "interimInputTranscription")
        if interim and not self._turns.uncommitted and text_at(interim, "text"):
            events += self._turns.start()
        if content.get("interrupted") is True:
            if self._replies.interruptible:
                events += self._turns.start()
            events += self._replies.interrupt(usage)
            usage = None
        if heard:
            events += self._words(heard)
        events += self._speech(content)
        if content.get("generationComplete") is True and self._replies.speaking:
            events += [*self._replies.end(usage), *self._turns.settle()]
            usage = None
        if content.get("turnComplete") is True:
            events += self._turn_complete(content, usage)
            usage = None
        return events if usage is None else [*events, *self._replies.usage(usage)]

    def _words(self, heard: Mapping[str, Any]) -> list[Event]:
        events = self._turns.words(text_at(heard, "text") or "", last=heard.get("finished") is True)
        if any(event.type == "turn.committed" for event in events):
            self._unanswered = self._turns.last
        return events

    def _speech(self, content: Mapping[str, Any]) -> list[Event]:
        """Return the events of what the model says: pieces of audio and of its transcript."""
        events: list[Event] = []
        pieces = [
            part for part in objects_at(object_at(content, "modelTurn"), "parts") if part.get("thought") is not True
        ]
        sounds = [data for part in pieces if (data := _audio(object_at(part, "inlineData")))]
        words = text_at(object_at(content, "outputTranscription"), "text")
        if (sounds or words) and self._replies.listens:
            events += self._answer_begins()
        for data in sounds:
            events += self._replies.audio(data)
        if words:
            events += self._replies.words(words)
        return events

    def _answer_begins(self) -> list[Event]:
        """Return the events of a turn that the model begins to answer: it is over, also where the server does not say so."""
        if not self._replies.idle or self._replies.requested or self._speaking:
            return []
        events = self._commit()
        self._unanswered = None
        return events

    def _turn_complete(self, content: Mapping[str, Any], usage: Usage | None) -> list[Event]:
        reason = text_at(content, "turnCompleteReason") or ""
        fault = reason.lower()[:100] if reason not in _HARMLESS else None
        busy = bool(self._calls) or self._speaking or content.get("interactionStatus") == "IN_PROGRESS"
        silent = self._replies.idle and not self._replies.interrupted and not busy
        events = self._replies.turn_over(usage, fault)
        if not silent:
            return [*events, *self._turns.settle()]
        if (command := self._replies.unanswered()) is not None:
            code = fault or "no_answer"
            events.append(ProviderFault(code=code, message=f"Gemini Live did not answer ({code}).", command=command))
            return events
        events += [*self._commit(), *self._turns.settle()]
        if self._unanswered is not None:
            if fault:
                events.append(Warned(code=fault, message=f"Gemini Live did not answer ({fault})."))
            events.append(TurnUnanswered(item=self._unanswered))
            self._unanswered = None
        return events

    def _session_updates(self, message: Mapping[str, Any]) -> list[Event]:
        events: list[Event] = []
        left = _seconds(object_at(message, "goAway").get("timeLeft"))
        if "goAway" in message:
            self._expiring = True
            events.append(SessionExpiring(expires_at=self._clock() + (left or 0.0)))
        update = object_at(message, "sessionResumptionUpdate")
        handle = text_at(update, "newHandle")
        # an update without a handle: the session cannot be resumed at this moment, but the earlier handle stays valid
        if handle and update.get("resumable") is True and len(handle) <= _MAX_HANDLE:
            events.append(SessionResumable(handle=handle))
        return events


def _seconds(value: Any) -> float | None:
    """Return the seconds of a duration such as ``9.5s``."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else float(found[1])


def _audio(blob: Mapping[str, Any]) -> bytes:
    """Return the samples of a piece of audio, empty if it is something else."""
    data = blob.get("data")
    if not isinstance(data, str) or not str(blob.get("mimeType", "")).startswith("audio/pcm"):
        return b""
    try:
        samples = base64.b64decode(data.replace("-", "+").replace("_", "/"))
    except (binascii.Error, ValueError):
        return b""
    return samples[: len(samples) // 2 * 2]
