"""A voice agent that asks a person before it pays: retrieval, policy, approval, response, in one call."""

from agentfield import Agent

app = Agent(node_id="support")

ORDERS = {"427": {"order": "427", "paid": 80.0, "state": "stuck in customs"}}
LIMIT = 50.0
"""Dollars that may be refunded without approval."""


@app.reasoner()
async def find_order(text: str) -> dict:
    """Retrieval: the order that the caller mentions; without a number, order 427."""
    return next((order for number, order in ORDERS.items() if number in text), ORDERS["427"])


@app.reasoner()
async def check_policy(order: dict) -> dict:
    """Policy: the refund, and whether a person has to approve it."""
    return {"refund": order["paid"], "needs_approval": order["paid"] > LIMIT}


@app.reasoner()
async def handle_turn(turn: dict) -> dict:
    """Pipeline of a turn; it is suspended until the decision."""
    order = await app.call("support.find_order", text=turn["text"] or "")
    policy = await app.call("support.check_policy", order=order)
    if policy["needs_approval"]:
        decision = await app.pause(f"Refund {policy['refund']:.0f} dollars for order {order['order']}?", details=order)
        if not decision.approved:
            return {"spoken_response": "I am sorry, a colleague decided against a refund."}
    return {"spoken_response": f"Your refund of {policy['refund']:.0f} dollars is on its way."}


@app.session("voice", provider="local", transport="webrtc")
async def voice(session):
    turn = await session.input()
    result = await session.call("support.handle_turn", turn=turn, filler="Let me ask a colleague, one moment.")
    await session.say(result["spoken_response"])


if __name__ == "__main__":
    app.run()
