"""Frames of the node link: JSON objects with a `type`, one or more in a WebSocket text message (`agentfield.wire.framing`).

A node opens ``GET /api/v1/nodes/link``; the control plane sends `Challenge`, the node `Hello`, the control plane `Welcome` or
`Refused`. After this handshake both sides may send at any time. A receiver ignores unknown fields and refuses unknown types.
Every frame that creates something carries an `op_id` from the node, unique in the store, so that a frame that is sent again
after a reconnect takes effect once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from agentfield.wire.handshake import Challenge, Hello, Refused, WatchHello, Welcome
from agentfield.wire.link_protocol import Frame as _Frame
from agentfield.wire.link_protocol import GiveBack, GivenBack, LoopState, RunningAttempt
from agentfield.wire.link_protocol import Number as _Number
from agentfield.wire.trace_context import TRACEPARENT, traceparent

__all__ = [
    "MAX_PAUSE_BYTES",
    "MAX_VALUE_BYTES",
    "Accepted",
    "Call",
    "CallAccepted",
    "CallResult",
    "Cancel",
    "Challenge",
    "Drain",
    "Drained",
    "ExecutionContext",
    "GiveBack",
    "GivenBack",
    "Hello",
    "Invoke",
    "LoopState",
    "NodeFrame",
    "PauseRequest",
    "Ping",
    "Pong",
    "Progress",
    "Refused",
    "Result",
    "ResultAck",
    "RunningAttempt",
    "ServerFrame",
    "SessionCommand",
    "SessionDone",
    "SessionEventFrame",
    "SessionOpen",
    "SessionReply",
    "SessionStop",
    "TurnDelivered",
    "WatchHello",
    "Welcome",
    "decode_node_frame",
    "decode_server_frame",
    "encode_frame",
]

_SALT = r"^[A-Za-z0-9_-]{43}$"

MAX_VALUE_BYTES = 1024 * 1024
"""Bytes of JSON that an input or output may be, so that its frame fits into a message of 4 MiB."""

MAX_PAUSE_BYTES = 64 * 1024
"""Bytes of JSON that a pause request may be, its details included."""


class ExecutionContext(_Frame):
    """The identity of an execution; `agentfield.context.current()` returns it inside a reasoner or handler."""

    execution_id: str
    run_id: str
    parent_id: str | None = None
    session_id: str | None = None
    actor_id: str | None = None
    attempt: int = 1
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


# --- control plane to node -----------------------------------------------------------------------------------------


class Invoke(_Frame):
    """Run an attempt of a reasoner."""

    type: Literal["invoke"] = "invoke"
    epoch: int
    function: str
    input: dict[str, Any]
    context: ExecutionContext
    lineage: int = 0
    """Attempts of one lineage continue the previous one (after a pause or a lost node); a retry after a failure starts a new one."""
    decisions: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Decisions about the pauses of earlier attempts, by key; each has the fields of `agentfield.Decision`."""
    input_salt: str | None = Field(default=None, pattern=_SALT)
    """In version 2: salt of the commitment to the input, base64url."""
    output_salt: str | None = Field(default=None, pattern=_SALT)
    """In version 2: salt of the commitment to the output, problem or pause of this attempt."""


class PauseRequest(_Frame):
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


class ResultAck(_Frame):
    """The result is committed and the node may forget it."""

    type: Literal["result.ack"] = "result.ack"
    execution_id: str
    attempt: int
    accepted: bool = True
    """False if another attempt had replaced this one; the result was discarded."""


class Cancel(_Frame):
    """Cancel the running attempt of an execution."""

    type: Literal["cancel"] = "cancel"
    execution_id: str
    reason: str = "cancelled"


class CallAccepted(_Frame):
    """A `Call` is committed."""

    type: Literal["call.accepted"] = "call.accepted"
    op_id: str
    execution_id: str


class CallResult(_Frame):
    """The outcome of a `Call`; `problem` is None when it succeeded."""

    type: Literal["call.result"] = "call.result"
    op_id: str
    execution_id: str | None = None
    output: Any = None
    problem: dict[str, Any] | None = None


class SessionOpen(_Frame):
    """Run the handler of a session."""

    type: Literal["session.open"] = "session.open"
    session_id: str
    epoch: int
    """Number of this handler run; commands of an older run are refused."""
    name: str
    context: ExecutionContext
    caller: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    state: dict[str, Any] = Field(default_factory=dict)
    history: tuple[dict[str, Any], ...] = ()
    resumed: bool = False


class TurnDelivered(_Frame):
    """The answer to the command `input`; `turn` has the fields of `agentfield.Turn`."""

    type: Literal["session.turn"] = "session.turn"
    session_id: str
    op_id: str
    turn: dict[str, Any]


class SessionReply(_Frame):
    """The answer to any other session command, or the refusal of a command."""

    type: Literal["session.reply"] = "session.reply"
    session_id: str
    op_id: str
    value: Any = None
    problem: dict[str, Any] | None = None


class SessionEventFrame(_Frame):
    """An event of a session whose handler iterates `events()`."""

    type: Literal["session.event"] = "session.event"
    session_id: str
    event: dict[str, Any]


class SessionStop(_Frame):
    """Stop the handler: the session ended, or a newer handler run superseded this one."""

    type: Literal["session.stop"] = "session.stop"
    session_id: str
    epoch: int
    reason: str


class Drain(_Frame):
    """The instance accepts no new work and stops when its work is done; sent by the node, or by the control plane as a request."""

    type: Literal["drain"] = "drain"


class Drained(_Frame):
    """A draining instance has no work left and receives none; it may stop."""

    type: Literal["drained"] = "drained"


class Ping(_Frame):
    """Keepalive request."""

    type: Literal["ping"] = "ping"


class Pong(_Frame):
    """Keepalive answer."""

    type: Literal["pong"] = "pong"


# --- node to control plane -----------------------------------------------------------------------------------------


class Accepted(_Frame):
    """The function of an attempt is entered; in version 2 the kernel has this frame before the function runs."""

    type: Literal["accepted"] = "accepted"
    execution_id: str
    attempt: _Number
    epoch: _Number


class Result(_Frame):
    """The outcome of an `Invoke`; sent again until it is acknowledged."""

    type: Literal["result"] = "result"
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
    retry: bool = False
    """Whether the reasoner declares another attempt after this failure."""
    pause: PauseRequest | None = None
    took: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Seconds that the function ran in this attempt, by the node's clock; None if it was not entered."""


class Progress(_Frame):
    """Progress of an attempt; only the newest counts, so it is never sent again."""

    type: Literal["progress"] = "progress"
    execution_id: str
    attempt: _Number
    epoch: _Number
    value: dict[str, Any]


class Call(_Frame):
    """Run a target through the control plane, on any node that exposes it."""

    type: Literal["call"] = "call"
    op_id: str
    target: str
    input: dict[str, Any]
    parent_id: str | None = None
    """The calling execution; None starts a new run."""
    session_id: str | None = None
    timeout: float | None = Field(default=None, gt=0)


class SessionCommand(_Frame):
    """A command of a handler to its session."""

    type: Literal["session.command"] = "session.command"
    op_id: str
    session_id: str
    epoch: _Number
    command: Literal["input", "say", "reply", "cancel_speech", "call", "set_state", "listen", "end"]
    args: dict[str, Any] = Field(default_factory=dict)


class SessionDone(_Frame):
    """The handler returned or raised."""

    type: Literal["session.done"] = "session.done"
    op_id: str
    session_id: str
    epoch: _Number
    problem: dict[str, Any] | None = None
    """The problem document of its exception, None when it returned."""


ServerFrame = Annotated[
    Challenge
    | Welcome
    | Refused
    | Invoke
    | ResultAck
    | Cancel
    | CallAccepted
    | CallResult
    | SessionOpen
    | TurnDelivered
    | SessionReply
    | SessionEventFrame
    | SessionStop
    | Drain
    | Drained
    | GivenBack
    | Ping
    | Pong,
    Field(discriminator="type"),
]
"""Any frame from the control plane to a node."""

NodeFrame = Annotated[
    Hello
    | WatchHello
    | Accepted
    | Result
    | Progress
    | Call
    | SessionCommand
    | SessionDone
    | Drain
    | LoopState
    | GiveBack
    | Ping
    | Pong,
    Field(discriminator="type"),
]
"""Any frame from a node to the control plane."""

_server_frames: TypeAdapter[Any] = TypeAdapter(ServerFrame)
_node_frames: TypeAdapter[Any] = TypeAdapter(NodeFrame)


def encode_frame(frame: BaseModel) -> str:
    """Return the JSON text of a frame."""
    return frame.model_dump_json(exclude_none=True)


def decode_server_frame(text: str | bytes) -> Any:
    """Parse a frame from the control plane.

    Raises:
        pydantic.ValidationError: The text is not a frame of this protocol.
    """
    return _server_frames.validate_json(text)


def decode_node_frame(text: str | bytes) -> Any:
    """Parse a frame from a node.

    Raises:
        pydantic.ValidationError: The text is not a frame of this protocol.
    """
    return _node_frames.validate_json(text)
