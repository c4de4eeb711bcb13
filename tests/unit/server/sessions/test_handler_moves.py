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


async def test_only_the_instance_that_runs_the_handler_commands_the_session(here: Plane) -> None:
    """A command and an end from another instance of the node are refused, whoever else knows the session and epoch."""
    first, session_id = await begun(here)
    await first.opened(1)
    other = await ScriptedNode(KEY, here.url, instance="two").link()
    other.session_id, other.epoch = session_id, 1
    for name, args in (
        ("say", {"text": "forged"}),
        ("end", {}),
        ("set_state", {"state": {"forged": True}}),
        ("listen", {}),
    ):
        answer = await other.answer(await other.command(name, **args))
        assert answer.problem["code"] == "foreign_session", name
    await other.done()
    await other.drop()
    row = await here.store.get_session(session_id)
    assert row is not None
    assert (row.state, dict(row.handler_state)) == ("live", {})
    assert (await first.answer(await first.command("set_state", state={"mine": 1}))).problem is None
    assert await here.store.handlers_of("one", [session_id]) == {session_id: 1}
    assert await here.store.handlers_of("two", [session_id]) == {}
    await first.drop()


async def test_a_superseded_instance_makes_no_calls_for_the_session(here: Plane) -> None:
    """After the handler has moved, the store names the new instance, and the old one runs the handler no longer."""
    first, session_id = await begun(here)
    alike = await ScriptedNode(KEY, here.url, instance="two").link()
    await first.drop()
    await alike.opened(2)
    first.open_sessions = ((session_id, 1),)
    await first.link()
    (link,) = [link for link in here.hub.links() if link.instance_id == "one"]
    assert not await here.hub.runs_handler(link, session_id)
    (link,) = [link for link in here.hub.links() if link.instance_id == "two"]
    assert await here.hub.runs_handler(link, session_id)
    for node in (alike, first):
        await node.drop()
