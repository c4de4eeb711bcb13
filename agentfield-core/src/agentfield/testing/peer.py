"""Protocols of a peer: the fake that a plugin author supplies, which the conformance kit talks to.

A peer runs on this machine and is named by an entry point of the group ``agentfield.peers``:

=========================  ============================  ========================================================
entry point's name         peer of                       value
=========================  ============================  ========================================================
``PROVIDER.TRANSPORT``     the provider of one pair      ``module:factory`` that yields a `ProviderPeer`
``PROVIDER.*``             the provider of all pairs     the same
``TRANSPORT``              a transport of a plugin       ``module:factory`` that yields a `CallerPeer`
=========================  ============================  ========================================================

A factory takes a secret and returns an async context manager. The secret is the key of the adapter or transport: the peer
requires it, and the kit checks that it appears nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from agentfield.realtime.audio import AudioFormat

__all__ = ["CallEndpoint", "CallerPeer", "DirectCaller", "DirectPeer", "PeerFactory", "ProviderPeer", "Refusal"]

Refusal = Literal[401, 429]
"""Reason of a refusal as an HTTP status: wrong key, or too many requests. Other protocols use their own codes."""

PeerFactory = Callable[[str], AbstractAsyncContextManager[Any]]
"""Takes the secret; yields a `ProviderPeer`, `DirectPeer` or `CallerPeer`."""


class ProviderPeer(Protocol):
    """The provider of a pair. By default it answers each requested reply with a few words."""

    @property
    def base_url(self) -> str:
        """The address for the adapter (`agentfield.realtime.provider.AdapterRuntime.base_url`)."""

    @property
    def received(self) -> Sequence[str]:
        """Texts received so far, oldest first: messages, request bodies, or the input of its model; no audio.

        The kit searches them for text that must have arrived before a reply.
        """

    def prepare_turn(self, text: str, audio: AudioFormat) -> bytes:
        """Understand the caller's next turn as `text`; return the audio to send for it.

        The audio is speech followed by enough silence for the provider's turn detection.
        """

    def prepare_reply(self, text: str) -> None:
        """Let the model's next answer be this text, spoken slowly enough to be interrupted; used where the pair has no `say`."""

    def turn_detection(self) -> str:
        """Return what the provider was told: ``server_vad``, ``semantic_vad`` or ``manual``; used where it can be semantic."""

    def choices(self) -> Mapping[str, str | None]:
        """Return the names that the newest session was opened with: `model`, `voice` and `transcription`.

        Used where a session has a name that is in no text of `received` and that `SessionReady` does not repeat.
        """

    def prepare_silence(self) -> None:
        """Let the model not answer the next turn; used where the peer has it, for models that may choose to say nothing."""

    def reroute(self) -> None:
        """Let another model or upstream give the next answer, and report it; used where routing is `pinned`."""

    async def expire(self) -> None:
        """Announce the end of all sessions, or end them as too old; used where a session with `max_duration` has no `expires_at`."""

    def call_tool(self, target: str, arguments: str) -> None:
        """Call a tool in the next reply instead of speaking.

        Args:
            target: ``node.function`` as the session declares it, or an unknown tool.
            arguments: Sent verbatim; not always JSON.

        Raises:
            NotImplementedError: The arguments are not JSON, and the protocol carries them as an object.
        """

    def refuse(self, status: Refusal) -> None:
        """Refuse the next session or request, once; quote the secret in the refusal, as careless services do."""

    async def drop(self) -> None:
        """Drop all connections and sessions, and the connection of the next reply where each reply opens one."""

    def inject_unknown_messages(self) -> None:
        """From now on send unknown messages as well, and repeat known ones where the protocol allows it."""


class DirectCaller(Protocol):
    """A caller with a media connection of its own to the provider (media `direct`)."""

    async def offer(self) -> str:
        """Return an SDP offer."""

    async def accept(self, answer: str) -> None:
        """Apply the SDP answer and connect."""

    def speak(self, data: bytes) -> None:
        """Send the audio that `ProviderPeer.prepare_turn` returned at 48 kHz, in real time."""

    @property
    def heard_ms(self) -> float:
        """Milliseconds of the agent's speech heard so far."""


class DirectPeer(ProviderPeer, Protocol):
    """The provider of a pair whose media is `direct`; it supplies the caller as well."""

    def caller(self) -> AbstractAsyncContextManager[DirectCaller]:
        """Return a caller, which hangs up at the end of the block."""


@dataclass(frozen=True, slots=True)
class CallEndpoint:
    """The address of a call: the transport's routes, served by the kit."""

    url: str
    """Base URL of the routes: ``http://127.0.0.1:PORT/api/v1/transports/NAME``."""
    target: str
    """The session to call where the transport starts sessions itself (routes of access `verified`)."""
    session_id: str
    """A session that is already started, for routes of access `session`."""
    token: str
    """The token of that session, sent as ``Authorization: Bearer TOKEN``."""


class CallerPeer(Protocol):
    """A caller of a transport, one call at a time. The kit uses only inputs that the transport declares."""

    @property
    def settings(self) -> Mapping[str, str]:
        """Values of the transport's settings (`TransportSpec.settings`), the secret among them."""

    async def call_unverified(self, endpoint: CallEndpoint) -> int:
        """Send the first request of a call without valid evidence; return the HTTP status."""

    async def call(self, endpoint: CallEndpoint) -> None:
        """Call; return when audio can pass both ways."""

    async def speak(self, data: bytes) -> None:
        """Send audio in the format of the transport's leg."""

    async def press_key(self, digit: str) -> None:
        """Press a key of the telephone (`dtmf`)."""

    async def send_text(self, text: str) -> None:
        """Send typed text (`text_input`)."""

    async def commit(self) -> None:
        """Commit the turn (`commits`)."""

    @property
    def connected(self) -> bool:
        """Whether the call is connected, as the caller sees it."""

    @property
    def heard(self) -> bytes:
        """Audio received since the call began, in the leg's format, cleared audio included."""

    @property
    def cleared(self) -> int:
        """How often the caller was told to discard the audio that it has not played."""

    async def stall(self) -> None:
        """From now on read nothing, as on a dead connection."""

    async def hang_up(self) -> None:
        """End the call as a caller does."""

    async def drop(self) -> None:
        """Drop the connection without hanging up."""
