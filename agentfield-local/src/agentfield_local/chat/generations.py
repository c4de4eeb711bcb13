"""Log of completions: the records behind `GET /v1/generation`, and the words behind audio ids."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from agentfield_local.brain.tokens import TokenUsage
from agentfield_local.chat.chunks import ChunkHead
from agentfield_local.wire.ids import new_id

__all__ = ["AUDIO_SECONDS", "Generation", "GenerationLog"]

AUDIO_SECONDS = 3600
"""Lifetime of an audio id in seconds."""
_MAX_RECORDS = 1000


@dataclass(slots=True)
class Generation:
    """Record of one completion, from its request to its end."""

    head: ChunkHead
    streamed: bool
    audio_id: str | None
    session_id: str | None = None
    usage: TokenUsage = field(default_factory=TokenUsage)
    said: str = ""
    audio_ms: float = 0.0
    finish_reason: str | None = None
    cancelled: bool = False
    ended: bool = False
    """Whether all its work has ended."""
    seconds: float = 0.0

    def view(self) -> dict[str, Any]:
        """Return the wire's record."""
        created = dt.datetime.fromtimestamp(self.head.created, dt.UTC)
        return {
            "id": self.head.id,
            "model": self.head.model,
            "provider_name": self.head.provider,
            "created_at": created.isoformat().replace("+00:00", "Z"),
            "streamed": self.streamed,
            "cancelled": self.cancelled,
            "finish_reason": self.finish_reason,
            "native_finish_reason": self.finish_reason,
            "session_id": self.session_id,
            "generation_time": round(self.seconds * 1000),
            "tokens_prompt": self.usage.input,
            "tokens_completion": self.usage.output,
            "native_tokens_prompt": self.usage.input,
            "native_tokens_completion": self.usage.output,
            "native_tokens_cached": 0,
            "native_tokens_reasoning": 0,
            "usage": 0,
            "total_cost": 0,
            "is_byok": False,
        }


class GenerationLog:
    """The latest thousand completions."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, Generation] = OrderedDict()
        self._audio: OrderedDict[str, Generation] = OrderedDict()

    def begin(
        self, *, model: str, now: float, streamed: bool, speaks: bool, session_id: str | None = None
    ) -> Generation:
        """Add and return the record of a new completion."""
        head = ChunkHead(new_id("gen").replace("_", "-", 1), int(now), model)
        generation = Generation(head, streamed, new_id("audio") if speaks else None, session_id)
        self._records[head.id] = generation
        if generation.audio_id is not None:
            self._audio[generation.audio_id] = generation
        for records in (self._records, self._audio):
            while len(records) > _MAX_RECORDS:
                records.popitem(last=False)
        return generation

    def get(self, generation_id: str) -> Generation | None:
        """Return a record; None if there is none, or it was dropped."""
        return self._records.get(generation_id)

    def spoken(self, audio_id: str, now: float) -> str | None:
        """Return the words of an audio id; None if it is unknown or has expired."""
        found = self._audio.get(audio_id)
        return None if found is None or found.head.created + AUDIO_SECONDS <= now else found.said

    @property
    def all(self) -> list[Generation]:
        """The records, oldest first."""
        return list(self._records.values())
