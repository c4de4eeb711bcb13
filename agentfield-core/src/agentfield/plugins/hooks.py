"""What hooks are given, as frozen values, and what a tool middleware is. Standard library only: manifests must be light."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from agentfield.realtime.transport import Evidence

__all__ = ["Implementation", "Proceed", "RecordedEvent", "SessionRequest", "ToolCall", "ToolMiddleware"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRequest:
    """A session that somebody wants to start; nothing of it is written yet."""

    target: str
    """``node.session``."""
    caller: str | None
    """Who calls, as whoever starts the session says."""
    metadata: Mapping[str, str]
    provider: str
    transport: str
    model: str
    tags: tuple[str, ...]
    """Of the declaration."""
    principal: str
    """Who starts it: the name of the key, or of the transport."""
    evidence: Evidence | None = None
    """Why a transport believes its caller, see `agentfield.realtime.transport`; None when somebody with a key starts it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that a session makes: a tool of the model's (`tool`), or a `session.call` of the handler's (`call`)."""

    call_id: str
    """Its name in the session; the same when the call goes on after a restart of the control plane."""
    kind: Literal["tool", "call"]
    target: str
    input: Mapping[str, Any]
    session_id: str
    run_id: str
    turn_id: str | None
    """The turn that it belongs to, None between turns."""
    session: str
    """Target of the session, ``node.session``."""
    caller: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    def with_input(self, values: Mapping[str, Any]) -> ToolCall:
        """Return the same call with another input."""
        return dataclasses.replace(self, input=MappingProxyType(dict(values)))


Proceed = Callable[[ToolCall], Awaitable[Any]]
"""Goes on with a call: the next middleware, at last the target. Returns its output or raises why there is none."""


class ToolMiddleware(Protocol):
    """Stands between a session and what it calls. An attribute `order` (a whole number, 0 without it) says where."""

    async def __call__(self, call: ToolCall, proceed: Proceed, /) -> Any:
        """Answer a call, as a rule with what `await proceed(call)` returns.

        Args:
            call: What was asked for, as it comes from the middleware before.
            proceed: Goes on; may be awaited once.

        Raises:
            Forbidden: The call may not be made; the model or the handler is told the message.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """An event of a run's log, after its commit."""

    id: str
    seq: int
    """Its place in the log of the run, without gaps."""
    type: str
    at: float
    """Seconds since the epoch."""
    run_id: str
    session_id: str | None
    execution_id: str | None
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Implementation:
    """A function of a plugin that implements a hook; it may leave the hook's one argument away."""

    hook: str
    plugin: str
    """Name of the plugin."""
    distribution: str
    function: Callable[..., Any]
    takes_value: bool

    def __call__(self, value: object = None) -> Any:
        """Call it with the hook's argument."""
        return self.function(value) if self.takes_value else self.function()
