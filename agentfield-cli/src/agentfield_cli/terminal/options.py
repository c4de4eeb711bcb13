"""Options that several commands share, and the set of options that start a session."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

__all__ = ["AsJson", "Url", "parse_json_option", "with_start_options"]

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Address of the control plane; default AGENTFIELD_URL, else the one that runs on this machine.",
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object (errors: a problem document).")]

Target = Annotated[str, typer.Argument(metavar="TARGET", help="The session to start, as node_id.name.")]
Provider = Annotated[str | None, typer.Option("--provider", help="Must equal the declared one.")]
Transport = Annotated[str | None, typer.Option("--transport", help="Must equal the declared one.")]
Model = Annotated[str | None, typer.Option("--model", help="Must equal the declared one, if one is declared.")]
Voice = Annotated[str | None, typer.Option("--voice", help="Must equal the declared one, if one is declared.")]
Caller = Annotated[str | None, typer.Option("--caller", help="Name of the caller, as the handler sees it.")]
Metadata = Annotated[str, typer.Option("--metadata", metavar="JSON", help="JSON object for the handler.")]


def with_start_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument and the options that start a session to a command.

    Args:
        command: Receives the resulting `StartRequest` as its first argument, then its own options.

    Returns:
        The command with the combined signature, which typer reads.
    """
    shared = inspect.signature(_start_request, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def with_start(**values: Any) -> None:
        command(_start_request(**{name: values.pop(name) for name in shared}), **values)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*shared.values(), *own)]
    with_start.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_start.__annotations__ = {each.name: each.annotation for each in parameters}
    del with_start.__wrapped__  # otherwise typer would read the signature of `command`
    return with_start


def parse_json_option(option: str, text: str, *, example: str) -> Any:
    """Return the JSON value of an option.

    Args:
        option: The option, as in ``--input``.
        text: Its text.
        example: The hint of the error.

    Raises:
        InvalidInput: The text is not JSON, or holds a value that cannot be carried (code `unrepresentable`).
    """
    from agentfield.errors import InvalidInput
    from agentfield.values import parse

    try:
        return parse(text, name=option, untyped="keep").value
    except InvalidInput as error:
        if error.code != "malformed_json":
            raise
        raise InvalidInput(error.message, hint=example, field=option.removeprefix("--")) from None


def _start_request(
    target: Target,
    provider: Provider = None,
    transport: Transport = None,
    model: Model = None,
    voice: Voice = None,
    caller: Caller = None,
    metadata: Metadata = "{}",
) -> Any:
    from agentfield.errors import InvalidInput
    from agentfield.wire.requests import make_request
    from agentfield.wire.rest import StartRequest

    values = parse_json_option("--metadata", metadata, example='--metadata \'{"name": "value"}\'')
    if not isinstance(values, dict):
        raise InvalidInput("--metadata is JSON, but not an object.", hint='--metadata \'{"name": "value"}\'')
    if caller is not None and len(caller) > 256:
        raise InvalidInput("--caller is longer than 256 characters.", hint="af session start --help")
    return make_request(
        StartRequest,
        target=target,
        provider=provider,
        transport=transport,
        model=model,
        voice=voice,
        caller=caller,
        metadata=values,
    )
