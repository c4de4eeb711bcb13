"""Signed heads of a live call: the caller's page and the node of the handler get each one, and hold the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentfield.identity import unb64url
from agentfield.proof import Head, parse_head, verify_consistency
from support.paths import ROOT
from support.waiting import until


async def test_heads_reach_the_caller_and_the_node(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head follows the end of a tool; each proves that it continues the one before, and the last one is final."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with call(ROOT / "examples/voice_support/agent.py") as caller:
        for _ in range(2):
            turn = await caller.says("Where is my order?")
            await turn.calls("voice-support.resolve_turn").succeeded()
            await turn.speaks("I found the order.")

        def heads() -> list[dict[str, Any]]:
            return [event for event in caller.log.live if event.get("type") == "log.head"]

        await until(lambda: len(heads()) >= 2)
        events = heads()
        session_id = caller.session_id
    held: Head | None = None
    for event in events:
        head = parse_head(event["head"])
        if held is not None:
            old, new = held.coverage, head.coverage
            assert event["since"] == old.size
            proof = [unb64url(node) for node in event["consistency"]]
            assert verify_consistency(old.size, old.root, new.size, new.root, proof)
        held = head
    assert held is not None
    files = await until(lambda: [file.name for file in (tmp_path / "heads").glob("*.json")])
    assert files == [f"{session_id}.json"]
