"""Events: what happened in a live conversation, in words that no provider owns.

An adapter translates its provider's messages into these; the session state machine, handlers and browsers see only these.
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
    "SessionReady",
    "SessionUpdated",
    "ToolRequested",
    "TurnCommitted",
    "TurnDiscarded",
    "TurnStarted",
    "TurnStopped",
    "TurnTranscript",
    "Usage",
    "UsageReported",
    "Warned",
    "event_adapter",
]


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Usage(BaseModel):
    """What something cost, in the provider's own counts; absent counts are None, never 0."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    input_text_tokens: int | None = None
    input_audio_tokens: int | None = None
    cached_tokens: int | None = None
    output_text_tokens: int | None = None
    output_audio_tokens: int | None = None
    seconds: float | None = None
    cost: float | None = None
    """In US dollars, where the provider says so itself."""


class SessionReady(_Event):
    """The provider has the session; what it echoes is compared with what was asked for."""

    type: Literal["session.ready"] = "session.ready"
    model: str | None = None
    """The model that the provider names, None when it names none."""
    voice: str | None = None
    expires_at: float | None = None
    """Seconds since the epoch at which the provider ends the session by itself."""


class SessionUpdated(_Event):
    """The provider's configuration changed, by us or by the caller's own data channel."""

    type: Literal["session.updated"] = "session.updated"
    model: str | None = None
    voice: str | None = None
    drift: tuple[str, ...] = ()
    """Names of the settings that differ from ours."""


class SessionClosed(_Event):
    """The provider's end of the session is gone."""

    type: Literal["session.ended"] = "session.ended"
    reason: Literal["caller_hangup", "provider_expired", "provider_error", "ice_failed", "closed"] = "closed"
    message: str | None = None
    retry: bool = False
    """Whether the same session may be opened again: the line broke, nobody refused."""


class TurnStarted(_Event):
    """The caller began to speak."""

    type: Literal["turn.started"] = "turn.started"
    item: str
    """The provider's id of what is being said; all events of one turn share it."""
    at_ms: int | None = None
    """Position in the caller's audio, milliseconds."""


class TurnStopped(_Event):
    """The caller stopped speaking."""

    type: Literal["turn.stopped"] = "turn.stopped"
    item: str
    at_ms: int | None = None


class TurnCommitted(_Event):
    """What the caller said is part of the conversation now."""

    type: Literal["turn.committed"] = "turn.committed"
    item: str
    previous: str | None = None
    """The item it follows; turns are ordered by this, never by arrival."""
    text: str | None = None
    """The words, when the caller typed them."""


class TurnTranscript(_Event):
    """The words of a turn, in part or for good."""

    type: Literal["turn.transcript"] = "turn.transcript"
    item: str
    text: str
    final: bool = True
    failed: str | None = None
    """Why there are no words."""


class TurnDiscarded(_Event):
    """A turn that nobody will answer."""

    type: Literal["turn.discarded"] = "turn.discarded"
    item: str
    why: Literal["empty", "too_many", "cleared"]


class ReplyStarted(_Event):
    """The agent's side began to generate; `command` is the say or reply that asked, None when the model decided."""

    type: Literal["reply.started"] = "reply.started"
    reply: str
    command: str | None = None


class ReplyAudio(_Event):
    """Audio of a reply, only where the control plane carries the media; live only, never stored."""

    type: Literal["reply.audio"] = "reply.audio"
    reply: str
    data: bytes


class ReplyTranscript(_Event):
    """Words of a reply: pieces to append, then the whole with `final`."""

    type: Literal["reply.transcript"] = "reply.transcript"
    reply: str
    text: str
    final: bool = False


class ReplyEnded(_Event):
    """Generation of a reply is over; playback may still run."""

    type: Literal["reply.ended"] = "reply.ended"
    reply: str
    command: str | None = None
    status: Literal["completed", "cancelled", "failed", "incomplete"] = "completed"
    why: str | None = None
    """`interrupted`, `asked`, or the provider's error code."""
    text: str | None = None
    """All words that were generated, None when the reply had none (a tool call)."""
    audio: bool = False
    """Whether audio was generated, so that playback is to be waited for."""
    audio_ms: int | None = None
    """How much audio was generated, milliseconds; None where nobody can tell."""
    tools: int = 0
    """How many tool calls the reply holds."""
    usage: Usage | None = None


class ToolRequested(_Event):
    """The model wants a tool; complete, and seen where a caller cannot forge it."""

    type: Literal["tool.requested"] = "tool.requested"
    call_id: str
    name: str
    """The target as declared, `node_id.name`; a name the adapter cannot map back is passed on as it came."""
    arguments: str
    """JSON as the model wrote it, possibly invalid."""
    reply: str


class Interrupted(_Event):
    """The caller spoke over a reply; `heard_ms` is how much of it was played, None when unknown."""

    type: Literal["interrupted"] = "interrupted"
    reply: str
    heard_ms: int | None = None
    method: Literal["marks", "provider", "wallclock"] = "wallclock"


class PlayoutStarted(_Event):
    """The caller begins to hear a reply."""

    type: Literal["playout.started"] = "playout.started"
    reply: str


class PlayoutStopped(_Event):
    """The caller has heard all of a reply."""

    type: Literal["playout.stopped"] = "playout.stopped"
    reply: str
    method: Literal["marks", "provider", "wallclock"] | None = None
    """How the end is known: the caller told the last mark, the provider told it, or the audio's length has passed."""


class PlayoutCleared(_Event):
    """What was left of a reply was thrown away."""

    type: Literal["playout.cleared"] = "playout.cleared"
    reply: str


class UsageReported(_Event):
    """Usage that belongs to no reply, such as transcription of the caller."""

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
    """What the provider says is left."""

    type: Literal["rate_limit"] = "rate_limit"
    name: str
    limit: int | None = None
    remaining: int | None = None
    reset_seconds: float | None = None


class Warned(_Event):
    """Something odd that the call survives."""

    type: Literal["warning"] = "warning"
    code: str
    message: str


class ProviderFault(_Event):
    """The provider reported an error; `fatal` ends the call, `command` names what failed when it is known."""

    type: Literal["error"] = "error"
    code: str
    message: str
    fatal: bool = False
    retry: bool = False
    """The same command may be sent again once the reply slot is free."""
    command: str | None = None


Event = Annotated[
    SessionReady
    | SessionUpdated
    | SessionClosed
    | TurnStarted
    | TurnStopped
    | TurnCommitted
    | TurnTranscript
    | TurnDiscarded
    | ReplyStarted
    | ReplyAudio
    | ReplyTranscript
    | ReplyEnded
    | ToolRequested
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
"""Reads an event from JSON by its `type`."""
