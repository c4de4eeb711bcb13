"""Logging of the server process: one line an event, with ids, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TextIO

import structlog

from agentfield.lossy import visible_json, visible_text
from agentfield_server.redaction import Redactor, redact

__all__ = ["configure_logs", "log_context", "redact"]

_IDS = {"session_id": "ses", "run_id": "run", "execution_id": "exe", "approval_id": "apr", "delivery_id": "dlv"}
_TRACES = ("exception", "stack")
_ID = re.compile(r"\b(?P<kind>ses|run|exe|apr|dlv)_[0-9a-f]{32}\b")


@contextmanager
def log_context(**ids: str) -> Iterator[None]:
    """Add ids to every line that is logged inside the block, including by tasks that start there."""
    with structlog.contextvars.bound_contextvars(**ids):
        yield


def configure_logs(
    level: str = "INFO", *, json_lines: bool = False, stream: TextIO | None = None, secrets: Iterable[str] = ()
) -> None:
    """Configure the root logger of this process; called by programs, never by the library.

    Args:
        level: Name of the lowest logged level.
        json_lines: Write one JSON object a line instead of text.
        stream: Output stream, standard error by default.
        secrets: Texts that are always redacted, whatever their form.
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
        _add_mentioned_ids,
    ]
    renderers: list[Any] = [_visible, structlog.dev.ConsoleRenderer(colors=out.isatty())]
    if json_lines:
        to_json = structlog.processors.JSONRenderer(ensure_ascii=False)
        renderers = [lambda logger, name, event: visible_json(str(to_json(logger, name, event)))]
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, without_secrets, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("aiohttp.access", "aioice", "aiortc", "websockets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _visible(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape what would control the terminal; only a traceback has more than one line."""
    return {
        visible_text(str(name), one_line=True): visible_text(str(value), one_line=name not in _TRACES)
        if isinstance(value, str) or name in _TRACES
        else visible_text(repr(value), one_line=True)
        if isinstance(value, dict | list | tuple)
        else value
        for name, value in event.items()
    }


def _add_mentioned_ids(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the ids in the text of a line as fields, where it has exactly one of a kind and the field is not set."""
    found: dict[str, set[str]] = {}
    for match in _ID.finditer(str(event.get("event", ""))):
        found.setdefault(match["kind"], set()).add(match[0])
    for name, kind in _IDS.items():
        if len(ids := found.get(kind, set())) == 1:
            event.setdefault(name, *ids)
    return event
