"""The example voice_support, unchanged, tested without a key, audio or network: ``pytest examples/testing``."""

from __future__ import annotations

AGENT = "../voice_support/agent.py"


async def test_a_caller_hears_about_the_order(call):
    """One turn: the caller asks, the reasoner runs through the control plane, and its answer is spoken."""
    async with call(AGENT) as caller:
        turn = await caller.says("Where is my order?")
        await turn.calls("voice-support.resolve_turn").with_input(turn=turn).succeeded()
        await turn.speaks("I found the order. It's stuck in customs")
        assert await turn.tree() == (
            "turn",
            "voice-support.voice",
            "succeeded",
            [("call", "voice-support.resolve_turn", "succeeded", [])],
        )


async def test_in_one_line(call):
    """What the agent answers, as text."""
    async with call(AGENT) as caller:
        assert "stuck in customs" in await caller.run("Where is my order?")
