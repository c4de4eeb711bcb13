"""W3C Trace Context of runs and executions: trace and span ids are derived from their ids and not stored."""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = ["TRACEPARENT", "parse_traceparent", "span_id", "trace_id", "traceparent"]

TRACEPARENT: Final = "traceparent"
"""Name of the header."""

_OWN_ID = re.compile(r"[a-z]+_([0-9a-f]{32})")
_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def trace_id(run_id: str) -> str:
    """Return the trace id of a run: the 32 hexadecimal digits of the run's id."""
    return _digits(run_id)


def span_id(execution_id: str) -> str:
    """Return the span id of an execution: the last 16 hexadecimal digits of the execution's id, which are its random half."""
    return _digits(execution_id)[16:]


def traceparent(run_id: str, execution_id: str) -> str:
    """Return the ``traceparent`` value that makes an execution the parent span (W3C Trace Context §3.2)."""
    return f"00-{trace_id(run_id)}-{span_id(execution_id)}-01"


def parse_traceparent(text: str | None) -> str | None:
    """Return a received ``traceparent`` in the form of version 00, None if it is absent or invalid.

    Source: W3C Trace Context §3.2 and §4.3: an invalid header is ignored.
    """
    match = _HEADER.fullmatch(text or "")
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace, 16) or not int(span, 16):
        return None
    return f"00-{trace}-{span}-{flags}"


def _digits(identifier: str) -> str:
    match = _OWN_ID.fullmatch(identifier)
    if match is not None and int(match[1], 16) and int(match[1][16:], 16):
        return match[1]
    # an id in another format, as in tests and imported data: hashed to the same length
    return hashlib.sha256(identifier.encode()).hexdigest()[:32]
