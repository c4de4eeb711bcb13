"""A handler whose instance is lost moves to an instance with the same declaration, and to no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentfield.identity import NodeKey
from agentfield_server.nodes import declaration_hash
from agentfield_server.sessions.conversation.timers import TimerKind
from support.server.sessions import Adapter, Plane, ScriptedNode, plane
from support.waiting import until, until_async

KEY = NodeKey.generate()


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Plane]:
    """A control plane."""
    async with plane(tmp_path, Adapter()) as made:
        yield made


async def begun(here: Plane) -> tuple[ScriptedNode, str]:
    """Start a call on the only instance; return the instance and the session id."""
    node = await ScriptedNode(KEY, here.url).link()
    session_id = await here.start()
    await here.sessions.offer(session_id, "offer")
    await until_async(lambda: here.recorded(session_id, "handler.started"))
    return node, session_id


async def test_a_handler_moves_to_an_instance_with_the_same_declaration(here: Plane) -> None:
    """Of two other instances, the one with the same declaration resumes the handler, not the newest one."""
    first, _ = await begun(here)
    alike = await ScriptedNode(KEY, here.url, instance="two").link()
    other = await ScriptedNode(KEY, here.url, instance="two_more", instructions="Be brief.").link()
    await first.drop()
    assert (await alike.opened(2)).resumed
    for node in (alike, other):
        await node.drop()


async def test_a_handler_does_not_move_to_another_declaration(here: Plane) -> None:
    """Without an instance of the same declaration the session ends as node_lost and names both declarations."""
    first, session_id = await begun(here)
    other = await ScriptedNode(KEY, here.url, instance="two", instructions="Be brief.").link()
    await first.drop()
    actor = here.sessions._live.get(session_id)
    await until(lambda: TimerKind.NODE in actor.machine.state.timers)
    here.clock.advance(11)
    row = await here.state(session_id, "ended")
    began, now = declaration_hash(first.declaration), declaration_hash(other.declaration)
    assert (row.end_reason, row.declaration_hash) == ("node_lost", began)
    assert row.end_detail == (
        f"no linked instance of shop has the declaration of voice that this session was started with"
        f" (declaration {began}; linked: {now})"
    )
    await other.drop()
