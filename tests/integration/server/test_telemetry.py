"""OpenTelemetry spans of a control plane: the tree of a call, a restart, and callers with a trace of their own."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import StatusCode

from agentfield import Agent, context
from agentfield.plugins import Registry
from agentfield.testing.scripted import ScriptedProvider, ToolUse
from agentfield.wire.trace_context import parse_traceparent, span_id, trace_id, traceparent
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings
from agentfield_server.telemetry import open_tracer
from agentfield_server.testing import harness
from agentfield_server.testing.pytest_plugin import StartCall

OUTSIDE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WORDS = "my card is 4711"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the node's key with the test."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))


class Backend:
    """A backend that keeps the spans."""

    def __init__(self, **how: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **how)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """All exported spans."""
        return self._exporter.get_finished_spans()

    def text(self) -> str:
        """Return the exported spans as JSON text."""
        return "\n".join(span.to_json() for span in self.spans)

    def tree(self) -> Any:
        """Return the tree of span names, sorted by start."""
        below: dict[int | None, list[ReadableSpan]] = {}
        for span in sorted(self.spans, key=lambda span: span.start_time or 0):
            below.setdefault(span.parent.span_id if span.parent else None, []).append(span)

        def branch(parent: int | None) -> list[Any]:
            found = below.pop(parent, [])
            return [(span.name, branch(span.context.span_id)) for span in found]

        made = branch(None)
        assert not below, "spans whose parent is no span"
        return made


def shop_agent() -> Agent:
    """Return an agent with reasoners, nested calls and a tool of the model."""
    app = Agent("shop", registry=Registry.of([]))

    @app.reasoner()
    async def inner(word: str) -> dict[str, str]:
        here = context.current()
        assert here is not None
        return here.headers

    @app.reasoner()
    async def outer(word: str) -> Any:
        return await app.call("shop.inner", word=word)

    @app.reasoner()
    async def look(word: str) -> str:
        raise ValueError(word)

    @app.session("voice", provider="scripted", transport="webrtc", tools=["shop.look"])
    async def voice(session: Any) -> None:
        turn = await session.input()
        await session.call("shop.outer", word=turn.text)
        await session.reply()

    return app


@asynccontextmanager
async def running(
    home: Path, backend: Backend | None, **settings: Any
) -> AsyncIterator[tuple[ControlPlane, aiohttp.ClientSession]]:
    """Run a control plane on a home folder, with an HTTP client."""
    script = ScriptedProvider()
    registry = script.replace_providers(Registry.of([]))
    provider = None if backend is None else backend.provider
    made = Settings(home=home, port=0, **settings)
    async with (
        control_plane(made, registry=registry, environ={}, tracer_provider=provider) as plane,
        aiohttp.ClientSession(plane.url, trust_env=False) as http,
    ):
        yield plane, http


async def test_call_is_a_tree_of_spans(
    call: StartCall, scripted_provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Session, turn, nested calls and tool have spans with times, outcomes and ids, and without content."""
    backend = Backend()
    monkeypatch.setattr(harness, "control_plane", functools.partial(control_plane, tracer_provider=backend.provider))
    scripted_provider.answers(ToolUse("shop.look", word=WORDS), "There is nothing.")
    async with call(shop_agent()) as caller:
        turn = await caller.says(WORDS)
        await turn.calls("shop.look").failed()
        await turn.speaks("There is nothing.")
        await caller.hangs_up()
        told = await caller.client.workflow(caller.session_id)
    assert backend.tree() == [
        (
            "invoke_agent shop.voice",
            [("turn shop.voice", [("call shop.outer", [("call shop.inner", [])]), ("execute_tool shop.look", [])])],
        )
    ]
    by_id = {span.attributes["agentfield.execution_id"]: span for span in backend.spans if span.attributes}
    for execution in told.executions:
        span = by_id[execution.id]
        assert span.context.trace_id == int(trace_id(told.run_id), 16)
        assert span.context.span_id == int(span_id(execution.id), 16)
        assert span.start_time == round(execution.created_at * 1e6) * 1000
        assert execution.ended_at is not None
        assert span.end_time == round(execution.ended_at * 1e6) * 1000
        failed = execution.status == "failed"
        assert span.status.status_code is (StatusCode.ERROR if failed else StatusCode.OK)
    named = {span.name: dict(span.attributes or {}) for span in backend.spans}
    session = named["invoke_agent shop.voice"]
    assert session["gen_ai.operation.name"] == "invoke_agent"
    assert (session["gen_ai.provider.name"], session["agentfield.transport"]) == ("scripted", "webrtc")
    assert (session["agentfield.turns"], session["agentfield.end_reason"]) == (1, "caller_hangup")
    tool = named["execute_tool shop.look"]
    assert (tool["gen_ai.tool.name"], tool["error.type"]) == ("shop.look", "execution_failed")
    assert {each["gen_ai.conversation.id"] for each in named.values()} == {caller.session_id}
    assert WORDS not in backend.text()


@pytest.mark.parametrize("content", [False, True])
async def test_content_is_exported_only_when_enabled(tmp_path: Path, content: bool) -> None:
    """Inputs and outputs are attributes with AGENTFIELD_OTEL_CONTENT=1 only, and never with keys."""
    backend = Backend()
    async with running(tmp_path, backend, otel_content=content) as (plane, http), shop_agent().linked(url=plane.url):
        body = {"input": {"word": f"{WORDS} sk-canary-0123456789"}}
        async with http.post("/api/v1/execute/shop.inner", json=body) as response:
            assert response.status == 200
    assert (WORDS in backend.text()) is content
    assert "sk-canary" not in backend.text()


async def test_trace_of_an_external_caller_becomes_a_link(tmp_path: Path) -> None:
    """Its span becomes a link; the reasoner gets the trace of the run, and an invalid header is ignored."""
    backend = Backend()
    async with running(tmp_path, backend) as (plane, http), shop_agent().linked(url=plane.url):
        for header in (OUTSIDE, "00-nothing", None):
            headers = {} if header is None else {"traceparent": header}
            body = {"input": {"word": "x"}}
            async with http.post("/api/v1/execute/shop.inner", json=body, headers=headers) as response:
                done = await response.json()
            assert done["output"]["traceparent"] == traceparent(done["run_id"], done["id"])
    links = [[link.context for link in span.links] for span in backend.spans]
    assert [len(each) for each in links] == [1, 0, 0]
    assert (links[0][0].trace_id, links[0][0].span_id) == (int(OUTSIDE[3:35], 16), int(OUTSIDE[36:52], 16))
    assert len({span.context.trace_id for span in backend.spans}) == 3


async def test_session_across_a_restart_is_one_span(tmp_path: Path) -> None:
    """It covers the whole time of the session and keeps the caller's link."""
    before, after = Backend(), Backend()
    async with running(tmp_path, before) as (plane, http), shop_agent().linked(url=plane.url):
        headers = {"traceparent": OUTSIDE}
        async with http.post("/api/v1/sessions", json={"target": "shop.voice"}, headers=headers) as response:
            started = await response.json()
            assert response.status == 201, started
    assert before.tree() == []
    async with running(tmp_path, after) as (plane, http), shop_agent().linked(url=plane.url):
        async with http.post(f"/api/v1/sessions/{started['session_id']}/end", json={}) as response:
            assert response.status == 200
        await plane.sessions.settled(started["session_id"])
    assert after.tree() == [("invoke_agent shop.voice", [])]
    (span,) = after.spans
    assert span.context.trace_id == int(trace_id(started["run_id"]), 16)
    assert [link.context.span_id for link in span.links] == [int(OUTSIDE[36:52], 16)]


async def test_a_trace_is_sampled_as_a_whole(tmp_path: Path) -> None:
    """With a ratio sampler a run has all of its spans, or none."""
    backend = Backend(sampler=ParentBased(TraceIdRatioBased(0.5)))
    runs = []
    async with running(tmp_path, backend) as (plane, http), shop_agent().linked(url=plane.url):
        for _ in range(24):
            async with http.post("/api/v1/execute/shop.outer", json={"input": {"word": "x"}}) as response:
                runs.append((await response.json())["run_id"])
    came = [sum(span.context.trace_id == int(trace_id(run), 16) for span in backend.spans) for run in runs]
    assert set(came) <= {0, 2}
    assert sum(came) == len(backend.spans)


async def test_otel_variables_configure_the_exporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_EXPORTER_OTLP_ENDPOINT alone enables the exporter; without any variable there is no tracer."""
    from aiohttp import web
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    came = []

    async def collect(request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        came.extend(sent.resource_spans)
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", collect)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
    try:
        settings = Settings(home=tmp_path, port=0)
        async with (
            control_plane(settings, registry=Registry.of([]), environ=environ) as plane,
            shop_agent().linked(url=plane.url),
            aiohttp.ClientSession(plane.url, trust_env=False) as http,
            http.post("/api/v1/execute/shop.inner", json={"input": {"word": "x"}}) as response,
        ):
            assert response.status == 200
    finally:
        await runner.cleanup()
    (resource,) = came
    named = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert named["service.name"] == "agentfield"
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == ["call shop.inner"]
    assert open_tracer({}, content=False) is None
    assert open_tracer({**environ, "OTEL_SDK_DISABLED": "true"}, content=False) is None
    assert open_tracer({**environ, "OTEL_TRACES_EXPORTER": "none"}, content=False) is None


@pytest.mark.parametrize(
    ("header", "read"),
    [
        (OUTSIDE, OUTSIDE),
        ("cc" + OUTSIDE[2:] + "-more", OUTSIDE),
        (OUTSIDE + "-more", None),
        ("ff" + OUTSIDE[2:], None),
        (OUTSIDE.upper(), None),
        ("00-" + "0" * 32 + OUTSIDE[35:], None),
        (OUTSIDE[:36] + "0" * 16 + "-01", None),
        ("", None),
        (None, None),
        ("x" * 100_000, None),
    ],
)
def test_invalid_traceparent_is_ignored(header: str | None, read: str | None) -> None:
    """Version 00 is parsed strictly, later versions by their prefix."""
    assert parse_traceparent(header) == read


def test_any_run_id_has_a_valid_trace_id() -> None:
    """The trace id of a run is always valid and always the same."""
    assert parse_traceparent(traceparent("run_1", "exe_1")) == traceparent("run_1", "exe_1")
    assert trace_id("run_" + "0" * 32) != "0" * 32
