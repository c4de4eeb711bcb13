"""The route table of a control plane."""

from __future__ import annotations

import time

from agentfield_server.api.callers.media_socket import MediaRoutes
from agentfield_server.api.callers.plugin_transports import TransportRoutes
from agentfield_server.api.callers.recorded_turns import TurnRoutes
from agentfield_server.api.http.route import Route
from agentfield_server.api.openapi import openapi_route
from agentfield_server.api.pages import PageRoutes
from agentfield_server.api.resources import executions, nodes, workflows
from agentfield_server.api.resources.access import AccessRoutes
from agentfield_server.api.resources.approvals import ApprovalRoutes
from agentfield_server.api.resources.keys import KeyRoutes
from agentfield_server.api.resources.plugins import CatalogueRoutes
from agentfield_server.api.resources.proofs import ProofRoutes
from agentfield_server.api.resources.sessions import SessionRoutes
from agentfield_server.api.resources.store import StoreRoutes
from agentfield_server.api.resources.webhooks import WebhookRoutes
from agentfield_server.services import Services

__all__ = ["route_table"]


def route_table(parts: Services) -> list[Route]:
    """Return all routes over the services of a control plane, with those of its plugins' transports and its pages."""
    settings, store, engine, sessions = parts.settings, parts.store, parts.engine, parts.sessions
    routes = [
        *SessionRoutes(
            sessions=sessions,
            store=store,
            tokens=parts.tokens,
            attempts=parts.attempts,
            bus=parts.bus,
            turns=parts.turns,
            public_url=parts.public_url.get,
        ).routes(),
        *TurnRoutes(parts.turns, sessions, store, parts.attempts).routes(),
        *MediaRoutes(sessions=sessions, bus=parts.bus).routes(),
        *executions.routes(engine, store),
        *ApprovalRoutes(engine.approvals, store, secret=settings.webhook_secret, clock=time.time).routes(),
        *WebhookRoutes(parts.webhooks, store).routes(),
        *workflows.routes(store, engine, parts.bus),
        *StoreRoutes(parts.retention, store).routes(),
        *AccessRoutes(parts.access, parts.hub).routes(),
        *KeyRoutes(parts.access.keys, settings_key=settings.api_key is not None).routes(),
        *nodes.routes(parts.hub),
        *CatalogueRoutes(parts.registry).routes(),
        *ProofRoutes(store, parts.issuer, public_url=parts.public_url.get).routes(),
        Route(
            "GET",
            "/metrics",
            parts.metrics.serve,
            ("operator", "reader"),
            "Metrics for Prometheus",
            media_type="text/plain",
        ),
        *TransportRoutes(parts.transports.hosts).routes(),
    ]
    return [*routes, openapi_route(routes), *PageRoutes(settings.web_dir).routes()]
