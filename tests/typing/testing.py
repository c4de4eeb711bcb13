"""Tests of agents as users write them; checked by mypy, never run."""

from __future__ import annotations

from typing import assert_type

from agentfield import Agent, Spoken
from agentfield.client import ControlPlaneClient
from agentfield.testing.answers import Answer, Asked, Use
from agentfield.testing.scripted import Scripted
from agentfield.testing.scripted_call import ScriptedCall
from agentfield.wire.rest import ExecutionView
from agentfield_server.testing.caller import Caller, CallerTurn
from agentfield_server.testing.plugin import Call
from agentfield_server.testing.story import Node

app = Agent("desk")


def brief(asked: Asked) -> Answer:
    return Answer(asked.heard or "", uses=(Use("desk.look", number=1),))


async def test_types(call: Call, scripted: Scripted, agentfield_client: ControlPlaneClient) -> None:
    scripted.answers("words", Use("desk.look"), brief, lambda asked: str(asked.results))
    async with call(app, "agent.py:app", session="voice", caller="ann", metadata={"a": 1}) as caller:
        assert_type(caller, Caller)
        turn = await caller.says("hi", pause="hello")
        assert_type(turn, CallerTurn)
        assert_type(await turn.calls("desk.look").with_input(number=1).succeeded().within(2), ExecutionView)
        assert_type(await turn.speaks("hello").interrupted(heard="hello"), Spoken)
        assert_type(await turn.fails("boom"), ExecutionView)
        assert_type(await turn.tree(), Node)
        assert_type(await caller.run("hi"), str)
        assert_type(await scripted.call(), ScriptedCall)
        assert_type(await caller.hangs_up(), str)
