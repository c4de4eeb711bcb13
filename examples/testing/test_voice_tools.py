"""A voice agent without handler code, on three nodes: the model is scripted, the tools are real."""

from __future__ import annotations

from agentfield.testing.scripted import ToolUse

NODES = [f"../voice_tools/{name}.py" for name in ("voice", "orders", "refunds")]


async def test_the_model_looks_an_order_up(call):
    """The model calls a tool and speaks its result."""
    async with call(*NODES) as caller:
        caller.model_answers(
            ToolUse("orders.lookup_order", order_number="427"),
            lambda asked: asked.results["orders.lookup_order"]["message"],
        )
        turn = await caller.says("Where is my order? The number is 427.")
        await turn.calls("orders.lookup_order").with_input(order_number="427").succeeded()
        await turn.calls("refunds.request_approval").never()
        await turn.speaks("Order 427 is stuck in customs.")


async def test_an_impatient_caller(call):
    """The caller interrupts after the first sentence."""
    async with call(*NODES) as caller:
        caller.model_answers("It is on its way. Shall I tell you more?", "You are welcome.")
        turn = await caller.says("Where is my order?", pause="It is on its way.")
        thanks = await caller.says("Thank you, that is enough.")
        await turn.speaks("It is on its way.").interrupted(heard="It is on its way.")
        await thanks.speaks("You are welcome.")
