"""Parts of a node's `Hello`: the reasoners it declares and the provider/transport pairs it has plugins for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["MAX_TAG", "MAX_TAGS", "FunctionSpec", "InstalledPair"]

MAX_TAGS = 50
"""Tags of one reasoner or session."""

MAX_TAG = 100
"""Characters of a tag."""


class _Declaration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class FunctionSpec(_Declaration):
    """Declaration of a reasoner."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")
    description: str = ""
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None = None
    tags: tuple[str, ...] = ()
    timeout: float | None = Field(default=None, gt=0)
    retries: int = Field(default=0, ge=0, le=100)
    backoff: float = Field(default=0.5, ge=0, le=3600)
    """Seconds before the second attempt; doubled for each further one, up to a minute, less a random part."""
    concurrency: int | None = Field(default=None, ge=1, le=10_000)
    """Attempts that may run at a time, on all instances together."""
    on_interrupt: Literal["keep", "cancel"] = "keep"


class InstalledPair(_Declaration):
    """A pair that a node has a plugin for; shown to users only, and never used for a decision."""

    pair: str = Field(max_length=130)
    distribution: str = Field(max_length=200)
    """Name and version of the distribution."""

    def __str__(self) -> str:
        return f"{self.pair} ({self.distribution})"
