"""Invalid and extreme values: each is refused with a reason or fails alone, and the next request is served."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentfield import Agent
from agentfield.wire.frames import Invoke
from support.faults.invariants import examine
from support.server.engine import Plane, RawNode, plane

LARGE = 1024 * 1024 + 1


@pytest.fixture
async def cp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plane]:
    """Run a control plane whose store is examined at the end."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    monkeypatch.delenv("AGENTFIELD_API_KEY", raising=False)
    async with plane(tmp_path / "a.db") as running:
        yield running
    examine(tmp_path / "a.db", "poison")


def nested(levels: int) -> str:
    """Return JSON lists nested this deep."""
    return "[" * levels + "]" * levels


BODIES = {
    "nothing": "",
    "half": '{"input": {"a": 1',
    "a list": "[]",
    "a number": '{"input": 7}',
    "NaN": '{"input": {"a": NaN}}',
    "Infinity": '{"input": {"a": -Infinity}}',
    "a number without end": '{"input": {"a": 1e999}}',
    "an integer without end": '{"input": {"a": ' + "9" * 5000 + "}}",
    "an integer that no double holds": '{"input": {"a": 9007199254740993}}',
    "a lone surrogate": '{"input": {"a": "\\ud800"}}',
    "a lone surrogate in a name": '{"input": {"\\udfff": 1}}',
    "a zero in a text": '{"input": {"a": "\\u0000"}}',
    "deep": '{"input": {"a": ' + nested(100) + "}}",
    "deeper than the stack": '{"input": {"a": ' + nested(100_000) + "}}",
    "large": json.dumps({"input": {"a": "x" * LARGE}}),
    "twice the same name": '{"input": {"a": 1, "a": 2}}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_poisonous_inputs(cp: Plane, body: str) -> None:
    """An invalid input is refused and leaves no row, an extreme one runs; the next input runs."""
    async with RawNode().linked(cp) as node:
        headers = {"Content-Type": "application/json"}
        data = io.BytesIO(body.encode())
        async with cp.client.post("/api/v1/execute/async/node.fn", data=data, headers=headers) as response:
            answer = await response.json(content_type=None)
        if response.status == 202:
            await node.answer(await node.next(Invoke), "taken")
            assert (await cp.finished(answer["id"]))["output"] == "taken"
        else:
            assert (response.status in (400, 413, 422), answer["detail"] != "") == (True, True)
            assert answer["code"] in (
                "malformed_json",
                "invalid_input",
                "body_too_large",
                "input_too_large",
                "unrepresentable",
            )
            assert not await cp.store.open_executions()
        await serves(cp, node)


async def test_poisonous_outputs(cp: Plane) -> None:
    """An output that is not JSON or too large fails its execution with a reason, and no other execution."""
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    outputs: dict[str, Any] = {
        "set": {1, 2},
        "object": object(),
        "nan": float("nan"),
        "surrogate": "\ud800",
        "name": {"\ud800": 1},
        "key": {(1, 2): 3},
        "loop": loop,
        "deep": deep,
        "large": "x" * LARGE,
        "integer": 10**400,
    }
    as_json = {"set": [1, 2]}
    agent = Agent("poison", url=cp.url)

    @agent.reasoner()
    async def give(name: str) -> Any:
        return outputs[name]

    @agent.reasoner()
    async def fail(name: str) -> Any:
        raise RuntimeError("\ud800" * 100, name)

    async with agent:
        for name in outputs:
            for target in ("poison.give", "poison.fail"):
                view = await cp.finished(await cp.start(target, name=name))
                if target == "poison.give" and name in as_json:
                    assert view["output"] == as_json[name]
                    continue
                assert view["status"] == "failed", (target, name, view)
                assert view["problem"]["detail"]
                assert len(json.dumps(view)) < 64 * 1024
        outputs["good"] = "good"
        assert (await cp.finished(await cp.start("poison.give", name="good")))["output"] == "good"


FRAMES = {
    "no JSON": "nonsense",
    "half": '{"type": "result", "execution_id": "exe_',
    "a type that is not": '{"type": "wish"}',
    "no attempt": '{"type": "accepted"}',
    "NaN": '{"type": "progress", "execution_id": "EXE", "attempt": 1, "epoch": 1, "value": {"a": NaN}}',
    "a lone surrogate": '{"type": "progress", "execution_id": "EXE", "attempt": 1, "epoch": 1, "value": {"a": "\\ud800"}}',
    "numbers without end": '{"type": "accepted", "execution_id": "EXE", "attempt": 1e999, "epoch": 1}',
    "an attempt beyond the store": '{"type": "accepted", "execution_id": "EXE", "attempt": 99999999999999999999, "epoch": 1}',
    "deeper than the stack": '{"type": "progress", "execution_id": "EXE", "attempt": 1, "epoch": 1, "value": {"a": '
    + nested(100_000)
    + "}}",
    "larger than a frame": '{"type": "' + "x" * (17 * 1024 * 1024) + '"}',
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
async def test_poisonous_frames(cp: Plane, frame: str) -> None:
    """A node that sends an invalid frame loses at most its link; its work continues once it links again."""
    node, other = RawNode(), RawNode(node_id="other")
    async with other.linked(cp):
        async with node.linked(cp):
            execution_id = await cp.start("node.fn")
            await node.next(Invoke)
            assert node.socket is not None
            with contextlib.suppress(ConnectionError):  # it may be refused before it has arrived
                await node.socket.send_str(frame.replace("EXE", execution_id))
            await serves(cp, other)
        async with node.linked(cp):
            again = await node.next(Invoke)
            await node.answer(again, "back")
            assert (await cp.finished(execution_id))["output"] == "back"


async def serves(cp: Plane, node: RawNode) -> None:
    """Assert that an ordinary execution works."""
    execution_id = await cp.start(f"{node.node_id}.fn", n=1)
    await node.answer(await node.next(Invoke), "fine")
    assert (await cp.finished(execution_id))["output"] == "fine"
