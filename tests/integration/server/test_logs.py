"""The log lines of `af server --json` while a node links and leaves."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from agentfield import Agent
from agentfield.plugins import Registry

AF = str(Path(sys.executable).with_name("af"))
CANARY = "sk-canary-Vt93kQe7LmXw20"


async def test_every_line_is_json_with_its_ids_and_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines about a node have its id in `node_id`; no line has a key of the environment."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path / "node"))
    secret = "long enough to be a key 4711"
    process = await asyncio.create_subprocess_exec(
        *(AF, "server", "--json", "--port", "0", "--data", str(tmp_path / "server")),
        env={**os.environ, "AGENTFIELD_API_KEY": secret, "OPENAI_API_KEY": CANARY},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            assert process.stdout is not None
            url = json.loads(await process.stdout.readline())["url"]
            async with Agent(f"shop-{secret[-4:]}", registry=Registry.of([])).linked(url=url, api_key=secret):
                pass
            process.terminate()
            _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = [json.loads(line) for line in err.decode().splitlines()]
    named = [line for line in lines if line["logger"] == "agentfield.nodes"]
    assert [line["event"].split(" (")[0].split(":")[0] for line in named] == [
        "the node id shop-4711 belongs to did",
        "node shop-4711 linked",
        "node shop-4711 is gone",
    ]
    assert {line["node_id"] for line in named} == {"shop-4711"}
    assert all({"timestamp", "level", "logger", "event"} <= line.keys() for line in lines)
    assert secret not in err.decode()
    assert CANARY not in err.decode()
