from agentfield import Agent, Limits, Say

app = Agent(node_id="claims-line")


@app.session(
    "voice",
    provider="local",
    transport="webrtc",
    # heard to its end, whatever the caller says meanwhile
    greeting=Say("This call is recorded. Say no if you do not agree, and nothing is kept.", interruptible=False),
    goodbye=Say("The call ends now. Nothing has been decided by it.", interruptible=False),
    limits=Limits(idle=20),
)
async def voice(session):
    turn = await session.input()  # what was said during the notice waits for its end, and comes first
    await session.say(f"I have noted: {turn.text}")  # an ordinary text, which the caller may interrupt


app.run()
