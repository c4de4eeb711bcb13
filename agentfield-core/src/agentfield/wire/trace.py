"""Where a run and its executions are in a distributed trace (W3C Trace Context): computed from their ids, kept nowhere."""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = ["TRACEPARENT", "read_traceparent", "span_id", "trace_id", "traceparent"]

TRACEPARENT: Final = "traceparent"
"""Name of the header."""

_OURS = re.compile(r"[a-z]+_([0-9a-f]{32})")
_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def trace_id(run_id: str) -> str:
    """Return the trace of a run, 32 hexadecimal digits: those of the run's own id."""
    return _digits(run_id)


def span_id(execution_id: str) -> str:
    """Return the span of an execution, 16 hexadecimal digits: the random half of the execution's id."""
    return _digits(execution_id)[16:]


def traceparent(run_id: str, execution_id: str) -> str:
    """Return the header that makes an execution the parent of what it starts (W3C Trace Context §3.2)."""
    return f"00-{trace_id(run_id)}-{span_id(execution_id)}-01"


def read_traceparent(text: str | None) -> str | None:
    """Return a header from outside in the form of version 00, None when there is none or it is not valid.

    Source: W3C Trace Context §3.2 and §4.3: who cannot read it goes on as if it were not there.
    """
    match = _HEADER.fullmatch(text or "")
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace, 16) or not int(span, 16):
        return None
    return f"00-{trace}-{span}-{flags}"


def _digits(own: str) -> str:
    match = _OURS.fullmatch(own)
    if match is not None and int(match[1], 16) and int(match[1][16:], 16):
        return match[1]
    # an id that was not made by us
    return hashlib.sha256(own.encode()).hexdigest()[:32]
