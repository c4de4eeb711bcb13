"""Event streams under load: readers that reconnect, read slowly, or do not read at all."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentfield import Agent
from agentfield.plugins import Registry
from agentfield.sse import EventParser
from agentfield.testing.scripted import ScriptedProvider
from agentfield_server.api.http import event_stream as streams
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from agentfield_server.store.records import NewEvent, NewExecution
from support.server.engine import Plane, plane
from support.waiting import until

SECONDS = 60.0
EVENTS = 2000
READERS = 20
RUN = "run_0"


def is_end(event: dict[str, Any]) -> bool:
    """Return whether an event is the end of a session."""
    return event["type"] == "session.state" and event["body"]["state"] == "ended"


async def reader(http: aiohttp.ClientSession, path: str, chance: random.Random) -> tuple[list[int], int]:
    """Read a stream to the session's end, disconnecting at random; return the sequence numbers and the number of reconnects."""
    seen: list[int] = []
    back = 0
    while True:
        stay = chance.randint(1, 300)
        headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
        async with http.get(path, headers=headers) as response:
            assert response.status == 200, await response.text()
            parser = EventParser()
            async for chunk in response.content.iter_any():
                for event in parser.feed(chunk):
                    recorded = json.loads(event.data)
                    if "seq" not in recorded:
                        continue  # a live event, such as a head, has the id of the event before it
                    seen.append(int(event.id or 0))
                    if is_end(recorded):
                        return seen, back
                    stay -= 1
                    if not stay:
                        break
                if stay <= 0:
                    break
        back += 1


async def test_reconnecting_readers_miss_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """20 readers of a session and of its run disconnect at random while 2,000 events are recorded: each reader gets every event once, in order."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    script = ScriptedProvider()
    app = Agent("shop", registry=Registry.of([]))

    @app.reasoner()
    async def echo(n: int) -> int:
        return n

    @app.session("voice", provider="scripted", transport="webrtc")
    async def voice(session: Any) -> None:
        await session.input()

    settings = Settings(home=tmp_path, port=0)
    registry = script.replace_providers(Registry.of([]))
    async with (
        asyncio.timeout(SECONDS),
        control_plane(settings, registry=registry, environ={}) as server,
        app.linked(url=server.url),
        aiohttp.ClientSession(server.url, trust_env=False, connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        async with http.post("/api/v1/sessions", json={"target": "shop.voice"}) as response:
            started = await response.json()
        session, run = started["session_id"], started["run_id"]
        paths = [f"/api/v1/sessions/{session}/events", f"/api/v1/workflows/{run}/events"] * (READERS // 2)
        async with asyncio.TaskGroup() as group:
            readers = [
                group.create_task(reader(http, path, random.Random(number))) for number, path in enumerate(paths)
            ]
            most = asyncio.Semaphore(20)

            async def call(n: int) -> None:
                async with (
                    most,
                    http.post(
                        "/api/v1/execute/shop.echo", json={"input": {"n": n}}, headers={"X-Session-ID": session}
                    ) as response,
                ):
                    assert response.status == 200, await response.text()

            # each is created, started and ended
            await asyncio.gather(*(call(n) for n in range(EVENTS // 3 + 1)))
            async with http.post(f"/api/v1/sessions/{session}/end", json={}) as response:
                assert response.status == 200
    seen = [task.result()[0] for task in readers]
    assert len(seen[0]) >= EVENTS
    assert all(each == list(range(1, len(seen[0]) + 1)) for each in seen)
    assert all(task.result()[1] for task in readers), "everybody came back at least once"
    assert [each for each in caplog.records if each.levelname in ("WARNING", "ERROR")] == []


@asynccontextmanager
async def a_run(folder: Path) -> AsyncIterator[Plane]:
    """Run a control plane with one run."""
    async with plane(folder / "agentfield.db") as here:
        await here.store.create_execution(
            NewExecution(id="exe_0", run_id=RUN, kind="session", target="shop.voice", input={}, status="running")
        )
        yield here


async def record(here: Plane, count: int) -> None:
    """Record events that together exceed the buffers of a connection."""
    for n in range(0, count, 20):
        event = NewEvent(type="test.large", body={"text": "x" * 8192, "n": n})
        await here.store.append_events(RUN, [event] * 20, session_id=None, epoch=None)


async def slow(here: Plane) -> socket.socket:
    """Open the stream of the run without reading it."""
    loop = asyncio.get_running_loop()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(0)
    host, port = here.url.removeprefix("http://").split(":")
    await loop.sock_connect(connection, (host, int(port)))
    request = f"GET /api/v1/workflows/{RUN}/events HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
    await loop.sock_sendall(connection, request.encode())
    await until(lambda: here.bus._topics.get(f"run:{RUN}"))
    return connection


async def numbers(lines: AsyncIterator[bytes], count: int) -> list[int]:
    """Read events until a number of them has arrived; return their sequence numbers."""
    seen: list[int] = []
    async for line in lines:
        if line.startswith(b"id: "):
            seen.append(int(line[4:]))
            if len(seen) == count:
                break
    return seen


async def test_a_slow_reader_does_not_delay_others(tmp_path: Path) -> None:
    """While one reader stalls, another gets all events; one hint is queued for the stalled reader, which later reads all events too."""
    count = EVENTS + 1
    async with asyncio.timeout(SECONDS), a_run(tmp_path) as here:
        connection = await slow(here)
        (behind,) = here.bus._topics[f"run:{RUN}"]
        async with here.client.get(f"/api/v1/workflows/{RUN}/events") as response:
            quick = asyncio.create_task(numbers(response.content, count))
            await record(here, EVENTS)
            assert await quick == list(range(1, count + 1))
        assert behind.lagged
        assert len(behind._messages) <= 1
        stream, writer = await asyncio.open_connection(sock=connection)
        assert await numbers(stream, count) == list(range(1, count + 1))
        writer.close()
        await writer.wait_closed()


async def test_a_stalled_reader_is_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection of a stalled reader is closed, and it may resume with `Last-Event-ID`."""
    monkeypatch.setattr(streams, "_STALLED", 0.2)
    async with asyncio.timeout(SECONDS), a_run(tmp_path) as here:
        connection = await slow(here)
        await record(here, EVENTS)
        await until(lambda: f"run:{RUN}" not in here.bus._topics)
        connection.close()
        async with here.client.get(f"/api/v1/workflows/{RUN}/events", headers={"Last-Event-ID": "2000"}) as response:
            assert await numbers(response.content, 1) == [2001]


async def test_a_stream_of_an_unknown_run_is_refused(tmp_path: Path) -> None:
    """An unknown run and an invalid sequence number are refused."""
    async with a_run(tmp_path) as here:
        status, problem = await here.get("/workflows/run_none/events")
        assert (status, problem["code"]) == (404, "unknown_run")
        status, problem = await here.get(f"/workflows/{RUN}/events?after=x")
        assert (status, problem["field"]) == (422, "Last-Event-ID")
