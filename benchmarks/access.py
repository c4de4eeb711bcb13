"""Access control: an uncached decision by 1,000 rules, and a start on a keyed plane with rules beside one on an open plane."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.wire.rest import StartRequest
from agentfield_server.access.policies import Member, PolicySet
from agentfield_server.access.policy_file import parse_policies
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from benchmarks.rows import Row, percentile

RULES, DECISIONS, WARM, ROUNDS = 1000, 3000, 5, 60
_KEY = "bench-key-0123456789"


def measure() -> list[Row]:
    """Return the rows."""
    decisions = _decision_times()
    opened, keyed = asyncio.run(_start_times())
    floor = percentile(opened, 50)
    return [
        Row(
            name="access: a decision by the last of 1,000 rules, chain of 4, p50",
            value=percentile(decisions, 50) * 1e6,
            unit="µs",
            goal=50.0,
        ),
        Row(
            name="access: a start on a keyed plane with 1,000 rules, p50",
            value=percentile(keyed, 50) * 1000,
            unit="ms",
            floor=floor * 1000,
            goal=floor * 1000 + 1.0,
        ),
    ]


def _document(last: str) -> str:
    """Return 1,000 rules; the last one is about `last`."""
    names = [f"a{number}" for number in range(RULES - 1)] + [last]
    return "".join(
        f'[[rule]]\nfrom = ["tag:{name}", "{name}.f"]\nto = ["tag:to-{name}", "{name}.g"]\neffect = "allow"\n'
        for name in names
    )


def _decision_times() -> list[float]:
    policies = PolicySet(1, parse_policies(_document("last"), source="the benchmark"))
    tags, seen = frozenset({"last"}), frozenset({"to-last"})
    chain = [Member("key:a", tags), *(Member(f"n.f{number}", tags, seen) for number in range(3))]
    target = Member("n.g", frozenset(), seen)
    times = []
    for _ in range(DECISIONS):
        begin = time.perf_counter()
        decision = policies.decide(chain, target, {})
        times.append(time.perf_counter() - begin)
        assert decision.allowed
    return times


async def _start_times() -> tuple[list[float], list[float]]:
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(_plane(None))
        keyed = await stack.enter_async_context(_plane(_KEY))
        await keyed.set_policies(_document("voice").replace("tag:voice", "*").replace("tag:to-voice", "tag:voice"))
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(WARM + ROUNDS):
            # in turn, so that both meet the same load of the machine
            for client, found in zip((opened, keyed), times, strict=True):
                begin = time.perf_counter()
                await client.start_session(StartRequest(target="shop.voice"))
                if number >= WARM:
                    found.append(time.perf_counter() - begin)
    return times


@asynccontextmanager
async def _plane(key: str | None) -> AsyncIterator[ControlPlaneClient]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), port=0, api_key=None if key is None else SecretStr(key))
        async with control_plane(settings, environ={"OPENAI_API_KEY": "sk-not-used"}) as plane:
            app = Agent("shop", url=plane.url, api_key=key)

            @app.session("voice", provider="openai", transport="webrtc", tags=["voice"])
            async def voice(session: Any) -> None:
                await session.input()

            async with app, ControlPlaneClient(plane.url, key) as client:
                yield client
