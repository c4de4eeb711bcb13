"""What a session costs: the provider's own figure, or its counts by the price table that a file of the user's goes over."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from agentfield.errors import InvalidInput
from agentfield.plugins.spec import Prices, ProviderInfo
from agentfield.plugins.words import did_you_mean
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import Usage

__all__ = ["NO_OVERRIDES", "Overrides", "Pricer", "UsageKind", "as_told", "cost_of", "load_prices", "pricer"]

UsageKind = Literal["reply", "transcription", "speech"]
"""What was used: the conversation's model, the model that transcribes the caller, or a text-to-speech model."""

Pricer = Callable[[UsageKind, Usage], float | None]
"""Returns what something cost in US dollars; None when nobody knows."""

Overrides = Mapping[tuple[str, str], Mapping[str, float]]
"""Prices by provider and model; what a table does not name keeps its published price."""

NO_OVERRIDES: Final[Overrides] = MappingProxyType({})

_FIELDS = tuple(field.name for field in dataclasses.fields(Prices) if field.name != "model")
_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_MILLION = 1_000_000
_HINT = 'write a table such as [openai."gpt-realtime-2"] with input_text = 4.0 (US dollars for a million tokens)'


def as_told(kind: UsageKind, usage: Usage) -> float | None:  # noqa: ARG001 - a `Pricer`
    """Return the cost that the provider itself told."""
    return usage.cost


def pricer(provider: ProviderInfo, config: SessionConfig, overrides: Overrides = NO_OVERRIDES) -> Pricer:
    """Return what tells the cost of a session's usage.

    The provider's own figure counts before any table. A model with a date behind its name has the price of the same name
    without one, unless it has its own.

    Args:
        provider: Whose published prices count.
        config: Names the models of the conversation and of the transcription; a text-to-speech model is the one that
            the option ``speech_model`` names.
        overrides: Prices that go over the published ones, as `load_prices` returns them.
    """
    speech = config.declaration.options.get("speech_model")
    tables: dict[UsageKind, Prices | None] = {
        "reply": _find(provider, config.model, overrides),
        "transcription": _find(provider, config.transcription, overrides),
        "speech": _find(provider, speech if isinstance(speech, str) else None, overrides),
    }

    def price(kind: UsageKind, usage: Usage) -> float | None:
        told = as_told(kind, usage)
        prices = tables[kind]
        return told if told is not None or prices is None else cost_of(usage, prices)

    return price


def cost_of(usage: Usage, prices: Prices) -> float | None:
    """Return what `usage` costs by a table, US dollars; None when something was used that has no price.

    Cached tokens are input that costs less. A provider counts them in one figure, so that they are taken from text and
    audio in proportion; without a price of their own they cost what other input costs.
    """
    if usage.seconds is not None and prices.minute is not None:
        return usage.seconds / 60 * prices.minute
    counts = (
        usage.input_text_tokens,
        usage.input_audio_tokens,
        usage.output_text_tokens,
        usage.output_audio_tokens,
    )
    if all(count is None for count in counts):
        return None
    text, audio, said_text, said_audio = (count or 0 for count in counts)
    cached = min(usage.cached_tokens or 0, text + audio) if prices.cached is not None else 0
    fresh = 1 - cached / (text + audio) if text + audio else 1.0
    parts = (
        (text * fresh, prices.input_text),
        (audio * fresh, prices.input_audio),
        (cached, prices.cached),
        (said_text, prices.output_text),
        (said_audio, prices.output_audio),
    )
    total = 0.0
    for tokens, price in parts:
        if tokens and price is None:
            return None
        total += tokens * (price or 0.0)
    return total / _MILLION


def _find(provider: ProviderInfo, model: str | None, overrides: Overrides) -> Prices | None:
    if model is None:
        return None
    published = {prices.model: prices for prices in provider.prices}
    for name in dict.fromkeys((model, _DATED.sub("", model))):
        if (provider.name, name) in overrides:
            own: dict[str, Any] = dict(overrides[provider.name, name])
            return dataclasses.replace(published.get(name, Prices(model=name)), **own)
        if name in published:
            return published[name]
    return None


def load_prices(path: Path | None) -> Overrides:
    """Read the file of prices: TOML with a table for each provider and model.

    Args:
        path: The file; None when there is none.

    Raises:
        InvalidInput: It cannot be read, is no TOML, or has something that is no price (code `bad_prices`); the message
            names the line or the table.
    """
    if path is None:
        return NO_OVERRIDES
    try:
        tables = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise _bad(path, error.strerror or type(error).__name__) from None
    except UnicodeDecodeError as error:
        raise _bad(path, f"it is no UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise _bad(path, str(error)) from None
    return dict(_models(path, tables))


def _models(path: Path, tables: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Mapping[str, float]]]:
    for provider, models in tables.items():
        if not isinstance(models, dict):
            raise _bad(path, f"{provider!r} is no table of a provider")
        for model, values in models.items():
            where = f'[{provider}."{model}"]'
            if not isinstance(values, dict):
                raise _bad(path, f"[{provider}] {model} is no table of a model")
            yield (provider, model), {name: _price(path, where, name, value) for name, value in values.items()}


def _price(path: Path, where: str, name: str, value: object) -> float:
    if name not in _FIELDS:
        raise _bad(path, f"{where} has {name!r}.{did_you_mean(name, _FIELDS)} There are {', '.join(_FIELDS)}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise _bad(path, f"{where} {name} is {value!r}, not a number from 0")
    return float(value)


def _bad(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"The prices in {path} cannot be used: {why}.", code="bad_prices", hint=_HINT, field="AGENTFIELD_PRICES"
    )
