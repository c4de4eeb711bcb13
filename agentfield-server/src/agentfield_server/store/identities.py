"""Identities of nodes and callers in the store: the writes as frozen values, and the contract of every store."""

from __future__ import annotations

from typing import Protocol

from agentfield_server.store.operations import Operation
from agentfield_server.store.records import LinkedInstance, NodeDid, TokenCount, TokenRow, TokenVerdict

__all__ = ["AdmitDid", "ForgetDids", "IdentifyLink", "IdentityStore", "PlaceHandler", "PresentToken", "RevokeDid"]


class IdentifyLink(Operation[LinkedInstance], frozen=True):
    """See `IdentityStore.identify_link`."""

    node_id: str
    did: str
    instance_id: str
    principal: str
    admits: bool
    watch: bool


class AdmitDid(Operation[NodeDid], frozen=True):
    """See `IdentityStore.admit_did`."""

    node_id: str
    did: str
    principal: str


class RevokeDid(Operation[NodeDid | None], frozen=True):
    """See `IdentityStore.revoke_did`."""

    node_id: str
    did: str


class ForgetDids(Operation[list[NodeDid]], frozen=True):
    """See `IdentityStore.forget_dids`."""

    node_id: str
    did: str | None


class PlaceHandler(Operation[None], frozen=True):
    """See `IdentityStore.place_handler`."""

    session_id: str
    instance_id: str
    epoch: int


class PresentToken(Operation[tuple[TokenVerdict, TokenRow | None]], frozen=True):
    """See `IdentityStore.present_token`."""

    digest: bytes
    session_id: str
    origin: str
    own_origin: str
    watches: bool
    counts: TokenCount | None
    limit: int
    grace: float


class IdentityStore(Protocol):
    """The part of a store that knows the identities of nodes and callers."""

    async def identify_link(
        self, node_id: str, did: str, instance_id: str, *, principal: str, admits: bool, watch: bool = False
    ) -> LinkedInstance:
        """Decide whether an instance with a DID may link as a node id, and record the link.

        The first DID of a node id is kept as its DID (`pinned`). An instance id belongs to the node id and DID that used
        it first.

        Args:
            node_id: The node id.
            did: The DID that the instance proved.
            instance_id: The instance.
            principal: Recorded as the one that admitted a new DID.
            admits: Whether a further DID of the node id is admitted by this link.
            watch: The connection of a watchdog, which neither adds nor records anything.
        """

    async def admit_did(self, node_id: str, did: str, *, principal: str) -> NodeDid:
        """Add a DID to a node id; one that it has already stays as it is.

        Raises:
            Conflict: The DID was revoked (code `did_revoked`).
        """

    async def revoke_did(self, node_id: str, did: str) -> NodeDid | None:
        """Refuse a DID of a node id from now on; None if the node id does not have it."""

    async def forget_dids(self, node_id: str, did: str | None = None) -> list[NodeDid]:
        """Delete one DID of a node id, or all, with the instances of it; return what was deleted."""

    async def node_dids(self, node_id: str | None = None) -> list[NodeDid]:
        """Return the DIDs of a node id or of all, revoked ones as well, oldest first within a node id."""

    async def place_handler(self, session_id: str, instance_id: str, *, epoch: int) -> None:
        """Record that an instance runs the handler of a session."""

    async def handlers_of(self, instance_id: str, session_ids: list[str]) -> dict[str, int]:
        """Return those of the sessions whose handler was placed on an instance, each with the epoch of the handler."""

    async def present_token(
        self,
        digest: bytes,
        *,
        session_id: str,
        origin: str = "",
        own_origin: str = "",
        watches: bool = False,
        counts: TokenCount | None = None,
        limit: int = 0,
        grace: float = 0.0,
    ) -> tuple[TokenVerdict, TokenRow | None]:
        """Decide about a request with a browser token, and count it.

        The first use binds the token to its origin, and lets it live for the longest duration of its session and `grace`
        after that, or until `grace` after the session's end.

        Args:
            digest: Of the token.
            session_id: The session that the request names.
            origin: The origin of the page that sends the request; empty for none.
            own_origin: The control plane's own origin.
            watches: Whether the request only watches the session.
            counts: What the request uses up.
            limit: How often the token may do so.
            grace: Seconds after the end of the session in which it may still be read.
        """
