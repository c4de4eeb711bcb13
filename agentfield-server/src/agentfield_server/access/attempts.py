"""Limits by principal and address: wrong credentials, open streams, and uploads, so that one caller does not starve the others."""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from aiohttp import web

from agentfield.errors import AgentFieldError, LimitExceeded
from agentfield_server.access.principals import Principal

__all__ = ["Admission", "Attempts", "ClientAddresses", "MemoryAdmission"]

WRONG_CREDENTIALS = 120
"""Wrong credentials that an address may send at once, and within a minute."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_REMEMBERED = 10_000


STREAMS_OF_TOKEN = 16
"""Streams and sockets that a browser token may have open."""

STREAMS = 1000
"""Streams and sockets that a key, and an address, may have open."""

UPLOADS_OF_SESSION = 4
"""Recordings that may be sent to a session at once."""

UPLOADED_BYTES = 256 * 1024 * 1024
"""Bytes of recordings that are being received at once, by all."""


class Admission(Protocol):
    """Counters of what somebody does; several control planes may share an implementation."""

    def hold(self, name: str, amount: int, *, limit: int) -> AbstractContextManager[None]:
        """Hold a share of what `name` stands for, while the context is entered.

        Raises:
            LimitExceeded: With it, more than `limit` would be held (code `too_many_at_once`).
        """

    def take(self, name: str, *, at_once: int, per_minute: float) -> float:
        """Count one more of what `name` stands for.

        Args:
            name: What is counted, and for whom.
            at_once: How many are admitted at once.
            per_minute: How many are admitted each minute after that.

        Returns:
            0.0 if it is admitted, else the seconds until the next one is.
        """


class MemoryAdmission:
    """Token buckets in the memory of this process; the least recently used ones are forgotten.

    Args:
        clock: Monotonic clock, seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held = Counter[str]()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @contextmanager
    def hold(self, name: str, amount: int, *, limit: int) -> Iterator[None]:
        """Hold a share, see `Admission.hold`."""
        if self._held[name] + amount > limit:
            raise LimitExceeded(
                f"The limit of {name} is reached: {limit}.",
                code="too_many_at_once",
                hint="close what is not used any more, or try again in a moment",
                retry_after=1,
            )
        self._held[name] += amount
        try:
            yield
        finally:
            self._held[name] -= amount
            if not self._held[name]:
                del self._held[name]

    def take(self, name: str, *, at_once: int, per_minute: float) -> float:
        """Count one more, see `Admission.take`."""
        now, rate = self._clock(), per_minute / 60
        left, before = self._buckets.pop(name, (float(at_once), now))
        left = min(float(at_once), left + (now - before) * rate)
        admitted = left >= 1
        self._buckets[name] = (left - 1 if admitted else left, now)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        return 0.0 if admitted else (1 - left) / rate


class ClientAddresses:
    """Addresses of clients: of the socket, or what a trusted proxy says in X-Forwarded-For.

    Args:
        trusted: Addresses and networks of proxies.
    """

    def __init__(self, trusted: Sequence[str] = ()) -> None:
        self._trusted = [ipaddress.ip_network(each, strict=False) for each in trusted]

    def of(self, request: web.Request) -> str:
        """Return the address of the client of a request; of IPv6, its network of 64 bits.

        The header is read from its end: each trusted proxy has added the address that it was connected from, and what is
        before the first address that is none of theirs may be invented.
        """
        address = _parsed(request.remote or "")
        if address is None:
            return ""
        said = [hop for value in request.headers.getall("X-Forwarded-For", ()) for hop in value.split(",")]
        while said and self._is_trusted(address):
            before = _parsed(said.pop().strip())
            if before is None:
                break
            address = before
        return _shown(address)

    def of_peer(self, host: str) -> str:
        """Return the address of the other end of a connection as `of` does, empty for a trusted proxy."""
        address = _parsed(host)
        return "" if address is None or self._is_trusted(address) else _shown(address)

    def _is_trusted(self, address: _Address) -> bool:
        return any(address in network for network in self._trusted)


class Attempts:
    """Limits wrong credentials, open streams and uploads.

    Args:
        admission: Counts them.
        addresses: Tells whose they are.
    """

    def __init__(self, admission: Admission, addresses: ClientAddresses) -> None:
        self._admission = admission
        self._addresses = addresses

    @contextmanager
    def stream(self, request: web.Request, principal: Principal) -> Iterator[None]:
        """Hold a stream of a principal and of its address while the context is entered.

        Raises:
            LimitExceeded: One of them has too many open (code `too_many_at_once`).
        """
        most = STREAMS_OF_TOKEN if principal.kind == "token" else STREAMS
        with (
            self._admission.hold(f"streams of {principal.id}", 1, limit=most),
            self._admission.hold(f"streams of {self._addresses.of(request)}", 1, limit=STREAMS),
        ):
            yield

    @contextmanager
    def upload(self, session_id: str, size: int) -> Iterator[None]:
        """Hold an upload of so many bytes to a session while the context is entered; entered before the body is read.

        Raises:
            LimitExceeded: The session gets too many at once, or all together get too much (code `too_many_at_once`).
        """
        with (
            self._admission.hold(f"uploads to {session_id}", 1, limit=UPLOADS_OF_SESSION),
            self._admission.hold("bytes of uploads", size, limit=UPLOADED_BYTES),
        ):
            yield

    def refusal(self, request: web.Request, error: AgentFieldError) -> AgentFieldError:
        """Return the error that answers a wrong credential: its own, or that there were too many."""
        wait = self._admission.take(
            f"wrong {self._addresses.of(request)}", at_once=WRONG_CREDENTIALS, per_minute=WRONG_CREDENTIALS
        )
        if not wait:
            return error
        return LimitExceeded(
            "Too many wrong keys, tokens or codes came from this address.",
            code="too_many_attempts",
            hint="use a valid one, which is taken at any time; or wait",
            retry_after=max(1, round(wait)),
        )


def _shown(address: _Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _parsed(text: str) -> _Address | None:
    """Return an address as sockets and proxies write it, with a port or without; None if it is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
