"""`af adapters`: provider/transport pairs and their capabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agentfield_cli.terminal.options import AsJson, Url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentfield.plugins.manifest.spec import Need
    from agentfield.wire.rest import AdapterView
    from agentfield_cli.terminal.output import Output

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def adapters(
    url: Url = None,
    provider: Annotated[str | None, typer.Option("--provider", help="Only pairs of this provider.")] = None,
    transport: Annotated[str | None, typer.Option("--transport", help="Only pairs over this transport.")] = None,
    needs: Annotated[
        list[str] | None,
        typer.Option("--needs", metavar="FIELD=VALUE", help="A capability that a pair must have; repeatable."),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print every capability as a Markdown table.")] = False,
    as_json: AsJson = False,
) -> None:
    """List provider/transport pairs and their capabilities.

    Without --url the list comes from the plugins of this installation, with --url from those of that control plane.
    With --needs each pair that lacks a capability shows the reason; the exit code is 1 if no pair has all of them.
    FIELD=A,B requires all values where the capability is a set (turn_detection, limits, …), otherwise any of them.

    \b
    Examples:
      af adapters
      af adapters --transport websocket --needs say=exact --needs limits=cost,turns
      af adapters --markdown > matrix.md
      af adapters --url http://127.0.0.1:8080 --json
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield.errors import InvalidInput
    from agentfield.plugins.manifest.needs_parser import parse_need
    from agentfield_cli.terminal.output import ExitCode, Output

    if markdown and (url or as_json or needs):
        raise InvalidInput(
            "--markdown cannot be combined with --url, --json or --needs.", hint="af adapters --markdown"
        )
    asked = [parse_need(text) for text in needs or ()]
    if markdown:
        _print_markdown(provider, transport)
        return
    views, notes = _remote(url) if url else _local()
    views = _selected(views, provider, transport, notes)
    fits = [not asked or not _unmet(view, asked) for view in views]
    out = Output(as_json=as_json)
    rows = [view.model_dump(mode="json") for view in views]
    if asked:
        rows = [row | {"unmet": _unmet(view, asked)} for row, view in zip(rows, views, strict=True)]
    out.result({"adapters": rows})
    _print(out, views, asked)
    for note in notes:
        out.note(note)
    if asked and not any(fits):
        raise typer.Exit(ExitCode.FAILED)


def _local() -> tuple[list[AdapterView], list[str]]:
    from agentfield.plugins import Registry
    from agentfield.plugins.registry.views import adapter_views

    registry = Registry.discover()
    bad = [record.label for record in registry.plugins if record.state not in ("ok", "disabled")]
    return adapter_views(registry), [f"not usable: {', '.join(bad)}; see af plugins"] if bad else []


def _remote(url: str) -> tuple[list[AdapterView], list[str]]:
    from agentfield_cli.connect import connected, run

    async def ask() -> list[AdapterView]:
        async with connected(url) as client:
            return list(await client.adapters())

    return run(ask()), []


def _print_markdown(provider: str | None, transport: str | None) -> None:
    from agentfield.plugins import Registry
    from agentfield.plugins.registry.matrix import matrix_table
    from agentfield.plugins.registry.views import adapter_views

    registry = Registry.discover()
    names = {(view.provider, view.transport) for view in _selected(adapter_views(registry), provider, transport)}
    rows = [row for row in registry.pairs() if (row[0].provider, row[0].transport) in names]
    typer.echo(matrix_table(rows), nl=False)


def _selected(
    views: Sequence[AdapterView], provider: str | None, transport: str | None, notes: Sequence[str] = ()
) -> list[AdapterView]:
    from agentfield.errors import UnsupportedPair
    from agentfield.plugins.wording import did_you_mean, listed

    for kind, asked in (("provider", provider), ("transport", transport)):
        known = {getattr(view, kind) for view in views}
        if asked is not None and asked not in known:
            guess = did_you_mean(asked, known)
            installed = {getattr(view, kind) for view in views if view.installed}
            others = "".join(f" {note[:1].upper()}{note[1:]}." for note in notes)
            raise UnsupportedPair(
                f"no pair has the {kind} {asked!r}.{guess} Available: {listed(installed)}.{others}",
                hint="af adapters",
            )
    return [v for v in views if provider in (None, v.provider) and transport in (None, v.transport)]


def _unmet(view: AdapterView, asked: Sequence[Need]) -> list[str]:
    """Return the reasons why a pair does not meet the required capabilities, none if it does."""
    from agentfield.plugins.manifest.needs_parser import parse_capabilities

    if not view.installed:
        return [view.reason]
    can = parse_capabilities(view.capabilities)
    return [need.refusal(can) for need in asked if not need.met_by(can)]


def _print(out: Output, views: Sequence[AdapterView], asked: Sequence[Need]) -> None:
    rows = [
        (
            f"{view.provider}/{view.transport}",
            _distribution(view),
            view.media or "-",
            _capabilities(view, asked),
        )
        for view in views
    ]
    out.table(("pair", "distribution", "media", "capabilities"), rows, empty="No pairs are installed.")


def _distribution(view: AdapterView) -> str:
    mine = f"{view.distribution} {view.version}".rstrip()
    theirs = f"{view.transport_distribution} {view.transport_version}".rstrip()
    return f"{mine} + {theirs}" if theirs and view.transport_distribution != view.distribution else mine


def _capabilities(view: AdapterView, asked: Sequence[Need]) -> str:
    if not view.installed:
        hint = f" ({view.hint})" if view.hint else ""
        return f"{view.state}: {view.reason}{hint}"
    if unmet := _unmet(view, asked):
        return f"does not fit: {'; '.join(unmet)}"
    can = view.capabilities
    floors, formats = can.get("floors"), can.get("formats")
    parts = [
        f"floors {', '.join(map(str, floors)) if isinstance(floors, list) else '-'}",
        f"say {can.get('say')}",
        f"tools {can.get('tools')}",
        f"caller transcript {can.get('caller_transcript')}",
    ]
    if (
        view.media != "direct" and isinstance(formats, list) and formats
    ):  # a direct caller negotiates the format with the provider
        parts.append(f"audio {', '.join(map(str, formats))}")
    return " · ".join(parts)
