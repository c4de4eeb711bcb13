"""Request and response bodies of access control: keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["KeyRequest", "KeyScope", "KeyView", "KeysView", "Tag"]

_LONGEST = 10 * 366 * 86_400.0
"""Seconds of the longest life of a key."""

KeyScope = Literal["operator", "starter", "caller", "approver", "node", "reader"]
"""Administer; start sessions; call targets; decide approvals; link nodes; read everything."""

Tag = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9:._-]*$", max_length=100)]
"""A tag of access rules: lower-case letters, digits and ``: . _ -``."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class KeyRequest(_Body):
    """``POST /api/v1/keys``."""

    scopes: tuple[KeyScope, ...] = Field(min_length=1, max_length=6)
    tags: tuple[Tag, ...] = Field(default=(), max_length=50)
    """Tags that rules of access may name as those of the caller."""
    note: str | None = Field(default=None, min_length=1, max_length=200)
    """A note for people: whose key it is."""
    expires_in: float | None = Field(default=None, gt=0, le=_LONGEST, allow_inf_nan=False)
    """Seconds after which it expires; without it, it is valid until it is revoked."""


class KeyView(_View):
    """A key; its text is shown once only."""

    id: str
    scopes: tuple[KeyScope, ...]
    tags: tuple[str, ...] = ()
    note: str | None = None
    state: Literal["valid", "expired", "revoked"]
    created_by: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    key: str | None = None
    """The key; present only in the answer that creates it."""


class KeysView(_View):
    """``GET /api/v1/keys``."""

    keys: tuple[KeyView, ...]
    settings_key: bool
    """Whether the control plane also has a key in its settings, with all scopes."""
    development: bool
    """Whether requests need no key: development mode."""
