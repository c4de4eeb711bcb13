"""A voice agent without code, on three nodes: the script says what the model does, the tools are real."""

from __future__ import annotations

from agentfield.testing.answers import Use

NODES = [f"../voice_tools/{name}.py" for name in ("voice", "orders", "refunds")]


async def test_the_model_looks_an_order_up(call):
    """The model uses a tool, and says what it gave."""
    async with call(*NODES) as caller:
        caller.model_answers(
            Use("orders.lookup_order", order_number="427"),
            lambda asked: asked.results["orders.lookup_order"]["message"],
        )
        turn = await caller.says("Where is my order? The number is 427.")
        await turn.calls("orders.lookup_order").with_input(order_number="427").succeeded()
        await turn.calls("refunds.request_approval").never()
        await turn.speaks("Order 427 is stuck in customs.")


async def test_an_impatient_caller(call):
    """The caller has heard enough after the first sentence, and goes on."""
    async with call(*NODES) as caller:
        caller.model_answers("It is on its way. Shall I tell you more?", "You are welcome.")
        turn = await caller.says("Where is my order?", pause="It is on its way.")
        thanks = await caller.says("Thank you, that is enough.")
        await turn.speaks("It is on its way.").interrupted(heard="It is on its way.")
        await thanks.speaks("You are welcome.")
