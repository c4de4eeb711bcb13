"""The suite of a transport (to come)."""

from agentfield.testing.suite import Suite

__all__ = ["TransportSuite"]


class TransportSuite(Suite):
    """The standard tests of a transport."""
