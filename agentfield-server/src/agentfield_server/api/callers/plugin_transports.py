"""Routes of transports from plugins: verification, limits and deadlines around the plugin's own code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from aiohttp import web

from agentfield.errors import AgentFieldError, Forbidden, LimitExceeded, PluginBroken
from agentfield.plugins import RouteSpec
from agentfield.realtime.transport import Evidence, Transport
from agentfield_server.access.principals import PRINCIPAL, Access, transport_principal
from agentfield_server.api.http.route import Route
from agentfield_server.transports import TransportHost
from agentfield_server.transports.manager import ROUTE_PREFIX

__all__ = ["TransportRoutes"]

_log = logging.getLogger("agentfield.transports")

_ACCESS: dict[str, Access] = {
    "operator": ("operator",),
    "session": ("token", "starter", "operator"),
    "verified": ("verified",),
}
_VERIFY_WAIT = 5.0
_HANDLER_WAIT = 30.0
_BODY_WAIT = 10.0
_RETRY_AFTER = 1
"""Retry-After, in seconds, of a request that exceeded the concurrency limit."""
_VERIFIED = (
    "The transport verifies the request itself (a signature, for instance); other requests are refused with 403."
)


class _ConcurrencyLimiter:
    """Limits the concurrent requests of a route."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._running = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of the route's slots while the context is entered.

        Raises:
            LimitExceeded: All slots are in use (code `transport_busy`).
        """
        if self._running >= self._limit:
            raise LimitExceeded(
                f"{self._name} serves {self._limit} requests at once, and all slots are in use.",
                code="transport_busy",
                hint="try again in a moment",
                limit=self._limit,
                retry_after=_RETRY_AFTER,
            )
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1


class TransportRoutes:
    """Makes a `Route` of each route in the manifests of the transports.

    Args:
        hosts: The transports by name.
    """

    def __init__(self, hosts: Mapping[str, TransportHost]) -> None:
        self._hosts = hosts

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [_route_of(host, route) for host in self._hosts.values() for route in host.info.routes]


def _route_of(host: TransportHost, route: RouteSpec) -> Route:
    path = f"{ROUTE_PREFIX}/{host.info.name}{route.path}"
    limiter = _ConcurrencyLimiter(f"{route.method} {path}", route.at_once)
    return Route(
        route.method,
        path,
        partial(_serve, host, route, limiter),
        _ACCESS[route.access],
        route.summary,
        view="operator" if route.access == "operator" else "caller",
        stream=route.socket,
        socket=route.socket,
        media_type="*/*",
        accepts=("*/*",) if route.method == "POST" else (),
        description=_VERIFIED if route.access == "verified" else "",
    )


async def _serve(
    host: TransportHost, route: RouteSpec, limiter: _ConcurrencyLimiter, request: web.Request
) -> web.StreamResponse:
    with limiter.slot():
        transport = await host.get()
        if not route.socket:
            request = await _read_body(request, route.max_body)
        evidence: Evidence | None = None
        if route.access == "verified":
            evidence = await _verify(host, transport, request)
            request[PRINCIPAL] = transport_principal(host.info.name)
        return await _handle(host, route, transport, request, evidence)


async def _handle(
    host: TransportHost, route: RouteSpec, transport: Transport, request: web.Request, evidence: Evidence | None
) -> web.StreamResponse:
    async def work() -> object:
        answer: object = await getattr(transport, route.handler)(request, evidence)
        return answer

    try:
        # a socket lasts as long as the call: its deadlines are in the plugin's code
        answer = await (host.contained(work()) if route.socket else host.call(work(), _HANDLER_WAIT))
    except PluginBroken as error:
        raise _handler_error(host, error) from error
    except (AgentFieldError, web.HTTPException):
        raise
    except TimeoutError as error:
        raise _timeout_error(host, error) from error
    except Exception as error:
        raise _handler_error(host, error) from error
    if not isinstance(answer, web.StreamResponse):
        raise _handler_error(host, TypeError(f"{route.handler} returned {type(answer).__name__}, not a response"))
    return answer


async def _read_body(request: web.Request, limit: int) -> web.Request:
    """Read the body within the route's limits, before the plugin's code gets the request.

    Raises:
        LimitExceeded: The body is too large (status 413) or too slow (status 408).
    """
    bounded = request.clone(client_max_size=limit)
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
        error = LimitExceeded(f"The body is larger than {limit} bytes.", code="body_too_large", hint="send less")
        error.status = 413
        raise error from None
    return bounded


async def _verify(host: TransportHost, transport: Transport, request: web.Request) -> Evidence:
    """Return the transport's evidence of the caller's identity.

    Raises:
        Forbidden: The transport rejects the request, or its check fails.
    """
    name = host.info.name

    async def work() -> object:
        return await transport.verify(request)

    try:
        evidence = await host.call(work(), _VERIFY_WAIT)
    except Forbidden:
        raise
    except Exception as error:  # noqa: BLE001 - any error of a plugin here is a rejection
        _log.warning("the transport %s failed to verify a request", name, exc_info=error)
        raise _not_verified_error(name) from None
    if not isinstance(evidence, Evidence):
        _log.warning("verify of the transport %s returned %s, not Evidence", name, type(evidence).__name__)
        raise _not_verified_error(name)
    return evidence


def _not_verified_error(name: str) -> Forbidden:
    return Forbidden(
        f"The transport {name} could not verify the request.",
        code="not_verified",
        hint="see the control plane's log; a control plane behind a proxy needs AGENTFIELD_PUBLIC_URL",
    )


def _handler_error(host: TransportHost, error: Exception) -> AgentFieldError:
    _log.error("the transport %s failed at a request", host.info.name, exc_info=error)
    return AgentFieldError(
        f"The transport {host.info.name} failed at this request.",
        code="transport_failed",
        hint="see the control plane's log and try again",
        transport=host.info.name,
    )


def _timeout_error(host: TransportHost, error: Exception) -> AgentFieldError:
    late = _handler_error(host, error)
    late.message = f"The transport {host.info.name} did not answer within {_HANDLER_WAIT:g} s."
    late.code, late.status = "transport_timeout", 504
    return late
