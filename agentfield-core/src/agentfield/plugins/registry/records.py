"""The record of one plugin: where it was found, its state, its manifest and its hooks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from agentfield.plugins.hooks.implementations import HookImplementation
from agentfield.plugins.manifest.spec import Manifest

__all__ = ["PluginRecord", "PluginState"]

PluginState = Literal["ok", "disabled", "broken", "incompatible", "invalid"]
"""`broken`: does not load; `incompatible`: made for another plugin API; `invalid`: its manifest is inconsistent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRecord:
    """One discovered plugin."""

    name: str
    distribution: str
    version: str = ""
    module: str = ""
    """Module of the manifest."""
    state: PluginState
    reason: str = ""
    """Reason of a state that is not ok."""
    manifest: Manifest | None = None
    """Its declarations; used only if the state is ok."""
    hooks: tuple[HookImplementation, ...] = field(default=(), repr=False)
    """Its hook implementations besides the manifest."""
    details: str = ""
    """Traceback of a broken plugin."""

    @property
    def label(self) -> str:
        """Distribution and version, as messages name the plugin."""
        return f"{self.distribution} {self.version}".rstrip()
