"""VAD feed of one session: a caller's audio to speech events, with voice activity detection in a worker thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from agentfield_local.speech.pool import EngineBusy, EnginePool
from agentfield_local.speech.protocols import SPEECH_RATE
from agentfield_local.speech.segmenter import Segmenter, SpeechEvent

__all__ = ["VadFeed"]

_log = logging.getLogger(__name__)
_MAX_PENDING = 600 * SPEECH_RATE * 2
_SEMANTIC_SILENCE_MS = {"high": 300, "medium": 500, "auto": 500, "low": 900}

_PAUSE_MS = 190
"""Silence after which an interim transcript starts; six chunks of the VAD."""

OnSpeech = Callable[[SpeechEvent, int], None]


class VadFeed:
    """Feeds a segmenter in the worker thread of the VAD.

    Args:
        pool: The engines.
    """

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool
        self._pending = bytearray()
        self._wake = asyncio.Event()
        self._segmenter: Segmenter | None = None
        self._base_ms = 0

    def restart(self, turn_detection: dict[str, Any] | None, base_ms: int) -> None:
        """Drop pending audio and begin with new settings; None stops detection.

        Args:
            turn_detection: The `turn_detection` object of the session.
            base_ms: Audio of the session so far, in ms.
        """
        self._pending.clear()
        self._base_ms = base_ms
        self._segmenter = None if turn_detection is None else self._make_segmenter(turn_detection)

    def _make_segmenter(self, detection: dict[str, Any]) -> Segmenter:
        vad = self._pool.engines.vad()
        pause_ms = _PAUSE_MS if self._pool.engines.early else None
        if detection["type"] == "semantic_vad":
            silence_ms = _SEMANTIC_SILENCE_MS[detection["eagerness"]]
            return Segmenter(vad, silence_duration_ms=silence_ms, pause_ms=pause_ms)
        return Segmenter(
            vad,
            threshold=detection["threshold"],
            prefix_padding_ms=detection["prefix_padding_ms"],
            silence_duration_ms=detection["silence_duration_ms"],
            pause_ms=pause_ms,
        )

    def feed(self, pcm: bytes) -> None:
        """Queue audio of the caller (16 kHz s16le mono)."""
        if self._segmenter is not None and len(self._pending) < _MAX_PENDING:
            self._pending += pcm
            self._wake.set()

    async def run(self, on_speech: OnSpeech) -> None:
        """Process queued audio until cancelled.

        Args:
            on_speech: Called on the event loop with each event and the ms of audio before the segmenter's first sample.
        """
        while True:
            await self._wake.wait()
            self._wake.clear()
            segmenter, base_ms = self._segmenter, self._base_ms
            if segmenter is None or not self._pending:
                continue
            pcm = bytes(self._pending)
            self._pending.clear()
            try:
                events = await self._pool.vad_worker.run(segmenter.feed, pcm)
            except EngineBusy as error:
                _log.warning("%s; %d ms of a caller were not listened to", error, len(pcm) // 32)
                continue
            for event in events:
                # `restart` may have run meanwhile, also from `on_speech`: events of the old settings are stale.
                if segmenter is self._segmenter:
                    on_speech(event, base_ms)
