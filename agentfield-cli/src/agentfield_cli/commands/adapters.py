"""`af adapters`: the matrix."""

from __future__ import annotations

from typing import Annotated

import typer

from agentfield_cli.options import AsJson, Url

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def adapters(
    url: Url = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print every capability as a Markdown table.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the pairs of provider and transport, and what each can do.

    Without --url these are the plugins of this installation, with it those of that control plane.

    \b
    Examples:
      af adapters
      af adapters --markdown > matrix.md
      af adapters --url http://127.0.0.1:8080 --json
    """  # noqa: D301 - \b is typer's mark of a block that keeps its lines
    from agentfield.errors import InvalidInput
    from agentfield.plugins import Registry
    from agentfield.plugins.matrix import adapter_views, matrix_markdown
    from agentfield_cli.output import Output

    if markdown and (url or as_json):
        raise InvalidInput("--markdown goes neither with --url nor with --json.", hint="af adapters --markdown")
    out = Output(as_json=as_json)
    if markdown:
        typer.echo(matrix_markdown(Registry.discover()), nl=False)
        return
    views = _remote(url) if url else adapter_views(Registry.discover())
    out.result({"adapters": views})
    rows = [
        (
            f"{view.provider}/{view.transport}",
            f"{view.distribution} {view.version}" if view.installed else view.distribution,
            view.media or "-",
            _says(view.media, view.capabilities) if view.installed else f"not usable: {view.notes}",
        )
        for view in views
    ]
    out.table(("pair", "distribution", "media", "what it can do"), rows, empty="There are no pairs.")


def _remote(url: str) -> list:  # type: ignore[type-arg]
    from agentfield_cli.connect import connected, run

    async def ask() -> list:  # type: ignore[type-arg]
        async with connected(url) as client:
            return list(await client.adapters())

    return run(ask())


def _says(media: str, capabilities: dict[str, object]) -> str:
    floors, formats = capabilities.get("floors"), capabilities.get("formats")
    parts = [
        f"floors {', '.join(map(str, floors)) if isinstance(floors, list) else '-'}",
        f"say {capabilities.get('say')}",
        f"tools {capabilities.get('tools')}",
        f"caller transcript {capabilities.get('caller_transcript')}",
    ]
    if media != "direct" and isinstance(formats, list) and formats:  # who talks to the provider directly agrees with it
        parts.append(f"audio {', '.join(map(str, formats))}")
    return " · ".join(parts)
