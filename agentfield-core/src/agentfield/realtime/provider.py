"""The provider's end of a call: what an adapter must do."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import Command
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import Event

__all__ = ["AdapterRuntime", "Answer", "BridgedAdapter", "CallRef", "ChildProcess", "DirectAdapter", "ProviderSession"]

CallRef = Mapping[str, str]
"""What is needed to find a call at the provider again; JSON, stored, never shown to a browser."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The provider's answer to an SDP offer."""

    sdp: str
    ref: CallRef


class ProviderSession(Protocol):
    """One session at the provider, attached."""

    async def send(self, command: Command) -> None:
        """Do `command`; returns when it is on its way.

        Raises:
            CapabilityMissing: The pair cannot do it.
            ProviderUnavailable: The provider's end is gone.
        """

    def events(self) -> AsyncIterator[Event]:
        """Yield what happens, in order; the last one is `SessionClosed`. May be iterated once.

        Ids of turns and replies are never used again, also not by a later session of the adapter: it may take this one's
        place in the same call.
        """

    async def close(self) -> None:
        """Let go of the session without ending it; idempotent."""


class DirectAdapter(Protocol):
    """An adapter whose media flows between the caller and the provider; the control plane carries only the offer and the sideband."""

    async def negotiate(self, offer: str, config: SessionConfig) -> Answer:
        """Create the call at the provider with the standard key.

        Raises:
            ProviderError: The provider refused; its code is in `data["provider_code"]`.
            ProviderUnavailable: It did not answer in time.
        """

    async def attach(self, ref: CallRef, config: SessionConfig) -> ProviderSession:
        """Attach to a call that exists, also after a restart.

        Raises:
            NotFound: The provider has no such call (any more).
            ProviderUnavailable: It did not answer in time.
        """

    async def hang_up(self, ref: CallRef) -> None:
        """End the call at the provider; a call that is over already is a success."""


class BridgedAdapter(Protocol):
    """An adapter whose media the control plane carries, as a stream (`bridged`) or turn by turn (`turns`)."""

    @property
    def formats(self) -> Sequence[AudioFormat]:
        """The formats that a session can be opened with, the best one first.

        A session that declares ``say="exact"`` is opened with the first: what speaks its texts may have no other.
        """

    async def open(self, config: SessionConfig, audio: AudioFormat) -> ProviderSession:
        """Open a new, empty session; `audio` is the format of both directions, one of `formats`.

        What was said before, if anything, follows as `AddText`.

        Raises:
            CapabilityMissing: It is none of `formats`.
            ProviderError: The provider refused.
            ProviderUnavailable: It did not answer in time.
        """


class ChildProcess(Protocol):
    """A process that an adapter asked for."""

    @property
    def first_line(self) -> str:
        """The line it printed when it was ready."""


class AdapterRuntime(Protocol):
    """What a factory is given; nothing else of the control plane reaches an adapter."""

    @property
    def base_url(self) -> str:
        """Where the provider is, from the provider's setting or its default; "" where neither says."""

    @property
    def key(self) -> SecretStr | None:
        """The provider's standard key; None where no key is set."""

    @property
    def logger(self) -> logging.Logger:
        """Where to report."""

    @property
    def data_dir(self) -> Path:
        """A folder of the adapter's own that survives restarts."""

    def clock(self) -> float:
        """Return seconds since the epoch."""

    def child(self, argv: Sequence[str], *, ready_timeout: float = 60.0) -> AbstractAsyncContextManager[ChildProcess]:
        """Start a process that prints one line when it is ready; it is not stopped at exit but asked to linger by itself."""
