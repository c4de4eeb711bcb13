"""Reader of the price file: a TOML file whose prices override the published ones."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agentfield.errors import InvalidInput
from agentfield.plugins.manifest.spec import ModelPrices
from agentfield.plugins.wording import did_you_mean
from agentfield_server.sessions.conversation.usage.pricing import NO_OVERRIDES, PriceOverrides

__all__ = ["load_prices"]

_FIELDS = tuple(field.name for field in dataclasses.fields(ModelPrices) if field.name != "model")
_HINT = 'write a table such as [openai."gpt-realtime-2"] with input_text = 4.0 (US dollars for a million tokens)'


def load_prices(path: Path | None) -> PriceOverrides:
    """Read the price file: TOML with one table per provider and model.

    Args:
        path: The file; None for no overrides.

    Raises:
        InvalidInput: The file cannot be read, is not TOML, or contains a value that is not a price (code `bad_prices`);
            the message names the line or the table.
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
