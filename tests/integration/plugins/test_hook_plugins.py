"""Plugins with hooks in a real control plane: they start before it, get their settings, and stop after it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentfield.client import ControlPlaneClient
from agentfield.errors import PluginBroken
from agentfield.plugins import HookRuntime, RecordedEvent
from agentfield_cli.skeleton import write_plugin
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from support.core.hooks import plugin, registry
from support.packaging.third_party import conformance, install_project


async def test_a_plugin_starts_before_the_control_plane_and_stops_after_it(tmp_path: Path) -> None:
    """The plugin has its setting before requests are served, and observes until the end."""
    told: list[str] = []

    @asynccontextmanager
    async def lifespan(runtime: HookRuntime) -> AsyncIterator[None]:
        url = runtime.setting("EXPORT_URL")
        assert url is not None
        told.append(url.get_secret_value())
        yield
        told.append("stopped")

    async def observed(event: RecordedEvent) -> None:
        told.append(event.type)

    made = plugin("export", settings=("EXPORT_URL",), lifespan=lifespan, dag_event=observed)
    settings, environ = Settings(home=tmp_path, port=0), {"EXPORT_URL": "https://a.example"}
    async with control_plane(settings, registry=registry(made), environ=environ) as plane:
        assert told == ["https://a.example"]
        async with ControlPlaneClient(plane.url) as client:
            assert await client.list_sessions() == []
        assert "stopped" not in told
    assert told[-1] == "stopped"


def test_the_skeleton_works_as_it_is(tmp_path: Path) -> None:
    """The tests of a project of `af init plugin NAME --kind hooks` pass, without a warning."""
    folder, site = tmp_path / "agentfield-door-man", tmp_path / "site"
    write_plugin("door_man", "hooks", folder)
    done = conformance("-W", "error", cwd=folder, path=[str(site), install_project(site, folder)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("4 passed")


async def test_a_plugin_that_fails_to_start_prevents_the_start(tmp_path: Path) -> None:
    """The error has the plugin's name; the folder can be used by another control plane afterwards."""

    def lifespan(runtime: HookRuntime) -> Any:
        raise OSError("secret-4711")

    settings = Settings(home=tmp_path, port=0)
    with pytest.raises(PluginBroken, match="The plugin 'export' failed to start"):
        async with control_plane(settings, registry=registry(plugin("export", lifespan=lifespan)), environ={}):
            raise AssertionError
    async with control_plane(settings, registry=registry(), environ={}):
        pass
