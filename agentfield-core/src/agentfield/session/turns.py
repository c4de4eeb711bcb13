"""Records that handlers receive: `Turn`, `Spoken` and `Reply`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

__all__ = ["Reply", "Spoken", "Turn"]

Method = Literal["marks", "provider", "wallclock"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Turn(_Record):
    """A turn of the caller. JSON-serialisable, so it can be passed to a call: ``session.call(target, turn=turn)``."""

    id: str
    """The execution id of the turn."""
    text: str | None = None
    """The caller's words, None if there is no transcript."""
    text_missing: str | None = None
    """Why `text` is None."""
    started_at: float | None = None
    """Seconds since the epoch."""
    ended_at: float | None = None
    attempt: int = 1
    """2 or more if an earlier handler was lost while it handled this turn."""
    heard: str | None = None
    """The part of the agent's last speech that the caller had heard when they began to speak, None if all of it."""


class Spoken(_Record):
    """The result of a speech; requested, generated and heard text may differ."""

    asked: str | None = None
    """The requested text, None for a reply of the model."""
    generated: str | None = None
    """The words that the provider reports as spoken."""
    verbatim: bool | None = None
    """Whether `generated` equals `asked`; None if nothing was asked for, or if the speech was cut off before they differed."""
    heard_ms: int | None = None
    """Milliseconds of audio that the caller heard, None when unknown."""
    heard_text: str | None = None
    heard_method: Method | None = None
    """Source of `heard_ms`."""
    interrupted: bool = False
    stale: bool = False
    """True if it was dropped because the caller had taken a newer turn."""
    failed: str | None = None
    """Why it could not be spoken, None if it could."""
    remaining: str | None = None
    """The words that the caller did not hear."""

    @field_validator("failed", mode="before")
    @classmethod
    def _flag(cls, value: object) -> object:
        if isinstance(value, bool):
            return "failed" if value else None
        return value


class Reply(_Record):
    """The model's answer to a turn, returned by `Session.reply`."""

    text: str | None = None
    """The generated words."""
    spoken: Spoken = Spoken()
    tool_calls: tuple[dict[str, Any], ...] = ()
    """The tool calls of the model, with their targets and execution ids."""
