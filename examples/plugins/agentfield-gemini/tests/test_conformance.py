"""The adapter passes the conformance kit; this needs the plugin installed."""

from __future__ import annotations

from agentfield.testing import AdapterSuite


class TestConformance(AdapterSuite):
    """The standard tests."""

    pair = "gemini/websocket"
