"""Access control put together: keys, tags, policies and open requests of one control plane."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agentfield_server.access.admission import AccessControl
from agentfield_server.access.keys import KeyService
from agentfield_server.access.open_requests import OpenRequests, Use
from agentfield_server.access.policy_source import INTERVAL, PolicySource
from agentfield_server.access.tags import TagRegister
from agentfield_server.settings import Settings
from agentfield_server.store.access import AccessStore

__all__ = ["AccessService", "access_of", "watched"]


@dataclass(frozen=True, slots=True)
class AccessService:
    """The parts of access control."""

    keys: KeyService
    tags: TagRegister
    control: AccessControl
    policies: PolicySource
    requests: OpenRequests


async def access_of(store: AccessStore, settings: Settings, *, clock: Callable[[], float]) -> AccessService:
    """Return access control over an open store, with its keys, tags and policies loaded.

    Args:
        store: The store.
        settings: The key, the addresses, the file of policies, the tags of transports.
        clock: Returns seconds since the epoch.

    Raises:
        InvalidInput: There is no key where one is needed (code `key_required`), or the policies cannot be used (code
            `bad_policies`).
    """
    requests = OpenRequests()
    keys = KeyService(
        store,
        clock=clock,
        settings_key=settings.api_key,
        development=settings.development,
        on_revoked=requests.close,
    )
    await keys.load()
    settings.require_key(ever=bool(keys.list()), usable=keys.usable)
    given = {f"transport:{name}": frozenset(tags) for name, tags in settings.transport_tags.items()}
    tags = TagRegister(store, given=given)
    await tags.load()
    control = AccessControl(store, keys, tags, clock=time.monotonic)
    policies = PolicySource(
        store, control, file=settings.policies, changed=lambda: requests.check(lambda use: _holds(control, use))
    )
    await policies.load()
    return AccessService(keys, tags, control, policies, requests)


@asynccontextmanager
async def watched(access: AccessService) -> AsyncIterator[None]:
    """Watch the source of the policies and the expiry of keys inside the block."""
    # no TaskGroup: it would wrap the errors of the block
    tasks = [asyncio.create_task(access.policies.watch()), asyncio.create_task(_close_expired(access))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _close_expired(access: AccessService) -> None:
    while True:
        await asyncio.sleep(INTERVAL)
        access.requests.check(lambda use: _has_rights(access.control, (use.principal, use.owner)))


def _holds(control: AccessControl, use: Use) -> bool:
    """Return whether a request may go on under the policies in force."""
    if not _has_rights(control, (use.principal, use.owner)):
        return False
    return use.owner is None or use.target is None or control.allows(use.owner, use.target)


def _has_rights(control: AccessControl, names: Iterable[str | None]) -> bool:
    return all(
        name is None or name.startswith(("session:", "public")) or control.principal(name) is not None for name in names
    )
