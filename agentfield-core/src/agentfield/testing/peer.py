"""The other end of what is tested: what an author of a plugin supplies so that the conformance kit can hold a conversation.

A peer is a small fake on this machine, named by an entry point of the group ``agentfield.peers``:

=========================  =====================  ========================================================
entry point's name         peer of                value
=========================  =====================  ========================================================
``PROVIDER.TRANSPORT``     one pair's provider    ``module:factory`` that yields a `ProviderPeer`
``PROVIDER.*``             all of its pairs       the same
``TRANSPORT``              a transport plugin     ``module:factory`` that yields a `CallerPeer`
=========================  =====================  ========================================================

A factory takes a secret and returns an async context manager. The secret is the key that the adapter, or the transport,
has: a peer insists on it, and the kit sees that it turns up nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from agentfield.realtime.audio import AudioFormat

__all__ = ["GROUP", "CallPlace", "CallerPeer", "DirectCaller", "DirectPeer", "PeerFactory", "ProviderPeer", "Refusal"]

GROUP = "agentfield.peers"
"""The entry-point group."""

Refusal = Literal[401, 429]
"""Why a provider refuses, as HTTP says it: the key is wrong; too many requests. Other protocols have their own words for it."""

PeerFactory = Callable[[str], AbstractAsyncContextManager[Any]]
"""Takes the secret; yields a `ProviderPeer`, `DirectPeer` or `CallerPeer`."""


class ProviderPeer(Protocol):
    """The provider of a pair. Without being told otherwise it answers every reply that is asked for with a few words."""

    @property
    def base_url(self) -> str:
        """Where the adapter finds it (`agentfield.realtime.provider.AdapterRuntime.base_url`)."""

    @property
    def received(self) -> Sequence[str]:
        """What it was told so far besides audio, oldest first: messages, request bodies, or what its model was given.

        The kit looks for words in it, after a reply that came later than they.
        """

    def hear(self, text: str, audio: AudioFormat) -> bytes:
        """Understand the next turn of the caller as `text`; return the audio to send for it.

        The audio is speech and then enough silence for the provider to find the end of the turn by itself, where it can.
        """

    def call_tool(self, target: str, arguments: str) -> None:
        """Ask in the next reply for a tool instead of speaking.

        Args:
            target: As the session declares it (``node.function``), or a tool of nobody's.
            arguments: What is passed, word for word; not always JSON.
        """

    def refuse(self, status: Refusal) -> None:
        """Refuse whatever is asked next, until it was refused once; the refusal quotes the secret, as careless services do."""

    async def drop(self) -> None:
        """Go away without a word: connections break, also one that is made for the next reply, and no session survives it."""

    def disturb(self) -> None:
        """From now on send what no client knows and what it knows already, as far as the protocol lets you; or do nothing."""


class DirectCaller(Protocol):
    """A caller that talks to the provider over a medium of their own (`direct`)."""

    async def offer(self) -> str:
        """Return an SDP offer."""

    async def accept(self, answer: str) -> None:
        """Take the answer and connect."""

    def speak(self, data: bytes) -> None:
        """Say what `ProviderPeer.hear` returned for 48 kHz samples, at the pace of speech."""

    @property
    def heard_ms(self) -> float:
        """How many milliseconds of the agent's voice were heard so far."""


class DirectPeer(ProviderPeer, Protocol):
    """The provider of a pair whose medium is `direct`; it brings the caller as well."""

    def caller(self) -> AbstractAsyncContextManager[DirectCaller]:
        """Return a caller, who hangs up at the end of the block."""


@dataclass(frozen=True, slots=True)
class CallPlace:
    """Where a caller calls: at a transport's routes, served by the kit."""

    url: str
    """Base address of the routes: ``http://127.0.0.1:PORT/api/v1/transports/NAME``."""
    target: str
    """The session that is called where the transport starts sessions itself (routes of access `verified`)."""
    session_id: str
    """A session that was started already, for routes of access `session`."""
    token: str
    """Its token, sent as ``Authorization: Bearer TOKEN``."""


class CallerPeer(Protocol):
    """A caller of a transport, one call at a time. What a transport does not declare is never asked of its caller."""

    @property
    def settings(self) -> Mapping[str, str]:
        """What the transport finds in its settings (`TransportInfo.settings`), the secret among them."""

    async def intrude(self, place: CallPlace) -> int:
        """Ask for the first thing that a caller asks for, but without evidence that holds; return the HTTP status."""

    async def call(self, place: CallPlace) -> None:
        """Call; return when audio can pass both ways."""

    async def speak(self, data: bytes) -> None:
        """Send audio, in the format of the transport's leg."""

    async def press(self, digit: str) -> None:
        """Press a key of a telephone (`dtmf`)."""

    async def type(self, text: str) -> None:
        """Send words (`text_input`)."""

    async def commit(self) -> None:
        """Say that the turn is over (`commits`)."""

    @property
    def connected(self) -> bool:
        """Whether the call is up, as far as the caller can tell."""

    @property
    def heard(self) -> bytes:
        """The audio that arrived since the call began, in the leg's format, also what was thrown away later."""

    @property
    def cleared(self) -> int:
        """How often it was told to throw away what it has not played yet."""

    async def stall(self) -> None:
        """From now on read nothing that arrives, as if the line were dead."""

    async def hang_up(self) -> None:
        """End the call as a caller does."""

    async def vanish(self) -> None:
        """Break the connection without a word."""
