"""`ControlPlaneClient` against a small HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from agentfield.client import ControlPlaneClient
from agentfield.errors import Conflict, ControlPlaneUnavailable, ExecutionTimeout, InvalidInput, NotFound
from agentfield.sse import EventParser
from agentfield.wire.rest import StartRequest

EXECUTION = {
    "id": "exe_1",
    "kind": "call",
    "target": "a.b",
    "status": "succeeded",
    "run_id": "run_1",
    "created_at": 1.0,
}


HELD = object()
"""Marks an answer that is never sent."""


def recorded(seq: int, kind: str = "turn.committed", **body: Any) -> str:
    data = {"id": f"evt_{seq}", "seq": seq, "type": kind, "body": body}
    return f"id: {seq}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"


class Plane:
    """Answers requests from a script and records them."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.headers: list[Any] = []
        self.answers: list[Any] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs, (await request.read()).decode()))
        self.headers.append(request.headers)
        answer = self.answers.pop(0)
        if answer is HELD:
            await asyncio.Event().wait()
        if isinstance(answer, web.StreamResponse):
            return answer
        if isinstance(answer, list):
            stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await stream.prepare(request)
            for text in answer:
                await stream.write(text.encode())
            return stream
        return web.json_response(answer)


@asynccontextmanager
async def served(*answers: Any, key: str | None = None) -> AsyncIterator[tuple[Plane, ControlPlaneClient]]:
    plane = Plane()
    plane.answers = list(answers)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", plane.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with ControlPlaneClient(f"http://127.0.0.1:{runner.addresses[0][1]}", key) as client:
            yield plane, client
    finally:
        await runner.cleanup()


async def test_execute_sends_input_key_and_idempotency() -> None:
    """Input and timeout are in the body, the API key and the idempotency key in headers."""
    async with served(EXECUTION, key="k") as (plane, client):
        assert (await client.execute("a.b", {"n": 1}, timeout=3, idempotency_key="once")).status == "succeeded"
    assert plane.requests == [("POST", "/api/v1/execute/a.b", '{"input": {"n": 1}, "timeout": 3.0}')]
    assert (plane.headers[0]["Authorization"], plane.headers[0]["Idempotency-Key"]) == ("Bearer k", "once")


async def test_waiting_for_an_execution() -> None:
    """`wait_execution` repeats long polls until the execution ended, or raises after its timeout."""
    running = {**EXECUTION, "status": "running"}
    async with served(running, EXECUTION, HELD) as (plane, client):
        assert (await client.wait_execution("exe_1")).status == "succeeded"
        assert [path for _, path, _ in plane.requests] == ["/api/v1/executions/exe_1?wait=30"] * 2
        with pytest.raises(ExecutionTimeout, match="goes on"):
            await client.wait_execution("exe_1", timeout=0.1)


async def test_a_problem_becomes_its_error() -> None:
    """A problem document becomes the exception of its code, with hint and data."""
    problem = NotFound("No such session.", hint="af session list", session_id="ses_1").to_problem()
    async with served(web.json_response(problem, status=404)) as (_, client):
        with pytest.raises(NotFound, match="No such session") as caught:
            await client.get_session("ses_1")
    assert (caught.value.hint, caught.value.status, caught.value.data) == (
        "af session list",
        404,
        {"session_id": "ses_1"},
    )


@pytest.mark.parametrize("answer", [web.Response(status=404, text="nginx"), web.Response(text="hello"), {"x": 1}])
async def test_an_answer_of_another_server_is_recognised(answer: Any) -> None:
    """An answer that no control plane sends is an error that says so."""
    async with served(answer) as (_, client):
        with pytest.raises(ControlPlaneUnavailable):
            await client.get_session("ses_1")


async def test_an_unreachable_control_plane_is_an_error_with_the_command() -> None:
    """A refused connection is an error with the address and the command that starts a control plane."""
    async with ControlPlaneClient("http://127.0.0.1:9") as client:
        with pytest.raises(ControlPlaneUnavailable, match=r"127\.0\.0\.1:9[\s\S]*af server"):
            await client.nodes()


async def test_offer_and_answer_are_sdp() -> None:
    """The offer is sent as application/sdp with the token, and the answer is returned as text."""
    async with served(web.Response(text="v=0\r\nanswer", content_type="application/sdp", status=200)) as (
        plane,
        client,
    ):
        assert await client.offer("ses_1", "v=0\r\n", "ek_af_x") == "v=0\r\nanswer"
    assert plane.requests == [("POST", "/api/v1/sessions/ses_1/offer", "v=0\r\n")]
    assert (plane.headers[0]["Content-Type"], plane.headers[0]["Authorization"]) == (
        "application/sdp",
        "Bearer ek_af_x",
    )


async def test_the_pages_of_a_graph_are_joined() -> None:
    """A long graph is read page by page."""
    page = {"run_id": "run_1", "executions": [EXECUTION], "next": "cursor"}
    async with served(page, {**page, "next": None}) as (plane, client):
        assert len((await client.dag("run_1")).executions) == 2
    assert [path for _, path, _ in plane.requests] == [
        "/api/v1/workflows/run_1/dag",
        "/api/v1/workflows/run_1/dag?after=cursor",
    ]


async def test_sessions_are_started_listed_and_ended() -> None:
    """Bodies contain the given fields and no others."""
    started = {
        "session_id": "ses_1", "run_id": "run_1", "target": "a.b", "provider": "local", "transport": "webrtc",
        "model": "m", "floor": "model", "token": "t", "page_url": "p", "offer_url": "o", "events_url": "e",
    }  # fmt: skip
    async with served(started, {"sessions": []}, {}, {}, [], []) as (plane, client):
        assert (await client.start_session(StartRequest(target="a.b", voice="v"))).session_id == "ses_1"
        assert await client.list_sessions() == []
        await client.end_session("ses_1")
        await client.send_input("ses_1", "Hi")
    assert [json.loads(body) if body else None for _, _, body in plane.requests] == [
        {"target": "a.b", "voice": "v", "metadata": {}},
        None,
        {},
        {"text": "Hi"},
    ]


async def test_events_resume_after_the_last_recorded_event() -> None:
    """A lost stream is reopened after the last recorded event, and ends with the session."""
    first = [": keep-alive\n\n", recorded(1), 'event: live\ndata: {"type": "turn.started"}\n\n', recorded(2)]
    rest = [recorded(3, "session.state", state="live"), recorded(4, "session.state", state="ended")]
    async with served(first, rest) as (plane, client):
        events = [event async for event in client.session_events("ses_1", token="t")]
    assert [event.get("seq") for event in events] == [1, None, 2, 3, 4]
    assert plane.headers[1]["Last-Event-ID"] == "2"


async def test_events_of_an_unknown_session_raise() -> None:
    """A refused stream is not retried."""
    async with served(web.json_response(Conflict("Not yours.").to_problem(), status=409)) as (_, client):
        with pytest.raises(Conflict):
            await anext(client.session_events("ses_1"))


async def test_input_that_is_not_json_is_refused_before_it_is_sent() -> None:
    """A value that is not JSON is named by its path."""
    async with served() as (_, client):
        with pytest.raises(InvalidInput, match=r"input\.n"):
            await client.execute("a.b", {"n": object()})


@pytest.mark.parametrize(
    ("send", "field"),
    [
        (lambda client: client.send_input("ses_1", ""), "text"),
        (lambda client: client.send_input("ses_1", "x" * 8001), "text"),
        (lambda client: client.send_input("ses_1", 5), "text"),
        (lambda client: client.end_session("ses_1", "bored"), "reason"),
        (lambda client: client.exchange("x" * 201), "code"),
        (lambda client: client.executions_status([]), "ids"),
        (lambda client: client.executions_status(["exe_1", 5]), "ids.1"),
        (lambda client: client.cancel_execution("exe_1", tree="perhaps"), "tree"),
        (lambda client: client.set_policies(5), "document"),
        (lambda client: client.offer("ses_1", "v=0\udcff"), "sdp"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused_before_it_is_sent(send: Any, field: str) -> None:
    """Every body is checked by its model in the client; nothing is sent."""
    async with served() as (plane, client):
        with pytest.raises(InvalidInput) as refused:
            await send(client)
        assert refused.value.data["field"] == field
        assert plane.requests == []


@given(st.integers(1, 12), st.sampled_from(["\n", "\r\n", "\r"]))
def test_an_event_stream_may_be_split_anywhere(size: int, newline: str) -> None:
    """Events are the same for every chunking and every kind of line end."""
    text = ": hi\nid: 7\nevent: a\ndata: ü1\ndata: 2\n\ndata:x\n\nretry: 5\n\n".replace("\n", newline) + " "
    raw, parser = text.encode(), EventParser()
    events = [event for at in range(0, len(raw), size) for event in parser.feed(raw[at : at + size])]
    assert [(event.event, event.id, event.data) for event in events] == [("a", "7", "ü1\n2"), ("message", "7", "x")]


async def test_https_at_an_http_port_is_said_so() -> None:
    """An https address of a server without TLS is not "nothing": the error says so, and the hint has the http address."""
    async with served() as (_, client):
        async with ControlPlaneClient(client.url.replace("http://", "https://")) as wrong:
            with pytest.raises(ControlPlaneUnavailable) as caught:
                await wrong.health()
        assert caught.value.message == (
            f"The control plane at {wrong.url} could not be reached: what answers there does not speak TLS, so its address "
            "begins with http://, not https://."
        )
        assert caught.value.hint == f"use {client.url}"
