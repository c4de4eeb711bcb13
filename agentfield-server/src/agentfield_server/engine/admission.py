"""Checks of a call before it is committed: its target must be known and its input valid."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from agentfield.errors import InvalidInput, LimitExceeded, NodeNotConnected, NotFound
from agentfield.identity import commitment
from agentfield.values import Encoded, encode
from agentfield.wire.node_declarations import FunctionSpec
from agentfield_server.access.admission import AccessControl
from agentfield_server.engine.backoff import max_backoff
from agentfield_server.nodes import LinkHub
from agentfield_server.store.records import NewExecution

__all__ = ["MAX_INPUT", "admit", "encode_input", "prepare_execution", "resolve_target"]

MAX_INPUT = 1024 * 1024
"""Bytes of an input as canonical JSON."""

_JUST_LEFT = 10.0
"""Seconds after a node left in which its work is queued instead of refused."""


def resolve_target(hub: LinkHub, target: str) -> FunctionSpec:
    """Return the declaration of a target.

    Raises:
        NotFound: No node ever declared it (code `unknown_target`).
        NodeNotConnected: Its node has been away for more than 10 s.
    """
    spec = hub.function(target)
    if spec is not None:
        node_id = target.partition(".")[0]
        if not hub.recently_linked(node_id, within=_JUST_LEFT):
            raise NodeNotConnected(
                f"The node {node_id!r}, which has {target!r}, is not connected.",
                hint="start it (af run FILE); af nodes shows who is connected",
                target=target,
                retry_after=2,
            )
        return spec
    if target in hub.sessions():
        raise NotFound(
            f"{target!r} is a session, not a reasoner.",
            code="unknown_target",
            hint=f"start it with: af session start {target}",
            target=target,
        )
    known = sorted(hub.functions())
    near = difflib.get_close_matches(target, known, n=1, cutoff=0.6)
    about = f" Did you mean {near[0]!r}?" if near else ""
    raise NotFound(
        f"There is no target {target!r}.{about}",
        code="unknown_target",
        hint=f"known targets: {', '.join(known[:20])}" if known else "no node has connected yet: af run FILE",
        target=target,
        known=known[:100],
    )


def admit(new: NewExecution, access: AccessControl) -> Mapping[str, Any] | None:
    """Admit a call, and return the record of the decision; the chain of its parent must be known.

    Raises:
        Forbidden: The rules of access do not allow the call (code `access_denied`).
        InvalidInput: The input is not an object.
    """
    if not isinstance(new.input, dict):
        raise InvalidInput("The input of a call is an object: one value per parameter.", field="input")
    return access.admit_call(new.principal, new.parent_id, new.target, new.input)


def encode_input(new: NewExecution, spec: FunctionSpec) -> Encoded:
    """Return the input of a call as it is carried; takes long for a large one.

    Raises:
        InvalidInput: It holds a value that cannot be carried (code `unrepresentable`), or lacks a required parameter.
        LimitExceeded: It is larger than 1 MiB.
    """
    _check_required(new, spec)
    given = encode(new.input, name="input", schema=spec.input_schema)
    if len(given) > MAX_INPUT:
        raise _too_large(len(given))
    return given


def _check_required(new: NewExecution, spec: FunctionSpec) -> None:
    """Refuse an input without a required parameter here, in the node's words: it needs no node to be known."""
    required, parameters = spec.input_schema.get("required"), spec.input_schema.get("properties")
    if not isinstance(required, list) or not isinstance(parameters, dict):
        return
    missing = [name for name in required if isinstance(name, str) and name not in new.input]
    if not missing:
        return
    faults = [{"field": name, "message": "is missing"} for name in missing]
    listed = "; ".join(f"{name}: is missing" for name in missing[:5])
    more = f" (and {len(missing) - 5} more)" if len(missing) > 5 else ""
    raise InvalidInput(
        f"The input of {new.target.partition('.')[2]} does not fit: {listed}{more}.",
        hint=f"it takes: {', '.join(parameters)}" if parameters else "it takes nothing",
        field=missing[0],
        errors=faults[:20],
    )


def prepare_execution(
    new: NewExecution, spec: FunctionSpec, given: Encoded, admitted: Mapping[str, Any] | None
) -> NewExecution:
    """Return the execution with its input as it is carried, and retries, backoff and timeout of its target.

    Args:
        new: The execution as it was asked for.
        spec: The declaration of its target.
        given: What `encode_input` returned for it.
        admitted: What `admit` returned for it.
    """
    attempts = max(new.max_attempts, spec.retries + 1)
    return replace(
        new,
        input=given.value,
        input_text=given.text,
        max_attempts=attempts,
        backoff=spec.backoff,
        timeout=new.timeout if new.timeout is not None else _total_timeout(spec, attempts),
        access=admitted,
        input_commitment=commitment(new.input_salt, given.canonical),
    )


def _total_timeout(spec: FunctionSpec, attempts: int) -> float | None:
    """Return the seconds for all attempts and the pauses between them; `spec.timeout` is that of one attempt."""
    if spec.timeout is None:
        return None
    return spec.timeout * attempts + sum(max_backoff(spec.backoff, attempt) for attempt in range(1, attempts))


def _too_large(size: int) -> LimitExceeded:
    error = LimitExceeded(
        f"The input has {size} bytes, more than the {MAX_INPUT} that may be passed.",
        code="input_too_large",
        hint="pass a reference to large data (a path, an address) instead of the data",
    )
    error.status = 413
    return error
