"""Hooks in a real control plane, as callers, clients, `af` and the model see them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

import agentfield_local.plugin
import agentfield_openai.plugin
import agentfield_openrouter.plugin
from agentfield.errors import AgentFieldError, Forbidden, PluginBroken
from agentfield.plugins import Proceed, RecordedEvent, Registry, SessionRequest, ToolCall
from agentfield.wire.rest import StartRequest
from agentfield_server.app import control_plane
from agentfield_server.engine.results import check_record
from agentfield_server.settings import Settings
from support.contract.brains import ScriptedBrain
from support.contract.installation import CANARY, Installation, declared, installation
from support.core.hooks import plugin

PAIR = ("local", "websocket")
TARGET = "shop.local_websocket"
AF = str(Path(sys.executable).with_name("af"))


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the node's key with the test."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))


def plugins(*hooks: object) -> Registry:
    """Return our own plugins and those of the test."""
    ours = (agentfield_openai.plugin, agentfield_openrouter.plugin, agentfield_local.plugin)
    made = Registry.of([*ours, *hooks])
    assert {record.state for record in made.plugins} == {"ok"}
    return made


async def model(session: Any) -> None: ...


def results_given_to(brain: ScriptedBrain) -> list[str]:
    """Return the tool results that the model has received so far."""
    return brain.results() if brain.asked else []


async def three_answers(here: Installation) -> tuple[AgentFieldError, dict[str, Any], tuple[int | None, str]]:
    """Start a session in Python, over HTTP and with `af`; return how each was refused."""
    with pytest.raises(AgentFieldError) as caught:
        await here.client.start_session(StartRequest(target=TARGET, caller="bob"))
    body = {"target": TARGET, "caller": "bob"}
    async with here.http.post(f"{here.plane.url}/api/v1/sessions", json=body) as response:
        problem = {**await response.json(), "http": response.status}
    process = await asyncio.create_subprocess_exec(
        *(AF, "session", "start", TARGET, "--caller", "bob"),
        env={**os.environ, "AGENTFIELD_URL": here.plane.url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    async with here.http.get(f"{here.plane.url}/api/v1/sessions") as response:
        assert await response.json() == []
    return caught.value, problem, (process.returncode, err.decode())


async def only_ann(request: SessionRequest) -> None:
    if request.caller != "ann":
        raise Forbidden("only ann may call here", hint="ask ann to call")


async def raises(request: SessionRequest) -> NoReturn:
    raise RuntimeError(CANARY)


async def hangs(request: SessionRequest) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("hook", "golden"),
    [
        (
            only_ann,
            """\
error: The plugin 'door' refused the session: only ann may call here
hint: ask ann to call
code: session_refused
""",
        ),
        (
            raises,
            """\
error: The plugin 'door' failed to decide whether the session may start, so it may not.
hint: see the control plane's log, or start it with AGENTFIELD_DISABLE_PLUGINS=door
code: session_refused
""",
        ),
        (
            hangs,
            """\
error: The plugin 'door' did not decide within 2 s whether the session may start, so it may not.
hint: see the control plane's log, or start it with AGENTFIELD_DISABLE_PLUGINS=door
code: session_refused
""",
        ),
    ],
)
async def test_a_refused_session_is_reported_alike_everywhere(tmp_path: Path, hook: Any, golden: str) -> None:
    """Code, message and hint are the same in Python, over HTTP and in `af`; nothing of the session is stored."""
    async with installation(tmp_path, registry=plugins(plugin("door", session_authorize=hook))) as here:
        error, problem, (code, printed) = await three_answers(here)
    assert isinstance(error, Forbidden)
    assert (code, printed) == (2, golden)
    assert f"error: {error.message}\nhint: {error.hint}\ncode: {error.code}\n" == golden
    assert (problem["http"], problem["status"], problem["plugin"]) == (403, 403, "door")
    assert f"error: {problem['detail']}\nhint: {problem['hint']}\ncode: {problem['code']}\n" == golden
    assert CANARY not in json.dumps(problem)


async def test_an_authorized_session_starts(tmp_path: Path) -> None:
    """An authorized call runs as without plugins."""
    registry = plugins(plugin("door", session_authorize=only_ann))
    async with installation(tmp_path, registry=registry) as here, here.talk(TARGET, caller="ann") as talk:
        assert await talk.connect()
        await talk.speak()
        assert (await talk.recorded("speech.ended"))["generated"]


async def test_the_model_gets_the_redacted_output(tmp_path: Path) -> None:
    """The execution keeps the output that the node signed."""

    async def redacts(call: ToolCall, proceed: Proceed) -> Any:
        output = await proceed(call)
        return {**output, "word": "hidden"}

    brain = ScriptedBrain([("echo", '{"word": "4711"}')])
    registry = plugins(plugin("redact", tool_middleware=lambda: [redacts]))
    app = declared(PAIR, model, tools=["shop.echo"])
    async with installation(tmp_path, app, brain=brain, registry=registry) as here, here.talk(TARGET) as talk:
        assert await talk.connect()
        await talk.speak()
        await talk.until(lambda: results_given_to(brain))
        (tool,) = [each for each in (await here.client.workflow(talk.id)).executions if each.kind == "tool"]
        execution = await here.plane.engine.find(tool.id)
    assert brain.results() == ['{"word":"hidden"}']
    assert (execution.status, execution.output) == ("succeeded", {"word": "4711"})
    assert check_record(execution)
    (changed,) = talk.of("tool.output_changed")
    assert (changed["plugin"], changed["given"]) == ("redact", {"word": "hidden"})


async def test_a_veto_in_a_live_call(tmp_path: Path) -> None:
    """The model gets the message, the tool is not run, and the conversation continues."""

    async def vetoes(call: ToolCall, proceed: Proceed) -> Any:
        if call.input["word"] == "4711":
            raise Forbidden("that card is locked")
        return await proceed(call)

    brain = ScriptedBrain([("echo", '{"word": "4711"}'), ("echo", '{"word": "4712"}')])
    registry = plugins(plugin("rules", tool_middleware=lambda: [vetoes]))
    app = declared(PAIR, model, tools=["shop.echo"])
    async with installation(tmp_path, app, brain=brain, registry=registry) as here, here.talk(TARGET) as talk:
        assert await talk.connect()
        await talk.speak()
        await talk.until(lambda: [said for said in talk.of("speech.ended") if said["generated"]])
    assert app.echoed == ["4712"]  # type: ignore[attr-defined]
    message = "The plugin 'rules' refused the call of shop.echo: that card is locked"
    assert sorted(map(json.loads, brain.results()), key=str) == [
        {"error": {"code": "tool_vetoed", "message": message}},
        {"word": "4712"},
    ]
    (vetoed,) = talk.of("tool.vetoed")
    assert (vetoed["plugin"], vetoed["message"]) == ("rules", "that card is locked")


async def test_failing_observers_do_not_affect_a_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Good observers get all events; failing ones are logged."""
    caplog.set_level(logging.INFO)
    seen: dict[str, list[RecordedEvent]] = {"log": [], "turns": [], "calls": []}

    async def everything(event: RecordedEvent) -> None:
        seen["log"].append(event)

    async def turns(event: RecordedEvent) -> None:
        seen["turns"].append(event)

    async def calls(event: RecordedEvent) -> None:
        seen["calls"].append(event)

    async def fails(event: RecordedEvent) -> NoReturn:
        raise RuntimeError("boom")

    async def never(event: RecordedEvent) -> None:
        await asyncio.Event().wait()

    registry = plugins(
        plugin("a", dag_event=everything),
        plugin("b", session_turn=turns, execution_finished=calls),
        plugin("c", dag_event=fails),
        plugin("d", dag_event=never),
    )
    async with installation(tmp_path, registry=registry, hears=["one two"]) as here:
        outcome = await here.call(TARGET)
        counts = here.plane.observers.counts
    assert outcome.said == (("one two", "one two", True, None),)
    assert (outcome.words, outcome.tools, outcome.heard) == (("one two",), ("succeeded",), True)
    assert [event.seq for event in seen["log"]] == list(range(1, len(seen["log"]) + 1))
    kinds = [event.type for event in seen["log"]]
    assert kinds[0] == "session.created"
    assert {"turn.committed", "execution.started", "execution.ended", "session.state"} <= set(kinds)
    assert [event.body["text"] for event in seen["turns"]] == ["one two"]
    assert [(event.body["target"], event.body["status"]) for event in seen["calls"]] == [("shop.echo", "succeeded")]
    assert caplog.text.count("plugin.hook_failed plugin=c") == len(kinds)
    assert "plugin.events_dropped plugin=d" in caplog.text
    assert [counts["c", "agentfield_dag_event"].failed, counts["d", "agentfield_dag_event"].delivered] == [
        len(kinds),
        0,
    ]
    assert CANARY not in str(seen)


async def test_a_broken_middleware_prevents_the_start(tmp_path: Path) -> None:
    """The error names the plugin and how to start without it; port and store are released."""

    def boom() -> NoReturn:
        raise RuntimeError("no licence")

    settings = Settings(home=tmp_path, port=0)
    with pytest.raises(PluginBroken, match="The plugin 'redact' does not say what its tool middleware is"):
        async with control_plane(settings, registry=plugins(plugin("redact", tool_middleware=boom))):
            pass
    async with control_plane(settings, registry=plugins()):
        pass
