"""Configuration of a session: the declaration of a node, and the resolved form that is frozen when a call starts."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
)
from pydantic_core import PydanticCustomError

from agentfield.arguments import unknown_argument
from agentfield.errors import InvalidInput
from agentfield.lossy import lossy_text

__all__ = [
    "Floor",
    "Limits",
    "Say",
    "SemanticVad",
    "ServerVad",
    "SessionConfig",
    "SessionDeclaration",
    "SpokenText",
    "ToolSpec",
    "TurnDetection",
]

Floor = Literal["handler", "model"]
"""Whether the handler or the model answers turns."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class _Written(_Frozen):
    """A model that users construct by hand: wrong arguments are an `InvalidInput` with a suggestion."""

    if not TYPE_CHECKING:
        # Not `__init__`, which validation of a frame would call as well.
        def __new__(cls, *args: Any, **values: Any) -> Self:
            if args:
                first = next(iter(cls.model_fields))
                raise InvalidInput(
                    f"{cls.__name__}({lossy_text(repr(args[0]), 100)}): the values are given by name.",
                    code="invalid_arguments",
                    hint=f"Write {cls.__name__}({first}={lossy_text(repr(args[0]), 100)}, ...).",
                )
            if unknown := [name for name in values if name not in cls.model_fields]:
                raise unknown_argument(cls.__name__, unknown[0], cls.model_fields)
            if values:
                _check_types(cls, values)
            return super().__new__(cls)


def _check_types(cls: type[BaseModel], values: dict[str, Any]) -> None:
    try:
        cls.__pydantic_validator__.validate_python(values, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = str(fault["loc"][0]) if fault["loc"] else ""
        raise InvalidInput(
            f"{cls.__name__}({field}={lossy_text(repr(fault['input']), 100)}): {fault['msg']}.",
            code="invalid_arguments",
            field=field,
        ) from None


class ServerVad(_Written):
    """Turn detection by silence, at the provider."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(default=0.5, ge=0, le=1)
    """Loudness from 0 to 1 above which sound counts as speech."""
    prefix_padding_ms: int = Field(default=300, ge=0, le=5000)
    """Milliseconds of audio before the speech that belong to the turn."""
    silence_duration_ms: int = Field(default=500, ge=50, le=10_000)
    """Milliseconds of silence that end a turn."""


class SemanticVad(_Written):
    """Turn detection by the meaning of the words."""

    type: Literal["semantic_vad"] = "semantic_vad"
    eagerness: Literal["auto", "low", "medium", "high"] = "auto"
    """How soon a pause counts as the end of a turn."""


TurnDetection = Annotated[ServerVad | SemanticVad, Field(discriminator="type")]
"""How the end of the caller's turn is detected; None for push-to-talk."""


class Limits(_Written):
    """Limits after which a session is ended; None disables one."""

    duration: float = Field(default=1800.0, gt=0)
    """Seconds from the start of the session to its goodbye."""
    idle: float = Field(default=60.0, gt=0)
    """Seconds without speech on either side."""
    turns: int | None = Field(default=None, gt=0)
    """Turns of the caller; None is no limit."""
    tool_calls: int | None = Field(default=None, gt=0)
    """Calls of tools; None is no limit."""
    cost: float | None = Field(default=None, gt=0)
    """US dollars, by the price table."""
    warn: float = Field(default=30.0, ge=0)
    """Seconds before the end at which the handler receives a warning."""


def _with_words(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("no_words", "has no words to speak")
    return text


@dataclass(frozen=True)
class Say:
    """A declared text that the agent speaks, with how it is spoken; a plain text is one that the caller may interrupt.

    Args:
        text: The text.
        interruptible: False to speak it to its end even if the caller speaks; the caller's turns then wait.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", revalidate_instances="always")

    text: Annotated[str, AfterValidator(_with_words)]
    """The words to speak."""
    _: KW_ONLY
    interruptible: bool = True
    """Whether the caller's speech may stop it."""


def _from_text(value: object) -> object:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, Say | dict):
        raise PydanticCustomError("no_text", "is neither a text nor Say(...)")
    return value


def _to_text(value: Say) -> str | dict[str, Any]:
    # a text without options keeps the form that it had before there were any: nodes and stores of earlier versions know it
    return value.text if value.interruptible else {"text": value.text, "interruptible": False}


SpokenText = Annotated[Say, BeforeValidator(_from_text), PlainSerializer(_to_text)]
"""A text of the declaration: `Say`, or a text alone."""


class ToolSpec(_Frozen):
    """A target that the model may call, with the declaration of its node."""

    target: str
    """Target of the function: `node.function`."""
    description: str = ""
    """The description for the model."""
    parameters: dict[str, Any]
    """JSON Schema of the input."""
    on_interrupt: Literal["keep", "cancel"] = "keep"
    """Whether the call goes on or is cancelled when the caller interrupts."""


class SessionDeclaration(_Frozen):
    """The declaration of a session by `@app.session(...)`, as the node registers it."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")
    """Name of the session within its node."""
    provider: str
    """Name of the provider."""
    transport: str
    """Name of the transport."""
    model: str | None = None
    """The model; None for the provider's default, or the one that the start names."""
    modalities: tuple[Literal["audio", "text"], ...] | None = None
    """The forms of the agent's answers; None: those of the pair and the model."""
    voice: str | None = None
    """The voice; None for the default, or the one that the start names."""
    tools: tuple[str, ...] = ()
    """Targets of the tools that the model may call: `node.function`."""
    tags: tuple[str, ...] = ()
    """Tags for access rules."""
    instructions: str | None = None
    """Instructions of the model."""
    floor: Floor
    """Who answers a turn: the handler or the model."""
    say: Literal["exact", "best_effort"] | None = None
    """How exact spoken texts must be; None asks for nothing."""
    transcription: str | None = None
    """Model that transcribes the caller; None for the pair's default."""
    turn_detection: TurnDetection | Literal["default", "manual"] = "default"
    """`default`: the pair's own, frozen at start; `manual` (None in Python): push-to-talk."""
    interrupt_after_ms: int = Field(default=0, ge=0, le=5000)
    """Milliseconds that the caller must speak before a reply is stopped, so that a short "mhm" does not interrupt."""
    greeting: SpokenText | None = None
    """Text that is spoken when the caller is connected."""
    goodbye: SpokenText | None = None
    """Text that is spoken before the session ends by itself."""
    on_error: str | None = None
    """Text that is spoken when the handler fails."""
    limits: Limits = Limits()
    """Limits of the session."""
    drift: Literal["enforce", "terminate", "allow"] = "enforce"
    """Reaction to changes by the caller's own client: undo them, end the session, or allow them."""
    show_tools: bool = True
    """Whether callers see the names and states of tools."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the adapter (`PairSpec.options`)."""

    @field_validator("turn_detection", mode="before")
    @classmethod
    def _none_is_manual(cls, value: object) -> object:
        # a word of its own, because frames omit fields that are None
        return "manual" if value is None else value


class SessionConfig(_Frozen):
    """A declaration as resolved and frozen at start; adapters open sessions with it."""

    session_id: str
    """Id of the session."""
    target: str
    """Target of the session: `node.session`."""
    declaration: SessionDeclaration
    """The declaration as the node made it."""
    model: str
    """The requested model, never inferred later."""
    voice: str | None
    """The requested voice; None lets the provider choose."""
    transcription: str | None
    """The model that transcribes the caller; None without transcription, or where the provider itself transcribes."""
    modalities: tuple[Literal["audio", "text"], ...] = Field(
        default_factory=lambda data: data["declaration"].modalities or ("audio", "text")
    )
    """As declared, or those of the pair and the model."""
    turn_detection: TurnDetection | None = ServerVad()
    """As declared, or the pair's default."""
    tools: tuple[ToolSpec, ...] = ()
    """The tools that the model may call."""
    safety_id: str | None = None
    """A stable hash that identifies the end user to the provider."""
