"""`af demo`: one real call, end to end, without any setup."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentfield_cli.terminal.options import AsJson

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit after the call, with 1 if anything failed.")] = False,
    audio: Annotated[
        list[Path] | None, typer.Option("--audio", help="A recording to speak instead; repeat it for more turns.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 selects a free one.")] = 0,
    data: Annotated[Path | None, typer.Option("--data", help="Data folder; a temporary one by default.")] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="File for the signed export of the call's session.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a real voice call on this machine, without a key or a network.

    Starts a control plane, an agent and the offline speech server, calls the agent over WebRTC with a recording, and
    prints the conversation. The record of the call is exported and verified against the issuer of the control plane. Then it keeps serving and prints the address of a page from which you can call it.

    \b
    Examples:
      af demo
      af demo --once --json --export call.jsonl
      af demo --audio question.wav
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.call.place_call import require_call_libraries
    from agentfield_cli.connect import run
    from agentfield_cli.terminal.output import Output

    require_call_libraries()
    out = Output(as_json=as_json)
    names = ", ".join(file.name for file in audio or ()) or "the bundled recording"
    out.line("A live voice call on this machine, without a key or a network.", "bold")
    out.line("First the speech engines are loaded from disk, about 100 MB (Silero, Moonshine tiny, Piper joe).", "dim")
    out.line(f"Then a caller speaks {names} over WebRTC, and the agent answers.", "dim")
    # imported after the first lines are printed, because the import takes a moment
    from agentfield_cli.demo.runner import DemoOptions, run_demo

    options = DemoOptions(once=once, recordings=tuple(audio or ()), port=port, home=data, export=export)
    raise typer.Exit(run(run_demo(options, out)))
