"""Codec of one session: dispatches server events by name and encodes commands; no clock, no socket.

Source: the client and server events of https://platform.openai.com/docs/api-reference/realtime
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from agentfield.adapterkit.json_fields import count_at, id_at, number_at, object_at, objects_at, text_at
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import Command
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import (
    Event,
    ProviderFault,
    RateLimit,
    SessionClosed,
    SessionReady,
    SessionUpdated,
    Warned,
)
from agentfield_openai.codec.audio_fast_path import audio_delta, read, read_plain
from agentfield_openai.codec.caller_turns import CallerTurnTracker
from agentfield_openai.codec.command_encoder import CommandEncoder
from agentfield_openai.codec.dialect import GA, Dialect
from agentfield_openai.codec.error_classification import ClassifiedError, classify_error
from agentfield_openai.codec.provider_side_tools import ProviderSideToolGuard
from agentfield_openai.codec.replies import ReplyTracker
from agentfield_openai.codec.session_object import SessionObject, is_beta_shape
from agentfield_openai.codec.sideband_gaps import SidebandGapRecovery
from agentfield_openai.codec.state import BoundedDict, CodecState, PendingEvent
from agentfield_openai.options import OpenAIOptions

__all__ = ["Codec"]

_MIRRORED_AUDIO = re.compile(
    r'\s*\{\s*(?:"event_id"\s*:\s*"[^"\\]*"\s*,\s*)?"type"\s*:\s*"response\.(?:output_)?audio\.delta"'
)
"""Start of an audio event that a WebRTC sideband mirrors and that is skipped unparsed.

The pattern is anchored at the start of the frame, where a match cannot come from text inside the event.
"""

_BETA_SHAPE = (
    "it answers with a session of the beta protocol, in which the settings of audio, turn detection and transcription "
    "have other names; ours would have no effect"
)


class Codec:
    """Sans-I/O codec of one session: commands to client events, server events to neutral events.

    Usage: pass each received frame to `decode` and send what `take_outgoing` returns; call `handle_timer` at the time
    that `get_timer` returns; send the events of `encode` for each command.

    Args:
        config: The frozen configuration of the session.
        audio: Format of the audio on this connection (WebSocket); None on WebRTC, where the audio goes elsewhere.
        dialect: Differences between the service and OpenAI.
        mark: Random text in the ids of our client events; set in tests only.

    Raises:
        InvalidInput: The `options` of the session are invalid.
    """

    def __init__(
        self,
        config: SessionConfig,
        *,
        audio: AudioFormat | None = None,
        dialect: Dialect = GA,
        mark: str | None = None,
    ) -> None:
        self._session = SessionObject(config, audio)
        self._state = CodecState(mark or secrets.token_hex(4))
        floor_tools = config.declaration.floor == "handler"
        self._encoder = CommandEncoder(self._session, self._state, floor_tools=floor_tools, audio=audio)
        answered = not floor_tools and config.turn_detection is not None
        self._turns = CallerTurnTracker(self._state, answered=answered)
        self._replies = ReplyTracker(self._state, self._session.names, audio)
        self._gap_recovery = SidebandGapRecovery(self._state, self._turns)
        self._tool_guard = ProviderSideToolGuard(self._state, config.declaration.drift)
        self.audio = audio
        """Format of the audio on this connection, None if it carries none."""
        self._dialect = dialect
        self._expires_at: float | None = None
        self._seen: BoundedDict[str, None] = BoundedDict(4096)
        self.configured = False
        """Whether the provider confirmed a configuration."""
        self.ready = False
        """Whether `SessionReady` was returned."""
        self.ended = False
        """Whether `SessionClosed` was returned."""
        self.refused: ClassifiedError | None = None
        """The error with which the provider refused our configuration, if it did."""
        self.fatal: ProviderFault | None = None
        """The last fatal error, if there was one."""

    @property
    def options(self) -> OpenAIOptions:
        """The validated `options` of the session."""
        return self._session.options

    # to the provider --------------------------------------------------------------------------------------------

    def session_payload(self) -> dict[str, Any]:
        """Return the `session` object for the creation of a call."""
        return self._session.create()

    def initial_update(self) -> dict[str, Any]:
        """Return the `session.update` that a new connection sends first."""
        return self._encoder.update(interruptible=self._state.interruptible, initial=True)

    def encode(self, command: Command) -> list[dict[str, Any]]:
        """Return the client events of a command, in sending order.

        `SayCommand.interruptible` changes nothing by itself: the switch is the session's, and `UpdateCommand` is what turns it.

        Raises:
            CapabilityMissing: The pair does not support the command.
            InvalidInput: A reply names a tool that the session does not declare.
        """
        return self._encoder.encode(command)

    def record_spoken(self, item: str, text: str, *, instead_of: str | None = None) -> list[dict[str, Any]]:
        """Return the client events that add text to the conversation which the speech endpoint has spoken.

        Args:
            item: Id of the new item.
            text: The heard text; an empty one adds no item.
            instead_of: An earlier item that the new one replaces.
        """
        return self._encoder.record_spoken(item, text, instead_of=instead_of)

    def take_outgoing(self) -> list[dict[str, Any]]:
        """Return and clear the client events that the decoded server events require."""
        if self._tool_guard.restore:
            self._tool_guard.restore = False
            self._state.outbox.append(self.initial_update())
        outbox = self._state.outbox
        if not outbox:
            return []
        found = list(outbox)
        outbox.clear()
        return found

    # from the provider ------------------------------------------------------------------------------------------

    def decode(self, raw: str | bytes, now: float) -> list[Event]:
        """Return the neutral events of one server event; never raises.

        Args:
            raw: The payload of one frame.
            now: Seconds of a monotonic clock.
        """
        due = self.handle_timer(now)
        if self.audio is None and not self._gap_recovery.open and isinstance(raw, str) and _MIRRORED_AUDIO.match(raw):
            return due
        data = read(raw)
        if data is None:
            return [
                *due,
                Warned(code="invalid_event", message="The provider sent a frame that is not a JSON object."),
            ]
        event_id, kind = id_at(data, "event_id"), text_at(data, "type")
        if kind is None or self.ended or (event_id is not None and event_id in self._seen):
            return due
        if event_id is not None:
            self._seen.set(event_id, None)
        kind = self._dialect.event_name(kind)
        if kind == "response.output_audio.delta" and not self._gap_recovery.open:
            return [*due, *self._replies.audio_delta(data)] if due else self._replies.audio_delta(data)
        self._gap_recovery.observe(data)
        events = [*due, *self._tool_guard.inspect(kind, data), *self._decode(kind, data, now)]
        self.fatal = next((e for e in events if isinstance(e, ProviderFault) and e.fatal), self.fatal)
        return events

    def take_audio_delta(self, raw: bytes) -> tuple[str, bytes] | None:
        """Return the reply id and the audio of an audio delta, and count it as decoded.

        Fast path of `decode` for frames that arrive while the reader waits. Return None, without any effect, for every
        other frame, and whenever the order of events matters: while a timer runs or a gap is open, `decode` must see it.
        """
        if (
            self.audio is None
            or self.ended
            or self._replies.waiting
            or self._gap_recovery.open
            or b"audio.delta" not in raw
        ):
            return None
        data = read_plain(raw)
        if data is None:
            return None
        kind, event_id = data.get("type"), id_at(data, "event_id")
        if not isinstance(kind, str) or self._dialect.event_name(kind) != "response.output_audio.delta":
            return None
        if event_id is None or event_id in self._seen:
            return None
        sound = audio_delta(data, self._state, self.audio)
        if sound is not None:
            self._seen.set(event_id, None)
        return sound

    def handle_timer(self, now: float) -> list[Event]:
        """Return the events that became due by time; call it at the time that `get_timer` returns."""
        if self.ended or not (self._replies.waiting or self._gap_recovery.open):
            return []
        return [*self._replies.handle_timer(now), *self._gap_recovery.handle_timer(now)]

    def get_timer(self) -> float | None:
        """Return the time at which `handle_timer` must be called, None if no timer runs."""
        if not (self._replies.waiting or self._gap_recovery.open):
            return None
        times = [time for time in (self._replies.get_timer(), self._gap_recovery.get_timer()) if time is not None]
        return min(times, default=None)

    def assume_ready(self) -> list[Event]:
        """Return `SessionReady` for a session whose configuration the provider did not confirm in time."""
        return [] if self.ready else [self._become_ready({})]

    def sideband_reattached(self, now: float) -> list[Event]:
        """Start the recovery of events that may have been missed until now; return a warning."""
        return self._gap_recovery.begin(now)

    def close(self, event: SessionClosed) -> list[Event]:
        """Return the last events of the session, none if the session ended before."""
        if self.ended:
            return []
        self.ended = True
        return [*self._replies.flush(), event]

    # ------------------------------------------------------------------------------------------------------------

    def _decode(self, kind: str, data: Mapping[str, Any], now: float) -> list[Event]:
        family, _, rest = kind.partition(".")
        match family:
            case "session":
                return self._session_event(rest, data)
            case "input_audio_buffer":
                return self._input_event(rest, data)
            case "conversation":
                return self._conversation_event(rest, data)
            case "response":
                return self._response_event(rest, data)
            case "output_audio_buffer":
                return self._playout_event(rest, data, now)
            case "rate_limits":
                return _rate_limits(data) if rest == "updated" else []
            case "error":
                return self._error(object_at(data, "error"))
            case _:
                return []

    def _session_event(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        session = object_at(data, "session")
        match kind:
            case "created":
                self._expires_at = number_at(session, "expires_at")
                # a WebSocket session starts with the provider's defaults; it is ready once our update is confirmed
                return [] if self.ready or self.audio is not None else [self._become_ready(session)]
            case "updated":
                return self._updated(session)
            case _:
                return []

    def _updated(self, session: Mapping[str, Any]) -> list[Event]:
        if not self.configured and is_beta_shape(session):
            self.refused = ClassifiedError("beta_api_shape", _BETA_SHAPE, "bug")
            return []
        self.configured = True
        state = self._state
        ours = list(dict.fromkeys((*state.updates, state.interruptible)))
        drift = self._session.drift(session, interruptible=ours)
        if state.updates and not drift:
            state.updates.popleft()
        before: list[Event] = [] if self.ready else [self._become_ready(session)]
        return [*before, SessionUpdated(model=id_at(session, "model"), voice=_voice(session), drift=drift)]

    def _become_ready(self, session: Mapping[str, Any]) -> SessionReady:
        self.ready = True
        expires_at = number_at(session, "expires_at") or self._expires_at
        return SessionReady(model=id_at(session, "model"), voice=_voice(session), expires_at=expires_at)

    def _input_event(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        match kind:
            case "speech_started":
                return self._turns.speech_started(data)
            case "speech_stopped":
                return self._turns.speech_stopped(data)
            case "committed":
                return self._turns.buffer_committed(data)
            case "cleared":
                return self._turns.buffer_cleared()
            case _:
                return []

    def _conversation_event(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        match kind:
            case "item.added" | "item.done" | "item.created":
                return self._turns.item_added(data)
            case "item.retrieved":
                return self._retrieved(object_at(data, "item"))
            case "item.truncated":
                return self._replies.item_truncated(data)
            case "item.input_audio_transcription.delta":
                return self._turns.transcript_delta(data)
            case "item.input_audio_transcription.completed":
                return self._turns.transcript_done(data)
            case "item.input_audio_transcription.failed":
                return self._turns.transcript_failed(data)
            case _:
                return []

    def _retrieved(self, item: Mapping[str, Any]) -> list[Event]:
        found = id_at(item, "id")
        if found is None or self._state.retrieved.pop(found) is None:
            return []  # the caller's own client requested it on its data channel
        return [*self._turns.item_retrieved(item), *self._replies.item_retrieved(item)]

    def _response_event(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        replies = self._replies
        match kind:
            case "created":
                return replies.response_created(data)
            case "done":
                return replies.response_done(data)
            case "output_item.added":
                return replies.item_added(data)
            case "output_item.done":
                return replies.item_done(data)
            case "content_part.added":
                return replies.content_part_added(data)
            case "output_audio_transcript.delta":
                return replies.text_delta(data, spoken=True)
            case "output_audio_transcript.done":
                return replies.text_done(data, "transcript", spoken=True)
            case "output_text.delta":
                return replies.text_delta(data, spoken=False)
            case "output_text.done":
                return replies.text_done(data, "text", spoken=False)
            case "output_audio.delta":
                return replies.audio_delta(data)
            case "output_audio.done":
                return replies.audio_done(data)
            case _:
                return []

    def _playout_event(self, kind: str, data: Mapping[str, Any], now: float) -> list[Event]:
        match kind:
            case "started":
                return self._replies.playout_started(data, now)
            case "stopped":
                return self._replies.playout_stopped(data)
            case "cleared":
                return self._replies.playout_cleared(data, now)
            case _:
                return []

    # errors -----------------------------------------------------------------------------------------------------

    def _error(self, error: Mapping[str, Any]) -> list[Event]:
        event_id = id_at(error, "event_id")
        pending = None if event_id is None else self._state.pending_events.pop(event_id)
        fault = classify_error(error)
        match fault.meaning:
            case "expired":
                # a session on a WebSocket can be replaced; a call cannot
                retry = self.audio is not None
                return self.close(SessionClosed(reason="provider_expired", message=fault.message, retry=retry))
            case "fatal":
                return [_provider_fault(fault, pending, fatal=True)]
            case "silent":
                return []
            case "benign" | "retry" | "bug" if pending is not None and pending.kind in {"cut", "retrieve"}:
                return []  # the item was removed before we truncated or retrieved it
            case "benign":
                return [Warned(code=fault.code, message=fault.message)]
            case "retry" | "bug":
                return self._refused(fault, pending, retry=fault.meaning == "retry")

    def _refused(self, fault: ClassifiedError, pending: PendingEvent | None, *, retry: bool) -> list[Event]:
        if pending is None:
            # not our event: a reply of the model lost a race, or the caller's data channel sent an invalid event
            return [
                ProviderFault(code=fault.code, message=fault.message, retry=True)
                if fault.code == "server_error"
                else Warned(code=fault.code, message=fault.message)
            ]
        if pending.command is not None:
            self._state.awaiting_reply.pop(pending.command)
        if pending.kind == "update":
            self.refused = fault
            if self._state.updates:
                self._state.updates.popleft()
        return [_provider_fault(fault, pending, fatal=pending.kind == "update" and not retry, retry=retry)]


def _provider_fault(
    fault: ClassifiedError, pending: PendingEvent | None, *, fatal: bool = False, retry: bool = False
) -> ProviderFault:
    command = None if pending is None else pending.command
    return ProviderFault(code=fault.code, message=fault.message, fatal=fatal, retry=retry, command=command)


def _voice(session: Mapping[str, Any]) -> str | None:
    output = object_at(session, "audio", "output")
    return id_at(output, "voice") or id_at(object_at(output, "voice"), "id")


def _rate_limits(data: Mapping[str, Any]) -> list[Event]:
    return [
        RateLimit(
            name=name,
            limit=count_at(limit, "limit"),
            remaining=count_at(limit, "remaining"),
            reset_seconds=number_at(limit, "reset_seconds"),
        )
        for limit in objects_at(data, "rate_limits")[:16]
        if (name := id_at(limit, "name")) is not None
    ]
