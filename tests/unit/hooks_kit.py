"""Plugins of hooks, made in the test itself: each hook is a function that the test gives."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from agentfield.plugins import PLUGIN_API, Manifest, Registry, SessionRequest, ToolCall, hookimpl

__all__ = ["call", "plugin", "registry", "request"]


def plugin(name: str, **hooks: Callable[..., Any]) -> ModuleType:
    """Return a plugin module; hooks are named without their prefix."""
    module = ModuleType(name)
    module.__dict__["agentfield_manifest"] = hookimpl(lambda: Manifest(api=PLUGIN_API))
    for hook, function in hooks.items():
        module.__dict__[f"agentfield_{hook}"] = hookimpl(function)
    return module


def registry(*plugins: object) -> Registry:
    """Return a registry of plugins that are all ok."""
    made = Registry.of(plugins)
    assert [(record.state, record.reason) for record in made.plugins] == [("ok", "")] * len(plugins)
    return made


def request(**changes: Any) -> SessionRequest:
    """Return what a gate is asked."""
    known: dict[str, Any] = {
        "target": "desk.voice",
        "caller": "ann",
        "metadata": {},
        "provider": "acme",
        "transport": "webrtc",
        "model": "m-1",
        "tags": (),
        "principal": "op",
    }
    return SessionRequest(**{**known, **changes})


def call(**values: Any) -> ToolCall:
    """Return a call with an input."""
    return ToolCall(
        call_id="c1",
        kind="tool",
        target="desk.look",
        input=values,
        session_id="ses_1",
        run_id="run_1",
        turn_id=None,
        session="desk.voice",
    )
