"""What the sessions ask of whoever has the adapters: the right to use a key, and the adapter that uses it."""

from __future__ import annotations

from typing import Protocol

from agentfield.plugins import PairSpec
from agentfield_server.sessions.callline import MediaAdapter

__all__ = ["Adapters"]


class Adapters(Protocol):
    """Where adapters and the right to use them come from."""

    def admit(self, pair: PairSpec, session_id: str, credential: str | None = None) -> str:
        """Give a session one of the provider's keys; returns its name.

        Raises:
            LimitExceeded: Each key has as many sessions as it may have (code `provider_busy`).
        """

    def release(self, session_id: str) -> None:
        """Take back what a session was given; idempotent."""

    async def get(self, pair: PairSpec, credential: str) -> MediaAdapter:
        """Return the adapter of a pair that uses a key, entered on first use."""
