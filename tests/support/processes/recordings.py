"""The recordings of speech that callers play."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agentfield_cli.call.recordings import Samples, read_recording
from support.paths import SPEECH_FIXTURES

__all__ = ["Transcript", "clip", "transcripts"]


@dataclass(frozen=True, slots=True)
class Transcript:
    """A recording and its words."""

    file: str
    kind: str
    words: str


def transcripts(kind: str) -> list[Transcript]:
    """Return the clean recordings of a kind, "human" or "synthetic"; single words out of context (`cards`) are not clean."""
    listed: list[dict[str, Any]] = json.loads((SPEECH_FIXTURES / "transcripts.json").read_text())
    known = [Transcript(clip["file"], clip["kind"].split()[0], clip["transcript"]) for clip in listed]
    return [each for each in known if each.kind == kind and not each.file.startswith("cards")]


def clip(name: str) -> Samples:
    """Return a recording by its name without suffix, such as `synthetic/01`."""
    return read_recording(SPEECH_FIXTURES / f"{name.removesuffix('.wav')}.wav")
