"""One server with the real speech engines for all tests: loading them takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentfield_cli.demo.speech import SpeechServer
from support.processes.installation import speech_server


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpeechServer]:
    """Return the offline server with the real engines."""
    with speech_server(tmp_path_factory.mktemp("speech")) as server:
        yield server
