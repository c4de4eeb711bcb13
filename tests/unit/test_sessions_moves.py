"""A call whose instance is gone: it is moved to one that declares its session alike, and to no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentfield.identity import NodeKey
from agentfield_server.nodes import declaration_hash
from unit.sessions_kit import Adapter, Node, Plane, plane, until, until_async

KEY = NodeKey.generate()


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Plane]:
    """A control plane."""
    async with plane(tmp_path, Adapter()) as made:
        yield made


async def begun(here: Plane) -> tuple[Node, str]:
    """Start a call on the only instance there is; return that and the session."""
    node = await Node(KEY, here.url).link()
    session_id = await here.start()
    await here.sessions.offer(session_id, "offer")
    await until_async(lambda: here.recorded(session_id, "handler.started"))
    return node, session_id


async def test_a_call_is_moved_to_an_instance_that_declares_it_alike(here: Plane) -> None:
    """Of two other instances, the one with the same declaration resumes the handler, and not the newest one."""
    first, _ = await begun(here)
    alike = await Node(KEY, here.url, instance="two").link()
    other = await Node(KEY, here.url, instance="two_more", instructions="Be brief.").link()
    await first.drop()
    assert (await alike.opened(2)).resumed
    for node in (alike, other):
        await node.drop()


async def test_a_call_is_not_moved_to_another_declaration(here: Plane) -> None:
    """Where nobody declares the session as it began, the call ends as node_lost and says both declarations."""
    first, session_id = await begun(here)
    other = await Node(KEY, here.url, instance="two", instructions="Be brief.").link()
    await first.drop()
    actor = here.sessions._actors.get(session_id)
    await until(lambda: "node" in actor.machine.board.timers)
    here.clock.advance(11)
    row = await here.state(session_id, "ended")
    began, now = declaration_hash(first.declaration), declaration_hash(other.declaration)
    assert (row.end_reason, row.declaration_hash) == ("node_lost", began)
    assert row.end_detail == (
        f"no linked instance of desk declares voice as this session began with it (declaration {began}; linked: {now})"
    )
    await other.drop()
