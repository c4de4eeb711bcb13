"""Keys over REST: create, list, revoke."""

from __future__ import annotations

from typing import Literal

from aiohttp import web

from agentfield.wire.access import KeyRequest, KeysView, KeyView
from agentfield_server.access.keys import KeyService
from agentfield_server.access.principals import PRINCIPAL
from agentfield_server.api.http.bodies import json_reply, read_model
from agentfield_server.api.http.route import Route
from agentfield_server.store.access import KeyRow

__all__ = ["KeyRoutes"]


class KeyRoutes:
    """The routes of keys.

    Args:
        keys: The keys.
        settings_key: Whether the settings have a key as well.
    """

    def __init__(self, keys: KeyService, *, settings_key: bool) -> None:
        self._keys = keys
        self._settings_key = settings_key

    def routes(self) -> list[Route]:
        """Return the routes of the resource."""
        base = "/api/v1/keys"
        return [
            Route("POST", base, self.create, ("operator",), "Create a key", request=KeyRequest, response=KeyView),
            Route("GET", base, self.index, ("operator",), "List the keys", response=KeysView),
            Route("DELETE", base + "/{key_id}", self.revoke, ("operator",), "Revoke a key", response=KeyView),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """Create a key; respond 201 with its text, which is shown this once only."""
        body = await read_model(request, KeyRequest)
        row, text = await self._keys.create(
            body.scopes, tags=body.tags, note=body.note, expires_in=body.expires_in, by=request[PRINCIPAL]
        )
        return json_reply(self._view(row, text), status=201, headers={"Cache-Control": "no-store"})

    async def index(self, _: web.Request) -> web.Response:
        """List all keys that were ever made, oldest first, without their texts."""
        keys = tuple(self._view(row) for row in self._keys.list())
        return json_reply(KeysView(keys=keys, settings_key=self._settings_key, development=self._keys.development))

    async def revoke(self, request: web.Request) -> web.Response:
        """Revoke a key: what is open with it is closed."""
        return json_reply(self._view(await self._keys.revoke(request.match_info["key_id"])))

    def _view(self, row: KeyRow, text: str | None = None) -> KeyView:
        state: Literal["valid", "expired", "revoked"] = "valid"
        if row.revoked_at is not None:
            state = "revoked"
        elif self._keys.expired(row):
            state = "expired"
        return KeyView.model_validate(
            {
                "id": row.id,
                "scopes": row.scopes,
                "tags": row.tags,
                "note": row.note,
                "state": state,
                "created_by": row.created_by,
                "created_at": row.created_at,
                "expires_at": row.expires_at,
                "revoked_at": row.revoked_at,
                "key": text,
            }
        )
