"""The routes of transports that plugins bring: who may, how much and how long, before and around the plugin's own code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from aiohttp import web

from agentfield.errors import AgentFieldError, Forbidden, LimitExceeded, PluginBroken
from agentfield.plugins import RouteInfo
from agentfield.realtime.transport import Evidence, Transport
from agentfield_server.access.guards import PRINCIPAL
from agentfield_server.api.routes import BEGUN, Route
from agentfield_server.transports import TransportHost
from agentfield_server.transports.room import ROOT

__all__ = ["TransportRoutes"]

_log = logging.getLogger("agentfield.transports")

_VERIFY_WAIT = 5.0
_HANDLER_WAIT = 30.0
_BODY_WAIT = 10.0
_AGAIN = 1
"""Seconds after which a caller who found the route full may try again."""
_VERIFIED = (
    "Whoever the transport itself accepts, by what it checks of the request; everybody else is refused with 403."
)


class _Gate:
    """Counts who is served."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._inside = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be counted.

        Raises:
            LimitExceeded: As many as may be are inside already.
        """
        if self._inside >= self._most:
            raise LimitExceeded(
                f"{self._what} serves {self._most} at once, and as many are there.",
                code="transport_busy",
                hint="try again in a moment",
                limit=self._most,
                retry_after=_AGAIN,
            )
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


class TransportRoutes:
    """Makes an ordinary route of each that a transport's manifest names.

    Args:
        hosts: The transports by name.
    """

    def __init__(self, hosts: Mapping[str, TransportHost]) -> None:
        self._hosts = hosts

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [_made(host, route) for host in self._hosts.values() for route in host.info.routes]


def _made(host: TransportHost, route: RouteInfo) -> Route:
    path = f"{ROOT}/{host.info.name}{route.path}"
    gate = _Gate(f"{route.method} {path}", route.at_once)
    return Route(
        route.method,
        path,
        partial(_serve, host, route, gate),
        route.access,
        route.summary,
        stream=route.socket,
        socket=route.socket,
        media_type="*/*",
        accepts=("*/*",) if route.method == "POST" else (),
        description=_VERIFIED if route.access == "verified" else "",
    )


async def _serve(host: TransportHost, route: RouteInfo, gate: _Gate, request: web.Request) -> web.StreamResponse:
    with gate.entered():
        transport = await host.get()
        if not route.socket:
            request = await _whole(request, route.max_body)
        evidence: Evidence | None = None
        if route.access == "verified":
            evidence = await _verified(host, transport, request)
            request[PRINCIPAL] = f"transport:{host.info.name}"
        try:
            return await _answer(host, route, transport, request, evidence)
        except AgentFieldError:
            if request.get(BEGUN) and request.transport is not None:
                # a problem document has no place in an answer that has begun, such as an open socket
                request.transport.abort()
            raise


async def _answer(
    host: TransportHost, route: RouteInfo, transport: Transport, request: web.Request, evidence: Evidence | None
) -> web.StreamResponse:
    async def work() -> object:
        answer: object = await getattr(transport, route.handler)(request, evidence)
        return answer

    try:
        # a socket lasts as long as the call; its own code has the deadlines
        answer = await (host.contained(work()) if route.socket else host.call(work(), _HANDLER_WAIT))
    except PluginBroken as error:
        raise _failed(host, error) from error
    except (AgentFieldError, web.HTTPException):
        raise
    except TimeoutError as error:
        raise _late(host, error) from error
    except Exception as error:
        raise _failed(host, error) from error
    if not isinstance(answer, web.StreamResponse):
        raise _failed(host, TypeError(f"{route.handler} returned {type(answer).__name__}, no response"))
    return answer


async def _whole(request: web.Request, most: int) -> web.Request:
    """Return the request with its body read, before anything of the plugin sees it.

    Raises:
        LimitExceeded: The body is larger than the route takes (status 413), or slow (status 408).
    """
    bounded = request.clone(client_max_size=most)
    try:
        async with asyncio.timeout(_BODY_WAIT):
            await bounded.read()
    except TimeoutError:
        error = LimitExceeded(
            f"The body did not arrive within {_BODY_WAIT:g} s.", code="body_too_slow", hint="send it again, at once"
        )
        error.status = 408
        raise error from None
    except web.HTTPRequestEntityTooLarge:
        error = LimitExceeded(f"The body is larger than {most} bytes.", code="body_too_large", hint="send less")
        error.status = 413
        raise error from None
    return bounded


async def _verified(host: TransportHost, transport: Transport, request: web.Request) -> Evidence:
    """Return what the transport knows of who asks.

    Raises:
        Forbidden: It does not accept the request, or fails to say that it does.
    """
    name = host.info.name

    async def work() -> object:
        return await transport.verify(request)

    try:
        evidence = await host.call(work(), _VERIFY_WAIT)
    except Forbidden:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises here is a refusal
        _log.warning("the transport %s could not tell who asks", name, exc_info=error)
        raise _not_verified(name) from None
    if not isinstance(evidence, Evidence):
        _log.warning("verify of the transport %s returned %s, no Evidence", name, type(evidence).__name__)
        raise _not_verified(name)
    return evidence


def _not_verified(name: str) -> Forbidden:
    return Forbidden(
        f"The transport {name} does not know who asks.",
        code="not_verified",
        hint="the control plane's log tells more; a control plane behind a proxy needs AGENTFIELD_PUBLIC_URL",
    )


def _failed(host: TransportHost, error: Exception) -> AgentFieldError:
    _log.error("the transport %s failed at a request", host.info.name, exc_info=error)
    return AgentFieldError(
        f"The transport {host.info.name} failed at this request.",
        code="transport_failed",
        hint="look into the control plane's log and try again",
        transport=host.info.name,
    )


def _late(host: TransportHost, error: Exception) -> AgentFieldError:
    late = _failed(host, error)
    late.message = f"The transport {host.info.name} did not answer within {_HANDLER_WAIT:g} s."
    late.code, late.status = "transport_timeout", 504
    return late
