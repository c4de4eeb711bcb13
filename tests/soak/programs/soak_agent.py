"""An agent with a session on every pair of provider and transport, and a tool."""

from __future__ import annotations

import asyncio

from agentfield import Agent, Session

app = Agent(node_id="soak")


@app.reasoner()
async def look_up(words: str) -> str:
    """Return an answer after a moment."""
    await asyncio.sleep(0.01)
    return f"Yes: {words}"


async def answer(session: Session) -> None:
    """Answer a turn with what the tool returned."""
    turn = await session.input()
    await session.say(await session.call("soak.look_up", words=turn.text or ""))


PAIRS = (
    ("local", "websocket"),
    ("local", "webrtc"),
    ("local", "audio_turns"),
    ("openai", "websocket"),
    ("openai", "webrtc"),
    ("openrouter", "audio_turns"),
)
for provider, transport in PAIRS:
    app.session(f"{provider}_{transport}", provider=provider, transport=transport, floor="handler")(answer)

if __name__ == "__main__":
    app.run()
