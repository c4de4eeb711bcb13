"""Draining instances, and instances of one node with different declarations: which instance gets new work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentfield.realtime.config import SessionDeclaration
from agentfield.wire.frames import Drain, Drained, Invoke, SessionDone, SessionOpen
from agentfield.wire.frames import ExecutionContext as Context
from agentfield.wire.node_declarations import FunctionSpec
from agentfield_server.nodes import declaration_hash
from support.server.engine import Plane, RawNode, plane
from support.waiting import until

OLD = SessionDeclaration(name="voice", provider="openai", transport="webrtc", floor="handler")
NEW = OLD.model_copy(update={"instructions": "Be brief."})
FN, OTHER_FN = FunctionSpec(name="fn", input_schema={}), FunctionSpec(name="fn", input_schema={}, description="new")


@pytest.fixture
async def cp(tmp_path: Path) -> AsyncIterator[Plane]:
    """Run a control plane."""
    async with plane(tmp_path / "a.db") as running:
        yield running


async def test_newest_declaration_counts_for_new_work(cp: Plane) -> None:
    """The newest declaration applies, also when an instance with old code links again or starts."""
    old, new = RawNode(), RawNode()
    async with old.linked(cp, functions=(FN,), sessions=(OLD,)):
        async with new.linked(cp, functions=(OTHER_FN,), sessions=(NEW,)):
            assert cp.hub.sessions() == {"node.voice": NEW}
            assert cp.hub.functions() == {"node.fn": OTHER_FN}
            async with RawNode().linked(cp, functions=(FN,), sessions=(OLD,)):
                assert cp.hub.sessions() == {"node.voice": NEW}
        await until(lambda: cp.hub.sessions() == {"node.voice": OLD})
        assert cp.hub.functions() == {"node.fn": FN}


async def test_relinking_old_instance_does_not_restore_its_declaration(cp: Plane) -> None:
    """A declaration is as old as the first link of the process that made it, however often that process links."""
    old, new = RawNode(), RawNode()
    async with old.linked(cp, sessions=(OLD,)):
        pass
    async with new.linked(cp, sessions=(NEW,)), old.linked(cp, sessions=(OLD,)):
        assert cp.hub.sessions() == {"node.voice": NEW}


async def test_the_order_of_instances_is_that_of_their_first_links(cp: Plane) -> None:
    """An instance id that sorts last takes no session from an instance that was seen later."""
    last, first = RawNode(instance_id="zzzz"), RawNode(instance_id="0000")
    async with last.linked(cp, sessions=(OLD,)), first.linked(cp, sessions=(NEW,)):
        assert cp.hub.sessions() == {"node.voice": NEW}
    async with first.linked(cp, sessions=(NEW,)), last.linked(cp, sessions=(OLD,)):
        assert cp.hub.sessions() == {"node.voice": NEW}


async def test_handler_goes_to_an_instance_with_the_same_declaration(cp: Plane) -> None:
    """The hub picks by the digest of the declaration; without a match it picks none."""
    old, new = RawNode(), RawNode()
    async with old.linked(cp, sessions=(OLD,)), new.linked(cp, sessions=(NEW,)):
        for node, declaration in ((old, OLD), (new, NEW)):
            link = cp.hub.session_link("node", "voice", declaration_hash(declaration))
            assert link is not None
            assert link.instance_id == node.instance_id
        assert cp.hub.session_link("node", "voice", "another") is None


async def test_draining_instance_gets_no_new_work_and_one_drained_frame(cp: Plane) -> None:
    """New work goes elsewhere or is queued; once the instance's own work is acknowledged, it gets `drained` once."""
    one, two = RawNode(), RawNode()
    async with one.linked(cp):
        first = await cp.start("node.fn")
        invoke = await one.next(Invoke)
        await one.accept(invoke)
        await one.send(Drain())
        await until(lambda: cp.hub.links()[0].draining)
        second = await cp.start("node.fn")
        async with two.linked(cp):
            await two.answer(await two.next(Invoke), "two")
            assert (await cp.finished(second))["output"] == "two"
            assert not [frame for frame in one.frames if isinstance(frame, Drained | Invoke)]
            await one.send(one.result_of(invoke, "one"))
            await one.next(Drained)
        view = await cp.finished(first)
    assert (view["output"], view["attempt"]) == ("one", 1)


async def test_instance_that_links_while_draining_gets_no_work(cp: Plane) -> None:
    """An instance whose hello says that it drains gets no work, and `drained` at once."""
    node = RawNode()
    async with node.linked(cp, draining=True):
        await node.next(Drained)
        assert cp.hub.pick("node", "fn") is None


async def test_draining_instance_keeps_its_sessions(cp: Plane) -> None:
    """A draining instance gets `drained` only when no handler runs and no session is pinned to it."""
    node = RawNode()
    async with node.linked(cp, sessions=(OLD,)):
        [link] = cp.hub.links()
        await link.send(
            SessionOpen(session_id="ses_1", epoch=1, name="voice", context=Context(execution_id="e", run_id="r"))
        )
        link.pin_session("ses_1")
        await node.send(Drain())
        await node.send(SessionDone(op_id="op_1", session_id="ses_1", epoch=1))
        await until(lambda: link.draining and not link.sessions)
        assert not [frame for frame in node.frames if isinstance(frame, Drained)]
        link.unpin_session("ses_1")
        await node.next(Drained)


async def test_operator_drains_a_node_or_instance(cp: Plane) -> None:
    """The route takes a node or an instance, shows that it drains, and sends `drain`; unknown names are 404."""
    one, two = RawNode(), RawNode()
    async with one.linked(cp), two.linked(cp):
        status, _, _ = await cp.post(f"/nodes/{one.instance_id}/drain")
        assert status == 202
        await one.next(Drain)
        _, listed = await cp.get("/nodes")
        assert {view["instance_id"]: view["draining"] for view in listed} == {
            one.instance_id: True,
            two.instance_id: False,
        }
        status, body, _ = await cp.post("/nodes/node/drain")
        assert status == 202
        assert all(view["draining"] for view in body)
        await two.next(Drain)
        status, problem, _ = await cp.post("/nodes/nobody/drain")
        assert (status, problem["code"]) == (404, "unknown_node")
