"""Node and control plane with different plugins: the control plane decides which sessions are registered, and says why."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import agentfield_local.plugin as local_plugin
import agentfield_openai.plugin as openai_plugin
from agentfield import Agent
from agentfield.plugins import Registry, install
from agentfield.wire.rest import StartRequest
from support.server.bad_input import af, run_installation

REFUSED = """\
openai/webrtc needs a plugin that is not installed: agentfield-openai. Installed pairs: local/audio_turns, local/webrtc, \
local/websocket. The control plane decides, and has: local/audio_turns (agentfield-local), local/webrtc (agentfield-local), \
local/websocket (agentfield-local). The node 'shop' has: openai/webrtc (agentfield-openai), openai/websocket (agentfield-openai)."""
HINT = "on the control plane: pip install agentfield-openai"


def node(registry: Registry) -> Agent:
    """Return an agent with a session for each provider, and a reasoner."""
    app = Agent("shop", registry=registry)

    @app.reasoner()
    async def echo(word: str) -> dict[str, str]:
        return {"word": word}

    @app.session("here", provider="local", transport="webrtc")
    async def here(session: Any) -> None:
        await session.input()

    @app.session("voice", provider="openai", transport="webrtc")
    async def voice(session: Any) -> None:
        await session.input()

    return app


async def test_session_of_an_uninstalled_pair_is_not_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The node logs the refusal with both lists, a start gets the same error, and its other functions work.

    With the plugin installed on the control plane, the same node registers all it declares.
    """
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    monkeypatch.setattr(install, "install_origin", install.InstallOrigin)
    app = node(Registry.of([openai_plugin]))
    with caplog.at_level(logging.ERROR, "agentfield.node"):
        async with run_installation(tmp_path, registry=Registry.of([local_plugin]), app=app) as installation:
            said = await installation.start_refused("shop.voice")
            assert (said.code, said.status, said.detail, said.hint) == ("adapter_not_installed", 422, REFUSED, HINT)
            (view,) = await installation.client.nodes()
            assert (view.sessions, view.refused) == (("here",), {"voice": "adapter_not_installed"})
            assert view.functions == ("echo",)
    (logged,) = [record.getMessage() for record in caplog.records if record.name == "agentfield.node"]
    assert logged == f"shop.voice is not registered: {REFUSED}\n  hint: {HINT}\n  code: adapter_not_installed"
    both = Registry.of([local_plugin, openai_plugin])
    async with run_installation(tmp_path, registry=both, app=app) as installation:
        (view,) = await installation.client.nodes()
        assert (set(view.sessions), view.refused) == ({"here", "voice"}, {})
        started = await installation.client.start_session(StartRequest(target="shop.voice"))
        await installation.client.end_session(started.session_id, "operator")


async def test_control_plane_lists_its_plugins_and_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins with their states and pairs with the code of their refusal, over HTTP, in Python and in `af`."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    monkeypatch.setattr(install, "install_origin", install.InstallOrigin)
    plugins = Registry.of([local_plugin, object()])
    async with run_installation(tmp_path, registry=plugins, app=node(plugins)) as installation:
        views = {view.distribution: view for view in await installation.client.plugins()}
        rows = {f"{view.provider}/{view.transport}": view for view in await installation.client.adapters()}
        code, out, _ = await af("plugins", "--url", installation.url)
    assert (views["agentfield-local"].state, views["agentfield-local"].providers) == ("ok", ("local",))
    assert (views["object"].state, views["object"].reason) == (
        "invalid",
        "it has no function agentfield_manifest marked with @hookimpl",
    )
    assert (rows["local/webrtc"].installed, rows["local/webrtc"].state) == (True, "ok")
    missing = rows["openai/webrtc"]
    assert (missing.installed, missing.state) == (False, "adapter_not_installed")
    assert missing.hint == "pip install agentfield-openai"
    assert code == 1
    assert "it has no function agentfield_manifest" in out


async def test_node_leaves_an_unknown_transport_to_the_control_plane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transport that the node does not know may be known to the control plane; a misspelt one is refused."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    app = Agent("shop", registry=Registry.of([openai_plugin, local_plugin]))

    @app.reasoner()
    async def echo(word: str) -> dict[str, str]:
        return {"word": word}

    @app.session("here", provider="local", transport="webrtc")
    async def here(session: Any) -> None:
        await session.input()

    @app.session("phone", provider="openai", transport="pigeon")
    async def phone(session: Any) -> None:
        await session.input()

    with pytest.raises(Exception, match="Did you mean 'websocket'"):
        app.session("typo", provider="openai", transport="web_socket")(phone)
    async with run_installation(tmp_path, registry=Registry.of([openai_plugin, local_plugin]), app=app) as installation:
        said = await installation.start_refused("shop.phone")
    assert said.code == "unsupported_pair"
    assert "The node" not in said.detail, "both have the same, there is nothing to compare"
