"""An agent that takes calls and calls the functions of the node `shop`."""

from __future__ import annotations

from agentfield import Agent, Session

app = Agent(node_id="front")


@app.session("talk", provider="local", transport="webrtc")
async def talk(session: Session) -> None:
    """Speak the answer of `shop`."""
    turn = await session.input()
    await session.say(await session.call("shop.answer", text=turn.text))


if __name__ == "__main__":
    app.run()
