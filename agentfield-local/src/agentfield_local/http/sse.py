"""Server-sent events of the audio routes: each event a JSON object in one `data:` line, in the official client's form."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

__all__ = ["open_event_stream", "send_event"]


async def open_event_stream(request: web.Request) -> web.StreamResponse:
    """Return a response whose headers are sent."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    return response


async def send_event(response: web.StreamResponse, event: dict[str, Any]) -> None:
    """Send one event."""
    await response.write(f"data: {json.dumps(event, separators=(',', ':'))}\n\n".encode())
