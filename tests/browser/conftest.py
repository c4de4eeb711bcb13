"""Fixtures of the browser tests: the speech engines once, everything else for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import expect

from agentfield_local.brain import load_brain
from agentfield_local.server import LocalServer
from agentfield_local.speech.engines import load_engines
from agentfield_local.speech.protocols import SpeechEngines
from support.browser.installation import Installation, run_dev_installation, run_installation

CANARY = "sk-canary-5f0c2d7e9b1a4c38"


@pytest.fixture(scope="session")
def engines() -> SpeechEngines:
    """Return the default speech engines, loaded once."""
    return load_engines("default")


@pytest.fixture(autouse=True)
def _patience() -> None:
    expect.set_options(timeout=45_000)


@pytest.fixture
def canary() -> str:
    """Return the provider key of these tests, which occurs nowhere else."""
    return CANARY


@pytest.fixture
async def provider(engines: SpeechEngines, canary: str) -> AsyncIterator[LocalServer]:
    """Run the local Realtime server in the provider's place, in this process."""
    async with LocalServer(engines, load_brain("obedient"), key=canary) as server:
        yield server


@pytest.fixture
async def openai_installation(provider: LocalServer, canary: str, tmp_path: Path) -> AsyncIterator[Installation]:
    """Run the dictation example on provider `openai` at the local server's address."""
    keys = {"OPENAI_API_KEY": canary, "OPENAI_BASE_URL": provider.base_url}
    choice = {"DICTATION_PROVIDER": "openai", "DICTATION_MODEL": "gpt-realtime-2", "DICTATION_VOICE": "marin"}
    async with run_installation(tmp_path, env=keys, agent_env=choice) as it:
        yield it


@pytest.fixture
async def local_installation(engines: SpeechEngines, tmp_path: Path) -> AsyncIterator[Installation]:
    """Run `af dev examples/voice_dictation` unchanged, on provider `local`."""
    async with (
        LocalServer(engines, load_brain("obedient")) as server,
        run_dev_installation(tmp_path, env={"AGENTFIELD_LOCAL_URL": server.base_url}) as it,
    ):
        yield it
