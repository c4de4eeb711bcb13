"""A voice agent without handler code: the model answers, and calls two tools on other nodes."""

from agentfield import Agent

app = Agent(node_id="voice-desk")


@app.session(
    "voice",
    provider="openai",
    transport="webrtc",
    tools=["orders.lookup_order", "refunds.request_approval"],
)
async def voice(session): ...


app.run()
