"""Node and control plane with different plugins: the control plane decides which sessions are registered, and says why."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest

import agentfield_local.plugin as local_plugin
import agentfield_openai.plugin as openai_plugin
from agentfield import Agent
from agentfield.errors import NodeRefused
from agentfield.plugins import Registry, install
from agentfield.wire.rest import StartRequest
from support.processes.programs import running_program
from support.server.bad_input import af, run_installation
from support.waiting import until

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


def agent_of(*names: str, url: str | None = None) -> Agent:
    """Return an agent `shop` with these reasoners."""
    app = Agent("shop", url=url, registry=Registry.of([]))
    for name in names:

        @app.reasoner(name)
        async def work(word: str = "") -> str:
            return word

    return app


async def test_another_agent_with_a_linked_node_s_id_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that shares no name with the linked one is refused; one that shares a name is another instance."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    plugins = Registry.of([local_plugin, openai_plugin])
    async with run_installation(tmp_path, registry=plugins, app=node(plugins)) as installation:
        with pytest.raises(NodeRefused) as refused:
            await agent_of("price", "stock", url=installation.url).__aenter__()
        assert (refused.value.code, refused.value.message, refused.value.hint) == (
            "node_id_in_use",
            "The node id 'shop' is in use by another agent: it declares echo, here, voice, this one price, stock.",
            "give this agent an id of its own, Agent('shop-2'), or stop the other: af nodes drain shop",
        )
        assert set(installation.plane.hub.functions()) == {"shop.echo"}
        async with agent_of("echo", "price", url=installation.url):
            assert len(await installation.client.nodes()) == 2
        async with agent_of(url=installation.url):  # declares nothing: it only calls
            assert len(await installation.client.nodes()) == 2


async def test_a_program_counts_what_is_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of a linked program leaves out a session that the control plane refused, and names it with the code."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path / "home"))
    file, log = tmp_path / "agent.py", tmp_path / "agent.log"
    file.write_text(
        "from agentfield import Agent\n"
        "app = Agent('calls')\n"
        "@app.session('voice', provider='openai', transport='webrtc')\n"
        "async def voice(session): await session.input()\n"
        "app.run()\n"
    )
    here = Registry.of([local_plugin])
    async with run_installation(tmp_path / "home", registry=here, app=node(here)) as installation:
        env = {"AGENTFIELD_URL": installation.url, "AGENTFIELD_HOME": str(tmp_path / "other")}
        async with running_program([sys.executable, str(file)], env=env, log=log):
            line = await until(lambda: next((x for x in log.read_text().splitlines() if "is linked" in x), None))
    assert line == (
        f"calls is linked to {installation.url} (0 reasoners, 0 sessions; refused: voice (adapter_not_installed)). "
        "Ctrl+C stops it."
    )
