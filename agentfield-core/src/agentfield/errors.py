"""The exception hierarchy, shared by Python, HTTP problem documents (RFC 9457) and the command line.

AgentFieldError
├── InvalidInput                 the input is invalid
├── Unauthorized · Forbidden     the caller is unknown, or not allowed to
├── NotFound                     no such target, session, execution or node
├── Conflict                     the current state does not allow it
├── PluginError
│   ├── AdapterNotInstalled · UnsupportedPair · AmbiguousAdapter · CapabilityMissing
│   └── PluginBroken · PluginIncompatible
├── ProviderError                the provider refused or failed
│   ├── ProviderMismatch         the provider answered with another model or voice
│   └── ProviderUnavailable      the provider could not be reached
├── SessionEnded                 the session is over
├── ExecutionError               a call of a target did not succeed
│   ├── ExecutionFailed · ExecutionTimeout · ExecutionCancelled · NodeLost · MiddlewareFailed
├── NodeNotConnected · NodeRefused
├── ControlPlaneUnavailable      the control plane could not be reached
├── LimitExceeded                too large, too many or too fast
└── Unavailable                  this system or process cannot do it now

Every error has a stable `code`, an HTTP `status` and usually a `hint`: the next step, preferably a command.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentfield.lossy import http_status, lossy_json, lossy_text

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
    """Base class of all errors of AgentField.

    Args:
        message: The request and the reason why it failed, in one or two sentences.
        code: Overrides the code of the class where one class covers several cases.
        hint: The next step, preferably a command.
        data: Further JSON values of the error; they become fields of the problem document.
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
        """Return the error as an RFC 9457 problem document: plain JSON of limited size, whatever the error carries."""
        code = lossy_text(self.code, 100)
        data = lossy_json(self.data)
        problem = {
            **(data if isinstance(data, dict) else {}),
            "type": f"urn:agentfield:problem:{code}",
            "title": code.replace("_", " "),
            "status": http_status(self.status, own_key=isinstance(self, Unauthorized)),
            "code": code,
            "detail": lossy_text(self.message),
        }
        if self.hint is not None and (hint := lossy_text(self.hint)):
            problem["hint"] = hint
        return problem


class InvalidInput(AgentFieldError):
    """The input is invalid; `field` names the part."""

    code = "invalid_input"
    status = 422


class Unauthorized(AgentFieldError):
    """The request has no valid credentials."""

    code = "unauthorized"
    status = 401


class Forbidden(AgentFieldError):
    """The credentials do not allow the request."""

    code = "forbidden"
    status = 403


class NotFound(AgentFieldError):
    """The target, session, execution or node does not exist."""

    code = "not_found"
    status = 404


class Conflict(AgentFieldError):
    """The current state does not allow the request."""

    code = "conflict"
    status = 409


class LimitExceeded(AgentFieldError):
    """A limit of size, number or rate was exceeded; `retry_after` in seconds where waiting helps."""

    code = "limit_exceeded"
    status = 429


class Unavailable(AgentFieldError):
    """This system or process cannot do it now."""

    code = "unavailable"
    status = 503


class PluginError(AgentFieldError):
    """The installed plugins cannot do what is required."""

    code = "plugin_error"
    status = 422


class AdapterNotInstalled(PluginError):
    """The pair is known, but the distribution that provides it is not installed."""

    code = "adapter_not_installed"


class UnsupportedPair(PluginError):
    """No plugin declares this provider/transport pair."""

    code = "unsupported_pair"


class AmbiguousAdapter(PluginError):
    """More than one installed plugin claims the pair."""

    code = "ambiguous_adapter"


class CapabilityMissing(PluginError):
    """The pair lacks a capability that the session requires."""

    code = "capability_missing"


class PluginBroken(PluginError):
    """The plugin's distribution is installed but does not load."""

    code = "plugin_broken"


class PluginIncompatible(PluginError):
    """The plugin was built for another version of the plugin API."""

    code = "plugin_incompatible"


class ProviderError(AgentFieldError):
    """The provider refused or failed."""

    code = "provider_error"
    status = 502


class ProviderMismatch(ProviderError):
    """The provider answered with another model or voice than the requested one."""

    code = "provider_mismatch"


class ProviderUnavailable(ProviderError):
    """The provider could not be reached in time."""

    code = "provider_unavailable"
    status = 504


class SessionEnded(AgentFieldError):
    """The session is over; `reason` says why."""

    code = "session_ended"
    status = 410


class ExecutionError(AgentFieldError):
    """A call of a target did not succeed; `execution_id` and `target` name it."""

    code = "execution_error"
    status = 502


class ExecutionFailed(ExecutionError):
    """The target raised an exception or returned a value that is not JSON."""

    code = "execution_failed"


class ExecutionTimeout(ExecutionError):
    """The target did not finish before its deadline."""

    code = "execution_timeout"
    status = 504


class ExecutionCancelled(ExecutionError):
    """The call was cancelled."""

    code = "execution_cancelled"
    status = 409


class NodeLost(ExecutionError):
    """The node that ran the target was lost, and the target declares no retries."""

    code = "node_lost"
    status = 503


class MiddlewareFailed(ExecutionError):
    """A plugin's tool middleware failed, so the call has no result; `plugin` names it."""

    code = "middleware_failed"


class NodeNotConnected(AgentFieldError):
    """No instance of the target's node is linked."""

    code = "node_not_connected"
    status = 503


class NodeRefused(AgentFieldError):
    """The control plane refused the node's `Hello`."""

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


def _subclasses(cls: type[AgentFieldError] = AgentFieldError) -> Iterator[type[AgentFieldError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _subclasses(child)


def error_from_problem(problem: Mapping[str, Any]) -> AgentFieldError:
    """Return the error that a problem document describes; an unknown code becomes the class of its status."""
    code = str(problem.get("code", "error"))
    # A plugin's subclass may reuse a code: only the classes of this module are constructed from a document.
    known = [cls for cls in _subclasses() if cls.__module__ == __name__]
    status = http_status(problem["status"], own_key=True) if "status" in problem else None
    cls = next((c for c in known if c.code == code), None) or _BY_STATUS.get(status or 0) or AgentFieldError
    data = {str(k): v for k, v in problem.items() if k not in _PROBLEM_FIELDS}
    hint = problem.get("hint")
    error = cls(str(problem.get("detail") or code), code=code, hint=hint)
    error.data.update(data)  # not as keywords: a document may have a member named like a parameter
    if status is not None:
        error.status = http_status(status, own_key=issubclass(cls, Unauthorized))
    return error
