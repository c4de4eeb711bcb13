"""The ways by which a caller's audio can come, and what is said to one who comes another way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from agentfield.errors import AgentFieldError, Conflict, LimitExceeded, ProviderUnavailable, SessionEnded, Unavailable
from agentfield.plugins.spec import Media, PairSpec, TransportInfo
from agentfield.realtime.audio import AudioFormat
from agentfield_server.store.records import SessionRow

__all__ = ["FIRST", "formats_of", "may_be_cured", "over", "starts_elsewhere", "way_in", "wrong_media"]

FIRST: Mapping[Media, str] = MappingProxyType(
    {
        "direct": "make the call first: send the SDP offer",
        "bridged": "make the call first: connect the media socket",
        "turns": "make the call first: send a recorded turn",
    }
)
"""What makes a session live, by who carries its audio."""

_WAYS: Mapping[Media, str] = MappingProxyType(
    {
        "direct": "send an SDP offer to /offer of the session",
        "bridged": "connect a WebSocket to /media of the session",
        "turns": "send recorded turns to /turns of the session",
    }
)
_PLAIN = AudioFormat("pcm16", 24000)


def wrong_media(pair: PairSpec, transport: TransportInfo | None = None) -> Conflict:
    """Return the error for a caller who comes the wrong way.

    Args:
        pair: What the session runs over.
        transport: The transport of the pair, where a plugin brings it.
    """
    return Conflict(
        f"The session runs over {pair.name}, where audio goes another way.",
        code="wrong_media",
        hint=_WAYS[pair.media] if transport is None else way_in(transport),
    )


def starts_elsewhere(target: str, pair: PairSpec, transport: TransportInfo) -> Conflict:
    """Return the error for an operator who starts what only a caller of its transport can."""
    return Conflict(
        f"{target} runs over {pair.name}: its sessions begin when a caller comes over {transport.name},"
        " and cannot be started from here.",
        code="starts_elsewhere",
        hint=way_in(transport),
        transport=transport.name,
    )


def way_in(transport: TransportInfo) -> str:
    """Return how callers come in over a transport that a plugin brings."""
    # a caller is sent to the first door; a socket is what that tells it to open
    doors = [route for route in transport.routes if route.access == "verified"]
    first = [route for route in doors if not route.socket] or doors
    where = " or ".join(f"{route.method} /api/v1/transports/{transport.name}{route.path}" for route in first)
    return f"callers come in at {where}" if where else f"the plugin of {transport.name} begins its calls itself"


def over(row: SessionRow, reason: str | None) -> SessionEnded:
    """Return the error for callers and operators of a session that is over."""
    return SessionEnded(
        f"Session {row.id} is over: {reason or 'ended'}.",
        hint=f"start another one: af session start {row.target}",
        reason=reason or "ended",
    )


def may_be_cured(error: AgentFieldError) -> bool:
    """Tell whether a call that could not be made may be made a little later, by trying again."""
    if error.data.get("provider_final"):
        return False
    later = isinstance(error, ProviderUnavailable | LimitExceeded | Unavailable | Conflict)
    return later or error.data.get("provider_status") == 429


def formats_of(names: Iterable[str]) -> Sequence[AudioFormat]:
    """Return the formats of names such as ``pcm16/24000``, the best one first; 16-bit samples where there is none."""
    known = [found for name in names if (found := _format(name)) is not None]
    return sorted(known, key=lambda each: (each.codec != "pcm16", -each.rate, each.codec)) or [_PLAIN]


def _format(name: str) -> AudioFormat | None:
    """Return the format of a name; None for one that is not written in samples of one size."""
    codec, _, rate = name.partition("/")
    match codec:
        case "pcm16" | "pcmu" | "pcma" if rate.isdecimal():
            return AudioFormat(codec, int(rate))
    return None
