"""The hooks that a plugin may implement."""

from __future__ import annotations

from typing import Protocol

import pluggy

from agentfield.plugins.spec import Manifest

__all__ = ["PROJECT", "PluginHooks", "hookimpl"]

PROJECT = "agentfield"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin module as the implementation of the hook of that name."""


class PluginHooks(Protocol):
    """The hooks, each with when it is called and what it may do."""

    @hookspec
    def agentfield_manifest(self) -> Manifest:
        """Return what the plugin brings; called once at discovery, must import nothing heavy."""
