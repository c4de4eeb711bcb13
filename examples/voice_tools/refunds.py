"""Node `refunds`: the tool that requests a refund; a person approves it later."""

from agentfield import Agent

app = Agent(node_id="refunds")


@app.reasoner()
async def request_approval(reason: str) -> dict:
    """Request approval to refund a caller who wants their money back.

    Args:
        reason: Why the caller wants a refund, in their own words.
    """
    return {"message": "I asked a manager to approve your refund.", "reason": reason, "state": "requested"}


app.run()
