"""Hooks are looked at when a plugin is loaded: a wrong one makes the plugin invalid, and the reason names it."""

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
    """Not what an asynchronous hook must be."""


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
    """The plugin is invalid with the reason, none of its hooks count, and the plugin beside it is ok."""
    made = Registry.of([plugin("bad", **{hook: function}), plugin("good")])
    assert [(record.state, record.reason) for record in made.plugins] == [("invalid", why), ("ok", "")]
    assert made.implementations("agentfield_session_authorize", "agentfield_dag_event") == ()


def test_a_hook_that_asks_for_something_else_is_invalid() -> None:
    """An argument that the hook does not have is named."""
    (record,) = Registry.of([plugin("bad", session_authorize=other_argument)]).plugins
    assert record.state == "invalid"
    assert "agentfield_session_authorize" in record.reason
    assert "Argument(s) {'session'}" in record.reason


def test_a_wrapper_is_invalid() -> None:
    """The one way to stand around something is a tool middleware."""

    def wraps() -> Iterator[None]:
        yield

    module = plugin("bad")
    module.__dict__["agentfield_tool_middleware"] = hookimpl(wraps, wrapper=True)
    (record,) = Registry.of([module]).plugins
    assert record.reason == "agentfield_tool_middleware is marked as a wrapper; hooks of agentfield have none"


def test_a_hook_of_a_later_version_may_be_optional() -> None:
    """A plugin may implement what this version does not know, if it says so."""
    module = plugin("ahead")
    module.__dict__["agentfield_next_year"] = hookimpl(sync, optionalhook=True)
    (record,) = Registry.of([module]).plugins
    assert (record.state, record.hooks) == ("ok", ())


def test_implementations_come_by_the_name_of_their_plugin() -> None:
    """Modules and objects alike, in an order that does not depend on how they were found."""

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


async def test_an_implementation_may_leave_its_argument_away() -> None:
    """It is called with what it takes."""

    async def with_it(event: Any) -> Any:
        return event

    async def without() -> str:
        return "nothing"

    made = registry(plugin("a", dag_event=with_it), plugin("b", dag_event=without))
    assert [await each("it") for each in made.implementations("agentfield_dag_event")] == ["it", "nothing"]


def test_a_plugin_of_hooks_needs_a_manifest() -> None:
    """One hook says who a plugin is; without it the others do not count."""
    module = ModuleType("bare")
    module.__dict__["agentfield_dag_event"] = hookimpl(asynchronous)
    (record,) = Registry.of([module]).plugins
    assert record.reason == "it has no function agentfield_manifest marked with @hookimpl"


def test_what_a_plugin_imports_for_its_hooks_is_light() -> None:
    """Values, markers and checks of hooks bring no heavy library; what calls them is imported by the control plane."""
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
