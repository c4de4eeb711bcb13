"""Arguments of hooks as frozen values, and the protocol of a tool middleware. Standard library only: manifests are light."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from pydantic import SecretStr

    from agentfield.realtime.transport import Evidence

__all__ = ["HookRuntime", "Proceed", "RecordedEvent", "SessionRequest", "ToolCall", "ToolMiddleware"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class HookRuntime(Protocol):
    """The argument of a plugin's lifespan; the plugin sees nothing else of the control plane."""

    @property
    def logger(self) -> logging.Logger:
        """The plugin's logger."""

    @property
    def data_dir(self) -> Path:
        """The plugin's own data folder, which survives restarts."""

    def clock(self) -> float:
        """Return seconds since the epoch."""

    def setting(self, name: str) -> SecretStr | None:
        """Return a setting that the manifest declares (`Manifest.settings`), None if it is not set.

        Raises:
            KeyError: The manifest does not declare the setting.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRequest:
    """A requested session; nothing of it is stored yet."""

    target: str
    """``node.session``."""
    caller: str | None
    """The caller as the starter of the session names it."""
    metadata: Mapping[str, str]
    """Metadata of the start, as texts."""
    provider: str
    """Name of the provider."""
    transport: str
    """Name of the transport."""
    model: str
    """The model, as declared or as the start names it."""
    tags: tuple[str, ...]
    """Tags of the declaration."""
    principal: str
    """The starter: the name of the key, or of the transport."""
    evidence: Evidence | None = None
    """Evidence of the caller from its transport (`agentfield.realtime.transport`); None for a session started with a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a session: a tool call of the model (`tool`), or a `session.call` of the handler (`call`)."""

    call_id: str
    """Id within the session; unchanged when the call continues after a restart of the control plane."""
    kind: Literal["tool", "call"]
    """By whom: the model or the handler."""
    target: str
    """Target of the call: `node.function`."""
    input: Mapping[str, Any]
    """The arguments by name."""
    session_id: str
    """Id of the session."""
    run_id: str
    """Id of its run."""
    turn_id: str | None
    """The turn of the call, None between turns."""
    session: str
    """Target of the session: ``node.session``."""
    caller: str | None = None
    """The caller as the start named it, None if it did not."""
    metadata: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """Metadata of the start."""

    def with_input(self, values: Mapping[str, Any]) -> ToolCall:
        """Return a copy of the call with another input."""
        return dataclasses.replace(self, input=MappingProxyType(dict(values)))


Proceed = Callable[[ToolCall], Awaitable[Any]]
"""Passes a call on to the next middleware or, after the last one, to the target; returns its output or raises its error."""


class ToolMiddleware(Protocol):
    """Wraps the calls of sessions. The attribute `order` (an integer, 0 by default) is its position; the lowest is outermost.

    A method ``def redact(self, call: ToolCall) -> Mapping[str, Any]`` is optional. It is called before anything of the call is
    recorded and returns the input to use instead: log, execution, further middleware and target see nothing else.
    """

    async def __call__(self, call: ToolCall, proceed: Proceed, /) -> Any:
        """Return the output of a call, usually that of `await proceed(call)`.

        Args:
            call: The call as the outer middleware passed it on.
            proceed: Passes the call on; may be awaited once.

        Raises:
            Forbidden: The call is vetoed; the model or the handler gets the message.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """A committed event of a run's log."""

    id: str
    """Id of the event."""
    seq: int
    """Position in the log of the run, without gaps."""
    type: str
    at: float
    """Seconds since the epoch."""
    run_id: str
    """Id of its run."""
    session_id: str | None
    """Id of its session, None outside of one."""
    execution_id: str | None
    """Id of its execution, None if it belongs to none."""
    body: Mapping[str, Any]
    """The fields of the event, by its type."""
