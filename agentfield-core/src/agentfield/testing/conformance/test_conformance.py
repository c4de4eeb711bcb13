"""The suites as tests, collected by ``pytest --pyargs agentfield.testing.conformance --adapter acme/websocket``.

The pytest plugin deselects the suite that does not apply to the pair (`agentfield.testing.conformance_plugin`).
"""

from __future__ import annotations

from agentfield.testing.conformance.adapter_suite import AdapterSuite
from agentfield.testing.conformance.transport_suite import TransportSuite

__all__ = ["TestAdapter", "TestTransport"]


class TestAdapter(AdapterSuite):
    """The adapter of the pair that `--adapter` names."""


class TestTransport(TransportSuite):
    """The transport of that pair, where a plugin declares it."""
