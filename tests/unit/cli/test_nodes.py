"""The list of nodes."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from agentfield.client import ControlPlaneClient
from agentfield.wire.node_views import NodeView
from agentfield_cli.main import app


def node(instance_id: str, **state: Any) -> NodeView:
    usual = {"did": "did:key:z", "functions": ("charge",), "concurrency": 100, "linked_at": 1.0, "connected": True}
    return NodeView.model_validate({"node_id": "shop", "instance_id": instance_id, **usual, **state})


def test_a_blocked_node_is_shown_with_what_blocks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance whose event loop is blocked is named with the function; one that is away is only away."""
    by = {"blocked": 25.1, "blocked_by": "shop.charge exe_1 at agent.py:11 (charge)"}

    async def nodes(_: ControlPlaneClient) -> list[NodeView]:
        return [node("node_1"), node("node_2", **by), node("node_3", **by, connected=False)]

    monkeypatch.setattr(ControlPlaneClient, "nodes", nodes)
    lines = CliRunner().invoke(app, ["nodes", "--url", "http://127.0.0.1:9"]).output.splitlines()
    states = [line.removeprefix("shop").strip().partition(" ")[2].strip() for line in lines if line.startswith("shop")]
    assert [state.partition("  ")[0] for state in states] == ["connected", "blocked 25 s", "away"]
    assert lines[-1] == (
        "node_2 gets no new work: its event loop is blocked by shop.charge exe_1 at agent.py:11 (charge)"
    )
