"""Bodies of the REST routes about nodes: linked instances, and the DIDs of node ids."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["AdmitRequest", "NodeDidView", "NodeView"]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class NodeView(_View):
    """One linked instance of a node."""

    node_id: str
    instance_id: str
    did: str
    connected: bool
    draining: bool = False
    """Whether it accepts no new work and stops when its work is done."""
    functions: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict)
    """Sessions that are not registered, each with the error code; starting one returns the full error."""
    running: int = 0
    concurrency: int = 0
    blocked: float = 0.0
    """Seconds for which its event loop had not turned, as it last said; 0 if it gets work."""
    blocked_by: str | None = None
    """The function that blocks it, and the source line."""
    linked_at: float


class NodeDidView(_View):
    """A DID that a node id has; nodes with another key may not link as this node id."""

    node_id: str
    did: str
    state: Literal["admitted", "revoked"]
    admitted_by: str
    """Principal that admitted it: of the first link, or of the operator."""
    admitted_at: float
    linked_at: float | None = None
    """When it last linked, seconds since the epoch; None if never."""
    revoked_at: float | None = None
    linked: int = 0
    """Number of its instances that are linked now."""


class AdmitRequest(BaseModel):
    """``POST /api/v1/nodes/{node_id}/dids``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    did: str = Field(max_length=200)
    """The ``did:key`` that may link as the node id from now on."""
