"""Plugins whose hooks are functions of a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

from agentfield.plugins import PLUGIN_API, Manifest, Registry, SessionRequest, ToolCall, hookimpl

__all__ = ["call", "plugin", "recorded", "registry", "request"]


def plugin(name: str, *, settings: tuple[str, ...] = (), **hooks: Callable[..., Any]) -> ModuleType:
    """Return a plugin module with the given hooks, named without the prefix `agentfield_`."""
    module = ModuleType(name)
    module.__dict__["agentfield_manifest"] = hookimpl(lambda: Manifest(api=PLUGIN_API, settings=settings))
    for hook, function in hooks.items():
        module.__dict__[f"agentfield_{hook}"] = hookimpl(function)
    return module


def registry(*plugins: object) -> Registry:
    """Return a registry of plugins, which must all be ok."""
    made = Registry.of(plugins)
    assert [(record.state, record.reason) for record in made.plugins] == [("ok", "")] * len(plugins)
    return made


def request(**changes: Any) -> SessionRequest:
    """Return a request of a session."""
    known: dict[str, Any] = {
        "target": "shop.voice",
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
    """Return a tool call with an input."""
    return ToolCall(
        call_id="c1",
        kind="tool",
        target="shop.look",
        input=values,
        session_id="ses_1",
        run_id="run_1",
        turn_id=None,
        session="shop.voice",
    )


def recorded(kind: str, seq: int = 1, /, **body: Any) -> tuple[str, bytes]:
    """Return the type and the JSON of an event as the store emits it."""
    event = {
        "id": f"evt_{seq}",
        "seq": seq,
        "type": kind,
        "at": 1.5,
        "run_id": "run_1",
        "session_id": "ses_1",
        "execution_id": None,
        "body": body,
    }
    return kind, json.dumps(event).encode()
