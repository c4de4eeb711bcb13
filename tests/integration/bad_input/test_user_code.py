"""User code that fails in odd ways, in real node processes: one run fails, the node and its other calls go on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from agentfield.wire.rest import ExecutionView
from support.paths import FIXTURES
from support.processes.installation import Installation, run_installation
from support.waiting import SECONDS

ERRORS = FIXTURES / "bad_input" / "errors"
MORE = """
import asyncio, sys
from pathlib import Path
from agentfield import Agent

app = Agent(node_id="odd")


class Silent(Exception):
    def __init__(self): pass
    def __repr__(self): raise SystemExit("no repr")
    @property
    def __cause__(self): raise RuntimeError("no cause")
    @property
    def __notes__(self): raise RuntimeError("no notes")


@app.reasoner()
def empty_iterator(): return next(iter([]))

@app.reasoner()
async def leaves(): sys.exit(3)

@app.reasoner()
def leaves_thread(): sys.exit(3)

@app.reasoner()
async def interrupts(): raise KeyboardInterrupt

@app.reasoner()
async def leaves_in_a_task():
    async with asyncio.TaskGroup() as group:
        group.create_task(exits())

@app.reasoner()
async def leaves_in_a_lost_task():
    task = asyncio.create_task(exits())
    await asyncio.wait([task])
    return "survived"

async def exits(): raise SystemExit(4)

@app.reasoner()
async def closes(): raise GeneratorExit

@app.reasoner()
async def silent(): raise Silent

@app.reasoner()
async def deep():
    error = ValueError("inner")
    for _ in range(5000): error = ExceptionGroup("g", [error])
    raise error

@app.reasoner()
async def raising_result():
    class Table(dict):
        def items(self): raise KeyboardInterrupt
        def __iter__(self): raise KeyboardInterrupt
    return Table(a=1)

@app.reasoner()
async def speaks_half(): return await app.call("odd.fine\\ud83d")

@app.reasoner()
async def fine(): return "fine"

@app.reasoner()
async def neighbour():
    while not Path("go").exists():
        await asyncio.sleep(0.05)
    return "finished"

app.run()
"""

NARROW = """
from agentfield import Agent

app = Agent(node_id="narrow", concurrency=1)


@app.reasoner(timeout=30)
def down(n: int) -> int:
    return 0 if n == 0 else 1 + app.call_sync("narrow.down", n=n - 1)


app.run()
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The agents of the fixture and one with further odd failures, each a process."""
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "odd.py").write_text(MORE, encoding="utf-8")
    (folder / "narrow.py").write_text(NARROW, encoding="utf-8")
    agents = (
        ERRORS / "agent.py",
        ERRORS / "agent2.py",
        FIXTURES / "bad_input" / "sync_call" / "agent.py",
        folder / "odd.py",
        folder / "narrow.py",
    )
    with run_installation(folder / "installation", *agents, env={}) as it:
        neighbour = asyncio.run(begin(it, "odd.neighbour"))
        yield it
        (folder / "installation" / "go").touch()
        assert asyncio.run(end(it, neighbour)).output == "finished"


async def begin(nodes: Installation, target: str, **values: Any) -> str:
    async with nodes.client() as client:
        return (await client.execute_async(target, values)).id


async def end(nodes: Installation, execution_id: str) -> ExecutionView:
    async with nodes.client() as client:
        return await client.wait_execution(execution_id, timeout=SECONDS)


async def run(nodes: Installation, target: str, **values: Any) -> ExecutionView:
    return await end(nodes, await begin(nodes, target, **values))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("hunt5.badstr", "raised Bad"),
        ("hunt5.bigmsg", "characters)"),
        ("hunt5.afe", "half \\ud83d"),
        ("hunt5.afe2", "m"),
        ("hunt5.badname", "raised BadName: x"),
        ("hunt5.recursion", "raised RecursionError"),
        ("hunt5.cause", "raised RuntimeError: outer"),
        ("hunt5.retval", "surrogate"),
        ("hunt5.cyc", "contains itself"),
        ("hunt5.ask", "title"),
        ("hunt5.ask2", "details.t"),
        ("hunt5.calls_bad", "target"),
        ("hunt2.badmsg", "file-\\udcff.wav"),
        ("hunt2.badmsg_sync", "file-\\udcff.wav"),
        ("hunt2.progress", "JSON"),
        ("hunt2.pause_bad", ""),
        ("odd.empty_iterator", "StopIteration"),
        ("odd.leaves", "raised SystemExit: 3"),
        ("odd.leaves_thread", "raised SystemExit: 3"),
        ("odd.interrupts", "raised KeyboardInterrupt"),
        ("odd.leaves_in_a_task", "raised SystemExit: 4"),
        ("odd.closes", "raised GeneratorExit"),
        ("odd.silent", "raised Silent"),
        ("odd.deep", "raised ExceptionGroup"),
        ("odd.raising_result", "raised KeyboardInterrupt"),
        ("odd.speaks_half", "target"),
    ],
)
async def test_a_failure_of_one_run_is_a_failure_of_one_run(nodes: Installation, target: str, words: str) -> None:
    """Each fails with a readable message; its node stays linked, and answers before and after."""
    instances = {node["instance_id"] for node in nodes.nodes()}
    view = await run(nodes, target)
    assert view.status == "failed"
    assert view.problem is not None
    assert words in view.problem["detail"]
    assert len(view.problem["detail"]) < 5000
    node = target.partition(".")[0]
    assert (await run(nodes, f"{node}.fine")).output in ("fine", 1)
    assert {node["instance_id"] for node in nodes.nodes()} == instances


async def test_a_task_that_nobody_asked_about_cannot_end_the_node(nodes: Installation) -> None:
    """`sys.exit()` in a task of user code ends the task; the function that waits for the task goes on."""
    assert (await run(nodes, "odd.leaves_in_a_lost_task")).output == "survived"


async def test_the_log_names_the_execution_and_has_the_traceback(nodes: Installation) -> None:
    """The node's log line of a failure has target, execution, session and traceback, whatever the exception says."""
    for target, line in (
        ("hunt5.badstr", "raise Bad()"),
        ("hunt2.badmsg", "raise ValueError"),
        ("odd.silent", "raise Silent"),
    ):
        view = await run(nodes, target)
        node, _, _ = target.partition(".")
        log = "\n".join(path.read_text(encoding="utf-8") for path in nodes.logs)
        _, found, rest = log.partition(f"{target} raised (execution {view.id}, session none)")
        assert found, node
        assert line in rest[:3000]


async def test_the_wrong_way_to_call_from_a_plain_function_is_an_error_at_once(nodes: Installation) -> None:
    """`asyncio.run(app.call(...))` fails with the right way in the hint, instead of waiting for its deadline."""
    view = await run(nodes, "syncer.total", a=1)
    assert view.problem is not None
    assert (view.status, view.problem["code"]) == ("failed", "wrong_event_loop")
    assert "app.call_sync(" in view.problem["hint"]


async def test_a_plain_function_calls_another_one(nodes: Installation) -> None:
    """`app.call_sync` works through the control plane, also where caller and callee share the node's only slot."""
    assert (await run(nodes, "narrow.down", n=3)).output == 3
