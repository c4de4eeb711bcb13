"""For tests of agents and adapters; nothing of it is imported by what runs in production.

`scripted`      a provider that says what a test tells it to
`conformance`   the kit for authors of plugins: ``pytest --pyargs agentfield.testing.conformance --adapter acme/websocket``
`peer`          what the kit needs of them: the other end, as a small fake

The suites, which need ``agentfield-core[testing]``, are imported on first use: pytest loads this package whenever it runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentfield.testing.adapter_suite import AdapterSuite
    from agentfield.testing.transport_suite import TransportSuite

__all__ = ["AdapterSuite", "TransportSuite"]

_HOMES = {
    "AdapterSuite": "agentfield.testing.adapter_suite",
    "TransportSuite": "agentfield.testing.transport_suite",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
