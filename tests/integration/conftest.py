"""What the tests with real speech share: loading the engines takes seconds, so that one server has all their calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentfield_cli.demo.speech import SpeechServer
from call_kit import speech_server


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpeechServer]:
    """The offline server with the real engines."""
    with speech_server(tmp_path_factory.mktemp("speech")) as server:
        yield server
