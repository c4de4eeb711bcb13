"""Checks of hook implementations when a plugin is loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from agentfield.plugins import PLUGIN_API, Manifest, Registry, hookimpl
from support.core.hooks import plugin, registry


def sync(request: Any) -> None:
    """Not async, as the hook requires."""


async def asynchronous() -> list[Any]:
    return []


async def generates() -> Any:
    yield 1


async def other_argument(session: Any) -> None: ...


@pytest.mark.parametrize(
    ("hook", "function", "why"),
    [
        (
            "session_authorise",
            sync,
            "there is no hook agentfield_session_authorise. Did you mean 'agentfield_session_authorize'?",
        ),
        ("magic", sync, "there is no hook agentfield_magic."),
        ("session_authorize", sync, "agentfield_session_authorize must be written with 'async def'"),
        ("dag_event", lambda event: None, "agentfield_dag_event must be written with 'async def'"),
        ("tool_middleware", asynchronous, "agentfield_tool_middleware must be written with 'def', not 'async def'"),
        ("tool_middleware", generates, "agentfield_tool_middleware must be written with 'def', not 'async def'"),
        ("manifest", asynchronous, "agentfield_manifest must be written with 'def', not 'async def'"),
    ],
)
def test_a_wrong_hook_makes_the_plugin_invalid(hook: str, function: Any, why: str) -> None:
    """The plugin is invalid with the reason, its hooks are ignored, and other plugins are ok."""
    made = Registry.of([plugin("bad", **{hook: function}), plugin("good")])
    assert [(record.state, record.reason) for record in made.plugins] == [("invalid", why), ("ok", "")]
    assert made.implementations("agentfield_session_authorize", "agentfield_dag_event") == ()


def test_an_unknown_argument_is_invalid() -> None:
    """The reason names the argument that the hook does not have."""
    (record,) = Registry.of([plugin("bad", session_authorize=other_argument)]).plugins
    assert record.state == "invalid"
    assert "agentfield_session_authorize" in record.reason
    assert "Argument(s) {'session'}" in record.reason


def test_hook_wrappers_are_invalid() -> None:
    """Only a tool middleware can wrap calls."""

    def wraps() -> Iterator[None]:
        yield

    module = plugin("bad")
    module.__dict__["agentfield_tool_middleware"] = hookimpl(wraps, wrapper=True)
    (record,) = Registry.of([module]).plugins
    assert record.reason == "agentfield_tool_middleware is marked as a wrapper; hooks of agentfield have none"


def test_an_unknown_hook_may_be_optional() -> None:
    """A plugin may implement a hook of another version if it marks it as optional."""
    module = plugin("ahead")
    module.__dict__["agentfield_next_year"] = hookimpl(sync, optionalhook=True)
    (record,) = Registry.of([module]).plugins
    assert (record.state, record.hooks) == ("ok", ())


def test_implementations_are_sorted_by_plugin_name() -> None:
    """The order does not depend on discovery, for modules and objects."""

    class Looks:
        @hookimpl
        def agentfield_manifest(self) -> Manifest:
            return Manifest(api=PLUGIN_API)

        @hookimpl
        async def agentfield_dag_event(self, event: Any) -> str:
            return f"saw {event}"

        @hookimpl
        async def agentfield_session_turn(self) -> str:
            return "saw a turn"

    async def look(event: Any) -> None: ...

    made = registry(plugin("b", dag_event=look), plugin("a", dag_event=look), Looks())
    hooks = ("agentfield_session_turn", "agentfield_dag_event")
    found = made.implementations(*hooks)
    assert [(each.plugin, each.hook) for each in found] == [
        ("Looks", "agentfield_session_turn"),
        ("Looks", "agentfield_dag_event"),
        ("a", "agentfield_dag_event"),
        ("b", "agentfield_dag_event"),
    ]
    assert [each.takes_value for each in found] == [False, True, True, True]


async def test_an_implementation_may_omit_its_argument() -> None:
    """It is called with the arguments that it has."""

    async def with_it(event: Any) -> Any:
        return event

    async def without() -> str:
        return "nothing"

    made = registry(plugin("a", dag_event=with_it), plugin("b", dag_event=without))
    assert [await each("it") for each in made.implementations("agentfield_dag_event")] == ["it", "nothing"]


def test_a_plugin_with_hooks_needs_a_manifest() -> None:
    """Without the manifest hook the other hooks are ignored."""
    module = ModuleType("bare")
    module.__dict__["agentfield_dag_event"] = hookimpl(asynchronous)
    (record,) = Registry.of([module]).plugins
    assert record.reason == "it has no function agentfield_manifest marked with @hookimpl"


def test_the_hook_api_is_light() -> None:
    """Hook arguments, markers and checks import no heavy library."""
    script = "import sys, agentfield.plugins as p; p.hookimpl, p.ToolCall, p.SessionRequest; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {
        "aiohttp",
        "pydantic",
        "asyncio",
        "cryptography",
        "agentfield.plugins.hooks.middleware",
        "agentfield.realtime",
    }
    assert not heavy & set(modules)
