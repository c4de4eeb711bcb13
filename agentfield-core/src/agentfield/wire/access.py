"""Request and response bodies of access control: keys, policies, tags."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "EdgeView",
    "ExplainRequest",
    "ExplainView",
    "KeyRequest",
    "KeyScope",
    "KeyView",
    "KeysView",
    "PolicyRequest",
    "PolicyView",
    "Tag",
    "TagRequest",
    "TagView",
    "TagsView",
]

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


class PolicyRequest(_Body):
    """``POST /api/v1/access/policies``."""

    document: str = Field(max_length=1024 * 1024)
    """The rules, as TOML."""


class PolicyView(_View):
    """The policies in force."""

    version: int
    """0 is none."""
    source: Literal["file", "store"] | None = None
    document: str = ""
    """The rules, as TOML."""
    set_by: str | None = None
    created_at: float | None = None
    development: bool = False
    """Whether everything is allowed: development mode without policies."""


class ExplainRequest(_Body):
    """``POST /api/v1/access/explain``."""

    caller: str = Field(min_length=1, max_length=200)
    """``key:ID``, ``node:ID``, ``transport:NAME``, ``local``, or a target that calls."""
    through: tuple[str, ...] = Field(default=(), max_length=20)
    """Targets between the caller and the target, in order."""
    target: str = Field(min_length=1, max_length=200)
    input: dict[str, Any] = Field(default_factory=dict)


class EdgeView(_View):
    """The decision about one edge of a chain."""

    caller: str
    target: str
    allowed: bool
    rule: str | None = None
    """The rule that decided; None where none is about it."""


class ExplainView(_View):
    """A decision, explained."""

    allowed: bool
    version: int
    """Version of the policies in force; 0 is none."""
    why: str
    edges: tuple[EdgeView, ...] = ()
    """The edges in order, up to the first that is refused."""


class TagRequest(_Body):
    """``POST /api/v1/access/tags``."""

    name: str = Field(pattern=r"^((node|transport):[^\s/]+|[^:.\s/]+\.[^:\s/]+)$", max_length=200)
    """A target (``node.name``), ``node:ID`` or ``transport:NAME``."""
    tag: str = Field(min_length=1, max_length=100)


class TagView(_View):
    """A tag of a target, a node or a transport."""

    name: str
    tag: str
    declared: bool
    """Whether a node declared it; it restricts the target, approved or not."""
    approved: bool
    """Whether an operator approved or gave it: rules may name it as the caller's."""
    approved_by: str | None = None


class TagsView(_View):
    """``GET /api/v1/access/tags``."""

    tags: tuple[TagView, ...]
