"""The conformance suite of an adapter: what its pair declares works, and what it does not declare is refused."""

from __future__ import annotations

from agentfield.testing.conformance.answer_tests import AnswerTests
from agentfield.testing.conformance.capability_tests import CapabilityTests
from agentfield.testing.conformance.fault_tests import FaultTests
from agentfield.testing.conformance.manifest_tests import AdapterManifestTests
from agentfield.testing.conformance.naming_tests import NamingTests
from agentfield.testing.conformance.promptness_tests import PromptnessTests
from agentfield.testing.conformance.speech_tests import SpeechTests
from agentfield.testing.conformance.turn_tests import TurnTests

__all__ = ["AdapterSuite"]


class AdapterSuite(
    FaultTests,
    PromptnessTests,
    CapabilityTests,
    NamingTests,
    AnswerTests,
    SpeechTests,
    TurnTests,
    AdapterManifestTests,
):
    """The standard tests of an adapter; subclass it in a test file to override fixtures or to list known bugs.

    Example:
        >>> class TestAcme(AdapterSuite):
        ...     pair = "acme/websocket"
        ...     xfails = {"test_unicode_survives": "acme issue 12"}
    """
