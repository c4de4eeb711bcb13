"""Failing handlers and reasoners, and nested reasoner calls, in live calls between real processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfield.wire import headers
from agentfield.wire.trace_context import TRACEPARENT, traceparent
from support.audio import tone_samples
from support.paths import SPEECH_FIXTURES
from support.processes.installation import Installation, provider_settings, run_installation, speech_server
from support.processes.live_call import calling, tree
from support.waiting import SECONDS

AF = str(Path(sys.executable).with_name("af"))
AGENT = """
from agentfield import Agent
from agentfield.context import current
from agentfield.errors import ExecutionFailed, InvalidInput

app = Agent(node_id="shop")
LIVE = dict(provider="openai", transport="webrtc")


@app.reasoner()
async def outer(word: str) -> dict:
    return {"below": await app.call("shop.inner", word=word), "headers": current().headers}


@app.reasoner()
def inner(word: str) -> dict:
    return {"word": word.upper(), "headers": current().headers}


@app.reasoner()
async def breaks() -> dict:
    raise LookupError("no such order")


@app.reasoner()
async def odd():
    return object()


@app.session("nested", **LIVE)
async def nested(session):
    turn = await session.input()
    result = await session.call("shop.outer", word=turn.text)
    await session.say(result["below"]["word"])


@app.session("stumbles", **LIVE, on_error="Sorry, that went wrong.")
async def stumbles(session):
    await session.input()
    if len([each for each in session.history if each["role"] == "caller"]) == 1:
        raise ValueError("the shelf is empty")
    await session.say("All is well.")


class Silent(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@app.session("mumbles", **LIVE, on_error="Sorry, that went wrong.")
async def mumbles(session):
    await session.input()
    heard = len([each for each in session.history if each["role"] == "caller"])
    if heard == 1:
        raise ValueError("bad \\udcff name")
    raise Silent


@app.session("halves", **LIVE, on_error="Sorry, that went wrong.")
async def halves(session):
    await session.input()
    if len([each for each in session.history if each["role"] == "caller"]) == 1:
        await session.say("half \\ud83d")
    await session.say("All is well.")


@app.session("careful", **LIVE)
async def careful(session):
    await session.input()
    said = []
    for target, values in (("shop.breaks", {}), ("shop.odd", {}), ("shop.outer", {"world": 1}), ("shop.gone", {})):
        try:
            await session.call(target, **values)
        except Exception as error:
            said.append(f"{type(error).__name__} {error.code}")
    session.state["said"] = said
    await session.call("shop.inner", word=" | ".join(said))
    await session.say("All is well.")


@app.session("deaf", **LIVE, floor="handler")
async def deaf(session):
    await session.say("Welcome. Nobody listens here.")


@app.session("absent", **LIVE, floor="handler")
async def absent(session):
    session.state["seen"] = True


app.run()
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A control plane and one node with a session for each fault; every turn is transcribed as "hello"."""
    folder = tmp_path_factory.mktemp("shop")
    file = folder / "agent.py"
    file.write_text(AGENT)
    with (
        speech_server(folder, "--engines", "synthetic") as speech,
        run_installation(folder / "installation", file, env=provider_settings(speech.url)) as it,
    ):
        yield it


async def test_a_nested_call_belongs_to_the_session(shop: Installation) -> None:
    """A reasoner called by a reasoner is in the session's tree, and both get the session's headers."""
    async with shop.client() as client, calling(client, "shop.nested", caller="maria") as live:
        answer = await live.say(tone_samples())
        await live.hang_up()
        dag = await live.dag()
    assert answer.speeches[-1]["generated"] == "HELLO"
    assert tree(dag) == [
        ("session", "shop.nested", "succeeded", None),
        ("turn", "shop.nested", "succeeded", "session 1"),
        ("call", "shop.outer", "succeeded", "turn 1"),
        ("call", "shop.inner", "succeeded", "call 1"),
    ]
    _, turn, outer, inner = dag.executions
    for seen, execution, parent in (
        (outer.output["headers"], outer, turn),
        (outer.output["below"]["headers"], inner, outer),
    ):
        assert seen == {
            headers.SESSION_ID: live.id,
            headers.RUN_ID: dag.run_id,
            headers.WORKFLOW_ID: dag.run_id,
            headers.EXECUTION_ID: execution.id,
            headers.PARENT_EXECUTION_ID: parent.id,
            headers.ACTOR_ID: "maria",
            TRACEPARENT: traceparent(dag.run_id, execution.id),
        }


async def test_a_handler_exception_fails_one_turn_only(shop: Installation) -> None:
    """The exception fails its turn, `on_error` is spoken, and the handler runs again for the next turn."""
    async with shop.client() as client, calling(client, "shop.stumbles") as live:
        first = await live.say(tone_samples())
        second = await live.say(tone_samples())
        view = await live.hang_up()
        dag = await live.dag()
    assert [said["generated"] for said in first.speeches] == ["Sorry, that went wrong."]
    assert [said["generated"] for said in second.speeches] == ["All is well."]
    assert [event["body"]["kind"] for event in live.recorded("speech.started")] == ["on_error", "say"]
    (failed,) = live.recorded("handler.failed")
    assert "the shelf is empty" in failed["body"]["message"]
    assert tree(dag) == [
        ("session", "shop.stumbles", "succeeded", None),
        ("turn", "shop.stumbles", "failed", "session 1"),
        ("turn", "shop.stumbles", "succeeded", "session 1"),
    ]
    problem = dag.executions[1].problem
    assert problem is not None
    assert (problem["code"], "ValueError" in problem["detail"]) == ("handler_failed", True)
    assert (view.end_reason, view.turns) == ("caller_hangup", 2)


async def test_an_exception_that_cannot_be_told_is_told_all_the_same(shop: Installation) -> None:
    """A message with half a surrogate pair, or without a text, fails its turn; `on_error` is spoken and the node works on."""
    async with shop.client() as client, calling(client, "shop.mumbles") as live:
        answers = [await live.say(tone_samples()) for _ in range(2)]
        view = await live.hang_up()
        dag = await live.dag()
    assert [said["generated"] for answer in answers for said in answer.speeches] == ["Sorry, that went wrong."] * 2
    assert [each.status for each in dag.executions[1:]] == ["failed", "failed"]
    details = [(each.problem or {}).get("detail", "") for each in dag.executions[1:]]
    assert "bad \\udcff name" in details[0]
    assert "raised Silent" in details[1]
    assert view.end_reason == "caller_hangup"


async def test_text_that_no_frame_can_carry_fails_the_turn(shop: Installation) -> None:
    """`say` of half a surrogate pair raises a typed error in the handler; the next turn is answered."""
    async with shop.client() as client, calling(client, "shop.halves") as live:
        first, second = [await live.say(tone_samples()) for _ in range(2)]
        await live.hang_up()
        dag = await live.dag()
    assert [said["generated"] for said in first.speeches] == ["Sorry, that went wrong."]
    assert [said["generated"] for said in second.speeches] == ["All is well."]
    problem = dag.executions[1].problem
    assert problem is not None
    assert "surrogate" in problem["detail"]


async def test_a_handler_that_returns_without_input_ends_the_session(shop: Installation) -> None:
    """The end reason is `handler_failed`, and the detail names the missing `session.input()`."""
    async with shop.client() as client, calling(client, "shop.deaf") as live:
        welcome = await live.wait("speech.ended")
        view = await live.ended()
        dag = await live.dag()
    assert (view.state, view.end_reason) == ("ended", "handler_failed")
    assert "await session.input()" in (view.end_detail or "")
    assert welcome["generated"] == "Welcome. Nobody listens here."
    assert tree(dag) == [("session", "shop.deaf", "failed", None)]


async def test_a_session_that_ends_before_the_call_connects_is_reported(shop: Installation, tmp_path: Path) -> None:
    """`af session call` does not wait for media of a session that its handler has ended, and prints the reason."""
    command = [
        AF,
        "session",
        "call",
        "shop.absent",
        "--audio",
        str(SPEECH_FIXTURES / "goforward.wav"),
        "--url",
        shop.url,
        "--json",
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(SECONDS):
        out, _ = await process.communicate()
    problem = json.loads(out)
    assert (process.returncode, problem["code"], problem["reason"]) == (2, "session_ended", "handler_failed"), problem
    assert "await session.input()" in problem["detail"]


async def test_a_failed_reasoner_call_raises_a_typed_error(shop: Installation) -> None:
    """A reasoner that raises, returns no JSON, gets invalid input or is unknown raises a coded error; the call continues."""
    async with shop.client() as client, calling(client, "shop.careful") as live:
        answer = await live.say(tone_samples())
        view = await live.hang_up()
        dag = await live.dag()
    assert [said["generated"] for said in answer.speeches] == ["All is well."]
    assert tree(dag) == [
        ("session", "shop.careful", "succeeded", None),
        ("turn", "shop.careful", "succeeded", "session 1"),
        ("call", "shop.breaks", "failed", "turn 1"),
        ("call", "shop.odd", "failed", "turn 1"),
        ("call", "shop.inner", "succeeded", "turn 1"),
    ]
    seen = dag.executions[-1].input["word"].split(" | ")
    assert seen == [
        "ExecutionFailed execution_failed",
        "ExecutionFailed execution_failed",
        "InvalidInput invalid_input",
        "NotFound unknown_target",
    ]
    codes = [(each.problem or {}).get("code") for each in dag.executions]
    assert codes == [None, None, "execution_failed", "execution_failed", None]
    assert view.end_reason == "caller_hangup"
