"""The codec of one call: the one place that knows the protocol's event names; no clock, no socket."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from agentfield.adapterkit.fields import count, ident, mapping, mappings, number, words
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
from agentfield_openai.codec.dialect import GA, Dialect
from agentfield_openai.codec.encode import Encoder
from agentfield_openai.codec.faults import Fault, fault_of
from agentfield_openai.codec.gaps import Gaps
from agentfield_openai.codec.intruders import Intruders
from agentfield_openai.codec.ledger import Asked, Ledger, Recent
from agentfield_openai.codec.replies import Replies
from agentfield_openai.codec.session import SessionObject
from agentfield_openai.codec.sounds import more_sound, read, read_plain
from agentfield_openai.codec.turns import Turns
from agentfield_openai.options import OpenAIOptions

__all__ = ["Codec"]

_MIRRORED_AUDIO = re.compile(
    r'\s*\{\s*(?:"event_id"\s*:\s*"[^"\\]*"\s*,\s*)?"type"\s*:\s*"response\.(?:output_)?audio\.delta"'
)
"""How audio that nobody needs begins; only what stands at the very beginning cannot be somebody's text."""


class Codec:
    """Translates both ways for one call.

    Args:
        config: The frozen configuration of the session.
        audio: The format of the audio that passes through us (a WebSocket); None on WebRTC, where none does.
        dialect: What is particular to the service.
        mark: Random text in the ids of our client events; given in tests only.

    Raises:
        InvalidInput: The session's `options` do not fit.
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
        self._ledger = Ledger(mark or secrets.token_hex(4))
        floor_tools = config.declaration.floor == "handler"
        self._encoder = Encoder(self._session, self._ledger, floor_tools=floor_tools, audio=audio)
        self._turns = Turns(self._ledger)
        self._replies = Replies(self._ledger, self._session.names, audio)
        self._gaps = Gaps(self._ledger, self._turns)
        self._intruders = Intruders(self._ledger, config.declaration.drift)
        self.audio = audio
        """The format of the audio that passes through us, None where none does."""
        self._dialect = dialect
        self._expires_at: float | None = None
        self._seen: Recent[str, None] = Recent(4096)
        self.configured = False
        """Whether the provider has confirmed a configuration."""
        self.ready = False
        """Whether `SessionReady` was told."""
        self.ended = False
        """Whether `SessionClosed` was told."""
        self.refused: Fault | None = None
        """Why the provider refused our configuration, if it did."""
        self.fatal: ProviderFault | None = None
        """The error after which nothing will work, if there was one."""

    @property
    def options(self) -> OpenAIOptions:
        """The session's `options` as they were read."""
        return self._session.options

    # to the provider --------------------------------------------------------------------------------------------

    def session_payload(self) -> dict[str, Any]:
        """Return the `session` object that a call is created with."""
        return self._session.create()

    def join(self) -> dict[str, Any]:
        """Return the `session.update` that a leg sends first."""
        return self._encoder.update(interruptible=self._ledger.interruptible)

    def encode(self, command: Command) -> list[dict[str, Any]]:
        """Return the client events of a command, in the order in which they must be sent.

        `Say.interruptible` changes nothing by itself: the switch is the session's, and `Update` is what turns it.

        Raises:
            CapabilityMissing: The pair cannot do it.
            InvalidInput: A reply names a tool that the session does not declare.
        """
        return self._encoder.encode(command)

    def spoken(self, item: str, text: str, *, instead_of: str | None = None) -> list[dict[str, Any]]:
        """Return the client events that put words into the conversation which were spoken by other means.

        Args:
            item: Id of the new item.
            text: What was heard; nothing adds no item.
            instead_of: An earlier item that the new one takes the place of.
        """
        return self._encoder.spoken(item, text, instead_of=instead_of)

    def outgoing(self) -> list[dict[str, Any]]:
        """Return the client events that follow from what was decoded since the last time."""
        if self._intruders.restore:
            self._intruders.restore = False
            self._ledger.outbox.append(self.join())
        outbox = self._ledger.outbox
        if not outbox:
            return []
        found = list(outbox)
        outbox.clear()
        return found

    # from the provider ------------------------------------------------------------------------------------------

    def decode(self, raw: str | bytes, now: float) -> list[Event]:
        """Return the neutral events of one server event; whatever it is, this does not raise.

        Args:
            raw: The text of one frame.
            now: Seconds of any clock that does not run backwards between calls.
        """
        due = self.tick(now)
        if self.audio is None and not self._gaps.open and isinstance(raw, str) and _MIRRORED_AUDIO.match(raw):
            return due
        data = read(raw)
        if data is None:
            return [
                *due,
                Warned(code="invalid_event", message="The provider sent something that is not a JSON object."),
            ]
        event_id, kind = ident(data, "event_id"), words(data, "type")
        if kind is None or self.ended or (event_id is not None and event_id in self._seen):
            return due
        if event_id is not None:
            self._seen.set(event_id, None)
        kind = self._dialect.events.get(kind, kind)
        if kind == "response.output_audio.delta" and not self._gaps.open:
            return [*due, *self._replies.sound(data)] if due else self._replies.sound(data)
        self._gaps.see(data)
        events = [*due, *self._intruders.look(kind, data), *self._decode(kind, data, now)]
        self.fatal = next((e for e in events if isinstance(e, ProviderFault) and e.fatal), self.fatal)
        return events

    def sound(self, raw: bytes) -> tuple[str, bytes] | None:
        """Return the reply and the audio of a server event that holds more audio of a reply, and take it as decoded.

        None, and nothing happened, for whatever else it is: `decode` tells.
        """
        if self.audio is None or self.ended or self._replies.waiting or self._gaps.open or b"audio.delta" not in raw:
            return None
        data = read_plain(raw)
        if data is None:
            return None
        kind, event_id = data.get("type"), ident(data, "event_id")
        if not isinstance(kind, str) or self._dialect.events.get(kind, kind) != "response.output_audio.delta":
            return None
        if event_id is None or event_id in self._seen:
            return None
        sound = more_sound(data, self._ledger, self.audio)
        if sound is not None:
            self._seen.set(event_id, None)
        return sound

    def tick(self, now: float) -> list[Event]:
        """Return what became due without an event; to be called at `due()`."""
        if self.ended or not (self._replies.waiting or self._gaps.open):
            return []
        return [*self._replies.tick(now), *self._gaps.give_up(now)]

    def due(self) -> float | None:
        """Return the time at which `tick` has something to do, None when nothing waits."""
        if not (self._replies.waiting or self._gaps.open):
            return None
        times = [time for time in (self._replies.due(), self._gaps.due()) if time is not None]
        return min(times, default=None)

    def assume_ready(self) -> list[Event]:
        """Say that the session is there although the provider did not show it; what it runs is then unverified."""
        return [] if self.ready else [self._become_ready({})]

    def reattached(self, now: float) -> list[Event]:
        """Take note that events may have been missed until now."""
        return self._gaps.begin(now)

    def close(self, event: SessionClosed) -> list[Event]:
        """Return the last events of the session, none when they were told already."""
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
                return self._error(mapping(data, "error"))
            case _:
                return []

    def _session_event(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        session = mapping(data, "session")
        match kind:
            case "created":
                self._expires_at = number(session, "expires_at")
                # a session of its own begins with the provider's defaults, and is ours once it was updated
                return [] if self.ready or self.audio is not None else [self._become_ready(session)]
            case "updated":
                return self._updated(session)
            case _:
                return []

    def _updated(self, session: Mapping[str, Any]) -> list[Event]:
        self.configured = True
        ledger = self._ledger
        ours = list(dict.fromkeys((*ledger.updates, ledger.interruptible)))
        drift = self._session.drift(session, interruptible=ours)
        if ledger.updates and not drift:
            ledger.updates.popleft()
        before: list[Event] = [] if self.ready else [self._become_ready(session)]
        return [*before, SessionUpdated(model=words(session, "model"), voice=_voice(session), drift=drift)]

    def _become_ready(self, session: Mapping[str, Any]) -> SessionReady:
        self.ready = True
        expires_at = number(session, "expires_at") or self._expires_at
        return SessionReady(model=words(session, "model"), voice=_voice(session), expires_at=expires_at)

    def _input_event(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        match kind:
            case "speech_started":
                return self._turns.started(data)
            case "speech_stopped":
                return self._turns.stopped(data)
            case "committed":
                return self._turns.committed(data)
            case "cleared":
                return self._turns.cleared()
            case _:
                return []

    def _conversation_event(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        match kind:
            case "item.added" | "item.done" | "item.created":
                return self._turns.item(data)
            case "item.retrieved":
                return self._retrieved(mapping(data, "item"))
            case "item.truncated":
                return self._replies.truncated(data)
            case "item.input_audio_transcription.delta":
                return self._turns.transcript_delta(data)
            case "item.input_audio_transcription.completed":
                return self._turns.transcript_done(data)
            case "item.input_audio_transcription.failed":
                return self._turns.transcript_failed(data)
            case _:
                return []

    def _retrieved(self, item: Mapping[str, Any]) -> list[Event]:
        found = ident(item, "id")
        if found is None or self._ledger.retrieved.pop(found) is None:
            return []  # the caller's client asked
        return [*self._turns.retrieved(item), *self._replies.retrieved(item)]

    def _response_event(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        replies = self._replies
        match kind:
            case "created":
                return replies.created(data)
            case "done":
                return replies.done(data)
            case "output_item.added":
                return replies.item_added(data)
            case "output_item.done":
                return replies.item_done(data)
            case "content_part.added":
                return replies.part(data)
            case "output_audio_transcript.delta":
                return replies.words(data, spoken=True)
            case "output_audio_transcript.done":
                return replies.whole(data, "transcript", spoken=True)
            case "output_text.delta":
                return replies.words(data, spoken=False)
            case "output_text.done":
                return replies.whole(data, "text", spoken=False)
            case "output_audio.delta":
                return replies.sound(data)
            case "output_audio.done":
                return replies.sound_done(data)
            case _:
                return []

    def _playout_event(self, kind: str, data: Mapping[str, Any], now: float) -> list[Event]:
        match kind:
            case "started":
                return self._replies.playing(data, now)
            case "stopped":
                return self._replies.played(data)
            case "cleared":
                return self._replies.cleared(data, now)
            case _:
                return []

    # errors -----------------------------------------------------------------------------------------------------

    def _error(self, error: Mapping[str, Any]) -> list[Event]:
        event_id = ident(error, "event_id")
        asked = None if event_id is None else self._ledger.asked.pop(event_id)
        fault = fault_of(error)
        match fault.meaning:
            case "expired":
                return self.close(SessionClosed(reason="provider_expired", message=fault.message))
            case "fatal":
                return [_fault(fault, asked, fatal=True)]
            case "silent":
                return []
            case "benign" | "retry" | "bug" if asked is not None and asked.kind in {"cut", "retrieve"}:
                return []  # what was to be cut or asked for is not there any more
            case "benign":
                return [Warned(code=fault.code, message=fault.message)]
            case "retry" | "bug":
                return self._refused(fault, asked, retry=fault.meaning == "retry")

    def _refused(self, fault: Fault, asked: Asked | None, *, retry: bool) -> list[Event]:
        if asked is None:
            # the model's own reply lost a race, or the caller's data channel sent something wrong
            return [
                ProviderFault(code=fault.code, message=fault.message, retry=True)
                if fault.code == "server_error"
                else Warned(code=fault.code, message=fault.message)
            ]
        if asked.command is not None:
            self._ledger.awaited.pop(asked.command)
        if asked.kind == "update":
            self.refused = fault
            if self._ledger.updates:
                self._ledger.updates.popleft()
        return [_fault(fault, asked, fatal=asked.kind == "update" and not retry, retry=retry)]


def _fault(fault: Fault, asked: Asked | None, *, fatal: bool = False, retry: bool = False) -> ProviderFault:
    command = None if asked is None else asked.command
    return ProviderFault(code=fault.code, message=fault.message, fatal=fatal, retry=retry, command=command)


def _voice(session: Mapping[str, Any]) -> str | None:
    output = mapping(session, "audio", "output")
    return words(output, "voice") or words(mapping(output, "voice"), "id")


def _rate_limits(data: Mapping[str, Any]) -> list[Event]:
    return [
        RateLimit(
            name=name,
            limit=count(limit, "limit"),
            remaining=count(limit, "remaining"),
            reset_seconds=number(limit, "reset_seconds"),
        )
        for limit in mappings(data, "rate_limits")[:16]
        if (name := ident(limit, "name")) is not None
    ]
