"""The border of REST: arbitrary requests get typed errors, and a neighbour's call goes on meanwhile and finishes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support.audio import tone_samples
from support.processes.live_call import LiveCall, calling
from support.server.bad_input import run_installation

T = TypeVar("T")

_SECONDS = 60.0
_IDS = ("%ED%A0%80", "%FF", "%00", "..%2f..", "%0d%0a", "'", ".", "a" * 5000, "shop.echo", "shop.voice", "ses_1")
_QUERIES = ("limit", "before", "after", "wait", "status", "state", "audio", "older_than_days")
_HEADERS = (
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "Host",
    "Idempotency-Key",
    "Last-Event-ID",
    "Origin",
    "traceparent",
    "X-Actor-ID",
    "X-Parent-Execution-ID",
    "X-Run-ID",
    "X-Session-ID",
)
_FIELDS = (
    "target",
    "input",
    "caller",
    "metadata",
    "text",
    "reason",
    "code",
    "ids",
    "decision",
    "by",
    "url",
    "events",
    "timeout",
)


@dataclass(frozen=True, slots=True)
class Running:
    """An installation with a neighbour's call. Its event loop runs during requests only: Hypothesis forbids other code that
    draws random numbers while it draws values.
    """

    loop: asyncio.AbstractEventLoop
    port: int
    routes: list[tuple[str, str]]
    neighbour: LiveCall

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the installation's event loop."""
        return self.loop.run_until_complete(asyncio.wait_for(work, _SECONDS))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A running installation; at the end the neighbour's call is answered and hung up, and other requests succeed."""
    loop = asyncio.new_event_loop()
    with pytest.MonkeyPatch.context() as environment:
        home = tmp_path_factory.mktemp("home")
        environment.setenv("AGENTFIELD_HOME", str(home))
        stop, ready = asyncio.Event(), loop.create_future()

        async def serve() -> None:
            # entered and left in one task, as its timeouts and tasks require
            async with _installation(home, loop) as it:
                ready.set_result(it)
                await stop.wait()

        async def started(serving: asyncio.Task[None]) -> Running:
            await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
            return ready.result() if ready.done() else await _failed(serving)

        serving = loop.create_task(serve())
        try:
            yield loop.run_until_complete(asyncio.wait_for(started(serving), _SECONDS))
        finally:
            stop.set()
            try:
                loop.run_until_complete(asyncio.wait_for(serving, _SECONDS))
            finally:
                loop.close()


async def _failed(serving: asyncio.Task[None]) -> Running:
    await serving
    raise AssertionError("the installation ended by itself")


@asynccontextmanager
async def _installation(home: Path, loop: asyncio.AbstractEventLoop) -> AsyncIterator[Running]:
    async with run_installation(home) as it, calling(it.client, "shop.voice") as live:
        async with aiohttp.ClientSession() as http, http.get(f"{it.url}/api/v1/openapi.json") as answer:
            paths = (await answer.json())["paths"]
        routes = [
            (method.upper(), path) for path in paths for method in ("get", "post", "delete") if method in paths[path]
        ]
        yield Running(loop, int(it.url.rpartition(":")[2]), routes, live)
        assert [said["generated"] for said in (await live.say(tone_samples(0.4))).speeches] == ["hello"]
        assert (await live.hang_up()).end_reason == "caller_hangup"


header_texts = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.sampled_from(_FIELDS), inner, max_size=4)
    ),
    max_leaves=12,
)
bodies = st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode())


@pytest.mark.fuzz
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    route=st.integers(0, 1000),
    method=st.none() | st.sampled_from(["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "FOO"]),
    name=st.sampled_from(_IDS) | st.text(max_size=20).map(lambda text: quote(text, safe="", errors="replace")),
    query=st.dictionaries(st.sampled_from(_QUERIES), st.text(max_size=20), max_size=2),
    headers=st.dictionaries(st.sampled_from(_HEADERS), header_texts, max_size=3),
    body=bodies,
)
@example(route=0, method=None, name="x", query={}, headers={"Content-Encoding": "gzip"}, body=b"{}")
@example(route=0, method=None, name="x", query={}, headers={"Origin": "\xff"}, body=b"{}")
@example(route=0, method=None, name="x", query={}, headers={"Host": "["}, body=b"{}")
@example(route=0, method=None, name="x", query={}, headers={"Authorization": "Bearer ek_af_\xff"}, body=b"{}")
@example(route=0, method=None, name="shop.voice", query={}, headers={"X-Session-ID": "\xff"}, body=b"{}")
@example(route=0, method=None, name="shop.voice", query={}, headers={"X-Run-ID": "\xed"}, body=b"{}")
def test_any_request_gets_a_typed_answer(
    running: Running,
    route: int,
    method: str | None,
    name: str,
    query: dict[str, str],
    headers: dict[str, str],
    body: bytes,
) -> None:
    """Whatever is requested, no answer is an untyped 5xx, and the control plane does not fail at it."""
    declared, path = running.routes[route % len(running.routes)]
    if "drain" in path and name == "shop":
        return  # an honest request that ends the neighbour
    asked = "&".join(f"{key}={quote(value, errors='replace')}" for key, value in query.items())
    target = re.sub(r"{\w+}", lambda _: name, path) + (f"?{asked}" if asked else "")
    status, problem = running.run(_send(running.port, method or declared, target, headers, body))
    assert status < 500 or problem.get("code", "internal_error") != "internal_error", (target, headers, body, problem)


def test_every_route_refuses_what_was_once_fatal(running: Running) -> None:
    """Requests that once failed with 500 are refused with 4xx on each route."""
    for declared, path in running.routes:
        for headers, code in (
            ({"Origin": "\xff"}, "malformed_header"),
            ({"X-Session-ID": "\xff"}, "malformed_header"),
            ({"Host": "["}, "foreign_host"),
        ):
            target = re.sub(r"{\w+}", "shop.voice", path)
            status, problem = running.run(_send(running.port, declared, target, headers, b"{}"))
            assert (status < 500, problem.get("code")) == (True, code), (declared, target)


async def _send(
    port: int, method: str, target: str, headers: dict[str, str], body: bytes
) -> tuple[int, dict[str, Any]]:
    """Send a request as raw bytes; return the status, and the body if it is a JSON object."""
    sent = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json", **headers}
    lines = [f"{name}: {value}" for name, value in (*sent.items(), ("Content-Length", str(len(body))))]
    head = "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "Connection: close"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(_SECONDS):
            writer.write(head.encode("latin-1") + b"\r\n\r\n" + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", answer)
            text = await reader.readexactly(int(length[1])) if length and method != "HEAD" else b""
    finally:
        writer.close()
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return int(answer.split()[1]), found if isinstance(found, dict) else {}
