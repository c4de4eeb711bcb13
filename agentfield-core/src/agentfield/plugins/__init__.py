"""Plugins: the manifest, the hooks and the registry. This module exports the API for plugin authors.

A plugin is a module behind an entry point of the group ``agentfield.plugins`` that implements the hook
`agentfield_manifest`. The module must be light: it names its factories as ``"module:attribute"`` strings, which are
imported on first use.

In: the entry points of installed distributions. Out: a `Registry`, which resolves a (provider, transport) pair to its
adapter or to an error that says why there is none. To read: `manifest` (what a plugin declares), `hooks` (what it may
implement), `registry` (how plugins are loaded and resolved); `install` and `wording` help with the messages.
"""

from __future__ import annotations

from agentfield.plugins.hooks.arguments import (
    HookRuntime,
    Proceed,
    RecordedEvent,
    SessionRequest,
    ToolCall,
    ToolMiddleware,
)
from agentfield.plugins.hooks.hookspecs import hookimpl
from agentfield.plugins.manifest.spec import (
    PLUGIN_API,
    Capabilities,
    Catalog,
    Manifest,
    ModelPrices,
    ModelSpec,
    Need,
    PairSpec,
    ProviderSpec,
    RouteSpec,
    TransportSpec,
)
from agentfield.plugins.registry.records import PluginRecord, PluginState
from agentfield.plugins.registry.registry import Registry

__all__ = [
    "PLUGIN_API",
    "Capabilities",
    "Catalog",
    "HookRuntime",
    "Manifest",
    "ModelPrices",
    "ModelSpec",
    "Need",
    "PairSpec",
    "PluginRecord",
    "PluginState",
    "Proceed",
    "ProviderSpec",
    "RecordedEvent",
    "Registry",
    "RouteSpec",
    "SessionRequest",
    "ToolCall",
    "ToolMiddleware",
    "TransportSpec",
    "hookimpl",
]
