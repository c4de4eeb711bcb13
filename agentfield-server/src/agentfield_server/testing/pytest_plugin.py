"""The pytest plugin: fixtures for tests of agents.

It imports the rest of the package on first use, since pytest loads it in every run of every project that has it installed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from agentfield.agent import Agent
    from agentfield.client import ControlPlaneClient
    from agentfield.testing.scripted import ScriptedProvider
    from agentfield_server.app import ControlPlane
    from agentfield_server.testing.caller import Caller
    from agentfield_server.testing.harness import ControlPlaneHarness

__all__ = ["StartCall", "agentfield_client", "call", "control_plane", "scripted_provider"]

try:
    from pytest_asyncio import fixture as _async_fixture
except ImportError:  # the extra is not installed: tests that do not use these fixtures must still run
    _async_fixture = pytest.fixture  # type: ignore[assignment]


class StartCall(Protocol):
    """Type of the fixture `call`."""

    def __call__(
        self,
        *agents: str | Path | Agent,
        session: str | None = None,
        caller: str | None = None,
        metadata: Mapping[str, Any] = MappingProxyType({}),
        pause: str | None = None,
    ) -> AbstractAsyncContextManager[Caller]:
        """Start a session of an agent and call it; use it in ``async with``.

        Args:
            *agents: Agent files, as ``"agent.py"`` or ``"agent.py:app"``, relative to the test's folder or to the
                project's, or `Agent` objects; all are linked.
            session: Name or target of the session; None where there is only one.
            caller: Identity of the caller, such as a telephone number.
            metadata: Metadata of the call for the handler.
            pause: Words of the greeting after which it is held, so that the caller can interrupt it there.

        Raises:
            AgentFieldError: The session was refused; the class says why.
        """


@pytest.fixture
def _agentfield_harness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> ControlPlaneHarness:
    """The harness that the other fixtures share; nothing runs yet."""
    from agentfield_server.testing.harness import ControlPlaneHarness

    home = tmp_path_factory.mktemp("agentfield")
    # the tests must not find the control plane or the key of the developer who runs them
    monkeypatch.setenv("AGENTFIELD_HOME", str(home))
    for name in ("AGENTFIELD_URL", "AGENTFIELD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return ControlPlaneHarness(home, (request.path.parent, request.config.rootpath))


@pytest.fixture
def call(_agentfield_harness: ControlPlaneHarness) -> StartCall:
    """Start and call a session of an agent in this process, see `StartCall`; without audio, keys or network."""
    return _agentfield_harness.call


@pytest.fixture
def scripted_provider(_agentfield_harness: ControlPlaneHarness) -> ScriptedProvider:
    """The scripted provider of this test, to script answers and faults before a call is made."""
    return _agentfield_harness.provider


@_async_fixture
async def control_plane(_agentfield_harness: ControlPlaneHarness) -> AsyncIterator[ControlPlane]:
    """A control plane in this process, with its own home, on a free loopback port; `call` uses the same one."""
    async with _agentfield_harness.plane() as plane:
        yield plane


@_async_fixture
async def agentfield_client(control_plane: ControlPlane) -> AsyncIterator[ControlPlaneClient]:
    """A client of `control_plane`."""
    from agentfield.client import ControlPlaneClient

    async with ControlPlaneClient(control_plane.url) as client:
        yield client
