"""Frames of the node link: JSON objects over one WebSocket, each with a `type`, one or several to a text message.

A node opens ``GET /api/v1/nodes/link``; the control plane sends `Challenge`, the node `Hello`, the control plane
`Welcome` or `Refused`. From then on both sides send at will. Fields that a receiver does not know are ignored, types
it does not know are refused. Frames of one message stand on lines of their own (`agentfield.wire.lines`). Every frame that creates something carries an `op_id` minted by the node, unique in the
store: after a reconnect it is sent again and nothing happens twice.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from agentfield.realtime.config import SessionDeclaration
from agentfield.wire.trace import TRACEPARENT, traceparent

__all__ = [
    "MAX_VALUE_BYTES",
    "PROTOCOL",
    "Accepted",
    "Call",
    "CallAccepted",
    "CallResult",
    "Cancel",
    "Challenge",
    "Drain",
    "Drained",
    "ExecutionContext",
    "FunctionSpec",
    "Hello",
    "InstalledPair",
    "Invoke",
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
    "Welcome",
    "decode_node_frame",
    "decode_server_frame",
    "encode_frame",
]

PROTOCOL = 1
"""Version of the link; a control plane refuses another one."""

MAX_VALUE_BYTES = 1024 * 1024
"""How much JSON an input or output may be, so that its frame fits into a message of 4 MiB."""

_Number = Annotated[int, Field(ge=0, le=2**53)]
"""An attempt or epoch as a node may name it; the store holds no larger one."""


class _Frame(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class FunctionSpec(_Frame):
    """A reasoner as its node declares it."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")
    description: str = ""
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None = None
    tags: tuple[str, ...] = ()
    timeout: float | None = Field(default=None, gt=0)
    retries: int = Field(default=0, ge=0, le=100)
    backoff: float = Field(default=0.5, ge=0, le=3600)
    """Seconds before the second attempt; each further pause is twice as long, up to a minute, less a random part."""
    concurrency: int | None = Field(default=None, ge=1, le=10_000)
    """How many runs of it there may be at a time, on all instances together."""
    on_interrupt: Literal["keep", "cancel"] = "keep"


class ExecutionContext(_Frame):
    """Where a piece of work belongs; what `agentfield.context.current()` returns inside a reasoner."""

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
        """The context as the headers that an HTTP call would carry."""
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


class Challenge(_Frame):
    """First frame: the node proves its key by signing the nonce."""

    type: Literal["challenge"] = "challenge"
    nonce: str
    protocol: int = PROTOCOL


class Welcome(_Frame):
    """The node is linked. Work it still runs is kept or cancelled; results that were stored are acknowledged."""

    type: Literal["welcome"] = "welcome"
    keep: tuple[str, ...] = ()
    cancel: tuple[str, ...] = ()
    ack: tuple[str, ...] = ()
    refused: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Sessions that are not registered, by name, each with its problem; everything else of the node is."""


class Refused(_Frame):
    """The node may not link; it must not try again by itself unless `retry`."""

    type: Literal["refused"] = "refused"
    problem: dict[str, Any]
    retry: bool = False


class Invoke(_Frame):
    """Run a reasoner."""

    type: Literal["invoke"] = "invoke"
    epoch: int
    function: str
    input: dict[str, Any]
    context: ExecutionContext
    lineage: int = 0
    """Attempts of one lineage go on where the one before stopped; one after a failure begins another."""
    decisions: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What was decided about the pauses of earlier attempts, by key; each has the fields of `agentfield.Decision`."""


class PauseRequest(_Frame):
    """What a run waits for."""

    key: str = Field(min_length=1, max_length=100)
    title: str = Field(min_length=1, max_length=500)
    details: Any = None
    expires: float = Field(gt=0, le=366 * 86_400)
    """Seconds until it is taken as expired."""


class ResultAck(_Frame):
    """The result is committed; the node may forget it."""

    type: Literal["result.ack"] = "result.ack"
    execution_id: str
    attempt: int
    accepted: bool = True
    """False when the attempt had been given up; the result was not used."""


class Cancel(_Frame):
    """Stop running an execution."""

    type: Literal["cancel"] = "cancel"
    execution_id: str
    reason: str = "cancelled"


class CallAccepted(_Frame):
    """A `Call` is committed."""

    type: Literal["call.accepted"] = "call.accepted"
    op_id: str
    execution_id: str


class CallResult(_Frame):
    """What a `Call` came to; `problem` is None when it succeeded."""

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
    """Which run of the handler this is; commands of an older one are refused."""
    name: str
    context: ExecutionContext
    caller: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    state: dict[str, Any] = Field(default_factory=dict)
    history: tuple[dict[str, Any], ...] = ()
    resumed: bool = False


class TurnDelivered(_Frame):
    """The answer to `input`: the next turn. `turn` has the fields of `agentfield.Turn`."""

    type: Literal["session.turn"] = "session.turn"
    session_id: str
    op_id: str
    turn: dict[str, Any]


class SessionReply(_Frame):
    """The answer to any other session command, or the refusal of one."""

    type: Literal["session.reply"] = "session.reply"
    session_id: str
    op_id: str
    value: Any = None
    problem: dict[str, Any] | None = None


class SessionEventFrame(_Frame):
    """Something happened in a session whose handler listens to `events()`."""

    type: Literal["session.event"] = "session.event"
    session_id: str
    event: dict[str, Any]


class SessionStop(_Frame):
    """The session is over (or its handler runs elsewhere now): the handler is to stop."""

    type: Literal["session.stop"] = "session.stop"
    session_id: str
    epoch: int
    reason: str


class Drain(_Frame):
    """The instance takes nothing new and ends when what it has is done: said by the node, or asked of it."""

    type: Literal["drain"] = "drain"


class Drained(_Frame):
    """A draining instance holds nothing any more, and will be given nothing: it may go."""

    type: Literal["drained"] = "drained"


class Ping(_Frame):
    """Are you there?"""

    type: Literal["ping"] = "ping"


class Pong(_Frame):
    """Yes."""

    type: Literal["pong"] = "pong"


# --- node to control plane -----------------------------------------------------------------------------------------


class RunningAttempt(_Frame):
    """Work that a node still holds when it links again."""

    execution_id: str
    attempt: _Number
    epoch: _Number


class InstalledPair(_Frame):
    """A pair that a node has a plugin for; only told to people, nothing is decided by it."""

    pair: str = Field(max_length=130)
    distribution: str = Field(max_length=200)
    """Its distribution and version."""

    def __str__(self) -> str:
        return f"{self.pair} ({self.distribution})"


class Hello(_Frame):
    """Who the node is and what it exposes."""

    type: Literal["hello"] = "hello"
    protocol: int = PROTOCOL
    node_id: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")
    instance_id: str
    """New for every process; several instances may share a node id."""
    did: str
    signature: str
    """Base64url Ed25519 signature over `agentfield.identity.challenge_message(nonce, node_id, instance_id)`."""
    concurrency: int = Field(default=100, ge=1, le=10_000)
    functions: tuple[FunctionSpec, ...] = ()
    sessions: tuple[SessionDeclaration, ...] = ()
    running: tuple[RunningAttempt, ...] = ()
    results: tuple[RunningAttempt, ...] = ()
    """Results that were not acknowledged; they follow as `Result` frames after the welcome."""
    open_sessions: tuple[tuple[str, _Number], ...] = ()
    """(session id, epoch) of handlers that still run."""
    pairs: tuple[InstalledPair, ...] = Field(default=(), max_length=1000)
    """What the node itself has plugins for; they need not be those of the control plane."""
    draining: bool = False
    """Whether it takes nothing new."""


class Accepted(_Frame):
    """The reasoner was entered."""

    type: Literal["accepted"] = "accepted"
    execution_id: str
    attempt: _Number
    epoch: _Number


class Result(_Frame):
    """What came of an `Invoke`; sent again until it is acknowledged."""

    type: Literal["result"] = "result"
    execution_id: str
    attempt: _Number
    epoch: _Number
    status: Literal["succeeded", "failed", "cancelled", "timeout", "parked"]
    """`parked`: the run stopped for a human; `output_digest` is that of `pause` then."""
    output: Any = None
    problem: dict[str, Any] | None = None
    input_digest: str
    output_digest: str | None = None
    signature: str
    """Base64url Ed25519 signature over `agentfield.identity.result_message(...)`."""
    retry: bool = False
    """Whether the function asked to be run again after a failure like this one."""
    pause: PauseRequest | None = None
    took: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Seconds that the function ran in this attempt, by the node's clock; None where it was not entered."""


class Progress(_Frame):
    """How far a run has come; only the newest counts, so it is never sent again."""

    type: Literal["progress"] = "progress"
    execution_id: str
    attempt: _Number
    epoch: _Number
    value: dict[str, Any]


class Call(_Frame):
    """Run a target through the control plane, on whichever node owns it."""

    type: Literal["call"] = "call"
    op_id: str
    target: str
    input: dict[str, Any]
    parent_id: str | None = None
    """The execution that calls; None starts a new run."""
    session_id: str | None = None
    timeout: float | None = Field(default=None, gt=0)


class SessionCommand(_Frame):
    """What a handler asks of its session."""

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
    """What it raised, None when it returned."""


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
    | Ping
    | Pong,
    Field(discriminator="type"),
]
"""Any frame from the control plane to a node."""

NodeFrame = Annotated[
    Hello | Accepted | Result | Progress | Call | SessionCommand | SessionDone | Drain | Ping | Pong,
    Field(discriminator="type"),
]
"""Any frame from a node to the control plane."""

_server_frames: TypeAdapter[Any] = TypeAdapter(ServerFrame)
_node_frames: TypeAdapter[Any] = TypeAdapter(NodeFrame)


def encode_frame(frame: BaseModel) -> str:
    """Return a frame as the text that goes over the wire."""
    return frame.model_dump_json(exclude_none=True)


def decode_server_frame(text: str | bytes) -> Any:
    """Return what the control plane sent.

    Raises:
        pydantic.ValidationError: It is no frame of this protocol.
    """
    return _server_frames.validate_json(text)


def decode_node_frame(text: str | bytes) -> Any:
    """Return what a node sent.

    Raises:
        pydantic.ValidationError: It is no frame of this protocol.
    """
    return _node_frames.validate_json(text)
