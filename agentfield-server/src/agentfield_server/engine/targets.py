"""What a call is checked against before it is committed: the target that is known, and an input that may be passed."""

from __future__ import annotations

import asyncio
import difflib
from dataclasses import replace
from typing import Any

from agentfield.errors import InvalidInput, LimitExceeded, NodeNotConnected, NotFound
from agentfield.identity import canonical, digest_of
from agentfield.wire.frames import FunctionSpec
from agentfield_server.engine.backoff import longest_pause
from agentfield_server.nodes import LinkHub
from agentfield_server.store.records import NewExecution
from agentfield_server.store.rows import dump

__all__ = ["MAX_INPUT", "declared", "prepared"]

MAX_INPUT = 1024 * 1024
"""Bytes of an input as canonical JSON."""

_JUST_LEFT = 10.0
"""Seconds that a node may be away while its work is still queued rather than refused."""

_LARGE = 32 * 1024


def declared(hub: LinkHub, target: str) -> FunctionSpec:
    """Return what a target declares.

    Raises:
        NotFound: Nobody ever declared it (code `unknown_target`).
        NodeNotConnected: Its node is away for more than 10 s.
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


async def prepared(new: NewExecution, spec: FunctionSpec) -> NewExecution:
    """Return a call with what its target declares, and the digest of its input.

    Raises:
        InvalidInput: The input is not JSON, or no object.
        LimitExceeded: It is larger than 1 MiB.
    """
    if not isinstance(new.input, dict):
        raise InvalidInput("The input of a call is an object: one value per parameter.", field="input")
    # canonicalising is pure Python, `dump` is not: what is large must not hold up the event loop
    large = len(dump(new.input)) > _LARGE
    input_digest = await asyncio.to_thread(_measured, new.input) if large else _measured(new.input)
    attempts = max(new.max_attempts, spec.retries + 1)
    return replace(
        new,
        max_attempts=attempts,
        backoff=spec.backoff,
        timeout=new.timeout if new.timeout is not None else _time_of_all(spec, attempts),
        input_digest=input_digest,
    )


def _time_of_all(spec: FunctionSpec, attempts: int) -> float | None:
    """Return how long all attempts and the pauses between them may take; `timeout` is that of one run."""
    if spec.timeout is None:
        return None
    return spec.timeout * attempts + sum(longest_pause(spec.backoff, attempt) for attempt in range(1, attempts))


def _measured(value: dict[str, Any]) -> str:
    """Return the digest of an input that is not too large."""
    data = canonical(value)
    size = len(data)
    if size > MAX_INPUT:
        error = LimitExceeded(
            f"The input has {size} bytes, more than the {MAX_INPUT} that may be passed.",
            code="input_too_large",
            hint="pass a reference to large data (a path, an address) instead of the data",
        )
        error.status = 413
        raise error
    return digest_of(data)
