"""The environment of child processes: the keys of providers stay with the control plane."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agentfield.settings import child_environment
from agentfield_cli.processes.children import start_agent
from agentfield_server.adapter_pool import _run_child

KEYS = {
    "OPENAI_API_KEY": "sk-canary-openai",
    "OPENROUTER_API_KEY": "sk-canary-openrouter",
    "AGENTFIELD_LOCAL_KEY": "sk-canary-local",
    "AGENTFIELD_WEBHOOK_SECRET": "canary-webhook-secret",
    "AGENTFIELD_IDENTITY_KEY": "/canary/identity.pem",
    "TWILIO_AUTH_TOKEN": "canary-twilio",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=canary",
    "AWS_SECRET_ACCESS_KEY": "canary-aws",
}
DUMP = "import json, os; print(json.dumps(dict(os.environ)))"


async def test_an_agent_gets_no_key_of_a_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents of `af dev` get settings and variables of the system, their own key, and what AGENTFIELD_AGENT_ENV names."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AGENTFIELD_API_KEY", "key-of-the-control-plane")
    monkeypatch.setenv("AGENTFIELD_AGENT_ENV", "DATABASE_URL, SHOP_KEY")
    monkeypatch.setenv("DATABASE_URL", "sqlite:///shop.db")
    monkeypatch.setenv("SHOP_KEY", "own")
    file = tmp_path / "agent.py"
    file.write_text(DUMP)
    with (tmp_path / "log").open("wb") as log:
        process = await start_agent(file, url="http://127.0.0.1:1", log=log)
        assert await process.wait() == 0
    text = (tmp_path / "log").read_text()
    found = json.loads(text)
    assert "canary" not in text
    assert found["AGENTFIELD_URL"] == "http://127.0.0.1:1"
    assert found["AGENTFIELD_API_KEY"] == "key-of-the-control-plane"
    assert (found["DATABASE_URL"], found["SHOP_KEY"]) == ("sqlite:///shop.db", "own")
    assert "PATH" in found


async def test_a_child_of_an_adapter_gets_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local server gets neither keys of other providers nor the key of the control plane."""
    for name, value in {**KEYS, "AGENTFIELD_API_KEY": "canary-key", "AGENTFIELD_AGENT_ENV": "OPENAI_API_KEY"}.items():
        monkeypatch.setenv(name, value)
    started = []
    start = asyncio.create_subprocess_exec

    async def recorded(*argv: str, **options: Any) -> asyncio.subprocess.Process:
        started.append(await start(*argv, **options))
        return started[0]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", recorded)
    async with _run_child([sys.executable, "-c", DUMP], 60.0, tmp_path / "log") as child:
        assert "canary" not in child.first_line
        assert "PATH" in json.loads(child.first_line)
    await started[0].wait()


def test_variables_are_listed_whatever_their_case() -> None:
    """Names of the system are found in lower case too, as proxies are written."""
    env = {"http_proxy": "http://proxy:3128", "secret_thing": "x", "LC_ALL": "C", "AGENTFIELD_HOME": "/data"}
    assert child_environment(env) == {key: env[key] for key in ("http_proxy", "LC_ALL", "AGENTFIELD_HOME")}
