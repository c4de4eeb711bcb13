"""Sans-I/O state machine of a conversation: client events, engine results and timers in, effects out.

Every public method handles one input and returns the effects to perform, in order. The machine has no clock, socket or
thread: `now` is passed in, and waiting is a `ScheduleTimer` effect.

A caller's turn runs through these inputs: `speech_started`, `speech_stopped` (creates the item and requests its
transcript and a response), `transcribed` (the response queries the brain), `brain_answered`, `audio_synthesized` and
`item_synthesized`, which end in `response.done`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from agentfield_local.brain.protocol import Step
from agentfield_local.faults.behaviour import Behaviour
from agentfield_local.faults.beta_shape import beta_session
from agentfield_local.realtime.configuration.client_events import (
    BufferAppend,
    BufferClear,
    BufferCommit,
    ItemCreate,
    ItemDelete,
    ItemRetrieve,
    ItemTruncate,
    NewFunctionOutput,
    OutputClear,
    ResponseCancel,
    ResponseCreate,
    ResponseParams,
    SessionUpdate,
    parse_event,
)
from agentfield_local.realtime.configuration.session_config import SessionConfig
from agentfield_local.realtime.conversation.audio_input.input_buffer import InputAudioBuffer
from agentfield_local.realtime.conversation.audio_input.turns import InputTurns, vad_settings
from agentfield_local.realtime.conversation.client_audio import audio_length_ms, decode_audio
from agentfield_local.realtime.conversation.context import ConversationContext
from agentfield_local.realtime.conversation.effects import DecodeAudio, Effect, EndSession, ScheduleTimer, TimerKey
from agentfield_local.realtime.conversation.idle_timer import IdleTimer
from agentfield_local.realtime.conversation.items import item_from_client
from agentfield_local.realtime.conversation.playback import Playback
from agentfield_local.realtime.conversation.responses.brain_request import brain_request
from agentfield_local.realtime.conversation.responses.options import ResponseOptions, make_options
from agentfield_local.realtime.conversation.responses.response import Response
from agentfield_local.realtime.conversation.responses.usage import input_usage
from agentfield_local.webrtc.output_buffer import OutputAudioBuffer, PlaybackEvent
from agentfield_local.wire.refusals import Refusal

__all__ = ["CALLER", "ConversationMachine"]

CALLER = "caller"
"""Name of the leg that is a WebRTC caller's own data channel; all other legs are sidebands."""
_MAX_PARALLEL = 8
_FAILURE = "The server had an error while processing your request. Sorry about that!"
_TRANSCRIPTION_EVENTS = (
    *(SessionUpdate, BufferAppend, BufferCommit, BufferClear),
    *(ItemRetrieve, ItemDelete),
)
"""Client events that a transcription session accepts."""


class ConversationMachine:
    """One session of the protocol.

    Args:
        new_id: Makes ids from a prefix.
        now: Returns Unix time in seconds.
        voices: Voices of the speech engine.
        behaviour: Behaviour of the session.
        model: Model that was requested when the session was opened.
        output_buffer: Audio that the caller plays; None on a WebSocket, where the client plays.
        transcription: Whether the session only transcribes: turns and transcripts, no responses.
    """

    def __init__(
        self,
        *,
        new_id: Callable[[str], str],
        now: Callable[[], float],
        voices: Collection[str],
        behaviour: Behaviour,
        model: str | None = None,
        output_buffer: OutputAudioBuffer | None = None,
        transcription: bool = False,
    ) -> None:
        self.config = SessionConfig(
            model=model,
            session_id=new_id("sess"),
            expires_at=int(now() + (behaviour.announced_seconds or behaviour.session_seconds)),
            voices=voices,
            transcription=transcription,
            silence_ms=behaviour.default_silence_ms,
        )
        self._context = ConversationContext(new_id, behaviour, output_buffer)
        self._items = self._context.items
        self._turns = InputTurns(self._context, self.config)
        self._behaviour = behaviour
        self._playback = Playback(self._context)
        self._idle = IdleTimer(self._context, now)
        self._id = new_id("conv")
        self._responses: dict[str, Response] = {}
        self._has_assistant_audio = False
        self._cached_tokens = 0
        self._failures = behaviour.fail_responses
        self._failing: set[str] = set()
        self._awaiting_transcript: set[str] = set()
        self._ended = False

    @property
    def buffer(self) -> InputAudioBuffer:
        """The caller's audio that no item contains yet."""
        return self._turns.buffer

    # inputs of the runner ---------------------------------------------------------------------------------------

    def open(self) -> list[Effect]:
        """Start voice activity detection and the expiry timer."""
        self._turns.restart_vad()
        self._context.add_effect(ScheduleTimer(self._behaviour.session_seconds, ("expire", "")))
        return self._drain()

    def attach(self, leg: str) -> list[Effect]:
        """Handle a new leg: send the session to it alone."""
        detail = "whole" if self._context.output_buffer is None or leg == CALLER else self._behaviour.sideband_created
        session = self._session_view()
        if detail == "brief":
            session = {name: session[name] for name in ("type", "object", "id", "model", "expires_at")}
        if detail != "never":
            for _ in range(2 if self._behaviour.created_twice else 1):
                self._context.emit_to(leg, "session.created", session=session)
            if not self.config.transcription:
                conversation = {"id": self._id, "object": "realtime.conversation"}
                self._context.emit_to(leg, "conversation.created", conversation=conversation)
        return self._drain()

    def receive(self, leg: str, text: str | bytes) -> list[Effect]:
        """Handle one client event; an invalid one is answered with an `error` event and does not end the session."""
        event, event_id = parse_event(text)
        try:
            if isinstance(event, Refusal):
                raise event
            self._handle(leg, event)
        except Refusal as refusal:
            self._context.emit_refusal(leg, refusal, event_id)
        return self._drain()

    def heard(self, pcm: bytes) -> None:
        """Append decoded audio of the caller (16 kHz s16le mono)."""
        self._turns.heard(pcm)

    def speech_started(self, at_ms: int) -> list[Effect]:
        """Handle the start of speech: begin a turn and interrupt the reply."""
        if not self._ended and self._turns.started(at_ms):
            self._idle.stop()
            if self._detection_flag("interrupt_response"):
                self._playback.interrupt(self._active())
        return self._drain()

    def speech_stopped(self, at_ms: int, pcm: bytes, *, paused_ms: int | None = None) -> list[Effect]:
        """Handle the end of speech: commit the turn and respond to it.

        Args:
            at_ms: End of the speech.
            pcm: Audio of the turn.
            paused_ms: Position of the pause that ended the turn; None if there was none.
        """
        item_id = None if self._ended else self._turns.stopped(at_ms, pcm, paused_ms)
        if item_id is not None and self._detection_flag("create_response"):
            if self._behaviour.order.transcript == "before_response":
                self._awaiting_transcript.add(item_id)
            else:
                self._auto_respond()
        return self._drain()

    def transcribed(self, item_id: str, text: str, *, error: str | None = None) -> list[Effect]:
        """Handle the transcript of an item, or its failure."""
        hold = self._behaviour.order.transcript == "after_response" and self._active() is not None
        self._turns.transcribed(item_id, text, error, hold=hold)
        if item_id in self._awaiting_transcript:
            self._awaiting_transcript.remove(item_id)
            if self._active() is None:
                self._auto_respond()
        for response in list(self._responses.values()):
            self._query_brain_if_ready(response)
        return self._drain()

    def brain_answered(self, response_id: str, steps: Sequence[Step]) -> list[Effect]:
        """Handle the brain's answer for a response."""
        response = self._responses.get(response_id)
        if response is not None and response_id in self._failing and not response.has_audio(steps):
            self._fail(response, _FAILURE)
        elif response is not None:
            response.brain_answered(steps)
        return self._drain()

    def audio_synthesized(
        self, response_id: str, item_id: str, audio: bytes, ms: float, *, clause: bool
    ) -> list[Effect]:
        """Handle a piece of synthesised audio; `clause` says whether it begins a clause."""
        response = self._responses.get(response_id)
        if response is not None:
            self._has_assistant_audio = True
            response.audio_synthesized(item_id, audio, ms, clause=clause)
            if response_id in self._failing:
                self._fail(response, _FAILURE)
        return self._drain()

    def item_synthesized(self, response_id: str, item_id: str) -> list[Effect]:
        """Handle the end of the synthesis of an item."""
        response = self._responses.get(response_id)
        if response is not None:
            response.item_synthesized(item_id)
        return self._drain()

    def response_failed(self, response_id: str, message: str) -> list[Effect]:
        """Handle a failure of the brain or the voice."""
        response = self._responses.get(response_id)
        if response is not None:
            self._fail(response, message)
        return self._drain()

    def played(self, events: Sequence[PlaybackEvent]) -> list[Effect]:
        """Handle playback events of the output audio buffer."""
        for event in events:
            self._playback.played(event)
            if event.kind == "stopped":
                self._start_idle_timer()
        return self._drain()

    def timer_fired(self, timer: TimerKey) -> list[Effect]:
        """Handle a timer that was scheduled with `ScheduleTimer`."""
        match timer:
            case ("transcript", item_id):
                self._turns.send_transcript(item_id)
            case ("commit_error", key):
                self._turns.send_delayed_refusal(key)
            case ("arguments", response_id):
                if response_id in self._responses:
                    self._responses[response_id].arguments_due()
            case ("idle", _):
                self._idle_timeout()
            case ("expire", _):
                self._expire()
        return self._drain()

    def format_of(self, response_id: str) -> dict[str, Any] | None:
        """Return the audio format of a response in progress; None if it has ended."""
        found = self._responses.get(response_id)
        return None if found is None else found.options.format

    # client events ----------------------------------------------------------------------------------------------

    def _handle(self, leg: str, event: Any) -> None:
        if self.config.transcription and not isinstance(event, _TRANSCRIPTION_EVENTS):
            text = f"{event.type!r} is not possible in a transcription session."
            raise Refusal(text, code="invalid_value", param="type")
        match event:
            case SessionUpdate():
                self._update(event.session)
            case BufferAppend():
                audio = decode_audio(event.audio, "audio")
                self.buffer.expect(audio_length_ms(audio, self.config.input["format"]))
                self._context.add_effect(DecodeAudio(audio))
            case BufferCommit():
                self._turns.client_commit(leg, event.event_id)
            case BufferClear():
                self._turns.clear()
            case ItemCreate():
                self._create_item(event)
            case ItemRetrieve():
                item = self._items.require(event.item_id, "retrieve")
                self._context.emit("conversation.item.retrieved", item=item.view(with_audio=True))
            case ItemTruncate():
                self._truncate(event)
            case ItemDelete():
                self._items.require(event.item_id, "delete")
                self._items.remove(event.item_id)
                self._context.emit("conversation.item.deleted", item_id=event.item_id)
            case ResponseCreate():
                self._start(self._options(event.response or ResponseParams()))
            case ResponseCancel():
                self._cancel(event.response_id)
            case OutputClear():
                self._playback.clear()

    def _update(self, patch: Mapping[str, Any]) -> None:
        before = vad_settings(self.config.turn_detection)
        self.config.update(patch, has_audio=self._has_assistant_audio)
        if vad_settings(self.config.turn_detection) != before:
            self._turns.restart_vad()
        self._context.emit("session.updated", session=self._session_view())

    def _create_item(self, event: ItemCreate) -> None:
        new = event.item
        if isinstance(new, NewFunctionOutput) and self._items.call_name(new.call_id) is None:
            text = f"Tool call ID '{new.call_id}' not found in conversation."
            raise Refusal(text, code="invalid_tool_call_id", param="item.call_id")
        index = self._items.index_after(event.previous_item_id)
        item = item_from_client(
            new, new.id or "", call_id=self._context.new_id("call"), audio_format=self.config.input["format"]
        )
        if new.id is None:
            item.id = self._items.reserve()
        else:
            self._items.claim(new.id)
        previous = self._items.insert(item, index)
        self._context.emit("conversation.item.added", item=item.view(), previous_item_id=previous)
        self._context.emit("conversation.item.done", item=item.view(), previous_item_id=previous)
        if item.role == "user" and item.audio and not item.text:
            self._turns.request_transcript(item, bytes(item.audio))

    def _truncate(self, event: ItemTruncate) -> None:
        item = self._items.require(event.item_id, "truncate")
        if not item.is_spoken:
            raise Refusal("Only model output audio messages can be truncated", code=None, param="item_id")
        if event.content_index >= len(item.content):
            text = f"Invalid value: {event.content_index}. The item has one content part, 0."
            raise Refusal(text, code="invalid_value", param="content_index")
        if event.audio_end_ms > item.audio_ms:
            text = f"Audio content of {item.audio_ms}ms is already shorter than {event.audio_end_ms}ms"
            raise Refusal(text, code=None, param="audio_end_ms")
        self._playback.truncate(item, event.audio_end_ms)

    def _cancel(self, response_id: str | None) -> None:
        active = self._active() if response_id is None else self._responses.get(response_id)
        if active is None:
            raise Refusal("Cancellation failed: no active response found", code="response_cancel_not_active")
        active.finish("cancelled", reason="client_cancelled")

    def _detection_flag(self, name: str) -> bool:
        return bool((self.config.turn_detection or {}).get(name)) and not self.config.transcription

    # responses --------------------------------------------------------------------------------------------------

    def _active(self) -> Response | None:
        """Return the active response: the only one in progress in the default conversation."""
        return next((r for r in self._responses.values() if r.in_default and not r.done), None)

    def _options(self, params: ResponseParams) -> ResponseOptions:
        active = self._active()
        if params.conversation != "none" and active is not None:
            raise Refusal(
                f"Conversation already has an active response in progress: {active.id}. "
                "Wait until the response is finished before creating a new one.",
                code="conversation_already_has_active_response",
            )
        if len(self._responses) >= _MAX_PARALLEL:
            raise Refusal("Too many responses in progress.", code="rate_limit_exceeded")
        return make_options(
            params, self.config, self._items, conversation_id=self._id, has_audio=self._has_assistant_audio
        )

    def _auto_respond(self) -> None:
        try:
            self._start(self._options(ResponseParams()))
        except Refusal as refusal:
            self._context.emit("error", error=refusal.body())

    def _start(self, options: ResponseOptions) -> None:
        response = Response(self._context.new_id("resp"), options, self._context)
        self._responses[response.id] = response
        self._idle.stop()
        if not response.in_default:
            self._playback.mark_out_of_band(response.id)
        response.begin()
        if self._failures > 0:
            self._failures -= 1
            self._failing.add(response.id)
        if response.id in self._failing and not self._behaviour.fail_after_audio:
            self._fail(response, _FAILURE)
        else:
            self._query_brain_if_ready(response)

    def _query_brain_if_ready(self, response: Response) -> None:
        """Query the brain for a response once the transcripts of all its input items are known."""
        options = response.options
        items = list(self._items if options.input is None else options.input)
        if response.brain_queried or response.done or self._turns.waits_for(items):
            return
        usage = input_usage(options.instructions, items, cached=self._cached_tokens)
        self._cached_tokens = usage.input
        response.query_brain(brain_request(options, items, self._items), usage)

    def _fail(self, response: Response, message: str) -> None:
        kind, code = self._behaviour.fail_error if response.id in self._failing else ("server_error", "server_error")
        refusal = Refusal(message, code=code, kind=kind)
        if self._behaviour.order.failure == "before_done":
            self._context.emit("error", error=refusal.body())
        response.finish("failed", error={"type": kind, "code": code, "message": message})
        if self._behaviour.order.failure == "after_done":
            self._context.emit("error", error=refusal.body())

    # timers -----------------------------------------------------------------------------------------------------

    def _start_idle_timer(self, playback_ms: int = 0) -> None:
        """Start the idle timer, from the time when the client will have played `playback_ms` of audio."""
        timeout = (self.config.turn_detection or {}).get("idle_timeout_ms")
        if timeout is not None and self._is_idle():
            self._idle.start((timeout + playback_ms) / 1000)

    def _is_idle(self) -> bool:
        return not self._responses and self._turns.speaking is None and not self._playback.playing

    def _idle_timeout(self) -> None:
        if self._idle.expired() and self._is_idle():
            self._turns.idle_timeout()
            self._auto_respond()

    def _expire(self) -> None:
        for response in list(self._responses.values()):
            response.finish("cancelled", reason="client_cancelled")
        minutes = f"{self._behaviour.session_seconds / 60:g}"
        refusal = Refusal(f"Your session hit the maximum duration of {minutes} minutes.", code="session_expired")
        self._context.emit("error", error=refusal.body())
        self._ended = True
        self._context.add_effect(EndSession("expired"))

    # output -----------------------------------------------------------------------------------------------------

    def _session_view(self) -> dict[str, Any]:
        view = self.config.view(self._behaviour.echo_model)
        return beta_session(view) if self._behaviour.beta_session else view

    def _drain(self) -> list[Effect]:
        """Forget finished responses and return the collected effects."""
        for response in [r for r in self._responses.values() if r.done]:
            del self._responses[response.id]
            self._failing.discard(response.id)
            self._playback.response_done(response.id)
            self._start_idle_timer(response.audio_ms if self._context.output_buffer is None else 0)
        if self._active() is None:
            self._turns.release()
        return self._context.drain()
