"""The conformance kit without a file to write: ``pytest --pyargs agentfield.testing.conformance --adapter acme/websocket``.

Of the two suites those run that the pair has; see `agentfield.testing.plugin`.
"""

from __future__ import annotations

from agentfield.testing.adapter_suite import AdapterSuite
from agentfield.testing.transport_suite import TransportSuite

__all__ = ["TestAdapter", "TestTransport"]


class TestAdapter(AdapterSuite):
    """The provider's end of the pair that `--adapter` names."""


class TestTransport(TransportSuite):
    """The caller's end, where the transport is a plugin's."""
