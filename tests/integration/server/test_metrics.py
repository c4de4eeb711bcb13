"""Prometheus metrics of a working control plane."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.errors import ExecutionFailed
from agentfield.plugins import RecordedEvent, Registry
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from support.core.hooks import plugin, registry
from support.waiting import until

KEY = "an operator's key, long enough"


async def scraped(url: str, key: str | None = KEY) -> tuple[int, str]:
    """Return status and text of ``GET /metrics``."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{url}/metrics") as response:
        return response.status, await response.text()


async def test_executions_events_and_requests_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Executions by target and status, events by type, requests by route, and linked nodes; no label has an id."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    settings = Settings(home=tmp_path, port=0, api_key=SecretStr(KEY))
    async with control_plane(settings, registry=Registry.of([]), environ={}) as plane:
        shop = Agent("shop", url=plane.url, api_key=KEY)

        @shop.reasoner()
        async def half(n: int) -> int:
            if n % 2:
                raise ValueError("odd")
            return n // 2

        async with shop, ControlPlaneClient(plane.url, KEY) as client:
            for n in (2, 4, 6):
                assert (await client.execute("shop.half", {"n": n})).status == "succeeded"
            with pytest.raises(ExecutionFailed):
                await client.execute("shop.half", {"n": 3})
            status, text = await scraped(plane.url)
        refused, _ = await scraped(plane.url, None)
    assert (status, refused) == (200, 401)
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    def value(name: str, **labels: str) -> float:
        return samples[name, tuple(sorted(labels.items()))]

    assert value("agentfield_executions_total", kind="call", target="shop.half", status="succeeded") == 3
    assert value("agentfield_executions_total", kind="call", target="shop.half", status="failed") == 1
    assert value("agentfield_execution_seconds_count", target="shop.half") == 4
    assert value("agentfield_execution_wait_seconds_count", target="shop.half") == 4
    assert value("agentfield_events_total", type="execution.ended") == 4
    assert value("agentfield_nodes", node="shop") == 1
    assert value("agentfield_executions_held", node="shop") == 0
    route = {"method": "POST", "route": "/api/v1/execute/{target}"}
    assert value("agentfield_http_request_seconds_count", status="200", **route) == 3
    assert value("agentfield_http_request_seconds_count", status="502", **route) == 1
    assert not re.search(r"(exe|run|ses|evt)_0", text)
    assert KEY not in text


async def test_observer_deliveries_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliveries and failures by observer hook."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    told = asyncio.Semaphore(0)

    async def looks(event: RecordedEvent) -> None:
        told.release()

    async def breaks(event: RecordedEvent) -> None:
        raise ValueError("no")

    plugins = registry(plugin("watch", execution_finished=looks), plugin("poor", execution_finished=breaks))
    async with (
        asyncio.timeout(60),
        control_plane(Settings(home=tmp_path, port=0), registry=plugins, environ={}) as plane,
    ):
        shop = Agent("shop", url=plane.url)

        @shop.reasoner()
        async def ping(n: int) -> int:
            return n

        async with shop, ControlPlaneClient(plane.url) as client:
            await client.execute("shop.ping", {"n": 1})
            await told.acquire()
            await until(lambda: sum(each.failed + each.delivered for each in plane.observers.counts.values()) == 2)
            _, text = await scraped(plane.url, None)
    hook = 'hook="agentfield_execution_finished"'
    assert f'agentfield_plugin_events_total{{{hook},outcome="delivered",plugin="watch"}} 1.0' in text
    assert f'agentfield_plugin_events_total{{{hook},outcome="failed",plugin="poor"}} 1.0' in text
