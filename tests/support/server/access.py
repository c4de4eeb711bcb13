"""Access control in tests: a guard and keys over a store."""

from __future__ import annotations

from agentfield_server.access.browser_tokens import BrowserTokenService
from agentfield_server.access.guard import AuthGuard
from agentfield_server.access.keys import KeyService
from agentfield_server.access.open_requests import OpenRequests
from agentfield_server.settings import Settings
from agentfield_server.store.sqlite.store import SqliteStore

__all__ = ["guard_of"]


async def guard_of(settings: Settings, tokens: BrowserTokenService, store: SqliteStore) -> AuthGuard:
    """Return the guard of a control plane with these settings."""
    requests = OpenRequests()
    keys = KeyService(
        store,
        clock=store._clock,
        settings_key=settings.api_key,
        development=settings.development,
        on_revoked=requests.close,
    )
    await keys.load()
    return AuthGuard(settings, tokens, keys, store, requests)
