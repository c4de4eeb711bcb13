"""The adapter passes the conformance kit; the plugin must be installed, as for its users."""

from __future__ import annotations

from agentfield.testing import AdapterSuite


class TestConformance(AdapterSuite):
    """The standard tests."""

    pair = "tones/websocket"
