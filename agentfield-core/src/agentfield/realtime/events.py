"""Events of a live conversation, independent of any provider.

Adapters translate the messages of their provider into these; the session state machine, handlers and browsers see only these.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

__all__ = [
    "Dtmf",
    "Event",
    "Interrupted",
    "PlayoutCleared",
    "PlayoutStarted",
    "PlayoutStopped",
    "ProviderFault",
    "RateLimit",
    "ReplyAudio",
    "ReplyEnded",
    "ReplyStarted",
    "ReplyTranscript",
    "SessionClosed",
    "SessionExpiring",
    "SessionReady",
    "SessionResumable",
    "SessionUpdated",
    "ToolCancelled",
    "ToolRequested",
    "ToolTampered",
    "TurnCommitted",
    "TurnDiscarded",
    "TurnStarted",
    "TurnStopped",
    "TurnTranscript",
    "TurnUnanswered",
    "Usage",
    "UsageReported",
    "Warned",
    "event_adapter",
]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Usage(BaseModel):
    """Usage in the provider's own counts; unknown counts are None, never 0."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    input_text_tokens: int | None = None
    input_audio_tokens: int | None = None
    input_image_tokens: int | None = None
    input_video_tokens: int | None = None
    cached_tokens: int | None = None
    """Input that was read from a cache; these tokens are in the other input counts as well."""
    output_text_tokens: int | None = None
    output_audio_tokens: int | None = None
    thinking_tokens: int | None = None
    """Output that is neither spoken nor shown; these tokens are in no other count."""
    seconds: float | None = None
    cost: float | None = None
    """US dollars, if the provider reports them."""


class SessionReady(_Event):
    """The provider has opened the session; the model and voice that it echoes are compared with the requested ones."""

    type: Literal["session.ready"] = "session.ready"
    model: str | None = None
    """The model that the provider reports, None if it reports none."""
    voice: str | None = None
    expires_at: float | None = None
    """Time at which the provider ends the session by itself, in seconds since the epoch."""


class SessionUpdated(_Event):
    """The provider's configuration changed, by a command or over the caller's data channel."""

    type: Literal["session.updated"] = "session.updated"
    model: str | None = None
    voice: str | None = None
    drift: tuple[str, ...] = ()
    """Names of the settings that differ from the declared ones."""


class SessionExpiring(_Event):
    """The provider announced during the call when it ends the session; the latest announcement counts."""

    type: Literal["session.expiring"] = "session.expiring"
    expires_at: float
    """Seconds since the epoch."""


class SessionResumable(_Event):
    """The provider gave a handle by which a later session continues the conversation as it is now; the latest one counts.

    The handle is stored with the session and outlives the control plane; it is in no log, and no browser or handler sees it.
    """

    type: Literal["session.resumable"] = "session.resumable"
    handle: str | None = Field(default=None, repr=False)
    """At most 16384 characters; None: the earlier handle is no longer of use."""


class SessionClosed(_Event):
    """The session at the provider ended."""

    type: Literal["session.ended"] = "session.ended"
    reason: Literal["caller_hangup", "provider_expired", "provider_error", "ice_failed", "closed"] = "closed"
    message: str | None = None
    retry: bool = False
    """Whether the session may be opened again: the connection was lost, not refused."""


class TurnStarted(_Event):
    """The caller started to speak."""

    type: Literal["turn.started"] = "turn.started"
    item: str
    """The provider's id of the turn, shared by all its events."""
    at_ms: int | None = None
    """Position in the caller's audio, milliseconds."""
    before_live: bool | None = None
    """Whether it began in audio from before the call was live; set by the bridge, None where that is unknown."""


class TurnStopped(_Event):
    """The caller stopped speaking."""

    type: Literal["turn.stopped"] = "turn.stopped"
    item: str
    at_ms: int | None = None


class TurnCommitted(_Event):
    """The caller's turn is part of the conversation."""

    type: Literal["turn.committed"] = "turn.committed"
    item: str
    previous: str | None = None
    """The preceding item; turns are ordered by it, not by arrival."""
    text: str | None = None
    """The text, if the caller typed it."""


class TurnTranscript(_Event):
    """The transcript of a turn: the text so far, then the complete text with `final`."""

    type: Literal["turn.transcript"] = "turn.transcript"
    item: str
    text: str
    final: bool = True
    failed: str | None = None
    """Why there is no transcript."""
    late: bool = False
    """Whether the turn was given to the handler without it; the control plane sets it."""


class TurnDiscarded(_Event):
    """A turn that will not be answered."""

    type: Literal["turn.discarded"] = "turn.discarded"
    item: str
    why: Literal["empty", "too_many", "cleared"]


class TurnUnanswered(_Event):
    """The model has finished with a turn, or with the results of its tools, and chose to say nothing (more)."""

    type: Literal["turn.unanswered"] = "turn.unanswered"
    item: str


class ReplyStarted(_Event):
    """Generation of a reply started; `command` is the id of the say or reply command, None if the model started it."""

    type: Literal["reply.started"] = "reply.started"
    reply: str
    command: str | None = None


class ReplyAudio(_Event):
    """Audio of a reply; only where the control plane carries the media, and never stored."""

    type: Literal["reply.audio"] = "reply.audio"
    reply: str
    data: bytes


class ReplyTranscript(_Event):
    """Transcript of a reply: pieces to append, then the complete text with `final`."""

    type: Literal["reply.transcript"] = "reply.transcript"
    reply: str
    text: str
    final: bool = False


class ReplyEnded(_Event):
    """Generation of a reply ended; playback may continue."""

    type: Literal["reply.ended"] = "reply.ended"
    reply: str
    command: str | None = None
    status: Literal["completed", "cancelled", "failed", "incomplete"] = "completed"
    why: str | None = None
    """`interrupted`, `asked`, or the provider's error code."""
    text: str | None = None
    """The complete text, None if the reply had none (a tool call)."""
    audio: bool = False
    """Whether audio was generated, so that the end of playback follows."""
    audio_ms: int | None = None
    """Milliseconds of generated audio, None if unknown."""
    tools: int = 0
    """Number of tool calls in the reply."""
    usage: Usage | None = None


class ToolRequested(_Event):
    """The model calls a tool; complete, and received where a caller cannot forge it."""

    type: Literal["tool.requested"] = "tool.requested"
    call_id: str
    name: str
    """The declared target, `node_id.name`; a name that the adapter cannot map back is passed on unchanged."""
    arguments: str
    """JSON text as the model wrote it, possibly invalid."""
    reply: str


class ToolCancelled(_Event):
    """The provider takes a tool call back: it wants no result, and one that is sent all the same would be refused or ignored."""

    type: Literal["tool.cancelled"] = "tool.cancelled"
    call_id: str


class ToolTampered(_Event):
    """The caller's own client added a result for a tool call of the model; the adapter deletes it from the conversation.

    A reply that this client requests meanwhile is about that result.
    """

    type: Literal["tool.tampered"] = "tool.tampered"
    call_id: str


class Interrupted(_Event):
    """A reply was interrupted; `heard_ms` are the milliseconds that were played, None if unknown.

    An adapter whose provider stops replies itself (`Capabilities.interruption` is `server`) sends it as soon as the provider says
    so, before `ReplyEnded`: where the control plane carries the media, playback at the caller is cleared by it, and the bridge
    fills in `heard_ms`.
    """

    type: Literal["interrupted"] = "interrupted"
    reply: str
    heard_ms: int | None = None
    method: Literal["marks", "provider", "wallclock"] = "wallclock"


class PlayoutStarted(_Event):
    """Playback of a reply started."""

    type: Literal["playout.started"] = "playout.started"
    reply: str


class PlayoutStopped(_Event):
    """The caller has heard all of a reply."""

    type: Literal["playout.stopped"] = "playout.stopped"
    reply: str
    method: Literal["marks", "provider", "wallclock"] | None = None
    """How the end is known: the caller confirmed the last mark, the provider reported it, or the audio's duration has passed."""


class PlayoutCleared(_Event):
    """The unheard rest of a reply was discarded."""

    type: Literal["playout.cleared"] = "playout.cleared"
    reply: str


class UsageReported(_Event):
    """Usage that is not part of `ReplyEnded`: of the transcription of a turn, or of a reply whose usage is counted later."""

    type: Literal["usage"] = "usage"
    kind: Literal["transcription", "reply"] = "transcription"
    item: str | None = None
    reply: str | None = None
    usage: Usage


class Dtmf(_Event):
    """The caller pressed a key of a telephone."""

    type: Literal["dtmf"] = "dtmf"
    digit: str = Field(pattern=r"^[0-9A-D*#]$")


class RateLimit(_Event):
    """A rate limit as reported by the provider."""

    type: Literal["rate_limit"] = "rate_limit"
    name: str
    limit: int | None = None
    remaining: int | None = None
    reset_seconds: float | None = None


class Warned(_Event):
    """A problem that does not end the call."""

    type: Literal["warning"] = "warning"
    code: str
    message: str


class ProviderFault(_Event):
    """The provider reported an error; `fatal` ends the call, `command` is the `id` of the failed command if known."""

    type: Literal["error"] = "error"
    code: str
    message: str
    fatal: bool = False
    retry: bool = False
    """Whether the command may be sent again once no other reply is active."""
    retry_after: float | None = None
    """Seconds that the provider asks to wait before the command is sent again, None if it names none."""
    command: str | None = None


Event = Annotated[
    SessionReady
    | SessionUpdated
    | SessionExpiring
    | SessionResumable
    | SessionClosed
    | TurnStarted
    | TurnStopped
    | TurnCommitted
    | TurnTranscript
    | TurnDiscarded
    | TurnUnanswered
    | ReplyStarted
    | ReplyAudio
    | ReplyTranscript
    | ReplyEnded
    | ToolRequested
    | ToolCancelled
    | ToolTampered
    | Interrupted
    | PlayoutStarted
    | PlayoutStopped
    | PlayoutCleared
    | UsageReported
    | Dtmf
    | RateLimit
    | Warned
    | ProviderFault,
    Field(discriminator="type"),
]
"""Any event of a live conversation."""

event_adapter: TypeAdapter[Any] = TypeAdapter(Event)
"""Validates an event by its `type`."""
