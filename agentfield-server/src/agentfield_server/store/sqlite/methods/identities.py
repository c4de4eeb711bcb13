"""Identities of nodes: the methods of the `Store` protocol."""

from __future__ import annotations

from agentfield_server.store.identities import (
    AdmitDid,
    ForgetDids,
    IdentifyLink,
    PlaceHandler,
    PresentToken,
    RevokeDid,
)
from agentfield_server.store.records import LinkedInstance, NodeDid, TokenCount, TokenRow, TokenVerdict
from agentfield_server.store.sqlite.database import SqliteDatabase
from agentfield_server.store.sqlite.rows import NODE_DID_COLUMNS, node_did_row

__all__ = ["IdentityMethods"]

_PAGE = 500


class IdentityMethods(SqliteDatabase):
    """Reads and writes of the identities of nodes."""

    async def identify_link(
        self, node_id: str, did: str, instance_id: str, *, principal: str, admits: bool, watch: bool = False
    ) -> LinkedInstance:
        """Decide about a link and record it, see `Store.identify_link`."""
        return await self._write(IdentifyLink(node_id, did, instance_id, principal, admits, watch))

    async def admit_did(self, node_id: str, did: str, *, principal: str) -> NodeDid:
        """Add a DID to a node id, see `Store.admit_did`."""
        return await self._write(AdmitDid(node_id, did, principal))

    async def revoke_did(self, node_id: str, did: str) -> NodeDid | None:
        """Revoke a DID of a node id, see `Store.revoke_did`."""
        return await self._write(RevokeDid(node_id, did))

    async def forget_dids(self, node_id: str, did: str | None = None) -> list[NodeDid]:
        """Forget one DID of a node id or all, see `Store.forget_dids`."""
        return await self._write(ForgetDids(node_id, did))

    async def node_dids(self, node_id: str | None = None) -> list[NodeDid]:
        """Return the DIDs of a node id or of all, see `Store.node_dids`."""
        rows = await self._read(
            f"SELECT {NODE_DID_COLUMNS} FROM node_dids WHERE (?1 IS NULL OR node_id = ?1) "  # noqa: S608
            "ORDER BY node_id, admitted_at, did",
            node_id,
        )
        return [node_did_row(row) for row in rows]

    async def place_handler(self, session_id: str, instance_id: str, *, epoch: int) -> None:
        """Record which instance runs a handler, see `Store.place_handler`."""
        await self._write(PlaceHandler(session_id, instance_id, epoch))

    async def handlers_of(self, instance_id: str, session_ids: list[str]) -> dict[str, int]:
        """Return the epochs of handlers that were placed on an instance, see `Store.handlers_of`."""
        found: dict[str, int] = {}
        for begin in range(0, len(session_ids), _PAGE):
            page = session_ids[begin : begin + _PAGE]
            marks = ", ".join("?" * len(page))
            rows = await self._read(
                f"SELECT session_id, epoch FROM session_handlers WHERE instance_id = ? AND session_id IN ({marks})",  # noqa: S608
                instance_id,
                *page,
            )
            found.update(rows)
        return found

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
        """Decide about a request with a browser token, see `Store.present_token`."""
        return await self._write(PresentToken(digest, session_id, origin, own_origin, watches, counts, limit, grace))
