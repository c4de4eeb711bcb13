"""Faults of the environment: dead proxies, ports in use, an unreachable control plane, invalid commands."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from agentfield import Agent
from agentfield import agent as agent_module
from agentfield.adapterkit.http import http_session
from agentfield.client import ControlPlaneClient
from agentfield.plugins import Registry
from agentfield_cli.call.recordings import write_recording
from agentfield_cli.main import run
from agentfield_local.process.supervisor import Supervisor
from support.audio import tone_samples
from support.providers.openai import Runtime
from support.server.bad_input import af, af_refused, raised_by, run_installation, steady

AF = str(Path(sys.executable).with_name("af"))
DEAD = "http://127.0.0.1:9"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "WS_PROXY", "ws_proxy")


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set every proxy variable to a port without a listener, and unset NO_PROXY."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path / "home"))
    for name in PROXIES:
        monkeypatch.setenv(name, DEAD)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("target", ["shop.voice", "shop.here"])
async def test_loopback_traffic_bypasses_the_proxy(proxied: None, tmp_path: Path, target: str) -> None:
    """Node link, `af`, call, sideband and provider on loopback work while the configured proxy is dead."""
    write_recording(tmp_path / "question.wav", tone_samples(0.4))
    async with run_installation(tmp_path / "home") as installation:
        code, out, err = await af("session", "call", target, "--audio", str(tmp_path / "question.wav"), "--json")
        assert code == 0, out + err
        assert [bool(turn["generated"]) for turn in json.loads(out)["turns"]] == [True]
        for command in (("nodes",), ("session", "list"), ("execute", "shop.echo", "--input", '{"word": "x"}')):
            code, out, err = await af(*command, "--json")
            assert code == 0, out + err
        assert installation.url in json.loads((tmp_path / "home" / "current.json").read_text())["url"]


async def test_the_local_provider_is_reached_without_the_proxy(proxied: None, tmp_path: Path) -> None:
    """The local provider's process is started, found ready and used without the proxy."""
    runtime = Runtime(base_url="", data_dir=tmp_path, logger=logging.getLogger("agentfield.adapter.local"))
    async with http_session() as http:
        supervisor = Supervisor(runtime, http, engines="synthetic", linger=1)
        provider = await supervisor.ensure()
        assert await supervisor.find() == provider
        async with (
            aiohttp.ClientSession() as direct,
            direct.get(provider.base_url.replace("/v1", "/healthz")) as answer,
        ):
            assert answer.status == 200
        await supervisor.close()


async def test_a_dead_proxy_is_named_in_the_error(proxied: None, tmp_path: Path) -> None:
    """A remote provider is reached through the proxy; if the proxy is dead, the error says so."""
    write_recording(tmp_path / "question.wav", tone_samples(0.4))
    async with run_installation(
        tmp_path / "home", environ={"OPENAI_BASE_URL": "https://api.example.com/v1"}
    ) as installation:
        question = str(tmp_path / "question.wav")
        code, said = await af_refused("session", "call", "shop.voice", "--audio", question, "--url", installation.url)
    assert (code, said.text()) == (
        1,
        """\
error: OpenAI could not be reached: the proxy that the environment names does not answer (asked to create the call).
hint: check the network and proxy settings, and OPENAI_BASE_URL
code: provider_unavailable
""",
    )


async def test_an_unreachable_control_plane_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If nothing listens at AGENTFIELD_URL, the error in `af`, Python and an agent has the address and a command."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    monkeypatch.setenv("AGENTFIELD_URL", DEAD)
    text = """\
error: The control plane at URL could not be reached: nothing answers there.
hint: Start one with `af server`, or set AGENTFIELD_URL.
code: control_plane_unavailable
"""
    for command in (("nodes",), ("session", "list"), ("session", "start", "shop.voice"), ("execute", "shop.echo")):
        code, said = await af_refused(*command)
        assert (code, said.text()) == (3, text)
    async with ControlPlaneClient() as client:
        assert (await raised_by(client.nodes())).text() == text
    monkeypatch.setattr(agent_module, "LINK_TIMEOUT", 0.2)
    assert (await raised_by(Agent("shop", registry=Registry.of([])).__aenter__())).text() == (
        "error: shop could not link to URL in 0.2 seconds: nothing answers there.\n"
        "hint: Start one: af server\ncode: control_plane_unavailable\n"
    )


async def test_an_invalid_control_plane_address_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed AGENTFIELD_URL and the address of another server get different errors."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with run_installation(tmp_path) as installation:
        with monkeypatch.context() as given:
            given.setenv("AGENTFIELD_URL", "localhost")
            assert await af_refused("nodes") == await af_refused("session", "list")
            code, said = await af_refused("nodes")
            assert (code, said.text()) == (
                2,
                (
                    "error: AGENTFIELD_URL is 'localhost', which is not an http address.\nhint: Use one like URL.\n"
                    "code: invalid_input\n"
                ),
            )
        code, said = await af_refused("nodes", "--url", installation.provider.url)
        assert (code, said.text()) == (
            3,
            (
                "error: The server at URL does not seem to be a control plane: it answered HTTP 404.\n"
                "hint: Set AGENTFIELD_URL to the control plane's address.\ncode: control_plane_unavailable\n"
            ),
        )


@pytest.mark.parametrize("command", ["server", "dev"])
def test_a_port_in_use_is_reported_with_its_process(tmp_path: Path, command: str) -> None:
    """The error, as text and as JSON, names the process on the port and a free port; that process keeps running."""
    (tmp_path / "agent.py").write_text("")
    folder = [str(tmp_path)] if command == "dev" else []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = [AF, command, *folder, "--port", str(port), "--data", str(tmp_path / "data")]
        text = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        as_json = subprocess.run([*arguments, "--json"], capture_output=True, text=True, timeout=60, check=False)
        socket.create_connection(("127.0.0.1", port)).close()
    assert text.returncode == as_json.returncode == 2
    program = " ".join(Path(f"/proc/{os.getpid()}/cmdline").read_text().split("\0")[:3]).strip()[:80]
    assert text.stderr == (
        f"error: Port {port} on 127.0.0.1 is in use by process {os.getpid()} ({program}).\n"
        f"hint: stop it, or take a free port: --port 0 (or --port {port + 1})\ncode: port_in_use\n"
    )
    problem = json.loads(as_json.stdout)
    assert f"error: {problem['detail']}\nhint: {problem['hint']}\ncode: {problem['code']}\n" == text.stderr


def test_a_public_control_plane_requires_a_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`af server` refuses a public host without a key, and the hint has the key's minimum length."""
    assert run(["server", "--host", "0.0.0.0", "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "error: The control plane was asked to listen on 0.0.0.0, where others can reach it, without a key.\n"
        "hint: set AGENTFIELD_API_KEY to a secret of at least 16 characters, or use --host 127.0.0.1\n"
        "code: key_required\n"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["sesion"], "error: No such command 'sesion'. Did you mean 'session'?\nhint: af --help\ncode: usage\n"),
        (
            ["session", "strat"],
            "error: No such command 'strat'. Did you mean 'start'?\nhint: af session --help\ncode: usage\n",
        ),
        (["session", "start"], "error: Missing argument 'TARGET'.\nhint: af session start --help\ncode: usage\n"),
        (
            ["server", "--port", "99999"],
            (
                "error: Invalid value for '--port': Input should be less than or equal to 65535\n"
                "hint: af server --help\ncode: usage\n"
            ),
        ),
        (
            ["run", "/nowhere/agent.py"],
            "error: DIR/agent.py cannot be run: it does not exist.\nhint: af run agent.py\ncode: bad_agent_file\n",
        ),
        (
            ["dev", "/nowhere"],
            "error: /nowhere is not a folder.\nhint: af dev FOLDER\ncode: no_agent_file\n",
        ),
    ],
)
def test_an_invalid_command_line_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    """An invalid command line gets an error with the help command to run, as text and as JSON."""
    assert run(arguments) == 2
    assert steady(capsys.readouterr().err) == text
    assert run([*arguments, "--json"]) == 2
    problem = json.loads(capsys.readouterr().out)
    assert f"error: {steady(problem['detail'])}\nhint: {problem['hint']}\ncode: {problem['code']}\n" == text
