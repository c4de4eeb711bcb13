"""A machine that is not as one would like it: proxies that lead nowhere, ports in use, no control plane."""

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
    """Every proxy of the environment is a port on which nobody listens, and no address is excepted."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path / "home"))
    for name in PROXIES:
        monkeypatch.setenv(name, DEAD)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("target", ["shop.voice", "shop.here"])
async def test_a_proxy_is_not_asked_for_this_machine(proxied: None, tmp_path: Path, target: str) -> None:
    """Node link, `af`, the call, its sideband and the provider on loopback work behind a proxy that leads nowhere."""
    write_recording(tmp_path / "question.wav", tone_samples(0.4))
    async with run_installation(tmp_path / "home") as installation:
        code, out, err = await af("session", "call", target, "--audio", str(tmp_path / "question.wav"), "--json")
        assert code == 0, out + err
        assert [bool(turn["generated"]) for turn in json.loads(out)["turns"]] == [True]
        for command in (("nodes",), ("session", "list"), ("execute", "shop.echo", "--input", '{"word": "x"}')):
            code, out, err = await af(*command, "--json")
            assert code == 0, out + err
        assert installation.url in json.loads((tmp_path / "home" / "current.json").read_text())["url"]


async def test_a_local_provider_of_our_own_is_reached_behind_a_proxy(proxied: None, tmp_path: Path) -> None:
    """The offline provider is started as a process, found ready and used without the proxy."""
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


async def test_a_dead_proxy_on_the_way_to_a_provider_is_named(proxied: None, tmp_path: Path) -> None:
    """A provider elsewhere is reached through the proxy; when that is dead the error says so, the rest works."""
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


async def test_no_control_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where AGENTFIELD_URL leads nowhere, `af`, Python and an agent say so with the address and what to type."""
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


async def test_an_address_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AGENTFIELD_URL that is no address, and an address where something else answers, are told apart."""
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
def test_a_port_in_use(tmp_path: Path, command: str) -> None:
    """A port in use is told with the process that has it and what to type, also in JSON; whoever has it is left alone."""
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


def test_a_control_plane_for_everybody_needs_a_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Listening where others can reach it is refused without a key, and a short key is none."""
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
def test_a_command_that_is_none(capsys: pytest.CaptureFixture[str], arguments: list[str], text: str) -> None:
    """What cannot be a command is told with the help to look at, as text and as JSON."""
    assert run(arguments) == 2
    assert steady(capsys.readouterr().err) == text
    assert run([*arguments, "--json"]) == 2
    problem = json.loads(capsys.readouterr().out)
    assert f"error: {steady(problem['detail'])}\nhint: {problem['hint']}\ncode: {problem['code']}\n" == text
