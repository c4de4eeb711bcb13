"""The pytest plugin: fixtures for tests of agents. Light on purpose: pytest loads it in every run of every project."""

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
    from agentfield.testing.scripted import Scripted
    from agentfield_server.app import ControlPlane
    from agentfield_server.testing.caller import Caller
    from agentfield_server.testing.house import House

__all__ = ["Call", "agentfield_client", "call", "control_plane", "scripted"]

try:
    from pytest_asyncio import fixture as _async_fixture
except ImportError:  # the extra is not installed: nothing of this may get in the way of other people's tests
    _async_fixture = pytest.fixture  # type: ignore[assignment]


class Call(Protocol):
    """The fixture `call`."""

    def __call__(
        self,
        *agents: str | Path | Agent,
        session: str | None = None,
        caller: str | None = None,
        metadata: Mapping[str, Any] = MappingProxyType({}),
        pause: str | None = None,
    ) -> AbstractAsyncContextManager[Caller]:
        """Call a session of an agent, in ``async with``.

        Args:
            *agents: Agent files, as ``"agent.py"`` or ``"agent.py:app"``, relative to the test's folder or to the
                project's, or `Agent` objects; all of them are linked.
            session: The session, by its name or target; None where there is only one.
            caller: Who calls.
            metadata: What the handler is told of the call.
            pause: Words of a greeting after which it stands still, for a caller who speaks over it.

        Raises:
            AgentFieldError: The session may not be started; the class says why.
        """


@pytest.fixture
def _agentfield_house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> House:
    """What the other fixtures share: nothing runs yet."""
    from agentfield_server.testing.house import House

    home = tmp_path_factory.mktemp("agentfield")
    # neither a control plane nor a key of whoever runs the tests is to be found
    monkeypatch.setenv("AGENTFIELD_HOME", str(home))
    for name in ("AGENTFIELD_URL", "AGENTFIELD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return House(home, (request.path.parent, request.config.rootpath))


@pytest.fixture
def call(_agentfield_house: House) -> Call:
    """Calls a session of an agent in this process, see `Call`; nothing is heard, and nothing leaves the machine."""
    return _agentfield_house.call


@pytest.fixture
def scripted(_agentfield_house: House) -> Scripted:
    """The provider of this test, for what is to be said or to go wrong before a call is made."""
    return _agentfield_house.script


@_async_fixture
async def control_plane(_agentfield_house: House) -> AsyncIterator[ControlPlane]:
    """A control plane in this process, with its own home, on a free port of loopback; the one that `call` uses, too."""
    async with _agentfield_house.plane() as plane:
        yield plane


@_async_fixture
async def agentfield_client(control_plane: ControlPlane) -> AsyncIterator[ControlPlaneClient]:
    """A client of `control_plane`."""
    from agentfield.client import ControlPlaneClient

    async with ControlPlaneClient(control_plane.url) as client:
        yield client
