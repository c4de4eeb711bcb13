"""The conversation: client events and engine results in, server events and effects out. Sans-I/O, with no clock."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from agentfield_local import events as ev
from agentfield_local.behaviour import Behaviour
from agentfield_local.brain.protocol import Step
from agentfield_local.effects import Due, Effect, End, Hear, Later
from agentfield_local.input_buffer import InputBuffer
from agentfield_local.items import Item, item_from_client
from agentfield_local.playout import Played, Playout
from agentfield_local.refusals import Refusal
from agentfield_local.requests import brain_request, make_options
from agentfield_local.responses import Options, Response
from agentfield_local.session_config import SESSION_SECONDS, SessionConfig
from agentfield_local.stage import Stage
from agentfield_local.turns import Turns
from agentfield_local.usage import usage_of

__all__ = ["Conversation"]

_MAX_PARALLEL = 8


class Conversation:
    """One session of the protocol.

    Args:
        new_id: Makes ids from a prefix.
        now: Unix time in seconds.
        voices: Voices of the speech engine.
        behaviour: The switches.
        model: Model that was asked for when the session was opened.
        playout: What is played to the caller; None on a WebSocket, where the client plays.
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
    ) -> None:
        self.config = SessionConfig(
            model=model, session_id=new_id("sess"), expires_at=int(now()) + SESSION_SECONDS, voices=voices
        )
        self._stage = Stage(new_id, behaviour, playout)
        self._items = self._stage.items
        self._turns = Turns(self._stage, self.config)
        self._behaviour = behaviour
        self._playout = playout
        self._now = now
        self._id = new_id("conv")
        self._responses: dict[str, Response] = {}
        self._aside: set[str] = set()
        self._spoke = False
        self._idle_at: float | None = None
        self._last_played: str | None = None
        self._cached = 0
        self._failures = behaviour.fail_responses
        self._ended = False

    @property
    def buffer(self) -> InputBuffer:
        """The caller's audio that no item holds yet."""
        return self._turns.buffer

    # what the surroundings call ---------------------------------------------------------------------------------

    def open(self) -> list[Effect]:
        """Begin: start listening and the session's own timer."""
        self._turns.listen_afresh()
        self._stage.do(Later(SESSION_SECONDS, ("expire", "")))
        return self._drain()

    def attach(self, leg: str) -> list[Effect]:
        """A leg joined; it alone is told what the session is."""
        self._stage.tell(leg, "session.created", session=self._session_view())
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
            self._idle_at = None
            if self._detection("interrupt_response"):
                self._interrupt()
        return self._drain()

    def speech_stopped(self, at_ms: int, pcm: bytes, *, paused_ms: int | None = None) -> list[Effect]:
        """The caller fell silent: that is a turn; `paused_ms` is when a pause was told of that went on to its end."""
        if not self._ended and self._turns.stopped(at_ms, pcm, paused_ms) and self._detection("create_response"):
            self._auto_respond()
        return self._drain()

    def transcribed(self, item_id: str, text: str, *, error: str | None = None) -> list[Effect]:
        """The words of a turn are known, or could not be found."""
        self._turns.transcribed(item_id, text, error)
        for response in list(self._responses.values()):
            self._consider(response)
        return self._drain()

    def planned(self, response_id: str, steps: Sequence[Step]) -> list[Effect]:
        """The brain has answered."""
        response = self._responses.get(response_id)
        if response is not None:
            response.planned(steps)
        return self._drain()

    def voiced(self, response_id: str, item_id: str, audio: bytes, ms: float, *, clause: bool) -> list[Effect]:
        """A piece of a reply has been spoken; `clause` says whether it begins one."""
        response = self._responses.get(response_id)
        if response is not None:
            self._spoke = True
            response.voiced(item_id, audio, ms, clause=clause)
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
            self._last_played = event.response_id
            self._stage.emit(f"output_audio_buffer.{event.what}", response_id=event.response_id)
            if event.what == "stopped":
                self._aside.discard(event.response_id)
                self._arm_idle()
        return self._drain()

    def due(self, what: Due) -> list[Effect]:
        """Something that was put off is due."""
        match what:
            case ("transcript", item_id):
                self._turns.send_transcript(item_id)
            case ("commit_error", key):
                self._turns.refuse_late(key)
            case ("idle", _):
                self._idle()
            case ("expire", _):
                self._expire()
        return self._drain()

    def format_of(self, response_id: str) -> dict[str, Any] | None:
        """Return the audio format of a response in progress."""
        found = self._responses.get(response_id)
        return None if found is None else found.options.format

    # client events ----------------------------------------------------------------------------------------------

    def _handle(self, leg: str, event: Any) -> None:
        match event:
            case ev.SessionUpdate():
                self._update(event.session)
            case ev.BufferAppend():
                self._stage.do(Hear(_audio_of(event.audio)))
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
                self._clear_output()

    def _update(self, patch: Mapping[str, Any]) -> None:
        before = _how_turns_are_found(self.config.turn_detection)
        self.config.update(patch, has_audio=self._spoke)
        if _how_turns_are_found(self.config.turn_detection) != before:
            self._turns.listen_afresh()
        self._stage.emit("session.updated", session=self._session_view())

    def _create_item(self, event: ev.ItemCreate) -> None:
        new = event.item
        if isinstance(new, ev.NewOutput) and self._items.call_name(new.call_id) is None:
            text = f"Tool call ID '{new.call_id}' not found in conversation."
            raise Refusal(text, code="invalid_tool_call_id", param="item.call_id")
        index = self._items.place(event.previous_item_id)
        item = item_from_client(new, new.id or "", call_id=self._stage.new_id("call"))
        if new.id is None:
            item.id = self._items.reserve()
        else:
            self._items.claim(new.id)
        previous = self._items.insert(item, index)
        self._stage.emit("conversation.item.added", item=item.view(), previous_item_id=previous)
        self._stage.emit("conversation.item.done", item=item.view(), previous_item_id=previous)

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
        self._cut(item, event.audio_end_ms, announce=True)

    def _cut(self, item: Item, audio_end_ms: int, *, announce: bool) -> None:
        item.truncate(audio_end_ms)
        if announce:
            kind = "conversation.item.truncated"
            self._stage.emit(kind, item_id=item.id, content_index=0, audio_end_ms=audio_end_ms)

    def _cancel(self, response_id: str | None) -> None:
        active = self._active() if response_id is None else self._responses.get(response_id)
        if active is None:
            raise Refusal("Cancellation failed: no active response found", code="response_cancel_not_active")
        active.finish("cancelled", reason="client_cancelled")

    def _clear_output(self) -> None:
        if self._playout is None:
            text = "output_audio_buffer.clear is only available over WebRTC and SIP."
            raise Refusal(text, code="invalid_value", param="type")
        if not self._clear_playout(lambda _: True) and self._last_played is not None:
            self._stage.emit("output_audio_buffer.cleared", response_id=self._last_played)

    # interruption -----------------------------------------------------------------------------------------------

    def _detection(self, what: str) -> bool:
        return bool((self.config.turn_detection or {}).get(what))

    def _interrupt(self) -> None:
        active = self._active()
        self._clear_playout(lambda response_id: response_id not in self._aside, cancel=active)

    def _clear_playout(self, wanted: Callable[[str], bool], *, cancel: Response | None = None) -> bool:
        """Stop what is playing, end the response, truncate what was cut; say whether anything was heard of it."""
        cleared = self._playout.clear(wanted) if self._playout is not None else []
        for reply in cleared:
            self._aside.discard(reply.response_id)
            if reply.started:
                self._stage.emit("output_audio_buffer.cleared", response_id=reply.response_id)
        if cancel is not None:
            cancel.finish("cancelled", reason="turn_detected")
        for reply in cleared:
            for item_id, heard_ms in reply.heard.items():
                item = self._items.get(item_id)
                if item is not None and heard_ms < item.audio_ms:
                    self._cut(item, heard_ms, announce=self._behaviour.announce_truncation)
        return any(reply.started for reply in cleared)

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
        self._idle_at = None
        if not response.in_default:
            self._aside.add(response.id)
        response.begin()
        if self._failures > 0:
            self._failures -= 1
            self._fail(response, "The server had an error while processing your request. Sorry about that!")
            return
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
        refusal = Refusal(message, code="server_error", kind="server_error")
        self._stage.emit("error", error=refusal.body())
        response.finish("failed", error={"type": "server_error", "code": "server_error", "message": message})

    # the clock --------------------------------------------------------------------------------------------------

    def _arm_idle(self) -> None:
        timeout = (self.config.turn_detection or {}).get("idle_timeout_ms")
        if timeout is not None and self._quiet():
            self._idle_at = self._now() + timeout / 1000
            self._stage.do(Later(timeout / 1000, ("idle", "")))

    def _quiet(self) -> bool:
        playing = self._playout is not None and self._playout.playing
        return not self._responses and self._turns.speaking is None and not playing

    def _idle(self) -> None:
        if self._idle_at is None or self._now() < self._idle_at or not self._quiet():
            return
        self._idle_at = None
        self._turns.timed_out()
        self._auto_respond()

    def _expire(self) -> None:
        for response in list(self._responses.values()):
            response.finish("cancelled", reason="client_cancelled")
        refusal = Refusal("Your session hit the maximum duration of 60 minutes.", code="session_expired")
        self._stage.emit("error", error=refusal.body())
        self._ended = True
        self._stage.do(End("expired"))

    # sending ----------------------------------------------------------------------------------------------------

    def _session_view(self) -> dict[str, Any]:
        return self.config.view(self._behaviour.echo_model)

    def _drain(self) -> list[Effect]:
        for response_id in [r.id for r in self._responses.values() if r.done]:
            del self._responses[response_id]
            if self._playout is None or not self._playout.holds(response_id):
                self._aside.discard(response_id)
            self._arm_idle()
        return self._stage.drain()


def _how_turns_are_found(detection: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the settings that matter to listening; what a turn leads to may change while the caller speaks."""
    if detection is None:
        return None
    consequences = ("create_response", "interrupt_response", "idle_timeout_ms")
    return {name: value for name, value in detection.items() if name not in consequences}


def _audio_of(text: str) -> bytes:
    """Decode base64 audio.

    Raises:
        Refusal: It is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("Invalid value: the audio is not base64.", code="invalid_value", param="audio") from None
