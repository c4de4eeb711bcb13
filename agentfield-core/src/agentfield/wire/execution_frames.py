"""Frames of executions and calls, the bulk of a node link, as msgspec structs.

A struct is checked when it is decoded, not when it is made: `frames.decode_node_frame` and `frames.decode_server_frame` check
what comes from the other end. An optional field that is None is not written; every other field is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta
from pydantic import Field

from agentfield.values import MAX_INTEGER
from agentfield.wire.link_protocol import Frame
from agentfield.wire.trace_context import TRACEPARENT, traceparent

__all__ = [
    "MAX_PAUSE_BYTES",
    "MAX_VALUE_BYTES",
    "Accepted",
    "Call",
    "CallAccepted",
    "CallResult",
    "ExecutionContext",
    "ExecutionFrame",
    "Invoke",
    "PauseRequest",
    "Progress",
    "Result",
    "ResultAck",
]

T = TypeVar("T")

MAX_VALUE_BYTES = 1024 * 1024
"""Bytes of JSON that an input or output may be, so that its frame fits into a message of 4 MiB."""

MAX_PAUSE_BYTES = 64 * 1024
"""Bytes of JSON that a pause request may be, its details included."""

_Number = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
"""An attempt, epoch or count; the store holds no larger number."""

_Salt = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}\Z")]


def _written(default: Callable[[], T]) -> T:
    """Return a field whose default is written too; `omit_defaults` omits what equals a plain default."""
    # the lambda hides `dict`, whose empty result `omit_defaults` knows as a plain default
    field: T = msgspec.field(default_factory=lambda: default())  # noqa: PLW0108
    return field


class ExecutionContext(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The identity of an execution; `agentfield.context.current()` returns it inside a reasoner or handler."""

    execution_id: str
    run_id: str
    parent_id: str | None = None
    session_id: str | None = None
    actor_id: str | None = None
    attempt: int = _written(lambda: 1)
    deadline: float | None = None
    """Seconds since the epoch."""

    @property
    def headers(self) -> dict[str, str]:
        """The context as HTTP headers."""
        values = {
            "X-Execution-ID": self.execution_id,
            "X-Run-ID": self.run_id,
            "X-Workflow-ID": self.run_id,
            "X-Parent-Execution-ID": self.parent_id,
            "X-Session-ID": self.session_id,
            "X-Actor-ID": self.actor_id,
            TRACEPARENT: traceparent(self.run_id, self.execution_id),
        }
        return {name: value for name, value in values.items() if value is not None}


class PauseRequest(Frame):
    """The decision that a suspended attempt waits for."""

    key: str = Field(min_length=1, max_length=100)
    title: str = Field(min_length=1, max_length=500)
    details: Any = None
    expires: float = Field(gt=0, le=366 * 86_400)
    """Seconds until the pause expires."""

    @property
    def size(self) -> int:
        """Bytes of its JSON, at most `MAX_PAUSE_BYTES`; the node and the control plane refuse more."""
        return len(self.model_dump_json().encode())


class ExecutionFrame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of these frames: immutable, unknown fields are ignored."""

    @property
    def type(self) -> str:
        """The type that the frame states."""
        return str(self.__struct_config__.tag)


# --- control plane to node -----------------------------------------------------------------------------------------


class Invoke(ExecutionFrame, frozen=True, kw_only=True, tag="invoke"):
    """Run an attempt of a reasoner."""

    epoch: int
    function: str
    input: dict[str, Any]
    context: ExecutionContext
    lineage: int = _written(int)
    """Attempts of one lineage continue the previous one (after a pause or a lost node); a retry after a failure starts a new one."""
    decisions: dict[str, dict[str, Any]] = _written(dict)
    """Decisions about the pauses of earlier attempts, by key; each has the fields of `agentfield.Decision`."""
    input_salt: _Salt | None = None
    """In version 2: salt of the commitment to the input, base64url."""
    output_salt: _Salt | None = None
    """In version 2: salt of the commitment to the output, problem or pause of this attempt."""


class ResultAck(ExecutionFrame, frozen=True, kw_only=True, tag="result.ack"):
    """The result is committed and the node may forget it."""

    execution_id: str
    attempt: int
    accepted: bool = _written(lambda: True)
    """False if another attempt had replaced this one; the result was discarded."""


class CallAccepted(ExecutionFrame, frozen=True, kw_only=True, tag="call.accepted"):
    """A `Call` is committed."""

    op_id: str
    execution_id: str


class CallResult(ExecutionFrame, frozen=True, kw_only=True, tag="call.result"):
    """The outcome of a `Call`; `problem` is None when it succeeded."""

    op_id: str
    execution_id: str | None = None
    output: Any = None
    problem: dict[str, Any] | None = None


# --- node to control plane -----------------------------------------------------------------------------------------


class Accepted(ExecutionFrame, frozen=True, kw_only=True, tag="accepted"):
    """The function of an attempt is entered; in version 2 the kernel has this frame before the function runs."""

    execution_id: str
    attempt: _Number
    epoch: _Number


class Result(ExecutionFrame, frozen=True, kw_only=True, tag="result"):
    """The outcome of an `Invoke`; sent again until it is acknowledged."""

    execution_id: str
    attempt: _Number
    epoch: _Number
    status: Literal["succeeded", "failed", "cancelled", "timeout", "parked"]
    """`parked`: the attempt is suspended for a human decision."""
    output: Any = None
    problem: dict[str, Any] | None = None
    input_digest: str | None = None
    """In version 1 only, like `output_digest` and `signature`."""
    output_digest: str | None = None
    """Digest of `output`, or of `pause`."""
    signature: str | None = None
    """Base64url Ed25519 signature over `agentfield.identity.result_message(...)`."""
    proof: Any = None
    """In version 2: `agentfield.identity.ResultProof` as JSON, see `parse_proof`."""
    retry: bool = _written(bool)
    """Whether the reasoner declares another attempt after this failure."""
    pause: PauseRequest | None = None
    took: Annotated[float, Meta(ge=0, le=MAX_INTEGER)] | None = None
    """Seconds that the function ran in this attempt, by the node's clock; None if it was not entered."""


class Progress(ExecutionFrame, frozen=True, kw_only=True, tag="progress"):
    """Progress of an attempt; only the newest counts, so it is never sent again."""

    execution_id: str
    attempt: _Number
    epoch: _Number
    value: dict[str, Any]


class Call(ExecutionFrame, frozen=True, kw_only=True, tag="call"):
    """Run a target through the control plane, on any node that exposes it."""

    op_id: str
    target: str
    input: dict[str, Any]
    parent_id: str | None = None
    """The calling execution; None starts a new run."""
    session_id: str | None = None
    timeout: Annotated[float, Meta(gt=0)] | None = None
