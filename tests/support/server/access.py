"""Access control in tests: a guard and keys over a store."""

from __future__ import annotations

import time

from agentfield_server.access.admission import AccessControl
from agentfield_server.access.browser_tokens import BrowserTokenService
from agentfield_server.access.guard import AuthGuard
from agentfield_server.access.keys import KeyService
from agentfield_server.access.service import access_of
from agentfield_server.access.tags import TagRegister
from agentfield_server.settings import Settings
from agentfield_server.store.sqlite.store import SqliteStore

__all__ = ["guard_of", "open_access"]


async def guard_of(settings: Settings, tokens: BrowserTokenService, store: SqliteStore) -> AuthGuard:
    """Return the guard of a control plane with these settings."""
    return AuthGuard(settings, tokens, await access_of(store, settings, clock=store._clock), store)


def open_access(store: SqliteStore) -> AccessControl:
    """Return the access control of development mode without policies; nothing reads them again, so no time passes for it."""
    return AccessControl(store, KeyService(store, clock=time.time), TagRegister(store, given={}), clock=lambda: 0.0)
