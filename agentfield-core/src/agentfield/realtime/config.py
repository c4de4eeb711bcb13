"""The configuration of a session: what a node declares, and what is frozen when a call starts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = [
    "Floor",
    "Limits",
    "SemanticVad",
    "ServerVad",
    "SessionConfig",
    "SessionDeclaration",
    "ToolSpec",
    "TurnDetection",
]

Floor = Literal["handler", "model"]
"""Who answers a turn."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerVad(_Frozen):
    """The end of a turn is a stretch of silence, judged by the provider."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(default=0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(default=300, ge=0, le=5000)
    silence_duration_ms: int = Field(default=500, ge=50, le=10_000)


class SemanticVad(_Frozen):
    """The end of a turn is judged from the words."""

    type: Literal["semantic_vad"] = "semantic_vad"
    eagerness: Literal["auto", "low", "medium", "high"] = "auto"


TurnDetection = Annotated[ServerVad | SemanticVad, Field(discriminator="type")]
"""How the end of the caller's turn is found; None where the caller says so (push to talk)."""


class Limits(_Frozen):
    """What a session may use before it is ended; all finite unless None."""

    duration: float = Field(default=1800.0, gt=0)
    """Seconds from start to goodbye."""
    idle: float = Field(default=60.0, gt=0)
    """Seconds without speech of either side."""
    turns: int | None = Field(default=None, gt=0)
    tool_calls: int | None = Field(default=None, gt=0)
    cost: float | None = Field(default=None, gt=0)
    """In US dollars, by the price table."""
    warn: float = Field(default=30.0, ge=0)
    """Seconds before the end at which the handler is warned."""


class ToolSpec(_Frozen):
    """A target that the model may call, as its node declares it."""

    target: str
    description: str = ""
    parameters: dict[str, Any]
    """JSON Schema of the input."""
    on_interrupt: Literal["keep", "cancel"] = "keep"


class SessionDeclaration(_Frozen):
    """What `@app.session(...)` says, as the node registers it."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")
    provider: str
    transport: str
    model: str | None = None
    modalities: tuple[Literal["audio", "text"], ...] = ("audio", "text")
    voice: str | None = None
    tools: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    instructions: str | None = None
    floor: Floor
    say: Literal["exact", "best_effort"] | None = None
    transcription: str | None = None
    turn_detection: TurnDetection | Literal["default", "manual"] = "default"
    """`default`: the pair's own, frozen at start; `manual` (written None): the caller says when (push to talk)."""
    interrupt_after_ms: int = Field(default=0, ge=0, le=5000)
    """How long the caller must speak before a reply is stopped; a shorter "mhm" is no interruption."""
    greeting: str | None = None
    goodbye: str | None = None
    on_error: str | None = None
    limits: Limits = Limits()
    drift: Literal["enforce", "terminate", "allow"] = "enforce"
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("turn_detection", mode="before")
    @classmethod
    def _none_is_manual(cls, value: object) -> object:
        # a word, since None is what the wire leaves out
        return "manual" if value is None else value


class SessionConfig(_Frozen):
    """A declaration as resolved and frozen at start; what an adapter opens a session with."""

    session_id: str
    target: str
    declaration: SessionDeclaration
    model: str
    """The model that is asked for, never inferred later."""
    voice: str | None
    transcription: str | None
    """The model that transcribes the caller, None where nobody asked for words."""
    turn_detection: TurnDetection | None = ServerVad()
    """As declared, or the pair's own."""
    tools: tuple[ToolSpec, ...] = ()
    safety_id: str | None = None
    """A stable hash that stands for the end user towards the provider."""
