"""The agent of the engine's fault tests: each of its effects is a line in a file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from agentfield import Agent, context

app = Agent(node_id="work", concurrency=40)
folder = Path(os.environ["WORK_FOLDER"])


def effect() -> int:
    """Record an effect, and return the attempt in which it happened."""
    here = context.current()
    assert here is not None
    with (folder / "effects").open("a") as file:
        file.write(f"{here.execution_id} {here.attempt}\n")
    return here.attempt


@app.reasoner()
async def once(number: int) -> int:
    """Record an effect; it must not be retried."""
    effect()
    return 2 * number


@app.reasoner(retries=50)
async def again(number: int) -> int:
    """Record an effect; it may be retried."""
    effect()
    await asyncio.sleep(0)
    return 2 * number


@app.reasoner()
async def both(number: int) -> int:
    """Call `once` and `again`."""
    effect()
    first = await app.call("work.once", number=number)
    return first + await app.call("work.again", number=number)


@app.reasoner(retries=50)
async def held(number: int) -> dict[str, int]:
    """Return the attempt once the gate is open."""
    attempt = effect()
    while (folder / "gate.closed").exists():  # noqa: ASYNC110 -- another process opens it
        await asyncio.sleep(0.02)
    return {"number": number, "attempt": attempt}


@app.reasoner(retries=50)
async def asks(number: int) -> str:
    """Record one effect, then request an approval."""
    await app.call("work.once", number=number)
    return (await app.pause(f"number {number}?")).status


@app.reasoner()
async def large(size: int) -> str:
    """Return this many letters."""
    effect()
    return "x" * size


if __name__ == "__main__":
    app.run()
