"""The frames of executions and calls as pydantic models: how they were written before they were structs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from agentfield.wire.frames import PauseRequest
from agentfield.wire.link_protocol import Number

_SALT = r"^[A-Za-z0-9_-]{43}$"


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ExecutionContext(Model):
    execution_id: str
    run_id: str
    parent_id: str | None = None
    session_id: str | None = None
    actor_id: str | None = None
    attempt: int = 1
    deadline: float | None = None


class Invoke(Model):
    type: Literal["invoke"] = "invoke"
    epoch: int
    function: str
    input: dict[str, Any]
    context: ExecutionContext
    lineage: int = 0
    decisions: dict[str, dict[str, Any]] = Field(default_factory=dict)
    input_salt: str | None = Field(default=None, pattern=_SALT)
    output_salt: str | None = Field(default=None, pattern=_SALT)


class ResultAck(Model):
    type: Literal["result.ack"] = "result.ack"
    execution_id: str
    attempt: int
    accepted: bool = True


class CallAccepted(Model):
    type: Literal["call.accepted"] = "call.accepted"
    op_id: str
    execution_id: str


class CallResult(Model):
    type: Literal["call.result"] = "call.result"
    op_id: str
    execution_id: str | None = None
    output: Any = None
    problem: dict[str, Any] | None = None


class Accepted(Model):
    type: Literal["accepted"] = "accepted"
    execution_id: str
    attempt: Number
    epoch: Number


class Result(Model):
    type: Literal["result"] = "result"
    execution_id: str
    attempt: Number
    epoch: Number
    status: Literal["succeeded", "failed", "cancelled", "timeout", "parked"]
    output: Any = None
    problem: dict[str, Any] | None = None
    input_digest: str | None = None
    output_digest: str | None = None
    signature: str | None = None
    proof: Any = None
    retry: bool = False
    pause: PauseRequest | None = None
    took: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class Progress(Model):
    type: Literal["progress"] = "progress"
    execution_id: str
    attempt: Number
    epoch: Number
    value: dict[str, Any]


class Call(Model):
    type: Literal["call"] = "call"
    op_id: str
    target: str
    input: dict[str, Any]
    parent_id: str | None = None
    session_id: str | None = None
    timeout: float | None = Field(default=None, gt=0)


FromServer: TypeAdapter[Any] = TypeAdapter(
    Annotated[Invoke | ResultAck | CallAccepted | CallResult, Field(discriminator="type")]
)
FromNode: TypeAdapter[Any] = TypeAdapter(Annotated[Accepted | Result | Progress | Call, Field(discriminator="type")])
