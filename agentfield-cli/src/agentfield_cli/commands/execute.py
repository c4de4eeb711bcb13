"""`af execute`: calls a target through the control plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agentfield_cli.terminal.options import AsJson, Url

if TYPE_CHECKING:
    from agentfield.errors import AgentFieldError
    from agentfield.wire.rest import ExecutionView

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def execute(
    target: Annotated[str, typer.Argument(help="node_id.name of a reasoner.")],
    input_: Annotated[str, typer.Option("--input", metavar="JSON", help="The input as one JSON object.")] = "{}",
    wait: Annotated[bool, typer.Option("--wait/--async", help="Wait for the result, or return at once.")] = True,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0.001, help="Time limit in seconds.")] = None,
    priority: Annotated[
        int, typer.Option("--priority", min=-10, max=10, help="Priority in the queue; higher runs first.")
    ] = 0,
    delay: Annotated[float, typer.Option("--delay", min=0, help="Seconds to wait before the start.")] = 0,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Call a target through the control plane.

    The target runs on the node that owns it.

    \b
    Examples:
      af execute voice-support.resolve_turn --input '{"turn": {"text": "where is order 427"}}'
      af execute voice-support.resolve_turn --input '{"turn": {}}' --async
      af execute reports.nightly --async --delay 3600 --priority -5
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output, plain

    given = _parse_object(input_)

    async def call() -> None:
        import json

        out = Output(as_json=as_json)
        async with connected(url) as client:
            execution = await client.execute_async(target, given, timeout=timeout, priority=priority, delay=delay)
            if not wait:
                out.result(execution)
                out.line(f"{execution.id} {execution.status}")
                return
            with out.progress(f"{target} runs"):
                execution = await client.wait_execution(execution.id)
        if execution.status != "succeeded":
            raise _failure(execution)
        out.result(execution)
        out.line(json.dumps(plain(execution.output), indent=2, ensure_ascii=False))

    run(call())


def _failure(execution: ExecutionView) -> AgentFieldError:
    from agentfield.errors import ExecutionError, error_from_problem

    if execution.problem:
        return error_from_problem({"execution_id": execution.id, **execution.problem})
    return ExecutionError(
        f"{execution.target} ended with status {execution.status}.", execution_id=execution.id, target=execution.target
    )


def _parse_object(text: str) -> dict[str, object]:
    from agentfield.errors import InvalidInput
    from agentfield_cli.terminal.options import parse_json_option

    value = parse_json_option("--input", text, example='--input \'{"name": "value"}\'')
    if not isinstance(value, dict):
        raise InvalidInput("--input is JSON, but not an object.", hint='--input \'{"name": "value"}\'', field="input")
    return value
