"""Price of a usage report: the provider's own figure, else its counts multiplied by the price table."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from agentfield.plugins.manifest.spec import ModelPrices, ProviderSpec
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import Usage

__all__ = ["NO_OVERRIDES", "PriceOverrides", "Pricer", "UsageKind", "compute_cost", "make_pricer", "reported_cost"]

UsageKind = Literal["reply", "transcription", "speech"]
"""Kind of usage: the conversation's model, the transcription model, or a text-to-speech model."""

Pricer = Callable[[UsageKind, Usage], float | None]
"""Returns the cost of a usage report in US dollars, None if it is unknown."""

PriceOverrides = Mapping[tuple[str, str], Mapping[str, float]]
"""Prices by provider and model; a price that is not named keeps its published value."""

NO_OVERRIDES: Final[PriceOverrides] = MappingProxyType({})

_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_MILLION = 1_000_000


def reported_cost(kind: UsageKind, usage: Usage) -> float | None:  # noqa: ARG001 - a `Pricer`
    """Return the cost that the provider reported."""
    return usage.cost


def make_pricer(provider: ProviderSpec, config: SessionConfig, overrides: PriceOverrides = NO_OVERRIDES) -> Pricer:
    """Return the function that prices a session's usage.

    The provider's own figure takes precedence over the tables. A model name with a date has the price of the name without
    the date, unless it has its own price.

    Args:
        provider: Provider whose published prices apply.
        config: Names the models of the conversation and of the transcription; a text-to-speech model is the one that
            the option ``speech_model`` names.
        overrides: Prices that override the published ones, as `price_file.load_prices` returns them.
    """
    speech = config.declaration.options.get("speech_model")
    tables: dict[UsageKind, ModelPrices | None] = {
        "reply": _find(provider, config.model, overrides),
        "transcription": _find(provider, config.transcription, overrides),
        "speech": _find(provider, speech if isinstance(speech, str) else None, overrides),
    }

    def price(kind: UsageKind, usage: Usage) -> float | None:
        reported = reported_cost(kind, usage)
        prices = tables[kind]
        return reported if reported is not None or prices is None else compute_cost(usage, prices)

    return price


def compute_cost(usage: Usage, prices: ModelPrices) -> float | None:
    """Return the cost of `usage` by a price table in US dollars; None if a used count has no price.

    Cached tokens are cheaper input. A provider counts them in one figure, so they are subtracted from all input in
    proportion; without a price of their own they cost as much as other input.
    """
    if usage.seconds is not None and prices.minute is not None:
        return usage.seconds / 60 * prices.minute
    taken = (
        (usage.input_text_tokens, prices.input_text),
        (usage.input_audio_tokens, prices.input_audio),
        (usage.input_image_tokens, prices.input_image),
        (usage.input_video_tokens, prices.input_video),
    )
    given = (
        (usage.output_text_tokens, prices.output_text),
        (usage.output_audio_tokens, prices.output_audio),
        (usage.thinking_tokens, prices.output_text if prices.thinking is None else prices.thinking),
    )
    if all(count is None for count, _ in (*taken, *given)):
        return None
    all_input = sum(count or 0 for count, _ in taken)
    cached = min(usage.cached_tokens or 0, all_input) if prices.cached is not None else 0
    fresh = 1 - cached / all_input if all_input else 1.0
    parts = (*(((count or 0) * fresh, price) for count, price in taken), (cached, prices.cached), *given)
    total = 0.0
    for tokens, price in parts:
        if tokens and price is None:
            return None
        total += (tokens or 0) * (price or 0.0)
    return total / _MILLION


def _find(provider: ProviderSpec, model: str | None, overrides: PriceOverrides) -> ModelPrices | None:
    if model is None:
        return None
    published = {prices.model: prices for prices in provider.prices}
    for name in dict.fromkeys((model, _DATED.sub("", model))):
        if (provider.name, name) in overrides:
            own: dict[str, Any] = dict(overrides[provider.name, name])
            return dataclasses.replace(published.get(name, ModelPrices(model=name)), **own)
        if name in published:
            return published[name]
    return None
