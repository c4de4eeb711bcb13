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
    changed: asyncio.Event
    """Set when rights may have ended: a key was revoked or expired, or other policies are in force."""

    async def note_link(self, node_id: str, principal_id: str, tags: Iterable[tuple[str, str]]) -> None:
        """Note a link before it is made: with which credential it is opened, and the tags that the node declares.

        Raises:
            NodeRefused: The tags are too many or too long (code `bad_tags`).
        """
        await self.tags.propose(tags)
        await self.control.note_link(node_id, principal_id)


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
    requests, changed = OpenRequests(), asyncio.Event()
    keys = KeyService(
        store,
        clock=clock,
        settings_key=settings.api_key,
        development=settings.development,
        on_revoked=lambda _: changed.set(),
    )
    await keys.load()
    settings.require_key(ever=bool(keys.list()), usable=keys.usable)
    given = {f"transport:{name}": frozenset(tags) for name, tags in settings.transport_tags.items()}
    tags = TagRegister(store, given=given)
    await tags.load()
    control = AccessControl(store, keys, tags, clock=time.monotonic)
    await control.load()
    policies = PolicySource(store, control, file=settings.policies, changed=changed.set)
    await policies.load()
    return AccessService(keys, tags, control, policies, requests, changed)


@asynccontextmanager
async def watched(
    access: AccessService, end_sessions: Callable[[Callable[[str, str], bool]], None]
) -> AsyncIterator[None]:
    """Watch the policies and keys inside the block, and end what rights that ended had opened.

    Args:
        access: Access control.
        end_sessions: Ends the live sessions for whose principal and target the given function returns False.
    """
    # no TaskGroup: it would wrap the errors of the block
    works = (access.policies.watch(), _note_expired(access), _end_what_is_refused(access, end_sessions))
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _note_expired(access: AccessService) -> None:
    expired = access.keys.expired_ids()
    while True:
        await asyncio.sleep(INTERVAL)
        if (now := access.keys.expired_ids()) != expired:
            expired = now
            access.changed.set()


async def _end_what_is_refused(
    access: AccessService, end_sessions: Callable[[Callable[[str, str], bool]], None]
) -> None:
    while True:
        await access.changed.wait()
        access.changed.clear()
        access.requests.check(lambda use: _holds(access.control, use))
        end_sessions(access.control.allows)


def _holds(control: AccessControl, use: Use) -> bool:
    """Return whether a request may go on: its principals have rights, and its session is one that its owner may use."""
    names = (name for name in (use.principal, use.owner) if name is not None and not name.startswith("session:"))
    if any(control.principal(name) is None for name in names):
        return False
    return use.owner is None or use.target is None or control.allows(use.owner, use.target)
