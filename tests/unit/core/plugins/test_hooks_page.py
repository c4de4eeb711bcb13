"""`docs/hooks.md` describes each hook, and its examples do what the page says."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentfield.errors import Forbidden
from agentfield.plugins import Registry
from agentfield.plugins.hooks.authorization import SessionAuthorizer
from agentfield.plugins.hooks.hookspecs import PluginHooks
from agentfield.plugins.hooks.lifespan import ENTER_TIMEOUT, EXIT_TIMEOUT
from agentfield.plugins.hooks.middleware import Invocation, MiddlewareChain
from agentfield.plugins.hooks.observers import CALL_TIMEOUT, DRAIN_TIMEOUT, QUEUE_SIZE, ObserverDispatcher
from agentfield.testing import PluginLifespans
from agentfield_cli.terminal.output import report_error
from support.core.hooks import call, recorded, request
from support.paths import ROOT

PAGE = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `(agentfield_\w+)`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
FIRST = PAGE.partition("\n## ")[0]


def blocks(text: str, language: str = "python") -> list[str]:
    """Return the code blocks of a section."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def example(hook: str) -> tuple[ModuleType, Registry]:
    """Return the loaded plugin of a section: its module, or the object `plugin` in it."""
    module = ModuleType("example")
    for code in (*blocks(FIRST), *blocks(SECTIONS[hook])):
        exec(compile(code, f"docs/hooks.md {hook}", "exec"), module.__dict__)
    registry = Registry.of([module.__dict__.get("plugin", module)])
    assert [(record.state, record.reason) for record in registry.plugins] == [("ok", "")]
    assert [each.hook for each in registry.implementations(hook)] == [hook]
    return module, registry


def test_each_hook_is_documented() -> None:
    """Each hook has a section with one example."""
    hooks = {name for name in vars(PluginHooks) if name.startswith("agentfield_")} - {"agentfield_manifest"}
    assert set(SECTIONS) == hooks
    assert [len(blocks(text)) for text in (FIRST, *SECTIONS.values())] == [1] * (len(hooks) + 1)


async def test_the_lifespan_example(tmp_path: Path) -> None:
    """It has its setting, observes, and writes its file when the control plane stops."""
    _, made = example("agentfield_lifespan")
    lifespans = PluginLifespans(made, home=tmp_path, environ={"EXPORT_PREFIX": "a"})
    async with lifespans, ObserverDispatcher(made) as observers:
        observers.dispatch(*recorded("session.created"))
    assert (tmp_path / "plugins" / made.plugins[0].name / "export.txt").read_text() == "a\nses_1"


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    """Sizes and timeouts on the page are those of the code."""
    assert f"one queue of {QUEUE_SIZE} events" in PAGE
    assert f"A call may take {CALL_TIMEOUT:g} s" in PAGE
    assert f"does not enter within {ENTER_TIMEOUT:g} s" in PAGE
    assert f"each plugin has {EXIT_TIMEOUT:g} s" in PAGE
    assert f"have {DRAIN_TIMEOUT:g} s\nfor queued events" in PAGE


async def test_the_authorization_example(capsys: pytest.CaptureFixture[str]) -> None:
    """The blocked number is refused with the message on the page; others are authorized."""
    _, registry = example("agentfield_session_authorize")
    await SessionAuthorizer(registry).authorize(request(caller="ann"))
    with pytest.raises(Forbidden) as caught:
        await SessionAuthorizer(registry).authorize(request(caller="+4930123456"))
    report_error(caught.value, as_json=False)
    assert blocks(SECTIONS["agentfield_session_authorize"], "text") == [capsys.readouterr().err]


async def test_the_middleware_example() -> None:
    """It vetoes a call, changes the input and redacts the output."""
    _, registry = example("agentfield_tool_middleware")
    chain, inputs = MiddlewareChain(registry), []

    async def target(call: Any) -> dict[str, str]:
        inputs.append(dict(call.input))
        return {"card": "4929000000004711"}

    assert dict(chain.redact(Invocation(call(order=1, card="4711"))).input) == {"order": 1, "card": "…"}
    assert await chain.run(Invocation(call(order=1)), target) == {"card": "…4711"}
    assert inputs == [{"order": 1, "locale": "en"}]
    refund = dataclasses.replace(call(), target="shop.refund")
    with pytest.raises(Forbidden, match="refunds need a known caller"):
        await chain.run(Invocation(refund), target)


CREATED = recorded("session.created", caller=None, target="shop.voice")
TURN = recorded("turn.committed", text="hello there", turn_id="exe_1")
ENDED = recorded("session.state", state="ended", reason="operator")
STARTED = recorded("execution.started", kind="tool", target="shop.look")
FAILED = recorded("execution.ended", kind="tool", target="shop.look", status="failed", problem={"code": "node_lost"})


@pytest.mark.parametrize(
    ("hook", "event", "kept"),
    [
        ("session_started", CREATED, lambda it: it.CALLERS == {"ses_1": "unknown"}),
        ("session_turn", TURN, lambda it: it.WORDS == ["hello", "there"]),
        ("session_ended", ENDED, lambda it: it.REASONS == {"operator": 1}),
        ("execution_started", STARTED, lambda it: it.BEGUN == {"None": 1.5}),
        ("execution_finished", FAILED, lambda it: it.FAILED == ["shop.look: node_lost"]),
        ("dag_event", TURN, lambda it: json.loads(it.LINES[0])["type"] == "turn.committed"),
    ],
)
async def test_the_observer_examples(hook: str, event: tuple[str, bytes], kept: Callable[[ModuleType], bool]) -> None:
    """Each keeps the events that its example keeps."""
    module, registry = example(f"agentfield_{hook}")
    async with ObserverDispatcher(registry) as observers:
        observers.dispatch(*event)
    assert kept(module)
    assert [counts.failed for counts in observers.counts.values()] == [0]
