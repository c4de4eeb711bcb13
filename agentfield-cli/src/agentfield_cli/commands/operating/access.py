"""`af access`: rules of access, tags, and the explanation of decisions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentfield_cli.terminal.options import AsJson, Url

if TYPE_CHECKING:
    from agentfield.wire.access import ExplainView, PolicyView, TagView

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A target such as bank.pay, or node:ID, or transport:NAME.")]
TagName = Annotated[str, typer.Argument(help="The tag.")]
PolicyFile = Annotated[Path, typer.Argument(metavar="FILE", help="A TOML file of rules.")]


@app.callback()
def access() -> None:
    """Show, test and explain the rules of access.

    \b
    Examples:
      af access explain key:1f0c8a2b9d3e voice-support.voice
      af access explain key:1f0c8a2b9d3e --through voice-support.voice bank.pay --input '{"amount": 20}'
      af access test policies.toml
      af access set policies.toml
      af access tags
      af access approve bank.pay money:move
    """  # noqa: D301 - \b tells typer to keep the lines of a block


@app.command()
def explain(
    caller: Annotated[str, typer.Argument(help="key:ID, node:ID, transport:NAME, local, or a target that calls.")],
    target: Annotated[str, typer.Argument(help="The target, as node_id.name.")],
    through: Annotated[
        list[str] | None, typer.Option("--through", help="A target between the two; several in their order.")
    ] = None,
    input_: Annotated[str, typer.Option("--input", metavar="JSON", help="Input of the call, for conditions.")] = "{}",
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Explain whether a caller may call a target; exit code 1 if not."""
    from agentfield.errors import InvalidInput
    from agentfield.wire.access import ExplainRequest
    from agentfield.wire.requests import make_request
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.options import parse_json_option
    from agentfield_cli.terminal.output import Output

    given = parse_json_option("--input", input_, example="--input '{\"amount\": 20}'")
    if not isinstance(given, dict):
        raise InvalidInput("--input is JSON, but not an object.", hint="--input '{\"amount\": 20}'", field="input")
    request = make_request(ExplainRequest, caller=caller, target=target, through=tuple(through or ()), input=given)

    async def ask() -> ExplainView:
        async with connected(url) as client:
            return await client.explain_access(request)

    found = run(ask())
    out = Output(as_json=as_json)
    out.result(found)
    for edge in found.edges:
        verdict = "allowed" if edge.allowed else "refused"
        out.line(f"{edge.caller} -> {edge.target}  {verdict}  {edge.rule or 'no rule'}")
    out.line(f"{'allowed' if found.allowed else 'refused'}: {found.why} (policies version {found.version})")
    if not found.allowed:
        raise typer.Exit(1)


@app.command("test")
def run_tests_of_file(file: PolicyFile, as_json: AsJson = False) -> None:
    """Run the tests in a file of rules, without a control plane; exit code 1 if one fails."""
    from agentfield_cli.terminal.output import Output
    from agentfield_server.access.policies import run_tests
    from agentfield_server.access.policy_file import parse_policies

    results = run_tests(parse_policies(_text(file), source=str(file)))
    out = Output(as_json=as_json)
    failed = [result for result in results if not result.passed]
    out.result({"tests": [result._asdict() for result in results], "failed": len(failed)})
    for result in failed:
        out.line(f"failed: {result.what}: expected {result.expected}, but {result.why}")
    out.line(f"{len(results) - len(failed)} passed, {len(failed)} failed" if results else "There are no tests.")
    if failed:
        raise typer.Exit(1)


@app.command("set")
def set_(file: PolicyFile, url: Url = None, as_json: AsJson = False) -> None:
    """Put the rules of a file in force, where the control plane has no file of its own."""
    document = _text(file)

    async def ask(client: Any) -> PolicyView:
        view: PolicyView = await client.set_policies(document)
        return view

    _show_policies(ask, url, as_json=as_json)


@app.command()
def show(url: Url = None, as_json: AsJson = False) -> None:
    """Show the rules in force."""

    async def ask(client: Any) -> PolicyView:
        view: PolicyView = await client.policies()
        return view

    _show_policies(ask, url, as_json=as_json)


@app.command()
def tags(url: Url = None, as_json: AsJson = False) -> None:
    """List the tags of targets, nodes and transports."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def ask() -> list[TagView]:
        async with connected(url) as client:
            return await client.tags()

    found = run(ask())
    out = Output(as_json=as_json)
    out.result({"tags": found})
    rows = [
        (view.name, view.tag, "yes" if view.declared else "-", view.approved_by if view.approved else "-")
        for view in found
    ]
    out.table(("name", "tag", "declared", "approved by"), rows, empty="There are no tags.")


@app.command()
def approve(name: Name, tag: TagName, url: Url = None, as_json: AsJson = False) -> None:
    """Approve a tag that a node declared, or give one."""
    from agentfield.wire.access import TagRequest
    from agentfield.wire.requests import make_request
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    request = make_request(TagRequest, name=name, tag=tag)

    async def ask() -> None:
        async with connected(url) as client:
            await client.approve_tag(request)

    run(ask())
    out = Output(as_json=as_json)
    out.result({"name": name, "tag": tag, "approved": True})
    out.line(f"{name} has the tag {tag}, as a caller too")


@app.command()
def remove(name: Name, tag: TagName, url: Url = None, as_json: AsJson = False) -> None:
    """Remove a tag. A node that still declares it brings it back at its next link."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def ask() -> None:
        async with connected(url) as client:
            await client.remove_tag(name, tag)

    run(ask())
    out = Output(as_json=as_json)
    out.result({"name": name, "tag": tag, "removed": True})
    out.line(f"{name} has the tag {tag} no more")


def _show_policies(ask: Any, url: str | None, *, as_json: bool) -> None:
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def asked() -> PolicyView:
        async with connected(url) as client:
            view: PolicyView = await ask(client)
            return view

    found = run(asked())
    out = Output(as_json=as_json)
    out.result(found)
    if found.version == 0:
        out.line(
            "There are no rules: development mode, all is allowed."
            if found.development
            else "There are no rules: tagged targets are closed."
        )
        return
    out.note(f"version {found.version}, from the {found.source}, set by {found.set_by}")
    out.line(found.document.rstrip("\n"))


def _text(file: Path) -> str:
    """Return the text of a file of rules.

    Raises:
        InvalidInput: It cannot be read.
    """
    from agentfield.errors import InvalidInput

    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror or type(error).__name__).lower() if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidInput(f"{file} cannot be read: {why}.", code="bad_policies", hint="af access --help") from None
