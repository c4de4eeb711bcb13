# The program of examples/voice_support, with the offline provider: provider, model and voice differ, nothing else.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ARG001, D100, D103
from agentfield import Agent

app = Agent(node_id="voice-support")


@app.reasoner()
async def resolve_turn(turn: dict) -> dict:
    # Normal AgentField reasoner — retrieval, policy, app.call, escalation, anything.
    return {
        "spoken_response": "I found the order. It's stuck in customs — want me to start a replacement?",
        "next_action": "offer_replacement",
    }


@app.session(
    "voice",
    provider="local",
    transport="webrtc",
    model="local-realtime-1",
    modalities=["audio", "text"],
    voice="joe",
    tools=["voice-support.resolve_turn"],  # provider-visible allowlist
    tags=["support:voice"],  # access-control tag
)
async def voice(session):
    turn = await session.input()  # next live turn from the provider
    result = await session.call("voice-support.resolve_turn", turn=turn)  # routes through the control plane
    await session.say(result["spoken_response"])  # speaks back over the same transport


app.run()
