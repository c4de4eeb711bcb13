"""Tests of agents as users write them; checked by mypy, never run."""

from __future__ import annotations

from typing import assert_type

from agentfield import Agent, Spoken
from agentfield.client import ControlPlaneClient
from agentfield.testing.scripted import ModelRequest, ScriptedAnswer, ScriptedCall, ScriptedProvider, ToolUse
from agentfield.wire.rest import ExecutionView
from agentfield_server.testing.call_record import ExecutionNode
from agentfield_server.testing.caller import Caller, CallerTurn
from agentfield_server.testing.pytest_plugin import StartCall

app = Agent("shop")


def brief(asked: ModelRequest) -> ScriptedAnswer:
    return ScriptedAnswer(asked.heard or "", uses=(ToolUse("shop.look", number=1),))


async def test_types(
    call: StartCall, scripted_provider: ScriptedProvider, agentfield_client: ControlPlaneClient
) -> None:
    scripted_provider.answers("words", ToolUse("shop.look"), brief, lambda asked: str(asked.results))
    async with call(app, "agent.py:app", session="voice", caller="ann", metadata={"a": 1}) as caller:
        assert_type(caller, Caller)
        turn = await caller.says("hi", pause="hello")
        assert_type(turn, CallerTurn)
        assert_type(await turn.calls("shop.look").with_input(number=1).succeeded().within(2), ExecutionView)
        assert_type(await turn.speaks("hello").interrupted(heard="hello"), Spoken)
        assert_type(await turn.fails("boom"), ExecutionView)
        assert_type(await turn.tree(), ExecutionNode)
        assert_type(await caller.run("hi"), str)
        assert_type(await scripted_provider.call(), ScriptedCall)
        assert_type(await caller.hangs_up(), str)
