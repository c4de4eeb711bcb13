"""What was answered lately: the record behind `GET /v1/generation`, and the words behind the ids of spoken answers."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from agentfield_local.chat.chunks import Head
from agentfield_local.ids import new_id
from agentfield_local.realtime.usage import Usage

__all__ = ["AUDIO_SECONDS", "Generation", "Generations"]

AUDIO_SECONDS = 3600
"""How long the id of a spoken answer stands for its words."""
_KEPT = 1000


@dataclass(slots=True)
class Generation:
    """One answer, from its request to its end."""

    head: Head
    streamed: bool
    audio_id: str | None
    session_id: str | None = None
    usage: Usage = field(default_factory=Usage)
    said: str = ""
    audio_ms: float = 0.0
    finish_reason: str | None = None
    cancelled: bool = False
    ended: bool = False
    """Whether nothing works on it any more."""
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


class Generations:
    """The latest thousand answers."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Generation] = OrderedDict()
        self._audio: OrderedDict[str, Generation] = OrderedDict()

    def begin(
        self, *, model: str, now: float, streamed: bool, speaks: bool, session_id: str | None = None
    ) -> Generation:
        """Return the record of a new answer."""
        head = Head(new_id("gen").replace("_", "-", 1), int(now), model)
        generation = Generation(head, streamed, new_id("audio") if speaks else None, session_id)
        self._kept[head.id] = generation
        if generation.audio_id is not None:
            self._audio[generation.audio_id] = generation
        for kept in (self._kept, self._audio):
            while len(kept) > _KEPT:
                kept.popitem(last=False)
        return generation

    def get(self, generation_id: str) -> Generation | None:
        """Return the record of an answer, None when there is none (any more)."""
        return self._kept.get(generation_id)

    def spoken(self, audio_id: str, now: float) -> str | None:
        """Return the words of a spoken answer; None for an unknown one, and an hour after it was made."""
        found = self._audio.get(audio_id)
        return None if found is None or found.head.created + AUDIO_SECONDS <= now else found.said

    @property
    def all(self) -> list[Generation]:
        """The records, oldest first."""
        return list(self._kept.values())
