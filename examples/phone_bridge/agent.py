from agentfield import Agent

app = Agent(node_id="front-desk")

@app.session("phone", provider="openai", transport="websocket", model="gpt-realtime-2")
async def phone(session): ...

app.run()
