"""A provider that sends anything: its call ends with a reason, leaves nothing open, and a neighbour's call is as usual."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from contract.test_behaviour_variants import USUAL
from support.contract.installation import Installation, declared, environment, provider, shop_agent, target
from support.contract.leaks import RecordingClient
from support.providers.rogue import fuzz, rogue_provider

ROGUE, NEIGHBOUR = ("openai", "websocket"), ("local", "websocket")


async def closes(socket: web.WebSocketResponse) -> None:
    await socket.close(code=1000)


async def sends_a_huge_message(socket: web.WebSocketResponse) -> None:
    await socket.send_str('{"type": "novelty", "text": "' + "x" * (33 * 2**20) + '"}')


async def nests_deeply(socket: web.WebSocketResponse) -> None:
    await socket.send_str('{"type": "response.done", "response": ' + "[" * 100_000 + "]" * 100_000 + "}")
    await stays_silent(socket)


async def starts_twice(socket: web.WebSocketResponse) -> None:
    for number in range(2):
        session = {"id": f"sess_{number}", "model": "gpt-realtime-2", "expires_at": 2e9}
        await socket.send_json({"type": "session.created", "event_id": f"e{number}", "session": session})
        await socket.send_json({"type": "session.updated", "event_id": f"u{number}", "session": session})
    await stays_silent(socket)


async def forgets_ids(socket: web.WebSocketResponse) -> None:
    await socket.send_json({"type": "response.created", "response": {}})
    await socket.send_json({"type": "response.output_audio.delta", "delta": "AAAA"})
    await socket.send_json({"type": "response.done", "response": {"status": "completed"}})
    await stays_silent(socket)


async def fails_without_end(socket: web.WebSocketResponse) -> None:
    for _ in range(2000):
        await socket.send_json({"type": "error", "error": {"code": "odd", "message": "again"}})
    await stays_silent(socket)


async def stays_silent(socket: web.WebSocketResponse) -> None:
    async for _ in socket:
        pass


async def fuzzes(seed: int, socket: web.WebSocketResponse) -> None:
    await fuzz(socket, seed)


@asynccontextmanager
async def installed(home: Path, rogue: str, app: Any) -> AsyncIterator[Installation]:
    """Run a control plane whose provider `openai` is the rogue, beside a usual provider `local`."""
    async with provider() as (server, voice), AsyncExitStack() as stack:
        environ = {**environment(server), "OPENAI_BASE_URL": rogue}
        plane = await stack.enter_async_context(control_plane(Settings(home=home, port=0), environ=environ))
        app._url, app._api_key = plane.url, None
        await stack.enter_async_context(app)
        client = await stack.enter_async_context(RecordingClient(plane.url))
        http = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
        yield Installation(server, plane, client, http, voice)


PLAYS: dict[str, Callable[[web.WebSocketResponse], Any]] = {
    "closes": closes,
    "sends a huge message": sends_a_huge_message,
    "nests deeply": nests_deeply,
    "starts twice": starts_twice,
    "forgets ids": forgets_ids,
    "fails without end": fails_without_end,
    **{f"seed {seed}": partial(fuzzes, seed) for seed in (*range(8), 134)},
}


@pytest.mark.parametrize("name", PLAYS)
@pytest.mark.long
async def test_a_rogue_provider_harms_no_other_call(name: str, tmp_path: Path) -> None:
    """Whatever the provider of one call sends, that call ends with a reason and a neighbour's call has its outcome."""
    app = shop_agent()
    async with rogue_provider(PLAYS[name]) as rogue, installed(tmp_path, rogue.url, app) as here:

        async def suffer() -> None:
            async with here.talk(target(ROGUE)) as talk:
                await talk.connect()
                await talk.until(lambda: rogue.sockets > 0)
                if not talk.over:
                    await talk.speak()
            assert talk.of("session.state")[-1]["reason"] is not None

        _, outcome = await asyncio.gather(suffer(), here.call(target(NEIGHBOUR)))
        assert outcome == USUAL


async def test_a_provider_that_closes_right_after_accepting_is_a_typed_refusal(tmp_path: Path) -> None:
    """A socket that closes before the session is confirmed refuses the call with the close code."""
    async with rogue_provider(closes, confirms=False) as rogue, installed(tmp_path, rogue.url, shop_agent()) as here:
        async with here.talk(target(ROGUE)) as talk:
            await talk.connect()
            assert talk.medium.refused == "provider_unavailable"
        assert talk.of("provider.refused")[0]["code"] == "closed_1000"


@pytest.mark.parametrize("seed", [*range(8, 12), 10106])
@pytest.mark.long
async def test_tools_of_a_rogue_provider_are_called_or_refused(seed: int, tmp_path: Path) -> None:
    """The same on the model's floor, where the provider's events may call a tool with any arguments."""

    async def nothing(session: Any) -> None: ...

    app = declared(ROGUE, nothing, floor="model", tools=["shop.echo"], on_error="Sorry.")
    async with rogue_provider(partial(fuzzes, seed)) as rogue, installed(tmp_path, rogue.url, app) as here:
        async with here.talk(target(ROGUE)) as talk:
            await talk.connect()
            await talk.until(lambda: rogue.sockets > 0)
        ran = (await here.client.workflow(talk.id)).executions
        assert {each.status for each in ran} <= {"succeeded", "failed", "cancelled", "timeout"}
