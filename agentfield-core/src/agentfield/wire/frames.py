"""Frames of the node link: JSON objects with a `type`, one or more in a WebSocket text message (`agentfield.wire.framing`).

A node opens ``GET /api/v1/nodes/link``; the control plane sends `Challenge`, the node `Hello`, the control plane `Welcome` or
`Refused`. After this handshake both sides may send at any time. A receiver ignores unknown fields and refuses unknown types.
Every frame that creates something carries an `op_id` from the node, unique in the store, so that a frame that is sent again
after a reconnect takes effect once.

The frames of executions and calls are msgspec structs (`agentfield.wire.execution_frames`), the others pydantic models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import pydantic_core
from pydantic import BaseModel, Field, PlainSerializer, PlainValidator, TypeAdapter, ValidationError

from agentfield.errors import InvalidInput
from agentfield.wire.execution_frames import (
    MAX_PAUSE_BYTES,
    MAX_VALUE_BYTES,
    Accepted,
    Call,
    CallAccepted,
    CallResult,
    ExecutionContext,
    ExecutionFrame,
    Invoke,
    PauseRequest,
    Progress,
    Result,
    ResultAck,
)
from agentfield.wire.handshake import Challenge, Hello, Refused, WatchHello, Welcome, unique_names
from agentfield.wire.link_protocol import Frame as _Frame
from agentfield.wire.link_protocol import GiveBack, GivenBack, LoopState, RunningAttempt
from agentfield.wire.link_protocol import Number as _Number

__all__ = [
    "MAX_PAUSE_BYTES",
    "MAX_VALUE_BYTES",
    "Accepted",
    "AnyFrame",
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

AnyFrame = _Frame | ExecutionFrame
"""A frame in either direction."""


def _context(value: Any) -> ExecutionContext:
    try:
        return msgspec.convert(value, ExecutionContext, from_attributes=True)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


# --- control plane to node -----------------------------------------------------------------------------------------


class Cancel(_Frame):
    """Cancel the running attempt of an execution."""

    type: Literal["cancel"] = "cancel"
    execution_id: str
    reason: str = "cancelled"


class SessionOpen(_Frame):
    """Run the handler of a session."""

    type: Literal["session.open"] = "session.open"
    session_id: str
    epoch: int
    """Number of this handler run; commands of an older run are refused."""
    name: str
    context: Annotated[ExecutionContext, PlainValidator(_context), PlainSerializer(msgspec.to_builtins)]
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


ServerFrame = (
    Challenge
    | Welcome
    | Refused
    | Cancel
    | SessionOpen
    | TurnDelivered
    | SessionReply
    | SessionEventFrame
    | SessionStop
    | Drain
    | Drained
    | GivenBack
    | Ping
    | Pong
)
"""A frame from the control plane to a node, other than `Invoke`, `ResultAck`, `CallAccepted` and `CallResult`."""

NodeFrame = Hello | WatchHello | SessionCommand | SessionDone | Drain | LoopState | GiveBack | Ping | Pong
"""A frame from a node to the control plane, other than `Accepted`, `Result`, `Progress` and `Call`."""


def encode_frame(frame: AnyFrame) -> str:
    """Return the JSON text of a frame."""
    if isinstance(frame, ExecutionFrame):
        return _encoder.encode(frame).decode()
    return frame.model_dump_json(exclude_none=True)


def decode_server_frame(text: str | bytes) -> Any:
    """Parse a frame from the control plane.

    Raises:
        InvalidInput: The text is not a frame of this protocol (code `bad_frame`).
    """
    return _from_server.decode(text)


def decode_node_frame(text: str | bytes) -> Any:
    """Parse a frame from a node.

    Raises:
        InvalidInput: The text is not a frame of this protocol (code `bad_frame`).
    """
    return _from_node.decode(text)


class _Direction:
    """The frames of one direction.

    Args:
        structs: Its structs.
        models: The union of its models.
    """

    def __init__(self, structs: tuple[type[ExecutionFrame], ...], models: Any) -> None:
        self._structs: Mapping[Any, type[ExecutionFrame]] = {each.__struct_config__.tag: each for each in structs}
        self._models: TypeAdapter[Any] = TypeAdapter(Annotated[models, Field(discriminator="type")])

    def decode(self, text: str | bytes) -> Any:
        try:
            value = _parse(text)
            kind = value.get("type") if isinstance(value, dict) else None
            struct = self._structs.get(kind) if isinstance(kind, str) else None
            if struct is None:
                return self._models.validate_json(text)
            return msgspec.convert(value, struct, dec_hook=_model)
        except msgspec.ValidationError as error:
            why, _, place = str(error).partition(" - at `$")
            raise _bad_frame(place.strip("`.") or "(all)", why) from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise _bad_frame(".".join(map(str, first["loc"])) or "(all)", first["msg"]) from None
        except (ValueError, RecursionError) as error:
            raise _bad_frame("(all)", str(error)) from None


def _parse(text: str | bytes) -> Any:
    """Return the value of a JSON text in which no name occurs twice in one object.

    Raises:
        ValueError: It is no such text.
        RecursionError: It is nested too deeply.
    """
    data = text.encode() if isinstance(text, str) else text
    try:
        value = _decoder.decode(data)
        # what is written again with the same bytes has no name twice, since an encoder writes each name of a dict once
        if _encoder.encode(value) == data and data.count(b"{") + data.count(b"[") < _MAX_LEVELS:
            return value
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        pass  # NaN and infinities among others: what receives the value refuses them, and says which
    json.loads(data, object_pairs_hook=unique_names)
    return pydantic_core.from_json(data)


def _model(kind: type, value: Any) -> Any:
    """Return a pydantic model within a struct."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _fields(value: Any) -> Any:
    """Return the fields of a pydantic model within a struct."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    raise TypeError(f"a frame holds a value of type {type(value).__name__}, which JSON cannot hold")


def _bad_frame(where: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"{where}: {why[:300].rstrip('.')}.",
        code="bad_frame",
        hint="install the same version of agentfield-core and agentfield-server",
        field=where,
    )


_MAX_LEVELS = 200
"""Levels of lists and objects that a frame may have; a value has far fewer."""

_encoder = msgspec.json.Encoder(enc_hook=_fields)
_decoder = msgspec.json.Decoder()
_from_server = _Direction((Invoke, ResultAck, CallAccepted, CallResult), ServerFrame)
_from_node = _Direction((Accepted, Result, Progress, Call), NodeFrame)
