"""Tool matching: similarity of an utterance to tool names and descriptions, by words and letter trigrams."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from agentfield_local.brain.protocol import ToolOffer

__all__ = ["FLOOR", "MARGIN", "best_match", "best_tool", "similarities"]

FLOOR = 0.12
"""Minimum similarity of a chosen tool."""

MARGIN = 1.15
"""Minimum ratio of the similarities of the best and the second tool."""

_WORD_WEIGHT = 2.0
_TRIGRAM_WEIGHT = 1.0
_TRIGRAM = 3
_PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an and any are as at be by can could do does for from get give had has have how i if in is it its me my of on
        or our please so that the them then there this to up us use used was we what when which who will with would you
        your""",
    )
)


def best_tool(utterance: str, tools: Sequence[ToolOffer], *, forced: bool = False) -> ToolOffer | None:
    """Return the tool that matches an utterance; None if none does, or two match equally well.

    Args:
        utterance: Words of the caller.
        tools: Offered tools.
        forced: Return the most similar tool regardless of its similarity.
    """
    scores = similarities(utterance, [f"{tool.name} {tool.description}" for tool in tools])
    ranked = sorted(range(len(tools)), key=lambda index: -scores[index])
    if not ranked:
        return None
    best = scores[ranked[0]]
    second = scores[ranked[1]] if len(ranked) > 1 else 0.0
    if forced or (best > FLOOR and best > MARGIN * second):
        return tools[ranked[0]]
    return None


def best_match(utterance: str, texts: Sequence[str]) -> int | None:
    """Return the index of the text most similar to the utterance; None if all similarities are 0."""
    scores = similarities(utterance, texts)
    best = max(range(len(texts)), key=lambda index: scores[index], default=None)
    return best if best is not None and scores[best] > 0 else None


def similarities(utterance: str, texts: Sequence[str]) -> list[float]:
    """Return the cosine similarity of the utterance to each text, 0 to 1.

    Features are words (weight 2) and letter trigrams (weight 1), weighted by their rarity among the texts. Features
    that occur in no text lower all similarities.
    """
    bags = [_features(text) for text in texts]
    rarity = _rarity(bags)
    unknown = max(rarity.values(), default=0.0)
    query = {name: weight * rarity.get(name, unknown) for name, weight in _features(utterance).items()}
    return [_cosine(query, {name: weight * rarity[name] for name, weight in bag.items()}) for bag in bags]


def _features(text: str) -> Mapping[str, float]:
    """Return the features of a text; a repeated word counts once, so that "order" does not dominate "orders.find_order"."""
    bag: dict[str, float] = {}
    for piece in _PIECES.findall(text):
        word = piece.lower()
        if word in _STOP_WORDS:
            continue
        bag[word] = _WORD_WEIGHT
        framed = f"^{word}$"
        for start in range(len(framed) - _TRIGRAM + 1):
            bag[f"~{framed[start : start + _TRIGRAM]}"] = _TRIGRAM_WEIGHT
    return bag


def _rarity(bags: Sequence[Mapping[str, float]]) -> dict[str, float]:
    frequency = Counter(name for bag in bags for name in bag)
    return {name: math.log((len(bags) + 1) / (count + 0.5)) for name, count in frequency.items()}


def _cosine(query: Mapping[str, float], text: Mapping[str, float]) -> float:
    dot = sum(weight * text[name] for name, weight in query.items() if name in text)
    norms = math.sqrt(sum(weight**2 for weight in query.values()) * sum(weight**2 for weight in text.values()))
    return dot / norms if norms else 0.0
