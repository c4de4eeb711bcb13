"""The suite of an adapter: everything that a pair declares works, everything that it does not is refused."""

from __future__ import annotations

from agentfield.testing.fault_tests import FaultTests
from agentfield.testing.manifest_tests import AdapterManifestTests
from agentfield.testing.speech_tests import SpeechTests
from agentfield.testing.turn_tests import TurnTests

__all__ = ["AdapterSuite"]


class AdapterSuite(FaultTests, SpeechTests, TurnTests, AdapterManifestTests):
    """The standard tests of an adapter; subclass it in a test file of yours to override fixtures or to name known bugs.

    Example:
        >>> class TestAcme(AdapterSuite):
        ...     pair = "acme/websocket"
        ...     xfails = {"test_unicode_survives": "acme issue 12"}
    """
