"""Test support for authors of agents and plugins; production code imports nothing of it.

`scripted`      a provider without network or engine, which says what a test scripts
`conformance`   the kit for plugin authors: ``pytest --pyargs agentfield.testing.conformance --adapter acme/websocket``
`PluginLifespans` starts and stops the plugins of a registry, for tests of hooks
`peer`          the protocols of a peer, the fake that an author supplies to the kit
`pytest_plugin` the option ``--adapter``

The suites need ``agentfield-core[testing]`` and are imported on first use: pytest loads this package in every run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentfield.plugins.hooks.lifespan import PluginLifespans
    from agentfield.testing.conformance.adapter_suite import AdapterSuite
    from agentfield.testing.conformance.transport_suite import TransportSuite

__all__ = ["AdapterSuite", "PluginLifespans", "TransportSuite"]

_MODULES = {
    "AdapterSuite": "agentfield.testing.conformance.adapter_suite",
    "PluginLifespans": "agentfield.plugins.hooks.lifespan",
    "TransportSuite": "agentfield.testing.conformance.transport_suite",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
