"""Speech engines without models, under the names that the `local` pairs offer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from agentfield_local.brain import load_brain
from agentfield_local.server import LocalServer
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_local.speech.synthetic import EnergyVad, FixedStt, ToneTts

__all__ = ["JoeTts", "local_provider", "tone_engines"]


class JoeTts(ToneTts):
    """Speaks tones as the voice `joe`, which the `local` pairs declare."""

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of the voices."""
        return ("joe",)


def tone_engines(texts: Iterable[str] = (), tts: ToneTts | None = None) -> SpeechEngines:
    """Return engines that hear these texts, one a turn, and speak tones."""
    return SpeechEngines(name="synthetic", vad=EnergyVad, stt=FixedStt(texts), tts=tts or JoeTts())


@asynccontextmanager
async def local_provider(*texts: str) -> AsyncIterator[LocalServer]:
    """Run a local provider in this process that hears these texts, one a turn, and answers with tones."""
    async with LocalServer(tone_engines(texts), load_brain("obedient")) as server:
        yield server
