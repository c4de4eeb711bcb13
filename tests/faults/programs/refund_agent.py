"""The worker of `front`: its function may be retried, and requests an approval before it refunds anything."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from agentfield import Agent

app = Agent(node_id="shop")
gate = Path(os.environ["STEPS_FOLDER"]) / "gate.closed"


@app.reasoner(retries=1)
async def answer(text: str | None) -> str:
    """Answer once the gate is open; a refund needs an approval."""
    while gate.exists():  # noqa: ASYNC110 -- another process opens it
        await asyncio.sleep(0.02)
    if text != "refund":
        return f"found {text}"
    decision = await app.pause("Refund 80 dollars?")
    return f"{decision.status}, {decision.note}"


if __name__ == "__main__":
    app.run()
