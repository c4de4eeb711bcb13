"""`usageMetadata` to neutral usage.

Source: https://ai.google.dev/api/live#UsageMetadata. `responseTokenCount` excludes thoughts. The counts by modality may not
add up to the total; a token without a modality counts as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentfield.adapterkit.json_fields import count_at, objects_at
from agentfield.realtime.events import Usage

__all__ = ["usage_of"]


def usage_of(metadata: Mapping[str, Any]) -> Usage | None:
    """Return the usage of a model turn, None if nothing is counted."""
    prompt = _by_modality(metadata, "promptTokenCount", "promptTokensDetails")
    tools = _by_modality(metadata, "toolUsePromptTokenCount", "toolUsePromptTokensDetails")
    response = _by_modality(metadata, "responseTokenCount", "responseTokensDetails")
    if prompt is None and response is None:
        return None
    return Usage(
        input_text_tokens=_sum(prompt, tools, "TEXT"),
        input_audio_tokens=_sum(prompt, tools, "AUDIO"),
        input_image_tokens=_sum(prompt, tools, "IMAGE") or None,
        input_video_tokens=_sum(prompt, tools, "VIDEO") or None,
        cached_tokens=count_at(metadata, "cachedContentTokenCount"),
        output_text_tokens=_sum(response, None, "TEXT"),
        output_audio_tokens=_sum(response, None, "AUDIO"),
        thinking_tokens=count_at(metadata, "thoughtsTokenCount"),
    )


def _by_modality(metadata: Mapping[str, Any], total: str, details: str) -> dict[str, int] | None:
    counted = count_at(metadata, total)
    if counted is None:
        return None
    found: dict[str, int] = {"TEXT": 0, "AUDIO": 0}
    for each in objects_at(metadata, details):
        modality = each.get("modality")
        name = modality if modality in ("AUDIO", "IMAGE", "VIDEO") else "TEXT"
        found[name] = found.get(name, 0) + (count_at(each, "tokenCount") or 0)
    found["TEXT"] += max(0, counted - sum(found.values()))
    return found


def _sum(first: Mapping[str, int] | None, second: Mapping[str, int] | None, name: str) -> int | None:
    counts = [each.get(name, 0) for each in (first, second) if each is not None]
    return sum(counts) if counts else None
