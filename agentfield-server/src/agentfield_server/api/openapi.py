"""The OpenAPI 3.1 document, generated from the route table that also serves the requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from agentfield_server.access.principals import Access
from agentfield_server.api.http.bodies import json_reply
from agentfield_server.api.http.route import Route

__all__ = ["openapi_document", "openapi_route"]

_REF = "#/components/schemas/{model}"
_PLACEHOLDER = re.compile(r"\{(?P<name>\w+)(?::[^}]*)?\}")
_SCHEMES = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "A key with one of the scopes that are listed; not required in development mode.",
    },
    "keyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
    "browserToken": {"type": "http", "scheme": "bearer", "description": "A token `ek_af_…` of this one session."},
}
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457, with the code that is the same in Python and on the command line.",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "hint": {"type": "string"},
    },
}


def openapi_route(routes: Sequence[Route]) -> Route:
    """Return the route that serves the document of `routes` and of itself."""

    async def serve(_request: web.Request) -> web.Response:
        """Serve the document."""
        return json_reply(openapi_document([*routes, route]))

    route = Route("GET", "/api/v1/openapi.json", serve, ("public",), "This document", view="caller")
    return route


def openapi_document(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the document of a route table; pages are no part of it.

    Args:
        routes: The table.
    """
    described = [route for route in routes if route.path.startswith("/api/") or route.path in ("/healthz", "/readyz")]
    refs, schemas = _schemas(described)
    paths: dict[str, dict[str, Any]] = {}
    for route in described:
        path = _PLACEHOLDER.sub(r"{\g<name>}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "AgentField control plane", "version": version("agentfield-server")},
        "paths": paths,
        "components": {"schemas": {**schemas, "Problem": _PROBLEM}, "securitySchemes": _SCHEMES},
    }


def _schemas(routes: Sequence[Route]) -> tuple[dict[type[BaseModel], dict[str, Any]], dict[str, Any]]:
    sent = {route.request for route in routes if route.request}
    given = {route.response for route in routes if route.response}
    pairs = [*((model, "validation") for model in sent), *((model, "serialization") for model in given)]
    pairs.sort(key=lambda pair: (pair[0].__name__, pair[1]))
    refs, definitions = models_json_schema(pairs, ref_template=_REF)  # type: ignore[arg-type]
    return {model: ref for (model, _), ref in refs.items() if issubclass(model, BaseModel)}, definitions.get(
        "$defs", {}
    )


def _operation(route: Route, refs: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "security": _security(route.access),
        "responses": {**_answer(route, refs), "default": _refusal()},
    }
    if route.description:
        operation["description"] = route.description
    names = [found["name"] for found in _PLACEHOLDER.finditer(route.path)]
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if route.request is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": refs[route.request]}}}
    elif route.accepts:
        operation["requestBody"] = {"required": True, "content": {kind: _raw(kind) for kind in route.accepts}}
    return operation


def _security(access: Access) -> list[dict[str, list[str]]]:
    """Return the security requirements of a route; OpenAPI 3.1 lists roles of schemes that are not OAuth as well."""
    # a verified route is public here: its description tells how it is verified
    if "public" in access or "verified" in access:
        return []
    scopes = [str(grant) for grant in access if grant != "token"]
    token: list[dict[str, list[str]]] = [{"browserToken": []}] if "token" in access else []
    return [*token, {"key": scopes}, {"keyHeader": scopes}]


def _answer(route: Route, refs: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    if route.socket:
        return {"101": {"description": "The connection is a WebSocket from here on."}}
    schema: dict[str, Any] = refs[route.response] if route.response else {}
    return {"2XX": {"description": "Done.", "content": {route.media_type: {"schema": schema}}}}


def _raw(kind: str) -> dict[str, Any]:
    # OpenAPI 3.1: a body of bytes has no schema
    return {} if kind.startswith("audio/") else {"schema": {"type": "string"}}


def _refusal() -> dict[str, Any]:
    schema = {"$ref": _REF.format(model="Problem")}
    return {"description": "Refused or failed.", "content": {"application/problem+json": {"schema": schema}}}
