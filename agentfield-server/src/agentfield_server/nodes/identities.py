"""Identities of nodes: which keys may link as a node id, and what happens to links when an operator changes that."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from agentfield.errors import Conflict, InvalidInput, NodeRefused, NotFound
from agentfield.identity import is_did_key
from agentfield.wire.frames import Hello, WatchHello
from agentfield.wire.link_protocol import NODE_ID
from agentfield.wire.node_views import NodeDidView
from agentfield_server.nodes.linked_node import LinkedNode
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import NodeDid

__all__ = ["DEVELOPMENT", "LinkCredential", "NodeIdentities"]

_log = logging.getLogger("agentfield.nodes")


@dataclass(frozen=True, slots=True)
class LinkCredential:
    """The credential that a link was opened with."""

    principal: str
    """Its principal, recorded as the one that admitted a DID."""
    nodes: frozenset[str] = frozenset()
    """Node ids that it is limited to; empty for any."""
    admits: bool = False
    """Whether it admits a further DID of a node id."""
    development: bool = False
    """Whether the control plane runs in development mode, where further DIDs are taken with a warning."""


DEVELOPMENT = LinkCredential("local", admits=True, development=True)
"""The credential of all links in development mode."""


class NodeIdentities:
    """Decides which DIDs may link as a node id.

    Args:
        store: Keeps the DIDs and the owners of instance ids.
        links: Returns all links, those that are being established as well.
        close_watch: Closes the connection of the watchdog of an instance.
    """

    def __init__(
        self,
        store: Store,
        *,
        links: Callable[[], Iterable[LinkedNode]],
        close_watch: Callable[[str], None],
    ) -> None:
        self._store = store
        self._links = links
        self._close_watch = close_watch

    async def identify(self, hello: Hello | WatchHello, credential: LinkCredential) -> int:
        """Return the place of an instance in the order of first sight.

        Raises:
            NodeRefused: The credential is limited to other node ids (code `node_scope`), the DID is none of the node id
                (`unknown_did`) or was revoked (`did_revoked`), or the instance belongs to another node or key
                (`foreign_instance`).
        """
        node_id = hello.node_id
        if credential.nodes and node_id not in credential.nodes:
            raise NodeRefused(
                f"The key of this link is limited to the node ids {', '.join(sorted(credential.nodes))}; it may not link as "
                f"{node_id!r}.",
                code="node_scope",
                hint=f"use a key for this node id: af keys create --scope node --tag node:{node_id}",
            )
        found = await self._store.identify_link(
            node_id,
            hello.did,
            hello.instance_id,
            principal=credential.principal,
            admits=credential.admits,
            watch=isinstance(hello, WatchHello),
        )
        match found.verdict:
            case "pinned":
                _log.info("the node id %s belongs to %s from now on", node_id, hello.did)
            case "admitted" if credential.development:
                _log.warning(
                    "the node id %s is used by a further key, %s, which development mode takes; a control plane with a key "
                    "refuses it until it is admitted (af nodes dids %s)",
                    node_id,
                    hello.did,
                    node_id,
                )
            case "admitted":
                _log.warning(
                    "the node id %s is used by a further key, %s (%s)", node_id, hello.did, credential.principal
                )
            case "known":
                pass
            case verdict:
                raise _refusal(verdict, hello)
        return found.seen

    def end_links_of(self, principal: str) -> None:
        """End the links that a principal opened, because it lost the right to; the nodes may link with another key."""
        for link in self._links():
            if link.principal == principal:
                link.end("the key that it was opened with may link no more")
                self._close_watch(link.instance_id)

    async def admit(self, node_id: str, did: str, *, principal: str) -> NodeDidView:
        """Add a DID to a node id.

        Raises:
            InvalidInput: It is no ``did:key`` of an Ed25519 key (code `invalid_did`), or no node may have the node id
                (`invalid_node_id`).
            Conflict: The DID was revoked (code `did_revoked`).
        """
        if re.fullmatch(NODE_ID, node_id) is None:
            raise InvalidInput(
                f"{node_id[:200]!r} is no node id: letters, digits, - and _, at most 64, the first no digit.",
                code="invalid_node_id",
                hint="use the id of the agent: Agent(ID)",
                field="node_id",
            )
        if not is_did_key(did):
            raise InvalidInput(
                f"{did[:200]!r} is no did:key of an Ed25519 key.",
                code="invalid_did",
                hint="the log of a refused node names its DID; af nodes --json shows those of linked nodes",
                field="did",
            )
        row = await self._store.admit_did(node_id, did, principal=principal)
        _log.info("%s admitted %s as the node id %s", principal, did, node_id)
        return self.view(row)

    async def revoke(self, node_id: str, did: str) -> NodeDidView:
        """Refuse a DID of a node id from now on, and close its links; what they held is lost at once.

        Raises:
            NotFound: The node id does not have the DID (code `unknown_did`).
        """
        row = await self._store.revoke_did(node_id, did)
        if row is None:
            raise _unknown(node_id, did)
        _log.warning("the DID %s of the node id %s was revoked", did, node_id)
        for link in self._of(node_id, did):
            link.revoked = True
            link.end("its DID was revoked")
            self._close_watch(link.instance_id)
        return self.view(row)

    async def forget(self, node_id: str, did: str) -> None:
        """Delete a DID of a node id; the next link of a node id that has none left pins its DID.

        Raises:
            NotFound: The node id has no such DID (code `unknown_did`).
            Conflict: An instance with the DID is linked (code `node_linked`).
        """
        if linked := self._of(node_id, did):
            raise Conflict(
                f"The node {node_id!r} is linked with {linked[0].did}.",
                code="node_linked",
                hint=f"stop it first, or revoke it: af nodes revoke {node_id} {linked[0].did}",
            )
        if not await self._store.forget_dids(node_id, did):
            raise _unknown(node_id, did)

    async def views(self, node_id: str | None = None) -> list[NodeDidView]:
        """Return the DIDs of a node id, or of all, with the number of their linked instances."""
        return [self.view(row) for row in await self._store.node_dids(node_id)]

    def view(self, row: NodeDid) -> NodeDidView:
        """Return the view of a DID."""
        return NodeDidView(**msgspec.structs.asdict(row), linked=len(self._of(row.node_id, row.did)))

    def _of(self, node_id: str, did: str) -> list[LinkedNode]:
        return [link for link in self._links() if (link.node_id, link.did) == (node_id, did) and link.ended is None]


def _unknown(node_id: str, did: str) -> NotFound:
    return NotFound(
        f"The node id {node_id!r} does not have the DID {did[:200]!r}.",
        code="unknown_did",
        hint=f"af nodes dids {node_id}",
    )


def _refusal(verdict: str, hello: Hello | WatchHello) -> NodeRefused:
    node_id, did = hello.node_id, hello.did
    match verdict:
        case "did_revoked":
            return NodeRefused(
                f"The DID {did} of the node id {node_id!r} was revoked.",
                code="did_revoked",
                hint=f"to take it back: af nodes forget {node_id} {did}, then af nodes admit {node_id} {did}",
            )
        case "unknown_did":
            return NodeRefused(
                f"The node id {node_id!r} belongs to other keys; {did} is none of its DIDs.",
                code="unknown_did",
                hint=f"admit it: af nodes admit {node_id} {did}; or link with a key for this node id: af keys create "
                f"--scope node --tag node:{node_id}",
            )
    return NodeRefused(
        f"The instance {hello.instance_id!r} belongs to another node or key.",
        code="foreign_instance",
        hint="give each process an instance id of its own, as the SDK does",
    )
