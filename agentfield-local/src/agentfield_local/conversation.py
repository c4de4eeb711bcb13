"""The conversation: client events and engine results in, server events and effects out. Sans-I/O, no clock of its own."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from agentfield_local import events as ev
from agentfield_local.behaviour import Behaviour
from agentfield_local.brain.protocol import BrainRequest, Message, Step, ToolOffer, ToolResult
from agentfield_local.effects import Due, Effect, End, Hear, Later, Listen, Send, Transcribe
from agentfield_local.input_buffer import InputBuffer
from agentfield_local.items import Item, ItemStore, item_from_client
from agentfield_local.playout import Played, Playout
from agentfield_local.refusals import Refusal
from agentfield_local.responses import Options, Response
from agentfield_local.session_config import SESSION_SECONDS, SessionConfig
from agentfield_local.usage import usage_of

__all__ = ["Conversation"]

_MIN_COMMIT_MS = 100
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
        self.new_id = new_id
        self.behaviour = behaviour
        self.playout = playout
        self.items = ItemStore(new_id)
        self.buffer = InputBuffer()
        self.config = SessionConfig(
            model=model, session_id=new_id("sess"), expires_at=int(now()) + SESSION_SECONDS, voices=voices
        )
        self._now = now
        self._id = new_id("conv")
        self._out: list[Effect] = []
        self._responses: dict[str, Response] = {}
        self._aside: set[str] = set()
        self._speaking: str | None = None
        self._spoke = False
        self._transcribing: dict[str, tuple[Item, bool]] = {}
        self._late_texts: dict[str, tuple[str, float]] = {}
        self._late_refusals: dict[str, tuple[str, Refusal, str | None]] = {}
        self._idle_at: float | None = None
        self._last_played: str | None = None
        self._cached = 0
        self._requests = 0
        self._failures = behaviour.fail_responses
        self._ended = False

    # what the surroundings call ---------------------------------------------------------------------------------

    def open(self) -> list[Effect]:
        """Begin: start listening and the session's own timer."""
        self.do(Listen(self.config.turn_detection))
        self.do(Later(SESSION_SECONDS, ("expire", "")))
        return self._drain()

    def attach(self, leg: str) -> list[Effect]:
        """A leg joined; it alone is told what the session is."""
        self._tell(leg, "session.created", session=self._session_view())
        self._tell(leg, "conversation.created", conversation={"id": self._id, "object": "realtime.conversation"})
        return self._drain()

    def receive(self, leg: str, text: str | bytes) -> list[Effect]:
        """Handle one client event; whatever it is, the session goes on."""
        event, event_id = ev.parse_event(text)
        try:
            if isinstance(event, Refusal):
                raise event
            self._handle(leg, event)
        except Refusal as refusal:
            self._refuse(leg, refusal, event_id)
        return self._drain()

    def heard(self, pcm: bytes) -> None:
        """Take audio of the caller (16 kHz s16le mono)."""
        self.buffer.append(pcm)

    def speech_started(self, at_ms: int) -> list[Effect]:
        """The caller began to speak."""
        detection = self.config.turn_detection
        if detection is None or self._speaking is not None or self._ended:
            return self._drain()
        self._speaking = self.items.reserve()
        self._idle_at = None
        self.emit("input_audio_buffer.speech_started", item_id=self._speaking, audio_start_ms=at_ms)
        if detection["interrupt_response"]:
            self._interrupt()
        return self._drain()

    def speech_stopped(self, at_ms: int, pcm: bytes) -> list[Effect]:
        """The caller fell silent: that is a turn."""
        detection, item_id = self.config.turn_detection, self._speaking
        if detection is None or item_id is None or self._ended:
            return self._drain()
        self._speaking = None
        self.emit("input_audio_buffer.speech_stopped", item_id=item_id, audio_end_ms=at_ms)
        self.buffer.drop_until(at_ms)
        self._commit(item_id, pcm)
        if detection["create_response"]:
            self._auto_respond()
        return self._drain()

    def transcribed(self, item_id: str, text: str, *, error: str | None = None) -> list[Effect]:
        """The words of a turn are known, or could not be found."""
        found = self._transcribing.pop(item_id, None)
        if found is None:
            return self._drain()
        item, wanted = found
        item.text = text
        if wanted and error is not None:
            place = {"item_id": item_id, "content_index": 0}
            problem = {"type": "transcription_error", "code": "audio_unintelligible", "message": error}
            self.emit("conversation.item.input_audio_transcription.failed", error=problem, **place)
        elif wanted:
            self._late_texts[item_id] = (text, item.audio_ms / 1000)
            if self.behaviour.late_transcript_ms:
                self.do(Later(self.behaviour.late_transcript_ms / 1000, ("transcript", item_id)))
            else:
                self._send_transcript(item_id)
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
            self.emit(f"output_audio_buffer.{event.what}", response_id=event.response_id)
            if event.what == "stopped":
                self._aside.discard(event.response_id)
                self._arm_idle()
        return self._drain()

    def due(self, what: Due) -> list[Effect]:
        """Something that was put off is due."""
        match what:
            case ("transcript", item_id):
                self._send_transcript(item_id)
            case ("commit_error", key):
                leg, refusal, event_id = self._late_refusals.pop(key)
                self._refuse(leg, refusal, event_id)
            case ("idle", _):
                self._idle()
            case ("expire", _):
                self._expire()
        return self._drain()

    # the desk of a response -------------------------------------------------------------------------------------

    def emit(self, kind: str, **fields: Any) -> None:
        """Send a server event to all legs."""
        event = self._dress({"type": kind, "event_id": self.new_id("event"), **fields})
        self._out.append(Send(event))
        if kind in self.behaviour.duplicate_events:
            self._out.append(Send(event))

    def do(self, effect: Effect) -> None:
        """Ask the surroundings for something."""
        self._out.append(effect)

    def rate_limits(self) -> None:
        """Send `rate_limits.updated`."""
        limits = [
            {"name": "requests", "limit": 1000, "remaining": max(0, 1000 - self._requests), "reset_seconds": 60.0},
            {"name": "tokens", "limit": 40_000, "remaining": max(0, 40_000 - self._cached), "reset_seconds": 60.0},
        ]
        self.emit("rate_limits.updated", rate_limits=limits)

    # client events ----------------------------------------------------------------------------------------------

    def _handle(self, leg: str, event: Any) -> None:
        match event:
            case ev.SessionUpdate():
                self._update(event.session)
            case ev.BufferAppend():
                self.do(Hear(_audio_of(event.audio)))
            case ev.BufferCommit():
                self._commit_by_hand(leg, event)
            case ev.BufferClear():
                self.buffer.take()
                self._listen_afresh()
                self.emit("input_audio_buffer.cleared")
            case ev.ItemCreate():
                self._create_item(event)
            case ev.ItemRetrieve():
                item = self.items.require(event.item_id, "retrieve")
                self.emit("conversation.item.retrieved", item=item.view(with_audio=True))
            case ev.ItemTruncate():
                self._truncate(event)
            case ev.ItemDelete():
                self.items.require(event.item_id, "delete")
                self.items.remove(event.item_id)
                self.emit("conversation.item.deleted", item_id=event.item_id)
            case ev.ResponseCreate():
                self._start(self._options(event.response or ev.ResponseParams()))
            case ev.ResponseCancel():
                self._cancel(event.response_id)
            case ev.OutputClear():
                self._clear_output()

    def _update(self, patch: Mapping[str, Any]) -> None:
        before = self.config.turn_detection
        self.config.update(patch, has_audio=self._spoke)
        if self.config.turn_detection != before:
            self._listen_afresh()
        self.emit("session.updated", session=self._session_view())

    def _listen_afresh(self) -> None:
        self._speaking = None
        self.do(Listen(self.config.turn_detection))

    def _commit_by_hand(self, leg: str, event: ev.BufferCommit) -> None:
        held = self.buffer.held_ms
        if held < _MIN_COMMIT_MS:
            refusal = Refusal(
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, "
                f"but buffer only has {held:.2f}ms of audio.",
                code="input_audio_buffer_commit_empty",
            )
            if not self.behaviour.commit_error_delay_ms:
                raise refusal
            key = self.new_id("late")
            self._late_refusals[key] = (leg, refusal, event.event_id)
            self.do(Later(self.behaviour.commit_error_delay_ms / 1000, ("commit_error", key)))
            return
        self._commit(self._speaking or self.items.reserve(), self.buffer.take())
        self._listen_afresh()

    def _create_item(self, event: ev.ItemCreate) -> None:
        new = event.item
        if isinstance(new, ev.NewOutput) and self.items.call_name(new.call_id) is None:
            raise Refusal(
                f"Tool call ID '{new.call_id}' not found in conversation.",
                code="invalid_tool_call_id",
                param="item.call_id",
            )
        index = self.items.place(event.previous_item_id)
        item = item_from_client(new, new.id or "", call_id=self.new_id("call"))
        if new.id is None:
            item.id = self.items.reserve()
        else:
            self.items.claim(new.id)
        previous = self.items.insert(item, index)
        self.emit("conversation.item.added", item=item.view(), previous_item_id=previous)
        self.emit("conversation.item.done", item=item.view(), previous_item_id=previous)

    def _truncate(self, event: ev.ItemTruncate) -> None:
        item = self.items.require(event.item_id, "truncate")
        if not item.is_spoken:
            raise Refusal("Only model output audio messages can be truncated", code=None, param="item_id")
        if event.content_index >= len(item.content):
            raise Refusal(
                f"Invalid value: {event.content_index}. The item has one content part, 0.",
                code="invalid_value",
                param="content_index",
            )
        if event.audio_end_ms > item.audio_ms:
            raise Refusal(
                f"Audio content of {item.audio_ms}ms is already shorter than {event.audio_end_ms}ms",
                code=None,
                param="audio_end_ms",
            )
        self._cut(item, event.audio_end_ms, announce=True)

    def _cut(self, item: Item, audio_end_ms: int, *, announce: bool) -> None:
        item.truncate(audio_end_ms)
        if announce:
            self.emit("conversation.item.truncated", item_id=item.id, content_index=0, audio_end_ms=audio_end_ms)

    def _cancel(self, response_id: str | None) -> None:
        active = self._active() if response_id is None else self._responses.get(response_id)
        if active is None:
            raise Refusal("Cancellation failed: no active response found", code="response_cancel_not_active")
        active.finish("cancelled", reason="client_cancelled")

    def _clear_output(self) -> None:
        if self.playout is None:
            raise Refusal(
                "output_audio_buffer.clear is only available over WebRTC and SIP.", code="invalid_value", param="type"
            )
        if not self._clear_playout(lambda _: True) and self._last_played is not None:
            self.emit("output_audio_buffer.cleared", response_id=self._last_played)

    # turns ------------------------------------------------------------------------------------------------------

    def _commit(self, item_id: str, pcm: bytes) -> None:
        item = Item(item_id, "message", role="user", text=None, audio=bytearray(pcm), audio_rate=16_000)
        item.audio_ms = len(pcm) // 32
        item.content = [{"type": "input_audio", "transcript": None}]
        self.emit("input_audio_buffer.committed", item_id=item_id, previous_item_id=self.items.last_id())
        previous = self.items.insert(item)
        self.emit("conversation.item.added", item=item.view(), previous_item_id=previous)
        self.emit("conversation.item.done", item=item.view(), previous_item_id=previous)
        self._transcribing[item_id] = (item, self.config.input["transcription"] is not None)
        self.do(Transcribe(item_id, pcm))

    def _send_transcript(self, item_id: str) -> None:
        text, seconds = self._late_texts.pop(item_id)
        place = {"item_id": item_id, "content_index": 0}
        item = self.items.get(item_id)
        if item is not None:
            item.content[0]["transcript"] = text
        if text:
            self.emit("conversation.item.input_audio_transcription.delta", delta=text, **place)
        usage = {"type": "duration", "seconds": seconds}
        self.emit("conversation.item.input_audio_transcription.completed", transcript=text, usage=usage, **place)

    def _auto_respond(self) -> None:
        try:
            self._start(self._options(ev.ResponseParams()))
        except Refusal as refusal:
            self.emit("error", error=refusal.body())

    def _interrupt(self) -> None:
        active = self._active()
        self._clear_playout(lambda response_id: response_id not in self._aside, cancel=active)

    def _clear_playout(self, wanted: Callable[[str], bool], *, cancel: Response | None = None) -> bool:
        """Stop what is playing, end the response, truncate what was cut; say whether anything was heard of it."""
        cleared = self.playout.clear(wanted) if self.playout is not None else []
        for reply in cleared:
            self._aside.discard(reply.response_id)
            if reply.started:
                self.emit("output_audio_buffer.cleared", response_id=reply.response_id)
        if cancel is not None:
            cancel.finish("cancelled", reason="turn_detected")
        for reply in cleared:
            for item_id, heard_ms in reply.heard.items():
                item = self.items.get(item_id)
                if item is not None and heard_ms < item.audio_ms:
                    self._cut(item, heard_ms, announce=self.behaviour.announce_truncation)
        return any(reply.started for reply in cleared)

    # responses --------------------------------------------------------------------------------------------------

    def _active(self) -> Response | None:
        """Return the one response of the default conversation that is in progress."""
        return next((r for r in self._responses.values() if r.in_default and not r.done), None)

    def _options(self, params: ev.ResponseParams) -> Options:
        config = self.config.data
        aside = params.conversation == "none"
        active = self._active()
        if not aside and active is not None:
            raise Refusal(
                f"Conversation already has an active response in progress: {active.id}. "
                "Wait until the response is finished before creating a new one.",
                code="conversation_already_has_active_response",
            )
        if len(self._responses) >= _MAX_PARALLEL:
            raise Refusal("Too many responses in progress.", code="rate_limit_exceeded")
        output = params.audio.output if params.audio is not None else None
        voice = output.voice if output is not None else None
        self.config.check_voice(voice, has_audio=self._spoke, root=("response",))
        tools = config["tools"] if params.tools is None else [tool.model_dump() for tool in params.tools]
        choice = config["tool_choice"] if params.tool_choice is None else params.tool_choice
        asked_format = output.format if output is not None else None
        return Options(
            instructions=config["instructions"] if params.instructions is None else params.instructions,
            modality=(params.output_modalities or config["output_modalities"])[0],
            tools=tools,
            tool_choice=_choice(choice),
            voice=voice or self.config.voice,
            format=self.config.output["format"] if asked_format is None else asked_format.model_dump(),
            max_output_tokens=params.max_output_tokens or config["max_output_tokens"],
            metadata=params.metadata,
            conversation_id=None if aside else self._id,
            input=None if params.input is None else [self._input_item(item) for item in params.input],
        )

    def _input_item(self, given: Any) -> Item:
        if not isinstance(given, ev.ItemReference):
            return item_from_client(given, given.id or "")
        found = self.items.get(given.id)
        if found is None:
            raise Refusal(f"Item with item_id not found: {given.id}", code="invalid_value", param="response.input")
        return found

    def _start(self, options: Options) -> None:
        response = Response(self.new_id("resp"), options, self)
        self._responses[response.id] = response
        self._idle_at = None
        self._requests += 1
        if not response.in_default:
            self._aside.add(response.id)
        response.begin()
        if self._failures > 0:
            self._failures -= 1
            self._fail(response, "The server had an error while processing your request. Sorry about that!")
            return
        self._consider(response)

    def format_of(self, response_id: str) -> dict[str, Any] | None:
        """Return the audio format of a response in progress."""
        found = self._responses.get(response_id)
        return None if found is None else found.options.format

    def _consider(self, response: Response) -> None:
        """Let a response think as soon as the words of every turn that it reads are known."""
        items = list(self.items) if response.options.input is None else list(response.options.input)
        if response.thinking or response.done or any(item.id in self._transcribing for item in items):
            return
        options = response.options
        usage = usage_of(options.instructions, items, cached=self._cached)
        self._cached = usage.input
        tools = [ToolOffer(t["name"], t.get("description", ""), t.get("parameters", {})) for t in options.tools]
        request = BrainRequest(
            instructions=options.instructions,
            history=self._history(items),
            tools=tools,
            tool_choice=options.tool_choice,
            metadata=options.metadata or {},
        )
        response.think(request, usage)

    def _history(self, items: Sequence[Item]) -> list[Message | ToolResult]:
        history: list[Message | ToolResult] = []
        for item in items:
            if item.role is not None and (item.text or item.role == "user"):
                history.append(Message(item.role, item.text or ""))
            elif item.type == "function_call_output":
                name = self.items.call_name(item.call_id) or ""
                history.append(ToolResult(item.call_id, name, item.output))
        return history

    def _fail(self, response: Response, message: str) -> None:
        refusal = Refusal(message, code="server_error", kind="server_error")
        self.emit("error", error=refusal.body())
        error = {"type": "server_error", "code": "server_error", "message": message}
        response.finish("failed", error=error)

    # the clock --------------------------------------------------------------------------------------------------

    def _arm_idle(self) -> None:
        detection = self.config.turn_detection or {}
        timeout = detection.get("idle_timeout_ms")
        if timeout is not None and self._quiet():
            self._idle_at = self._now() + timeout / 1000
            self.do(Later(timeout / 1000, ("idle", "")))

    def _quiet(self) -> bool:
        playing = self.playout is not None and self.playout.playing
        return not self._responses and self._speaking is None and not playing

    def _idle(self) -> None:
        if self._idle_at is None or self._now() < self._idle_at or not self._quiet():
            return
        self._idle_at = None
        item_id, heard = self.items.reserve(), self.buffer.heard_ms
        start = heard - round(self.buffer.held_ms)
        self.emit("input_audio_buffer.timeout_triggered", item_id=item_id, audio_start_ms=start, audio_end_ms=heard)
        self._commit(item_id, self.buffer.take())
        self._auto_respond()

    def _expire(self) -> None:
        for response in list(self._responses.values()):
            response.finish("cancelled", reason="client_cancelled")
        refusal = Refusal("Your session hit the maximum duration of 60 minutes.", code="session_expired")
        self.emit("error", error=refusal.body())
        self._ended = True
        self.do(End("expired"))

    # sending ----------------------------------------------------------------------------------------------------

    def _session_view(self) -> dict[str, Any]:
        return self.config.view(self.behaviour.echo_model)

    def _tell(self, leg: str, kind: str, **fields: Any) -> None:
        self._out.append(Send(self._dress({"type": kind, "event_id": self.new_id("event"), **fields}), to=leg))

    def _refuse(self, leg: str, refusal: Refusal, event_id: str | None) -> None:
        self._tell(leg, "error", error=refusal.body(event_id))

    def _dress(self, event: dict[str, Any]) -> dict[str, Any]:
        if self.behaviour.unknown_fields:
            event["x_novelty"] = {"since": "tomorrow"}
            if isinstance(event.get("item"), dict):
                event["item"] = {**event["item"], "phase": "final_answer"}
        return event

    def _drain(self) -> list[Effect]:
        for response_id in [r.id for r in self._responses.values() if r.done]:
            del self._responses[response_id]
            if self.playout is None or not self.playout.holds(response_id):
                self._aside.discard(response_id)
            self._arm_idle()
        out, self._out = self._out, []
        return out


def _audio_of(text: str) -> bytes:
    """Decode base64 audio.

    Raises:
        Refusal: It is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("Invalid value: the audio is not base64.", code="invalid_value", param="audio") from None


def _choice(choice: Any) -> str:
    """Return the tool choice as a brain reads it: `auto`, `none`, `required` or the name of one function."""
    if isinstance(choice, str):
        return choice
    return str(choice["name"] if isinstance(choice, dict) else choice.name)
