"""The OpenAPI document of a running control plane."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentfield.plugins import Registry
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings


@pytest.fixture
async def document(tmp_path: Path) -> dict[str, Any]:
    async with (
        control_plane(Settings(home=tmp_path, port=0), registry=Registry.of([]), environ={}) as plane,
        aiohttp.ClientSession() as http,
        http.get(f"{plane.url}/api/v1/openapi.json") as response,
    ):
        assert response.status == 200
        found: dict[str, Any] = await response.json()
    return found


def references(value: Any) -> Iterator[str]:
    """Yield every $ref in a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for child in value.values():
            yield from references(child)
    elif isinstance(value, list):
        for child in value:
            yield from references(child)


async def test_the_document_has_every_route_with_its_access(document: dict[str, Any]) -> None:
    """Each route is in the document with its access; a browser token is valid for the routes of its session only."""
    assert document["openapi"] == "3.1.0"
    routes = {
        (method, path): operation for path, item in document["paths"].items() for method, operation in item.items()
    }
    assert {
        ("post", "/api/v1/execute/{target}"),
        ("post", "/api/v1/execute/async/{target}"),
        ("get", "/api/v1/executions/{execution_id}"),
        ("get", "/api/v1/workflows/{run_id}/dag"),
        ("get", "/api/v1/nodes"),
        ("get", "/api/v1/adapters"),
        ("get", "/api/v1/plugins"),
        ("post", "/api/v1/sessions"),
        ("post", "/api/v1/sessions/{session_id}/offer"),
        ("get", "/api/v1/sessions/{session_id}/events"),
        ("post", "/api/v1/session-targets/{target}/start"),
        ("get", "/api/v1/openapi.json"),
        ("get", "/healthz"),
    } <= routes.keys()
    with_token = {path for (_, path), operation in routes.items() if {"browserToken": []} in operation["security"]}
    assert with_token
    assert all("{session_id}" in path for path in with_token)
    open_to_all = {path for (_, path), operation in routes.items() if not operation["security"]}
    signed = "/api/v1/webhooks/approvals"  # authenticated by the signature of the request
    assert open_to_all == {"/healthz", "/readyz", "/api/v1/openapi.json", "/api/v1/sessions/exchange", signed}


async def test_the_document_is_consistent(document: dict[str, Any]) -> None:
    """Every reference resolves, every placeholder is a parameter, and no page or secret is in the document."""
    schemas = document["components"]["schemas"]
    for reference in set(references(document)):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    for path, item in document["paths"].items():
        for operation in item.values():
            named = {parameter["name"] for parameter in operation.get("parameters", ())}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
    start = document["paths"]["/api/v1/sessions"]["post"]
    assert start["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/StartRequest"
    }
    assert "call_ref" not in json.dumps(document)


async def test_request_and_response_media_types_are_described(document: dict[str, Any]) -> None:
    """A recorded turn is sent as audio and answered as events; the media socket has its protocol described."""
    turns = document["paths"]["/api/v1/sessions/{session_id}/turns"]["post"]
    assert {"audio/wav", "audio/webm", "audio/pcm;rate=24000"} <= turns["requestBody"]["content"].keys()
    assert turns["responses"]["2XX"]["content"].keys() == {"text/event-stream"}
    assert "Idempotency-Key" in turns["description"]
    offer = document["paths"]["/api/v1/sessions/{session_id}/offer"]["post"]
    assert offer["requestBody"]["content"].keys() == {"application/sdp"}
    assert offer["responses"]["2XX"]["content"].keys() == {"application/sdp"}
    media = document["paths"]["/api/v1/sessions/{session_id}/media"]["get"]
    assert media["responses"].keys() == {"101", "default"}
    assert "agentfield.media.v1" in media["description"]
