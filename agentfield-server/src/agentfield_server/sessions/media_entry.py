"""How a caller's audio reaches a session on each pair, and the errors for callers who take another way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from agentfield.errors import AgentFieldError, Conflict, LimitExceeded, ProviderUnavailable, SessionEnded, Unavailable
from agentfield.plugins.manifest.spec import Media, PairSpec, TransportSpec
from agentfield.realtime.audio import AudioFormat
from agentfield_server.store.records import SessionRow

__all__ = [
    "GO_LIVE_HINTS",
    "entry_hint",
    "is_retryable",
    "parse_formats",
    "session_ended_error",
    "starts_elsewhere_error",
    "wrong_media_error",
]

GO_LIVE_HINTS: Mapping[Media, str] = MappingProxyType(
    {
        "direct": "make the call first: send the SDP offer",
        "bridged": "make the call first: connect the media socket",
        "turns": "make the call first: send a recorded turn",
    }
)
"""How to make a session live, by medium."""

_ENTRY_HINTS: Mapping[Media, str] = MappingProxyType(
    {
        "direct": "send an SDP offer to /offer of the session",
        "bridged": "connect a WebSocket to /media of the session",
        "turns": "send recorded turns to /turns of the session",
    }
)
_DEFAULT_FORMAT = AudioFormat("pcm16", 24000)


def wrong_media_error(pair: PairSpec, transport: TransportSpec | None = None) -> Conflict:
    """Return the error for a caller whose audio cannot enter the session on the route that was used.

    Args:
        pair: The pair of the session.
        transport: The transport of the pair if it belongs to a plugin.
    """
    return Conflict(
        f"The session runs over {pair.name}; audio cannot enter it on this route.",
        code="wrong_media",
        hint=_ENTRY_HINTS[pair.media] if transport is None else entry_hint(transport),
    )


def starts_elsewhere_error(target: str, pair: PairSpec, transport: TransportSpec) -> Conflict:
    """Return the error for an operator who starts a session that only a caller of its transport can start."""
    return Conflict(
        f"{target} runs over {pair.name}: its sessions start when a caller comes in over {transport.name},"
        " and cannot be started from here.",
        code="starts_elsewhere",
        hint=entry_hint(transport),
        transport=transport.name,
    )


def entry_hint(transport: TransportSpec) -> str:
    """Return the hint that names the routes of a plugin's transport for callers."""
    # callers enter over a plain route; it tells them which socket to open
    verified = [route for route in transport.routes if route.access == "verified"]
    entries = [route for route in verified if not route.socket] or verified
    where = " or ".join(f"{route.method} /api/v1/transports/{transport.name}{route.path}" for route in entries)
    return f"callers come in at {where}" if where else f"the plugin of {transport.name} starts its calls itself"


def session_ended_error(row: SessionRow, reason: str | None) -> SessionEnded:
    """Return the error for a request to a session that has ended."""
    return SessionEnded(
        f"Session {row.id} is over: {reason or 'ended'}.",
        hint=f"start another one: af session start {row.target}",
        reason=reason or "ended",
    )


def is_retryable(error: AgentFieldError) -> bool:
    """Tell whether a call that failed with `error` may succeed if it is tried again later."""
    if error.data.get("provider_final"):
        return False
    transient = isinstance(error, ProviderUnavailable | LimitExceeded | Unavailable | Conflict)
    return transient or error.data.get("provider_status") == 429


def parse_formats(names: Iterable[str]) -> Sequence[AudioFormat]:
    """Parse names such as ``pcm16/24000``, best format first; return 16-bit samples at 24 kHz if none is known."""
    known = [found for name in names if (found := _format(name)) is not None]
    return sorted(known, key=lambda each: (each.codec != "pcm16", -each.rate, each.codec)) or [_DEFAULT_FORMAT]


def _format(name: str) -> AudioFormat | None:
    """Return the format of a name; None for a codec without fixed-size samples."""
    codec, _, rate = name.partition("/")
    match codec:
        case "pcm16" | "pcmu" | "pcma" if rate.isdecimal():
            return AudioFormat(codec, int(rate))
    return None
