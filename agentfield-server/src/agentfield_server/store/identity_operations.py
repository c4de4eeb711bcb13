"""The writes of a store about the identities of nodes and callers, as frozen values (see `agentfield_server.store.operations`)."""

from __future__ import annotations

from agentfield_server.store.operations import Operation
from agentfield_server.store.records import LinkedInstance, NodeDid, TokenCount, TokenRow, TokenVerdict

__all__ = ["AdmitDid", "ForgetDids", "IdentifyLink", "PlaceHandler", "PresentToken", "RevokeDid"]


class IdentifyLink(Operation[LinkedInstance], frozen=True):
    """See `Store.identify_link`."""

    node_id: str
    did: str
    instance_id: str
    principal: str
    admits: bool
    watch: bool


class AdmitDid(Operation[NodeDid], frozen=True):
    """See `Store.admit_did`."""

    node_id: str
    did: str
    principal: str


class RevokeDid(Operation[NodeDid | None], frozen=True):
    """See `Store.revoke_did`."""

    node_id: str
    did: str


class ForgetDids(Operation[list[NodeDid]], frozen=True):
    """See `Store.forget_dids`."""

    node_id: str
    did: str | None


class PlaceHandler(Operation[None], frozen=True):
    """See `Store.place_handler`."""

    session_id: str
    instance_id: str
    epoch: int


class PresentToken(Operation[tuple[TokenVerdict, TokenRow | None]], frozen=True):
    """See `Store.present_token`."""

    digest: bytes
    session_id: str
    origin: str
    own_origin: str
    watches: bool
    counts: TokenCount | None
    limit: int
    grace: float
