"""Everything a plugin author needs: the manifest, the hook marker and the registry.

A plugin is a module behind an entry point of the group ``agentfield.plugins`` that implements
`agentfield_manifest`. The module must be light: it names its factories as ``"module:attribute"`` strings, and
these are imported on first use.
"""

from __future__ import annotations

from agentfield.plugins.hooks import Proceed, RecordedEvent, SessionRequest, ToolCall, ToolMiddleware
from agentfield.plugins.hookspecs import hookimpl
from agentfield.plugins.registry import PluginRecord, PluginState, Registry
from agentfield.plugins.spec import (
    PLUGIN_API,
    Capabilities,
    Manifest,
    Names,
    Need,
    PairSpec,
    Prices,
    ProviderInfo,
    RouteInfo,
    TransportInfo,
)

__all__ = [
    "PLUGIN_API",
    "Capabilities",
    "Manifest",
    "Names",
    "Need",
    "PairSpec",
    "PluginRecord",
    "PluginState",
    "Prices",
    "Proceed",
    "ProviderInfo",
    "RecordedEvent",
    "Registry",
    "RouteInfo",
    "SessionRequest",
    "ToolCall",
    "ToolMiddleware",
    "TransportInfo",
    "hookimpl",
]
