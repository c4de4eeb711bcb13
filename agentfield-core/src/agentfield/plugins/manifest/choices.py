"""Choices of a session on a pair: its model, its voice and the options of the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, overload

from agentfield.errors import InvalidInput
from agentfield.plugins.manifest.references import load_attribute
from agentfield.plugins.manifest.spec import PairSpec, ProviderSpec
from agentfield.plugins.wording import did_you_mean

__all__ = ["check_options", "choose_name"]


@overload
def choose_name(provider: ProviderSpec, kind: Literal["model"], declared: str | None) -> str: ...


@overload
def choose_name(provider: ProviderSpec, kind: Literal["voice"], declared: str | None) -> str | None: ...


def choose_name(provider: ProviderSpec, kind: Literal["model", "voice"], declared: str | None) -> str | None:
    """Return the model or voice of a session: the declared one, else the provider's default.

    Args:
        provider: The provider.
        kind: Which of the two.
        declared: The declared name; None for the default.

    Returns:
        The name, None only for a voice of a provider without a default.

    Raises:
        InvalidInput: The provider's closed catalog lacks the name (`unknown_model`, `unknown_voice`), or there is neither a
            declared nor a default model (`model_required`).
    """
    catalog = provider.models if kind == "model" else provider.voices
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
            f"provider {provider.name!r} has no {kind} {name!r}.{guess} It has: {', '.join(catalog.known)}.",
            code=f"unknown_{kind}",
            hint=f"name one that it has, such as {kind}={(catalog.default or catalog.known[0])!r}"
            if catalog.known
            else None,
            field=kind,
            known=list(catalog.known),
        )
    return name


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
