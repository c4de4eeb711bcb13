"""Sessions, tokens and keys in every store: fenced by epochs, used as often as allowed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from agentfield.errors import Conflict, InvalidInput
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import NewEvent
from support.server.store import Opened, key, session_pair


async def test_session_lifecycle(opens: Opened) -> None:
    """State, times, reason and counters follow the updates; the first end reason stays."""
    clock = opens.clock
    async with opens() as store:
        session, root = session_pair()
        row, is_new = await store.create_session(
            session, root, owner="cp1", events=[NewEvent(type="session.created", body={"target": "node.voice"})]
        )
        assert is_new
        assert (row.state, row.epoch, row.owner, row.root_id) == ("created", 1, "cp1", root.id)
        clock.now += 1
        live = await store.update_session(session.id, epoch=1, state="live", call_ref={"call": "c1"}, handler_epoch=1)
        assert live is not None
        assert (live.live_at, live.call_ref, live.handler_epoch) == (clock.now, {"call": "c1"}, 1)
        clock.now += 1
        ended = await store.update_session(
            session.id,
            epoch=1,
            state="ended",
            end_reason="caller_hangup",
            turns=3,
            events=[NewEvent(type="session.state", body={"state": "ended"})],
        )
        assert ended is not None
        assert (ended.state, ended.end_reason, ended.turns, ended.ended_at) == (
            "ended",
            "caller_hangup",
            3,
            clock.now,
        )
        later = await store.update_session(session.id, epoch=1, state="live", end_reason="operator")
        assert later is not None
        assert (later.state, later.end_reason) == ("ended", "caller_hangup")
        assert await store.get_session(session.id) == later
        assert await store.unfinished_sessions() == []
        assert await store.take_session(session.id, owner="cp2") is None
        events = await store.read_events(session.run_id)
    assert [event.type for event in events] == ["session.created", "execution.created", "session.state"]
    assert {event.session_id for event in events} == {session.id}


async def test_a_takeover_fences_the_old_owner(store: Store) -> None:
    """After a takeover the old epoch changes and records nothing."""
    session, root = session_pair()
    await store.create_session(session, root, owner="cp1")
    taken = await store.take_session(session.id, owner="cp2")
    assert taken is not None
    assert (taken.epoch, taken.owner) == (2, "cp2")
    assert await store.update_session(session.id, epoch=1, state="live", events=[NewEvent(type="x")]) is None
    assert await store.append_events(session.run_id, [NewEvent(type="x")], session_id=session.id, epoch=1) == []
    fine = await store.append_events(session.run_id, [NewEvent(type="y")], session_id=session.id, epoch=2)
    assert [event.seq for event in fine] == [2]


async def test_sessions_are_listed_newest_first(store: Store) -> None:
    """Pages of sessions, filtered by state if requested."""
    made = []
    for _ in range(3):
        session, root = session_pair()
        await store.create_session(session, root, owner="cp")
        made.append(session.id)
    await store.update_session(made[1], epoch=1, state="live")
    assert [row.id for row in await store.list_sessions(limit=2)] == [made[2], made[1]]
    assert [row.id for row in await store.list_sessions(before=made[1])] == [made[0]]
    assert [row.id for row in await store.list_sessions(state="live")] == [made[1]]


async def test_a_repeated_start_returns_the_same_session(store: Store) -> None:
    """The second start with a key returns the first session and leaves no second run."""
    session, root = session_pair(idempotency=key())
    await store.create_session(session, root, owner="cp")
    again, again_root = session_pair(idempotency=key())
    row, is_new = await store.create_session(again, again_root, owner="cp")
    assert (row.id, is_new) == (session.id, False)
    assert await store.list_executions(again.run_id) == []


async def test_tokens_expire_and_codes_are_used_once(store: Store) -> None:
    """A token counts its uses until it expires or is deleted; a code works once."""
    await store.put_token(b"t", session_id="ses_1", kind="token", expires_at=100.0)
    await store.put_token(b"c", session_id="ses_1", kind="code", expires_at=100.0)
    used: Iterator[int] = count(1)
    for _ in range(2):
        row = await store.use_token(b"t", kind="token", now=50.0)
        assert row is not None
        assert (row.session_id, row.used) == ("ses_1", next(used))
    assert await store.use_token(b"t", kind="code", now=50.0) is None
    assert await store.use_token(b"t", kind="token", now=100.0) is None
    assert await store.use_token(b"c", kind="code", now=50.0, once=True) is not None
    assert await store.use_token(b"c", kind="code", now=50.0, once=True) is None
    await store.drop_tokens("ses_1")
    assert await store.use_token(b"t", kind="token", now=50.0) is None


async def test_a_saved_response_is_returned_again(store: Store) -> None:
    """The first call claims the key, a concurrent one conflicts, later ones get the saved response."""
    assert await store.save_response(key(), response=None) is None
    with pytest.raises(Conflict) as refused:
        await store.save_response(key(), response=None)
    assert refused.value.code == "in_flight"
    await store.save_response(key(), response={"status": 202})
    assert await store.save_response(key(), response=None) == {"status": 202}
    with pytest.raises(InvalidInput):
        await store.save_response(key(body=b"2"), response=None)


async def test_a_released_key_can_be_claimed_again(opens: Opened) -> None:
    """A key is free again when it was released, or when the process that claimed it is gone."""
    async with opens() as store:
        await store.save_response(key(), response=None)
        await store.release_key(key())
        assert await store.save_response(key(), response=None) is None
    async with opens() as store:
        assert await store.save_response(key(), response=None) is None
