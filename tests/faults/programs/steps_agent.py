"""The agent of the fault tests: a conversation whose step can be held by a gate file, and a function for load."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from agentfield import Agent, Session

app = Agent(node_id="steps")
gate = Path(os.environ["STEPS_FOLDER"]) / "gate.closed"

PROVIDER = os.environ.get("STEPS_PROVIDER", "local")
STORY = "and then it went on " * 8


@app.reasoner()
async def step(text: str | None) -> dict[str, str | None]:
    """Answer once the gate is open."""
    while gate.exists():  # noqa: ASYNC110 -- another process opens it
        await asyncio.sleep(0.02)
    return {"text": text}


@app.reasoner()
async def double(number: int) -> int:
    """Return twice a number."""
    return 2 * number


async def talk(session: Session) -> None:
    """Answer a turn with its attempt; the answer to "story" is long in the first attempt and short in others."""
    turn = await session.input()
    done = await session.call("steps.step", text=turn.text)
    said = f"{done['text']}, attempt {turn.attempt}, resumed {session.resumed}"
    await session.say(f"{said}: {STORY}" if turn.text == "story" and turn.attempt == 1 else said)


app.session("talk", provider=PROVIDER, transport="webrtc", tools=["steps.step"])(talk)
app.session("line", provider=PROVIDER, transport="websocket")(talk)
app.session("notes", provider="openrouter" if PROVIDER == "openai" else PROVIDER, transport="audio_turns")(talk)


if __name__ == "__main__":
    app.run()
