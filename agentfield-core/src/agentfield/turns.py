"""What passes between a caller and an agent, as handlers see it: turns, speeches, replies."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

__all__ = ["Reply", "Spoken", "Turn"]

Method = Literal["marks", "provider", "wallclock"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Turn(_Record):
    """What the caller said. Can be passed to a call as it is: ``session.call(target, turn=turn)``."""

    id: str
    """The execution id of the turn."""
    text: str | None = None
    """The words, None when there are none to be had."""
    text_missing: str | None = None
    """Why there are no words."""
    started_at: float | None = None
    """Seconds since the epoch."""
    ended_at: float | None = None
    attempt: int = 1
    """2 or more when a handler was lost while it worked on this turn."""
    heard: str | None = None
    """What the caller had heard of the agent's last speech when they began, None when they had heard all of it."""


class Spoken(_Record):
    """What came of a speech: asked for, generated and heard are three things."""

    asked: str | None = None
    """The text that was asked for, None for a reply of the model."""
    generated: str | None = None
    """The words that the provider says it spoke."""
    verbatim: bool | None = None
    """Whether `generated` is `asked`, None when that cannot be told."""
    heard_ms: int | None = None
    """Milliseconds that the caller heard, None when unknown."""
    heard_text: str | None = None
    heard_method: Method | None = None
    """How `heard_ms` is known."""
    interrupted: bool = False
    stale: bool = False
    """True when it was not spoken because a newer turn had come."""
    failed: str | None = None
    """Why it could not be spoken."""
    remaining: str | None = None
    """The words that the caller did not hear."""

    @field_validator("failed", mode="before")
    @classmethod
    def _flag(cls, value: object) -> object:
        if isinstance(value, bool):
            return "failed" if value else None
        return value


class Reply(_Record):
    """What the model answered in a turn that was handed to it."""

    text: str | None = None
    """The words that it generated."""
    spoken: Spoken = Spoken()
    tool_calls: tuple[dict[str, Any], ...] = ()
    """The tools that it called, with their targets and execution ids."""
