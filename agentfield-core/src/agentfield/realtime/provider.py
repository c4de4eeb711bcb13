"""Contract of the provider's end: the protocols that an adapter implements, and the runtime that its factory receives."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import SecretStr

from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import Command
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import Event

__all__ = [
    "AdapterRuntime",
    "BridgedAdapter",
    "CallRef",
    "ChildProcess",
    "DirectAdapter",
    "ProviderSession",
    "ResumableAdapter",
    "SdpAnswer",
    "SeparateOutput",
]

CallRef = Mapping[str, str]
"""Data that identifies a call at the provider, to attach to it again; JSON, stored, never shown to a browser."""


@dataclass(frozen=True, slots=True)
class SdpAnswer:
    """The provider's answer to an SDP offer."""

    sdp: str
    """The SDP answer for the caller (RFC 8866)."""
    ref: CallRef
    """The facts by which the call is attached to and hung up, also by a later control plane."""


class ProviderSession(Protocol):
    """A session at the provider."""

    async def send(self, command: Command) -> None:
        """Send a command; returns once it is sent, not when it is done.

        Raises:
            CapabilityMissing: The pair does not support the command.
            ProviderUnavailable: The connection to the provider is lost.
        """

    def events(self) -> AsyncIterator[Event]:
        """Yield events in order; the last one is `SessionClosed`. May be iterated once.

        Ids of turns and replies must be unique across sessions of the adapter, because a later session may replace this one in
        the same call.
        """

    async def close(self) -> None:
        """Detach from the session without ending it; idempotent."""


@runtime_checkable
class SeparateOutput(Protocol):
    """A provider's session whose replies have another format than the caller's audio; without it both are the same."""

    @property
    def output_format(self) -> AudioFormat:
        """The format of `ReplyAudio`, one of `Capabilities.output_formats`; it does not change during the session."""


class DirectAdapter(Protocol):
    """An adapter whose media flows directly between caller and provider; the control plane carries the offer and the sideband."""

    async def negotiate(self, offer: str, config: SessionConfig) -> SdpAnswer:
        """Create the call at the provider with the standard API key.

        Raises:
            ProviderError: The provider refused; its code is in `data["provider_code"]`.
            ProviderUnavailable: The provider did not answer in time.
        """

    async def attach(self, ref: CallRef, config: SessionConfig) -> ProviderSession:
        """Attach to an existing call, also after a restart.

        Raises:
            NotFound: The provider does not have the call, or no longer has it.
            ProviderUnavailable: The provider did not answer in time.
        """

    async def hang_up(self, ref: CallRef) -> None:
        """End the call at the provider; a call that has ended already is a success."""


class BridgedAdapter(Protocol):
    """An adapter whose media the control plane carries, as a stream (`bridged`) or turn by turn (`turns`)."""

    @property
    def formats(self) -> Sequence[AudioFormat]:
        """The formats of the caller's audio that a session can be opened with, the preferred one first.

        A session that declares ``say="exact"`` is opened with the first, because the speech synthesis may support no other.
        """

    async def open(self, config: SessionConfig, audio: AudioFormat) -> ProviderSession:
        """Open a new, empty session; `audio` is the format of the caller's audio, one of `formats`.

        Replies have the same format, unless the session is a `SeparateOutput`. Earlier turns of the conversation, if any, follow as `AddTextCommand`.

        Raises:
            CapabilityMissing: `audio` is not one of `formats`.
            ProviderError: The provider refused.
            ProviderUnavailable: The provider did not answer in time.
        """


@runtime_checkable
class ResumableAdapter(Protocol):
    """A bridged adapter with `Capabilities.resumption` ``handle``; it also has the methods of `BridgedAdapter`."""

    async def resume(self, config: SessionConfig, audio: AudioFormat, handle: str) -> ProviderSession:
        """Open a session that continues a conversation; what was said after the handle was given follows as `AddTextCommand`.

        Args:
            config: As for `BridgedAdapter.open`.
            audio: As for `BridgedAdapter.open`.
            handle: The last one of `SessionResumable`, perhaps of another process.

        Raises:
            NotFound: The provider does not know the handle, or no longer: an empty session is opened instead.
            ProviderError: The provider refused.
            ProviderUnavailable: The provider did not answer in time.
        """


class ChildProcess(Protocol):
    """A child process of an adapter."""

    @property
    def first_line(self) -> str:
        """The line that the process printed when it was ready."""


class AdapterRuntime(Protocol):
    """The runtime that an adapter's factory receives; the adapter sees nothing else of the control plane."""

    @property
    def base_url(self) -> str:
        """The provider's base URL, from its setting or its default; "" without either."""

    @property
    def key(self) -> SecretStr | None:
        """The provider's standard API key, None if it is not set."""

    @property
    def logger(self) -> logging.Logger:
        """The adapter's logger."""

    @property
    def data_dir(self) -> Path:
        """The adapter's own data folder, which survives restarts."""

    def clock(self) -> float:
        """Return seconds since the epoch."""

    def child(self, argv: Sequence[str], *, ready_timeout: float = 60.0) -> AbstractAsyncContextManager[ChildProcess]:
        """Start a process that prints one line when it is ready.

        Leaving the context does not stop the process; it is expected to end by itself some time after its last client.
        """
