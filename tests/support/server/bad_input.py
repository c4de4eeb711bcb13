"""An installation in this process for tests of bad input, and refusals as HTTP, `af` and Python show them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError
from agentfield.plugins import Registry
from agentfield.wire.rest import StartRequest
from agentfield_cli.main import run
from agentfield_local.brain import load_brain
from agentfield_local.server import LocalServer
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_local.speech.synthetic import EnergyVad, FixedStt, ToneTts
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings

__all__ = [
    "CANARY",
    "LIVE",
    "Installation",
    "Refusal",
    "af",
    "af_refused",
    "raised_by",
    "refusal",
    "run_installation",
    "steady",
    "unchecked_agent",
]

CANARY = "sk-canary-Hn27cWq9RtZb41"
"""A provider key that must not be in any message."""

LIVE: dict[str, Any] = {"provider": "openai", "transport": "webrtc"}

_VOLATILE = (
    (re.compile(r"http://127\.0\.0\.1:\d+"), "URL"),
    (re.compile(r"\b(ses|run|exe|evt|node|op)_[0-9a-f]{32}\b"), r"\1_ID"),
    (re.compile(r"\brtc_[A-Za-z0-9_-]+"), "rtc_ID"),
    (re.compile(r"(?<![:/\w])/(?:[^\s/]+/)+(?=[^/\s])"), "DIR/"),
)


def steady(text: str) -> str:
    """Return a text with addresses, ids and folders replaced: they differ from run to run."""
    for pattern, name in _VOLATILE:
        text = pattern.sub(name, text)
    return text


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as the user sees it."""

    code: str
    detail: str
    hint: str | None
    status: int

    def text(self) -> str:
        """Return it as `af` prints it."""
        hint = f"hint: {self.hint}\n" if self.hint else ""
        return f"error: {self.detail}\n{hint}code: {self.code}\n"


def refusal(problem: Mapping[str, Any] | AgentFieldError) -> Refusal:
    """Return a problem document or an error as a `Refusal`, with stable texts."""
    if isinstance(problem, AgentFieldError):
        problem = problem.to_problem()
    assert CANARY not in json.dumps(problem)
    hint = problem.get("hint")
    return Refusal(problem["code"], steady(problem["detail"]), steady(hint) if hint else None, problem["status"])


async def af(*command: str) -> tuple[int, str, str]:
    """Run `af` in a thread of this process; return its exit code and output."""
    out, err = io.StringIO(), io.StringIO()

    def work() -> int:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return run(command)

    code = await asyncio.to_thread(work)
    assert CANARY not in out.getvalue() + err.getvalue()
    assert "Traceback" not in out.getvalue() + err.getvalue()
    return code, out.getvalue(), err.getvalue()


async def af_refused(*command: str) -> tuple[int, Refusal]:
    """Run `af` with text and with JSON output, check that both say the same, and return exit code and refusal."""
    code, out, _ = await af(*command, "--json")
    said = refusal(json.loads(out))
    again, _, err = await af(*command)
    assert again == code
    # a progress line may come first
    assert steady(err).endswith(said.text()), err
    return code, said


def unchecked_agent() -> Agent:
    """Return an agent whose own node does not check its declarations, so that the control plane must."""
    app = Agent("shop", registry=Registry.of([]))

    @app.reasoner()
    async def echo(word: str) -> dict[str, str]:
        return {"word": word}

    @app.reasoner()
    async def breaks() -> None:
        raise LookupError("no such order")

    @app.reasoner()
    async def leaves() -> None:
        raise SystemExit(3)

    @app.reasoner()
    async def odd() -> Any:
        return {"a": [object()]}

    @app.reasoner()
    async def endless() -> float:
        return float("inf")

    @app.session("voice", **LIVE, model="gpt-realtime-2", voice="marin")
    async def voice(session: Any) -> None:
        turn = await session.input()
        await session.say((await session.call("shop.echo", word=turn.text))["word"])

    @app.session("here", provider="local", transport="webrtc")
    async def here(session: Any) -> None:
        await session.input()
        await session.say("Yes.")

    @app.session("raises", **LIVE)
    async def raises(session: Any) -> None:
        await session.input()
        raise LookupError("the shelf is empty")

    @app.session("absent", **LIVE, floor="handler")
    async def absent(session: Any) -> None:
        session.state["seen"] = True

    def declared(name: str, **values: Any) -> None:
        @app.session(name, **{**LIVE, **values})
        async def handler(session: Any) -> None:
            await session.input()

    declared("no_provider", provider="opnai")
    declared("no_transport", transport="webrct")
    declared("no_turns", transport="audio_turns")
    declared("no_model", provider="local", model="local-9")
    declared("no_voice", provider="local", voice="jo")
    declared("no_tool", tools=("stock.ecko",), floor="model")
    declared("no_option", options={"noize": "far_field"})
    declared("exact", say="exact")
    return app


class _Joe(ToneTts):
    @property
    def voices(self) -> tuple[str, ...]:
        return ("joe",)


@dataclass(slots=True)
class Installation:
    """An installation that runs in this process."""

    plane: ControlPlane
    provider: LocalServer
    client: ControlPlaneClient
    app: Agent
    api_key: str | None = None
    good: str = "shop.here"

    @property
    def url(self) -> str:
        """The control plane's address."""
        return self.plane.url

    async def request(
        self,
        path: str,
        body: Any = None,
        *,
        media_type: str = "application/json",
        method: str = "POST",
        token: str | None = None,
    ) -> tuple[int, str]:
        """Send a request and return status and body."""
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        headers = {"Content-Type": media_type} if method == "POST" else {}
        if token or self.api_key:
            headers["Authorization"] = f"Bearer {token or self.api_key}"
        async with (
            aiohttp.ClientSession(trust_env=False) as http,
            http.request(
                method, f"{self.url}/api/v1{path}", data=io.BytesIO(data) if method == "POST" else None, headers=headers
            ) as response,
        ):
            return response.status, await response.text()

    async def refused(self, path: str, body: Any = None, **how: Any) -> Refusal:
        """Send a request that is refused and return the refusal; the document repeats the response's status."""
        status, text = await self.request(path, body, **how)
        assert status >= 400, text
        said = refusal(json.loads(text))
        assert said.status == status
        return said

    async def start_refused(self, target: str, **asked: str) -> Refusal:
        """Start a session that is refused, over HTTP, with `af` (text and JSON) and from Python; return their common refusal."""
        body = {"target": target, **asked}
        over_http = await self.refused("/sessions", body)
        flags = [part for name, value in asked.items() for part in (f"--{name}", value)]
        code, printed = await af_refused("session", "start", target, "--url", self.url, *flags)
        assert code == (2 if over_http.status < 500 else 1)
        assert printed == over_http
        with contextlib.suppress(AgentFieldError):
            await self.client.start_session(StartRequest.model_validate(body))
            raise AssertionError("it was not refused")
        raised = await raised_by(self.client.start_session(StartRequest.model_validate(body)))
        assert raised == over_http
        return over_http

    async def still_works(self) -> None:
        """Check that good requests succeed: a call of a target, and a session that is started, shown and ended."""
        execution = await self.client.execute("shop.echo", {"word": "good"})
        assert execution.output == {"word": "good"}, execution
        started = await self.client.start_session(StartRequest(target=self.good))
        assert (await self.client.get_session(started.session_id)).state == "created"
        await self.client.end_session(started.session_id, reason="operator")
        assert (await self.client.get_session(started.session_id)).end_reason == "operator"


async def raised_by(work: Any) -> Refusal:
    """Return the error that an awaitable raises."""
    try:
        await work
    except AgentFieldError as error:
        return refusal(error)
    raise AssertionError("nothing was raised")


@asynccontextmanager
async def run_installation(
    home: Path,
    *,
    texts: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    api_key: str | None = None,
    registry: Registry | None = None,
    app: Agent | None = None,
    good: str = "shop.here",
    **settings: Any,
) -> AsyncIterator[Installation]:
    """Run a control plane, an agent and a provider in this process; check at the end that all still work.

    Args:
        home: The data folder.
        texts: The transcripts of the provider, one a turn.
        environ: Settings of the providers that replace those of the provider here.
        api_key: The operator's key.
        registry: The plugins; the installed ones when None.
        app: The agent; `unchecked_agent` when None.
        good: The target of a session that can be started.
        settings: Further settings of the control plane.
    """
    engines = SpeechEngines(name="synthetic", vad=EnergyVad, stt=FixedStt(texts), tts=_Joe())
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(LocalServer(engines, load_brain("obedient")))
        ours = {
            "OPENAI_API_KEY": CANARY,
            "OPENAI_BASE_URL": server.base_url,
            "AGENTFIELD_LOCAL_URL": server.base_url,
        }
        plane = await stack.enter_async_context(
            control_plane(
                Settings(home=home, port=0, api_key=api_key, **settings),
                registry=registry,
                environ={**ours, **(environ or {})},
            )
        )
        agent = app or unchecked_agent()
        agent._url, agent._api_key = plane.url, api_key
        await stack.enter_async_context(agent)
        client = await stack.enter_async_context(ControlPlaneClient(plane.url, api_key))
        it = Installation(plane, server, client, agent, api_key, good)
        yield it
        await it.still_works()
