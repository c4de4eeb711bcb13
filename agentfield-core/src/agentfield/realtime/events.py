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
    """Text that the model read."""
    input_audio_tokens: int | None = None
    """Audio that it heard."""
    input_image_tokens: int | None = None
    """Images that it saw."""
    input_video_tokens: int | None = None
    """Video that it saw."""
    cached_tokens: int | None = None
    """Input that was read from a cache; these tokens are in the other input counts as well."""
    output_text_tokens: int | None = None
    """Text that it wrote."""
    output_audio_tokens: int | None = None
    """Audio that it spoke."""
    thinking_tokens: int | None = None
    """Output that is neither spoken nor shown; these tokens are in no other count."""
    seconds: float | None = None
    """Seconds of audio, where the provider counts time."""
    cost: float | None = None
    """US dollars, if the provider reports them."""


class SessionReady(_Event):
    """The provider has opened the session; the model and voice that it echoes are compared with the requested ones."""

    type: Literal["session.ready"] = "session.ready"
    model: str | None = None
    """The model that the provider reports, None if it reports none."""
    voice: str | None = None
    """The voice as the provider repeats it, None if it does not."""
    expires_at: float | None = None
    """Time at which the provider ends the session by itself, in seconds since the epoch."""


class SessionUpdated(_Event):
    """The provider's configuration changed, by a command or over the caller's data channel."""

    type: Literal["session.updated"] = "session.updated"
    model: str | None = None
    """The model as the provider repeats it, None if it does not."""
    voice: str | None = None
    """The voice as the provider repeats it, None if it does not."""
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
    """The cause of the end; `closed` is an end that was asked for."""
    message: str | None = None
    """The cause in words for the operator, without the key."""
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
    """Id of the turn."""
    at_ms: int | None = None
    """Position of the end in the caller's audio in milliseconds, None if unknown."""


class TurnCommitted(_Event):
    """The caller's turn is part of the conversation."""

    type: Literal["turn.committed"] = "turn.committed"
    item: str
    """Id of the turn."""
    previous: str | None = None
    """The preceding item; turns are ordered by it, not by arrival."""
    text: str | None = None
    """The text, if the caller typed it."""


class TurnTranscript(_Event):
    """The transcript of a turn: the text so far, then the complete text with `final`."""

    type: Literal["turn.transcript"] = "turn.transcript"
    item: str
    """Id of the turn."""
    text: str
    """A piece, or all words of the turn."""
    final: bool = True
    """Whether `text` is complete; pieces come before it."""
    failed: str | None = None
    """Why there is no transcript."""
    late: bool = False
    """Whether the turn was given to the handler without it; the control plane sets it."""


class TurnDiscarded(_Event):
    """A turn that will not be answered."""

    type: Literal["turn.discarded"] = "turn.discarded"
    item: str
    """Id of the turn."""
    why: Literal["empty", "too_many", "cleared"]
    """No speech was in it, too many turns wait, or the caller's input was cleared."""


class TurnUnanswered(_Event):
    """The model has finished with a turn, or with the results of its tools, and chose to say nothing (more)."""

    type: Literal["turn.unanswered"] = "turn.unanswered"
    item: str
    """Id of the turn."""


class ReplyStarted(_Event):
    """Generation of a reply started; `command` is the id of the say or reply command, None if the model started it."""

    type: Literal["reply.started"] = "reply.started"
    reply: str
    """Id of the reply, unique in the call."""
    command: str | None = None
    """Id of the command that asked for it."""


class ReplyAudio(_Event):
    """Audio of a reply; only where the control plane carries the media, and never stored."""

    type: Literal["reply.audio"] = "reply.audio"
    reply: str
    """Id of the reply."""
    data: bytes
    """Whole samples in the session's output format."""


class ReplyTranscript(_Event):
    """Transcript of a reply: pieces to append, then the complete text with `final`."""

    type: Literal["reply.transcript"] = "reply.transcript"
    reply: str
    """Id of the reply."""
    text: str
    """What is new, or all words of the reply with `final`."""
    final: bool = False
    """Whether `text` is complete."""


class ReplyEnded(_Event):
    """Generation of a reply ended; playback may continue."""

    type: Literal["reply.ended"] = "reply.ended"
    reply: str
    """Id of the reply."""
    command: str | None = None
    """As in `ReplyStarted`."""
    status: Literal["completed", "cancelled", "failed", "incomplete"] = "completed"
    """Whether the generation was complete, was stopped, failed, or ended early for another reason, such as a limit of tokens."""
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
    """Usage of the reply; None if none is reported, or later (`UsageReported`)."""


class ToolRequested(_Event):
    """The model calls a tool; complete, and received where a caller cannot forge it."""

    type: Literal["tool.requested"] = "tool.requested"
    call_id: str
    """Id of the call, which its result repeats."""
    name: str
    """The declared target, `node_id.name`; a name that the adapter cannot map back is passed on unchanged."""
    arguments: str
    """JSON text as the model wrote it, possibly invalid."""
    reply: str
    """Id of the reply that called."""


class ToolCancelled(_Event):
    """The provider takes a tool call back: it wants no result, and one that is sent all the same would be refused or ignored."""

    type: Literal["tool.cancelled"] = "tool.cancelled"
    call_id: str
    """Id of the call."""


class ToolTampered(_Event):
    """The caller's own client added a result for a tool call of the model; the adapter deletes it from the conversation.

    A reply that this client requests meanwhile is about that result.
    """

    type: Literal["tool.tampered"] = "tool.tampered"
    call_id: str
    """Id of the call."""


class Interrupted(_Event):
    """A reply was interrupted; `heard_ms` are the milliseconds that were played, None if unknown.

    An adapter whose provider stops replies itself (`Capabilities.interruption` is `server`) sends it as soon as the provider says
    so, before `ReplyEnded`: where the control plane carries the media, playback at the caller is cleared by it, and the bridge
    fills in `heard_ms`.
    """

    type: Literal["interrupted"] = "interrupted"
    reply: str
    """Id of the reply."""
    heard_ms: int | None = None
    """Milliseconds that were played."""
    method: Literal["marks", "provider", "wallclock"] = "wallclock"
    """The source of `heard_ms`: marks of the caller, the provider, or the clock."""


class PlayoutStarted(_Event):
    """Playback of a reply started."""

    type: Literal["playout.started"] = "playout.started"
    reply: str
    """Id of the reply."""


class PlayoutStopped(_Event):
    """The caller has heard all of a reply."""

    type: Literal["playout.stopped"] = "playout.stopped"
    reply: str
    """Id of the reply."""
    method: Literal["marks", "provider", "wallclock"] | None = None
    """How the end is known: the caller confirmed the last mark, the provider reported it, or the audio's duration has passed."""


class PlayoutCleared(_Event):
    """The unheard rest of a reply was discarded."""

    type: Literal["playout.cleared"] = "playout.cleared"
    reply: str
    """Id of the reply."""


class UsageReported(_Event):
    """Usage that is not part of `ReplyEnded`: of the transcription of a turn, or of a reply whose usage is counted later."""

    type: Literal["usage"] = "usage"
    kind: Literal["transcription", "reply"] = "transcription"
    """The part of the conversation that was used for."""
    item: str | None = None
    """Id of the transcribed turn."""
    reply: str | None = None
    """Id of the reply."""
    usage: Usage
    """The counts."""


class Dtmf(_Event):
    """The caller pressed a key of a telephone."""

    type: Literal["dtmf"] = "dtmf"
    digit: str = Field(pattern=r"^[0-9A-D*#]$")
    """One of `0` to `9`, `*`, `#`, `A` to `D`."""


class RateLimit(_Event):
    """A rate limit as reported by the provider."""

    type: Literal["rate_limit"] = "rate_limit"
    name: str
    """The provider's name of the limit."""
    limit: int | None = None
    """The allowed number."""
    remaining: int | None = None
    """The number that is left."""
    reset_seconds: float | None = None
    """Seconds until the limit is full again."""


class Warned(_Event):
    """A problem that does not end the call."""

    type: Literal["warning"] = "warning"
    code: str
    """A short code in lower case."""
    message: str
    """The problem in words, without the key."""


class ProviderFault(_Event):
    """The provider reported an error; `fatal` ends the call, `command` is the `id` of the failed command if known."""

    type: Literal["error"] = "error"
    code: str
    """The provider's code, or one of the adapter's."""
    message: str
    """The fault in words, without the key."""
    fatal: bool = False
    """Whether the session cannot go on."""
    retry: bool = False
    """Whether the command may be sent again once no other reply is active."""
    retry_after: float | None = None
    """Seconds that the provider asks to wait before the command is sent again, None if it names none."""
    command: str | None = None
    """Id of the command that the provider refused, None if it was none."""


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
