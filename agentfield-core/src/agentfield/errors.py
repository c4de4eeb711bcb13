"""The one tree of errors, the same in Python, in HTTP problem documents and on the command line.

AgentFieldError
├── InvalidInput                 what was sent does not fit
├── Unauthorized · Forbidden     who asks is unknown, or may not
├── NotFound                     no such target, session, execution or node
├── Conflict                     the state does not allow it now
├── PluginError
│   ├── AdapterNotInstalled · UnsupportedPair · AmbiguousAdapter · CapabilityMissing
│   └── PluginBroken · PluginIncompatible
├── ProviderError                the provider refused or failed
│   ├── ProviderMismatch         it answered with something else than was asked for
│   └── ProviderUnavailable      it could not be reached
├── SessionEnded                 the call is over
├── ExecutionError               a call of a target did not succeed
│   ├── ExecutionFailed · ExecutionTimeout · ExecutionCancelled · NodeLost · MiddlewareFailed
├── NodeNotConnected · NodeRefused
├── ControlPlaneUnavailable      the control plane could not be reached
├── LimitExceeded                too large, too many, too fast
└── Unavailable                  this system or process cannot do it now

Every error has a `code` that never changes, a `status` for HTTP and a `hint`: the one thing to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = [
    "AdapterNotInstalled",
    "AgentFieldError",
    "AmbiguousAdapter",
    "CapabilityMissing",
    "Conflict",
    "ControlPlaneUnavailable",
    "ExecutionCancelled",
    "ExecutionError",
    "ExecutionFailed",
    "ExecutionTimeout",
    "Forbidden",
    "InvalidInput",
    "LimitExceeded",
    "MiddlewareFailed",
    "NodeLost",
    "NodeNotConnected",
    "NodeRefused",
    "NotFound",
    "PluginBroken",
    "PluginError",
    "PluginIncompatible",
    "ProviderError",
    "ProviderMismatch",
    "ProviderUnavailable",
    "SessionEnded",
    "Unauthorized",
    "Unavailable",
    "UnsupportedPair",
    "error_from_problem",
]


class AgentFieldError(Exception):
    """Anything that AgentField refuses or fails to do.

    Args:
        message: What was asked and why it cannot be, in one or two sentences.
        code: Overrides the class's code where one class covers several cases.
        hint: The one thing to do about it, preferably a command.
        data: Values that belong to the error (JSON only); they become fields of the problem document.
    """

    code: str = "error"
    status: int = 500

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data: dict[str, Any] = data
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def to_problem(self) -> dict[str, Any]:
        """Return the error as an RFC 9457 problem document."""
        problem = {
            **self.data,
            "type": f"urn:agentfield:problem:{self.code}",
            "title": self.code.replace("_", " "),
            "status": self.status,
            "code": self.code,
            "detail": self.message,
        }
        if self.hint:
            problem["hint"] = self.hint
        return problem


class InvalidInput(AgentFieldError):
    """What was sent does not fit; `field` names the part."""

    code = "invalid_input"
    status = 422


class Unauthorized(AgentFieldError):
    """Who asks is unknown."""

    code = "unauthorized"
    status = 401


class Forbidden(AgentFieldError):
    """Who asks is known and may not."""

    code = "forbidden"
    status = 403


class NotFound(AgentFieldError):
    """There is no such thing."""

    code = "not_found"
    status = 404


class Conflict(AgentFieldError):
    """The state of the thing does not allow it."""

    code = "conflict"
    status = 409


class LimitExceeded(AgentFieldError):
    """Too large, too many or too fast; `retry_after` in seconds where waiting helps."""

    code = "limit_exceeded"
    status = 429


class Unavailable(AgentFieldError):
    """This system or process cannot do it now."""

    code = "unavailable"
    status = 503


class PluginError(AgentFieldError):
    """Something about installed adapters."""

    code = "plugin_error"
    status = 422


class AdapterNotInstalled(PluginError):
    """The pair exists, the distribution that has it is not installed."""

    code = "adapter_not_installed"


class UnsupportedPair(PluginError):
    """Nothing declares this (provider, transport) pair."""

    code = "unsupported_pair"


class AmbiguousAdapter(PluginError):
    """More than one installed plugin claims the pair."""

    code = "ambiguous_adapter"


class CapabilityMissing(PluginError):
    """The pair cannot do something that the session declares."""

    code = "capability_missing"


class PluginBroken(PluginError):
    """The distribution is installed and does not load."""

    code = "plugin_broken"


class PluginIncompatible(PluginError):
    """The plugin was made for another version of the plugin API."""

    code = "plugin_incompatible"


class ProviderError(AgentFieldError):
    """The provider refused or failed."""

    code = "provider_error"
    status = 502


class ProviderMismatch(ProviderError):
    """The provider answered with another model or voice than was asked for."""

    code = "provider_mismatch"


class ProviderUnavailable(ProviderError):
    """The provider could not be reached in time."""

    code = "provider_unavailable"
    status = 504


class SessionEnded(AgentFieldError):
    """The call is over; `reason` says why."""

    code = "session_ended"
    status = 410


class ExecutionError(AgentFieldError):
    """A call of a target did not succeed; `execution_id` and `target` say which."""

    code = "execution_error"
    status = 502


class ExecutionFailed(ExecutionError):
    """The target raised or returned something that cannot be passed on."""

    code = "execution_failed"


class ExecutionTimeout(ExecutionError):
    """The target did not answer before its deadline."""

    code = "execution_timeout"
    status = 504


class ExecutionCancelled(ExecutionError):
    """The call was cancelled."""

    code = "execution_cancelled"
    status = 409


class NodeLost(ExecutionError):
    """The node that ran the target went away and the target may not run twice."""

    code = "node_lost"
    status = 503


class MiddlewareFailed(ExecutionError):
    """A tool middleware of a plugin failed, so that the call has no result; `plugin` says which."""

    code = "middleware_failed"


class NodeNotConnected(AgentFieldError):
    """No instance of the node that exposes the target is linked."""

    code = "node_not_connected"
    status = 503


class NodeRefused(AgentFieldError):
    """The control plane refused the node's hello."""

    code = "node_refused"
    status = 403


class ControlPlaneUnavailable(AgentFieldError):
    """The control plane could not be reached."""

    code = "control_plane_unavailable"
    status = 503


_PROBLEM_FIELDS = frozenset({"type", "title", "status", "code", "detail", "hint"})


_BY_STATUS: Mapping[int, type[AgentFieldError]] = {
    400: InvalidInput,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    408: LimitExceeded,
    409: Conflict,
    410: SessionEnded,
    413: LimitExceeded,
    415: InvalidInput,
    422: InvalidInput,
    429: LimitExceeded,
    502: ProviderError,
    503: Unavailable,
}


def _tree(cls: type[AgentFieldError] = AgentFieldError) -> Iterator[type[AgentFieldError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _tree(child)


def error_from_problem(problem: Mapping[str, Any]) -> AgentFieldError:
    """Return the error that a problem document describes; a code of no class becomes the class of its status."""
    code = str(problem.get("code", "error"))
    ours = [cls for cls in _tree() if cls.__module__ == __name__]
    cls = next((c for c in ours if c.code == code), None) or _BY_STATUS.get(problem.get("status", 0))
    data = {str(k): v for k, v in problem.items() if k not in _PROBLEM_FIELDS}
    hint = problem.get("hint")
    error = (cls or AgentFieldError)(str(problem.get("detail") or code), code=code, hint=hint, **data)
    if isinstance(problem.get("status"), int):
        error.status = problem["status"]
    return error
