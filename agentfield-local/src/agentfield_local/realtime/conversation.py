"""The conversation: client events and engine results in, server events and effects out. Sans-I/O, with no clock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from agentfield_local.behaviour import Behaviour
from agentfield_local.brain.protocol import Step
from agentfield_local.realtime import events as ev
from agentfield_local.realtime.client_audio import audio_length_ms, decode_audio
from agentfield_local.realtime.effects import Due, Effect, End, Hear, Later
from agentfield_local.realtime.floor import Floor
from agentfield_local.realtime.idle import IdleTimer
from agentfield_local.realtime.input_buffer import InputBuffer
from agentfield_local.realtime.items import item_from_client
from agentfield_local.realtime.requests import brain_request, make_options
from agentfield_local.realtime.responses import Options, Response
from agentfield_local.realtime.session_config import SessionConfig
from agentfield_local.realtime.stage import Stage
from agentfield_local.realtime.turns import Turns, how_turns_are_found
from agentfield_local.realtime.usage import usage_of
from agentfield_local.refusals import Refusal
from agentfield_local.webrtc.playout import Played, Playout

__all__ = ["CALLER", "Conversation"]

CALLER = "caller"
"""The leg that is a WebRTC caller's own channel; all others are sidebands."""
_MAX_PARALLEL = 8
_SORRY = "The server had an error while processing your request. Sorry about that!"
_OF_TRANSCRIPTION = (
    *(ev.SessionUpdate, ev.BufferAppend, ev.BufferCommit, ev.BufferClear),
    *(ev.ItemRetrieve, ev.ItemDelete),
)
"""What a client may do in a session that only transcribes."""


class Conversation:
    """One session of the protocol.

    Args:
        new_id: Makes ids from a prefix.
        now: Unix time in seconds.
        voices: Voices of the speech engine.
        behaviour: The switches.
        model: Model that was asked for when the session was opened.
        playout: What is played to the caller; None on a WebSocket, where the client plays.
        transcription: Whether the session only transcribes: turns and their words, no responses.
    """

    def __init__(
        self,
        *,
        new_id: Callable[[str], str],
        now: Callable[[], float],
        voices: Collection[str],
        behaviour: Behaviour,
        model: str | None = None,
        playout: Playout | None = None,
        transcription: bool = False,
    ) -> None:
        self.config = SessionConfig(
            model=model,
            session_id=new_id("sess"),
            expires_at=int(now() + behaviour.session_seconds),
            voices=voices,
            transcription=transcription,
            silence_ms=behaviour.default_silence_ms,
        )
        self._stage = Stage(new_id, behaviour, playout)
        self._items = self._stage.items
        self._turns = Turns(self._stage, self.config)
        self._behaviour = behaviour
        self._floor = Floor(self._stage)
        self._idle = IdleTimer(self._stage, now)
        self._id = new_id("conv")
        self._responses: dict[str, Response] = {}
        self._spoke = False
        self._cached = 0
        self._failures = behaviour.fail_responses
        self._doomed: set[str] = set()
        self._owed: set[str] = set()
        self._ended = False

    @property
    def buffer(self) -> InputBuffer:
        """The caller's audio that no item holds yet."""
        return self._turns.buffer

    # what the surroundings call ---------------------------------------------------------------------------------

    def open(self) -> list[Effect]:
        """Begin: start listening and the session's own timer."""
        self._turns.listen_afresh()
        self._stage.do(Later(self._behaviour.session_seconds, ("expire", "")))
        return self._drain()

    def attach(self, leg: str) -> list[Effect]:
        """A leg joined; it alone is told what the session is."""
        told = "whole" if self._stage.playout is None or leg == CALLER else self._behaviour.sideband_created
        session = self._session_view()
        if told == "brief":
            session = {name: session[name] for name in ("type", "object", "id", "model", "expires_at")}
        if told != "never":
            self._stage.tell(leg, "session.created", session=session)
            if not self.config.transcription:
                conversation = {"id": self._id, "object": "realtime.conversation"}
                self._stage.tell(leg, "conversation.created", conversation=conversation)
        return self._drain()

    def receive(self, leg: str, text: str | bytes) -> list[Effect]:
        """Handle one client event; whatever it is, the session goes on."""
        event, event_id = ev.parse_event(text)
        try:
            if isinstance(event, Refusal):
                raise event
            self._handle(leg, event)
        except Refusal as refusal:
            self._stage.refuse(leg, refusal, event_id)
        return self._drain()

    def heard(self, pcm: bytes) -> None:
        """Take audio of the caller (16 kHz s16le mono)."""
        self._turns.heard(pcm)

    def speech_started(self, at_ms: int) -> list[Effect]:
        """The caller began to speak."""
        if not self._ended and self._turns.started(at_ms):
            self._idle.disarm()
            if self._detection("interrupt_response"):
                self._floor.interrupt(self._active())
        return self._drain()

    def speech_stopped(self, at_ms: int, pcm: bytes, *, paused_ms: int | None = None) -> list[Effect]:
        """The caller fell silent: that is a turn; `paused_ms` is when a pause was told of that went on to its end."""
        item_id = None if self._ended else self._turns.stopped(at_ms, pcm, paused_ms)
        if item_id is not None and self._detection("create_response"):
            if self._behaviour.order.transcript == "before_response":
                self._owed.add(item_id)
            else:
                self._auto_respond()
        return self._drain()

    def transcribed(self, item_id: str, text: str, *, error: str | None = None) -> list[Effect]:
        """The words of a turn are known, or could not be found."""
        hold = self._behaviour.order.transcript == "after_response" and self._active() is not None
        self._turns.transcribed(item_id, text, error, hold=hold)
        if item_id in self._owed:
            self._owed.remove(item_id)
            if self._active() is None:
                self._auto_respond()
        for response in list(self._responses.values()):
            self._consider(response)
        return self._drain()

    def planned(self, response_id: str, steps: Sequence[Step]) -> list[Effect]:
        """The brain has answered."""
        response = self._responses.get(response_id)
        if response is not None and response_id in self._doomed and not response.will_sound(steps):
            self._fail(response, _SORRY)
        elif response is not None:
            response.planned(steps)
        return self._drain()

    def voiced(self, response_id: str, item_id: str, audio: bytes, ms: float, *, clause: bool) -> list[Effect]:
        """A piece of a reply has been spoken; `clause` says whether it begins one."""
        response = self._responses.get(response_id)
        if response is not None:
            self._spoke = True
            response.voiced(item_id, audio, ms, clause=clause)
            if response_id in self._doomed:
                self._fail(response, _SORRY)
        return self._drain()

    def voice_done(self, response_id: str, item_id: str) -> list[Effect]:
        """An item has been spoken to its end."""
        response = self._responses.get(response_id)
        if response is not None:
            response.voice_done(item_id)
        return self._drain()

    def failed(self, response_id: str, message: str) -> list[Effect]:
        """The brain or the voice broke down in a response."""
        response = self._responses.get(response_id)
        if response is not None:
            self._fail(response, message)
        return self._drain()

    def played(self, events: Sequence[Played]) -> list[Effect]:
        """The first or last sound of a reply has left for the caller."""
        for event in events:
            self._floor.played(event)
            if event.what == "stopped":
                self._arm_idle()
        return self._drain()

    def due(self, what: Due) -> list[Effect]:
        """Something that was put off is due."""
        match what:
            case ("transcript", item_id):
                self._turns.send_transcript(item_id)
            case ("commit_error", key):
                self._turns.refuse_late(key)
            case ("arguments", response_id):
                if response_id in self._responses:
                    self._responses[response_id].arguments_due()
            case ("idle", _):
                self._ask_idle_caller()
            case ("expire", _):
                self._expire()
        return self._drain()

    def format_of(self, response_id: str) -> dict[str, Any] | None:
        """Return the audio format of a response in progress."""
        found = self._responses.get(response_id)
        return None if found is None else found.options.format

    # client events ----------------------------------------------------------------------------------------------

    def _handle(self, leg: str, event: Any) -> None:
        if self.config.transcription and not isinstance(event, _OF_TRANSCRIPTION):
            text = f"{event.type!r} is not possible in a transcription session."
            raise Refusal(text, code="invalid_value", param="type")
        match event:
            case ev.SessionUpdate():
                self._update(event.session)
            case ev.BufferAppend():
                audio = decode_audio(event.audio, "audio")
                self.buffer.expect(audio_length_ms(audio, self.config.input["format"]))
                self._stage.do(Hear(audio))
            case ev.BufferCommit():
                self._turns.commit_by_hand(leg, event.event_id)
            case ev.BufferClear():
                self._turns.clear()
            case ev.ItemCreate():
                self._create_item(event)
            case ev.ItemRetrieve():
                item = self._items.require(event.item_id, "retrieve")
                self._stage.emit("conversation.item.retrieved", item=item.view(with_audio=True))
            case ev.ItemTruncate():
                self._truncate(event)
            case ev.ItemDelete():
                self._items.require(event.item_id, "delete")
                self._items.remove(event.item_id)
                self._stage.emit("conversation.item.deleted", item_id=event.item_id)
            case ev.ResponseCreate():
                self._start(self._options(event.response or ev.ResponseParams()))
            case ev.ResponseCancel():
                self._cancel(event.response_id)
            case ev.OutputClear():
                self._floor.clear()

    def _update(self, patch: Mapping[str, Any]) -> None:
        before = how_turns_are_found(self.config.turn_detection)
        self.config.update(patch, has_audio=self._spoke)
        if how_turns_are_found(self.config.turn_detection) != before:
            self._turns.listen_afresh()
        self._stage.emit("session.updated", session=self._session_view())

    def _create_item(self, event: ev.ItemCreate) -> None:
        new = event.item
        if isinstance(new, ev.NewOutput) and self._items.call_name(new.call_id) is None:
            text = f"Tool call ID '{new.call_id}' not found in conversation."
            raise Refusal(text, code="invalid_tool_call_id", param="item.call_id")
        index = self._items.place(event.previous_item_id)
        item = item_from_client(
            new, new.id or "", call_id=self._stage.new_id("call"), audio_format=self.config.input["format"]
        )
        if new.id is None:
            item.id = self._items.reserve()
        else:
            self._items.claim(new.id)
        previous = self._items.insert(item, index)
        self._stage.emit("conversation.item.added", item=item.view(), previous_item_id=previous)
        self._stage.emit("conversation.item.done", item=item.view(), previous_item_id=previous)
        if item.role == "user" and item.audio and not item.text:
            self._turns.find_words(item, bytes(item.audio))

    def _truncate(self, event: ev.ItemTruncate) -> None:
        item = self._items.require(event.item_id, "truncate")
        if not item.is_spoken:
            raise Refusal("Only model output audio messages can be truncated", code=None, param="item_id")
        if event.content_index >= len(item.content):
            text = f"Invalid value: {event.content_index}. The item has one content part, 0."
            raise Refusal(text, code="invalid_value", param="content_index")
        if event.audio_end_ms > item.audio_ms:
            text = f"Audio content of {item.audio_ms}ms is already shorter than {event.audio_end_ms}ms"
            raise Refusal(text, code=None, param="audio_end_ms")
        self._floor.cut(item, event.audio_end_ms)

    def _cancel(self, response_id: str | None) -> None:
        active = self._active() if response_id is None else self._responses.get(response_id)
        if active is None:
            raise Refusal("Cancellation failed: no active response found", code="response_cancel_not_active")
        active.finish("cancelled", reason="client_cancelled")

    def _detection(self, what: str) -> bool:
        return bool((self.config.turn_detection or {}).get(what)) and not self.config.transcription

    # responses --------------------------------------------------------------------------------------------------

    def _active(self) -> Response | None:
        """Return the one response of the default conversation that is in progress."""
        return next((r for r in self._responses.values() if r.in_default and not r.done), None)

    def _options(self, params: ev.ResponseParams) -> Options:
        active = self._active()
        if params.conversation != "none" and active is not None:
            raise Refusal(
                f"Conversation already has an active response in progress: {active.id}. "
                "Wait until the response is finished before creating a new one.",
                code="conversation_already_has_active_response",
            )
        if len(self._responses) >= _MAX_PARALLEL:
            raise Refusal("Too many responses in progress.", code="rate_limit_exceeded")
        return make_options(params, self.config, self._items, conversation_id=self._id, has_audio=self._spoke)

    def _auto_respond(self) -> None:
        try:
            self._start(self._options(ev.ResponseParams()))
        except Refusal as refusal:
            self._stage.emit("error", error=refusal.body())

    def _start(self, options: Options) -> None:
        response = Response(self._stage.new_id("resp"), options, self._stage)
        self._responses[response.id] = response
        self._idle.disarm()
        if not response.in_default:
            self._floor.put_aside(response.id)
        response.begin()
        if self._failures > 0:
            self._failures -= 1
            self._doomed.add(response.id)
        if response.id in self._doomed and not self._behaviour.fail_after_audio:
            self._fail(response, _SORRY)
        else:
            self._consider(response)

    def _consider(self, response: Response) -> None:
        """Let a response think as soon as the words of every turn that it reads are known."""
        options = response.options
        items = list(self._items if options.input is None else options.input)
        if response.thinking or response.done or self._turns.waits_for(items):
            return
        usage = usage_of(options.instructions, items, cached=self._cached)
        self._cached = usage.input
        response.think(brain_request(options, items, self._items), usage)

    def _fail(self, response: Response, message: str) -> None:
        kind, code = self._behaviour.fail_error if response.id in self._doomed else ("server_error", "server_error")
        refusal = Refusal(message, code=code, kind=kind)
        if self._behaviour.order.failure == "before_done":
            self._stage.emit("error", error=refusal.body())
        response.finish("failed", error={"type": kind, "code": code, "message": message})
        if self._behaviour.order.failure == "after_done":
            self._stage.emit("error", error=refusal.body())

    # the clock --------------------------------------------------------------------------------------------------

    def _arm_idle(self, playback_ms: int = 0) -> None:
        """Wait for the caller's next word, from when the client will have played what it was sent."""
        timeout = (self.config.turn_detection or {}).get("idle_timeout_ms")
        if timeout is not None and self._quiet():
            self._idle.arm((timeout + playback_ms) / 1000)

    def _quiet(self) -> bool:
        return not self._responses and self._turns.speaking is None and not self._floor.busy

    def _ask_idle_caller(self) -> None:
        if self._idle.is_due() and self._quiet():
            self._turns.timed_out()
            self._auto_respond()

    def _expire(self) -> None:
        for response in list(self._responses.values()):
            response.finish("cancelled", reason="client_cancelled")
        minutes = f"{self._behaviour.session_seconds / 60:g}"
        refusal = Refusal(f"Your session hit the maximum duration of {minutes} minutes.", code="session_expired")
        self._stage.emit("error", error=refusal.body())
        self._ended = True
        self._stage.do(End("expired"))

    # sending ----------------------------------------------------------------------------------------------------

    def _session_view(self) -> dict[str, Any]:
        return self.config.view(self._behaviour.echo_model)

    def _drain(self) -> list[Effect]:
        for response in [r for r in self._responses.values() if r.done]:
            del self._responses[response.id]
            self._doomed.discard(response.id)
            self._floor.forget(response.id)
            self._arm_idle(response.audio_ms if self._stage.playout is None else 0)
        if self._active() is None:
            self._turns.release()
        return self._stage.drain()
