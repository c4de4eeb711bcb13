"""Request and response bodies of redaction."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["RedactRequest", "RedactView"]


class RedactRequest(BaseModel):
    """``POST /api/v1/sessions/{session_id}/redact``: the erasure of bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    reason: str = Field(default="", max_length=500)
    """Recorded in the log, readable for everyone who may read it."""
    executions: tuple[str, ...] | None = Field(default=None, min_length=1, max_length=100)
    """Erase only bodies of these executions and of their events; None for all."""


class RedactView(BaseModel):
    """The erased bodies."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    run_id: str
    events: int
    """Events whose bodies were erased by this request."""
