"""Options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

__all__ = ["AsJson", "Url", "starts_session"]

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Where the control plane is; else AGENTFIELD_URL, else the one that runs on this machine.",
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object (errors: a problem document).")]

Target = Annotated[str, typer.Argument(metavar="TARGET", help="node_id.name of a session.")]
Provider = Annotated[str | None, typer.Option("--provider", help="Must be the declared one.")]
Transport = Annotated[str | None, typer.Option("--transport", help="Must be the declared one.")]
Model = Annotated[str | None, typer.Option("--model", help="Must be the declared one, where one is declared.")]
Voice = Annotated[str | None, typer.Option("--voice", help="Must be the declared one, where one is declared.")]
Caller = Annotated[str | None, typer.Option("--caller", help="Who calls, as the handler sees it.")]
Metadata = Annotated[str, typer.Option("--metadata", metavar="JSON", help="JSON object for the handler.")]


def starts_session(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the argument and the options that a session is started with.

    Args:
        command: Takes the `StartRequest` that is made of them first, then its own options.
    """
    shared = inspect.signature(_start_request, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def with_start(**given: Any) -> None:
        command(_start_request(**{name: given.pop(name) for name in shared}), **given)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*shared.values(), *own)]
    with_start.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_start.__annotations__ = {each.name: each.annotation for each in parameters}
    del with_start.__wrapped__  # typer reads the signature, not what it was made of
    return with_start


def _start_request(
    target: Target,
    provider: Provider = None,
    transport: Transport = None,
    model: Model = None,
    voice: Voice = None,
    caller: Caller = None,
    metadata: Metadata = "{}",
) -> Any:
    import json

    from agentfield.errors import InvalidInput
    from agentfield.wire.rest import StartRequest

    try:
        values = json.loads(metadata)
    except ValueError as error:
        raise InvalidInput(f"--metadata is not JSON: {error}.", hint='--metadata \'{"name": "value"}\'') from None
    if not isinstance(values, dict):
        raise InvalidInput("--metadata is JSON, but no object.", hint='--metadata \'{"name": "value"}\'')
    if caller is not None and len(caller) > 256:
        raise InvalidInput("--caller is longer than 256 characters.", hint="af session start --help")
    return StartRequest(
        target=target,
        provider=provider,
        transport=transport,
        model=model,
        voice=voice,
        caller=caller,
        metadata=values,
    )
