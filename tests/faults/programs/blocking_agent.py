"""An agent whose functions block its event loop while a file exists; each entry is a line in a file."""

from __future__ import annotations

import os
import time
from pathlib import Path

from agentfield import Agent, Session, context

app = Agent(node_id="shop")
folder = Path(os.environ["WORK_FOLDER"])


def effect() -> None:
    """Record that a function was entered."""
    here = context.current()
    assert here is not None
    with (folder / "effects").open("a") as file:
        file.write(f"{here.execution_id} {here.attempt}\n")


def block() -> None:
    """Block the thread while the gate is closed, as a blocking HTTP client does."""
    while (folder / "gate.closed").exists():
        time.sleep(0.05)  # blocking is what the test is about; another process opens the gate


@app.reasoner(timeout=120)
async def charge(order: str) -> str:
    """Block the event loop before the first await."""
    effect()
    block()
    return f"charged {order} in {os.getpid()}"


@app.reasoner(timeout=120)
async def quick(order: str) -> str:
    """Return at once."""
    effect()
    return order


@app.session("voice", provider="local", transport="webrtc")
async def voice(session: Session) -> None:
    """Answer with the number of the turn's attempt; block the event loop in the first one."""
    turn = await session.input()
    if turn.attempt == 1:
        (folder / "handler.entered").touch()
        block()
    await session.say(f"{turn.text}, attempt {turn.attempt}, resumed {session.resumed}")


if __name__ == "__main__":
    app.run()
