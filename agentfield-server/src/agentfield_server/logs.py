"""Logs of the server process: one line an event, with ids, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TextIO

import structlog

from agentfield_server.redaction import Redactor, redact

__all__ = ["configure_logs", "log_context", "redact"]

_IDS = {"session_id": "ses", "run_id": "run", "execution_id": "exe", "approval_id": "apr", "delivery_id": "dlv"}
_ID = re.compile(r"\b(?P<kind>ses|run|exe|apr|dlv)_[0-9a-f]{32}\b")


@contextmanager
def log_context(**ids: str) -> Iterator[None]:
    """Put ids on every line that is logged inside the block, also by tasks that begin there."""
    with structlog.contextvars.bound_contextvars(**ids):
        yield


def configure_logs(
    level: str = "INFO", *, json_lines: bool = False, stream: TextIO | None = None, secrets: Iterable[str] = ()
) -> None:
    """Send the log of this process to `stream` (standard error by default); called by programs, never by the library.

    Args:
        level: Name of the lowest level that is shown.
        json_lines: One JSON object a line instead of text.
        stream: Where to.
        secrets: Texts that must not be shown, whatever they look like.
    """
    out = stream or sys.stderr
    redactor = Redactor(secrets)

    def without_secrets(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return dict(redactor.value(event))

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _ids_said,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if json_lines
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, without_secrets, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("aiohttp.access", "aioice", "aiortc", "websockets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _ids_said(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make fields of the ids that a line names, where it names one of a kind and nothing else is known."""
    found: dict[str, set[str]] = {}
    for match in _ID.finditer(str(event.get("event", ""))):
        found.setdefault(match["kind"], set()).add(match[0])
    for name, kind in _IDS.items():
        if len(ids := found.get(kind, set())) == 1:
            event.setdefault(name, *ids)
    return event
