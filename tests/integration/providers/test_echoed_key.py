"""A provider that repeats the key in whatever it answers: the key is found nowhere outside of the control plane's memory."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from agentfield import Agent
from agentfield.testing.scripted.adapters import ANSWER_SDP
from agentfield_server.app import control_plane
from agentfield_server.logs import configure_logs
from agentfield_server.settings import Settings

KEY = "sk-canary-3f9c1e5b7a2d"


def answers() -> list[web.Response]:
    """Return answers that hold the key: in errors, headers, bodies and SDP."""
    error = {"error": {"message": f"Incorrect API key provided: {KEY}", "code": KEY, "type": KEY, "param": KEY}}
    call = {"Location": "/v1/realtime/calls/rtc_1"}
    return [
        web.json_response(error, status=401, headers={"X-Key": KEY, "WWW-Authenticate": f"Bearer {KEY}"}),
        web.json_response(error, status=429, headers={"Retry-After": KEY}),
        web.Response(text=f"<html>{KEY}</html>", status=500, content_type="text/html"),
        web.Response(status=302, headers={"Location": f"https://example.org/?key={KEY}"}),
        web.Response(text=f"v=0 {KEY}", status=201, headers=call),
        web.Response(text=ANSWER_SDP.replace("scripted", KEY), status=201, headers=call),
        web.Response(text=ANSWER_SDP + f"a=x:{KEY}\r\n", status=201, headers={"Location": f"/{KEY}"}),
        web.Response(text=ANSWER_SDP, status=201, headers={"Location": f"/v1/realtime/calls/rtc_{KEY}"}),
        web.Response(text=KEY, status=201, reason=KEY),
    ]


async def test_an_echoed_key_is_found_nowhere(tmp_path: Path, monkeypatch: Any) -> None:
    """Neither in logs at DEBUG, files, events, views and exports, nor in what a caller gets over HTTP."""
    left = answers()
    asked: list[str] = []

    async def provider(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Authorization", ""))
        if request.path.endswith("/calls") and left:
            return left.pop(0)
        return web.Response(text=KEY, status=404, headers={"X-Key": KEY})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provider)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    agent = Agent(node_id="shop")

    @agent.session("voice", provider="openai", transport="webrtc")
    async def voice(_session: Any) -> None: ...

    log, seen, root = io.StringIO(), [], logging.getLogger()
    before = list(root.handlers), root.level
    configure_logs("DEBUG", stream=log)  # knows no secrets: what it gets must hold none
    for noisy in ("agentfield", "aiohttp.client", "aiohttp.server"):
        monkeypatch.setattr(logging.getLogger(noisy), "level", logging.DEBUG)
    environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"http://127.0.0.1:{runner.addresses[0][1]}/v1"}
    home = tmp_path / "home"
    try:
        async with control_plane(Settings(_env_file=None, home=home, port=0), environ=environ) as plane:
            agent._url, agent._api_key = plane.url, None
            async with agent, aiohttp.ClientSession(plane.url, trust_env=False) as http:
                for _ in range(len(left)):
                    async with http.post("/api/v1/sessions", json={"target": "shop.voice"}) as response:
                        started = await response.json()
                    path = f"/api/v1/sessions/{started['session_id']}"
                    headers = {"Authorization": f"Bearer {started['token']}", "Content-Type": "application/sdp"}
                    async with http.post(f"{path}/offer", data=ANSWER_SDP, headers=headers) as response:
                        seen.append(f"{response.status} {response.headers} {await response.text()}")
                        assert response.status >= 400
                    async with http.post(f"{path}/end", json={"reason": "operator"}) as response:
                        seen.append(await response.text())
                    for view in ("", "/events", "/workflows", "/export"):
                        async with http.get(path + view) as response:
                            seen.append(f"{response.headers} {await response.text()}")
    finally:
        root.handlers[:], root.level = before
        await runner.cleanup()
    assert not left
    assert f"Bearer {KEY}" in asked
    assert "shop.voice" in "".join(seen)
    assert [text for text in (*seen, log.getvalue()) if KEY in text] == []
    assert [path.name for path in home.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []
