"""Choices of a session on a pair: its model, its voice and the options of the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, overload

from agentfield.errors import InvalidInput
from agentfield.plugins.manifest.references import load_attribute
from agentfield.plugins.manifest.spec import Capabilities, Catalog, ModelSpec, PairSpec, ProviderSpec
from agentfield.plugins.wording import did_you_mean

__all__ = ["capabilities_of", "check_options", "choose_name"]


def capabilities_of(pair: PairSpec, provider: ProviderSpec, model: str | None) -> Capabilities:
    """Return the capabilities of a pair with one model; None is the provider's default model."""
    spec = _model_spec(provider, model or provider.models.default)
    if spec.modalities is None:
        return pair.capabilities
    return replace(pair.capabilities, modalities=pair.capabilities.modalities & spec.modalities)


def _model_spec(provider: ProviderSpec, model: str | None) -> ModelSpec:
    """Return the differences of a model, none for a model without any."""
    return next((spec for spec in provider.model_specs if spec.model == model), ModelSpec(model=model or ""))


@overload
def choose_name(provider: ProviderSpec, kind: Literal["model"], declared: str | None) -> str: ...


@overload
def choose_name(
    provider: ProviderSpec, kind: Literal["voice"], declared: str | None, *, model: str | None = None
) -> str | None: ...


def choose_name(
    provider: ProviderSpec, kind: Literal["model", "voice"], declared: str | None, *, model: str | None = None
) -> str | None:
    """Return the model or voice of a session: the declared one, else the provider's default.

    Args:
        provider: The provider.
        kind: Which of the two.
        declared: The declared name; None for the default.
        model: The model whose voices count; None for the provider's default model.

    Returns:
        The name, None only for a voice of a provider without a default.

    Raises:
        InvalidInput: The provider's closed catalog lacks the name (`unknown_model`, `unknown_voice`), or there is neither a
            declared nor a default model (`model_required`).
    """
    voices = _model_spec(provider, model or provider.models.default).voices or provider.voices
    catalog, of_model = (provider.models, "") if kind == "model" else (voices, _of_model(provider, voices, model))
    name = declared or catalog.default
    if name is None:
        if kind == "voice":
            return None
        raise InvalidInput(
            f"provider {provider.name!r} has no default model and the session names none.",
            code="model_required",
            hint="declare model=... in @app.session",
            field="model",
            known=list(catalog.known),
        )
    if catalog.closed and name not in catalog.known:
        guess = did_you_mean(name, catalog.known)
        raise InvalidInput(
            f"provider {provider.name!r} has no {kind} {name!r}{of_model}.{guess} It has: {', '.join(catalog.known)}.",
            code=f"unknown_{kind}",
            hint=f"name one that it has, such as {kind}={(catalog.default or catalog.known[0])!r}"
            if catalog.known
            else None,
            field=kind,
            known=list(catalog.known),
        )
    return name


def _of_model(provider: ProviderSpec, voices: Catalog, model: str | None) -> str:
    return "" if voices is provider.voices else f" for the model {model or provider.models.default!r}"


def check_options(spec: PairSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a session's `options=` as validated by the adapter's model.

    Raises:
        InvalidInput: An option is unknown or invalid; `field` names it.
    """
    if spec.options is None:
        if options:
            name = min(options)
            raise InvalidInput(
                f"{spec.name} takes no options, and the session gives {name!r}.",
                code="unknown_option",
                hint="leave out options=...",
                field=f"options.{name}",
            )
        return {}
    from pydantic import ValidationError

    model = load_attribute(spec.options)
    try:
        return dict(model.model_validate(dict(options)).model_dump(mode="json"))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(("options", *map(str, first["loc"])))
        why = "there is no such option" if first["type"] == "extra_forbidden" else first["msg"]
        raise InvalidInput(
            f"{spec.name}: {where}: {why}. It has: {', '.join(sorted(model.model_fields))}.",
            code="unknown_option" if first["type"] == "extra_forbidden" else "invalid_option",
            hint="correct options={...} in @app.session(...)",
            field=where,
        ) from error
