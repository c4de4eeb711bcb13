"""Logs of the server process: one line an event, with ids, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

__all__ = ["configure_logs", "redact"]

_SECRET = re.compile(
    r"(?P<kind>\b(?:sk|ek|rk|code_af|whsec)[-_][A-Za-z0-9_-]{8,}|a=ice-pwd:\S+|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)"
    r"|(?P<bearer>(?i:bearer)\s+\S+)"
)


def redact(text: str) -> str:
    """Return `text` without keys, tokens, codes and ICE passwords."""
    return _SECRET.sub("[redacted]", text)


def _redact_event(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact(value)
    return event


def configure_logs(level: str = "INFO", *, json_lines: bool = False, stream: TextIO | None = None) -> None:
    """Send the log of this process to `stream` (standard error by default); called by programs, never by the library.

    Args:
        level: Name of the lowest level that is shown.
        json_lines: One JSON object a line instead of text.
        stream: Where to.
    """
    out = stream or sys.stderr
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _redact_event, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("aiohttp.access", "aioice", "aiortc", "websockets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
