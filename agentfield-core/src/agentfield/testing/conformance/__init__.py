"""The conformance kit for plugin authors: standard tests of adapters and transports, run against a peer of the author's.

In: the pair that ``--adapter`` names, its manifest, and its peer (`agentfield.testing.peer`). Out: test results. It runs
without network and without a key: the harness takes the control plane's place.

To read: `test_conformance` (what pytest collects), `suite` (base class and known bugs); then `adapter_suite` with its groups
(`manifest_tests`, `turn_tests`, `speech_tests`, `capability_tests`, `promptness_tests`, `fault_tests`) and `transport_suite`,
over the harnesses in `harness`.
"""

from __future__ import annotations

__all__ = ["ADAPTER_OPTION"]

ADAPTER_OPTION = "--adapter"
"""The option that names the pair. It is defined here since the pytest plugin must import nothing else of this package."""
