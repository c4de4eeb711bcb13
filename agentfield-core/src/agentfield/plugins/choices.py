"""What a session may choose on a pair: a model, a voice and the adapter's own options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, overload

from agentfield.errors import InvalidInput
from agentfield.plugins.registry import load_attribute
from agentfield.plugins.spec import PairSpec, ProviderInfo
from agentfield.plugins.words import did_you_mean

__all__ = ["check_options", "choose"]


@overload
def choose(provider: ProviderInfo, kind: Literal["model"], asked: str | None) -> str: ...


@overload
def choose(provider: ProviderInfo, kind: Literal["voice"], asked: str | None) -> str | None: ...


def choose(provider: ProviderInfo, kind: Literal["model", "voice"], asked: str | None) -> str | None:
    """Return the model or voice that a session gets: what was asked for, else the provider's default.

    Args:
        provider: Whose.
        kind: Which of the two.
        asked: As declared; None takes the default.

    Returns:
        The name, None only for a voice of a provider without a default.

    Raises:
        InvalidInput: The provider's list is complete and has no such name (`unknown_model`, `unknown_voice`), or no
            model was named and there is no default (`model_required`).
    """
    names = provider.models if kind == "model" else provider.voices
    name = asked or names.default
    if name is None:
        if kind == "voice":
            return None
        raise InvalidInput(
            f"provider {provider.name!r} has no default model and the session names none.",
            code="model_required",
            hint="declare model=... in @app.session",
            field="model",
            known=list(names.known),
        )
    if names.closed and name not in names.known:
        guess = did_you_mean(name, names.known)
        raise InvalidInput(
            f"provider {provider.name!r} has no {kind} {name!r}.{guess} It has: {', '.join(names.known)}.",
            code=f"unknown_{kind}",
            hint=f"name one that it has, such as {kind}={(names.default or names.known[0])!r}" if names.known else None,
            field=kind,
            known=list(names.known),
        )
    return name


def check_options(spec: PairSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a session's `options=` as the adapter's own model reads them.

    Raises:
        InvalidInput: The adapter has no such option, or the value does not fit; `field` names it.
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
