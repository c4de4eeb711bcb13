"""Identities of nodes: DIDs of a node id, owners of instance ids, order of first sight, places of handlers."""

from __future__ import annotations

import pytest

from agentfield.errors import Conflict
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import LinkedInstance
from support.server.store import Opened

VICTIM, THIEF = "did:key:zVictim", "did:key:zThief"


async def link(store: Store, did: str, instance_id: str, *, node_id: str = "shop", **given: bool) -> LinkedInstance:
    return await store.identify_link(node_id, did, instance_id, principal="key:k", **{"admits": False, **given})


async def test_the_first_did_of_a_node_id_is_pinned(opens: Opened) -> None:
    """Another DID is refused, also after a restart, until a link that admits it; each node id has DIDs of its own."""
    async with opens() as store:
        assert (await link(store, VICTIM, "one")).verdict == "pinned"
        assert await link(store, THIEF, "two") == LinkedInstance("unknown_did")
        assert (await link(store, THIEF, "other", node_id="bakery")).verdict == "pinned"
    async with opens() as store:
        assert (await link(store, VICTIM, "one")).verdict == "known"
        assert await link(store, THIEF, "two") == LinkedInstance("unknown_did")
        assert (await link(store, THIEF, "two", admits=True)).verdict == "admitted"
        assert (await link(store, THIEF, "two")).verdict == "known"
        assert {(row.did, row.admitted_by) for row in await store.node_dids("shop")} == {
            (VICTIM, "key:k"),
            (THIEF, "key:k"),
        }


async def test_an_instance_id_belongs_to_the_did_that_used_it_first(opens: Opened) -> None:
    """Another DID of the same node id, and the same DID under another node id, are refused, also after a restart."""
    async with opens() as store:
        await link(store, VICTIM, "one")
    async with opens() as store:
        assert await link(store, THIEF, "one", admits=True) == LinkedInstance("foreign_instance")
        assert await link(store, VICTIM, "one", node_id="bakery") == LinkedInstance("foreign_instance")
        assert [row.did for row in await store.node_dids()] == [VICTIM]
        assert (await link(store, VICTIM, "one")).verdict == "known"


async def test_instances_are_ordered_by_first_sight(opens: Opened) -> None:
    """The order is that of the first links, whatever the ids are, and stays over a restart and further links."""
    async with opens() as store:
        seen = [(await link(store, VICTIM, name)).seen for name in ("zz", "aa", "mm")]
    async with opens() as store:
        assert seen == sorted(seen)
        assert [(await link(store, VICTIM, name)).seen for name in ("aa", "mm", "zz")] == [seen[1], seen[2], seen[0]]


async def test_a_watchdog_adds_nothing(store: Store) -> None:
    """The connection of a watchdog pins no DID and takes no instance id; it is refused where a link would be."""
    assert (await link(store, THIEF, "one", watch=True)).verdict == "known"
    assert await store.node_dids() == []
    assert (await link(store, VICTIM, "one")).verdict == "pinned"
    assert (await link(store, THIEF, "two", watch=True, admits=True)).verdict == "unknown_did"
    assert (await link(store, THIEF, "two")).verdict == "unknown_did"


async def test_a_revoked_did_stays_out_until_it_is_forgotten(store: Store) -> None:
    """No link and no admission brings it back; a node id whose only DID was forgotten pins the next one."""
    await link(store, VICTIM, "one")
    assert (await store.admit_did("shop", THIEF, principal="key:op")).state == "admitted"
    revoked = await store.revoke_did("shop", THIEF)
    assert revoked is not None
    assert (revoked.state, revoked.revoked_at is not None) == ("revoked", True)
    assert (await link(store, THIEF, "two", admits=True)).verdict == "did_revoked"
    with pytest.raises(Conflict) as caught:
        await store.admit_did("shop", THIEF, principal="key:op")
    assert caught.value.code == "did_revoked"
    assert await store.revoke_did("shop", "did:key:zUnknown") is None
    assert [row.did for row in await store.forget_dids("shop", THIEF)] == [THIEF]
    assert [row.did for row in await store.forget_dids("shop")] == [VICTIM]
    assert await store.forget_dids("shop") == []
    assert (await link(store, THIEF, "one")).verdict == "pinned"


async def test_only_the_last_instances_of_a_node_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that starts again and again leaves a bounded number of rows; other nodes keep theirs."""
    monkeypatch.setattr("agentfield_server.store.sqlite.operations.identities._INSTANCES", 3)
    await link(store, VICTIM, "kept", node_id="bakery")
    first = [await link(store, VICTIM, name) for name in "abcde"]
    assert (await link(store, VICTIM, "c")).seen == first[2].seen
    assert (await link(store, VICTIM, "a")).seen > first[-1].seen
    assert (await link(store, THIEF, "kept", admits=True)).verdict == "foreign_instance"
