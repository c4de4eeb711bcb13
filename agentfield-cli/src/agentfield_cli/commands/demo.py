"""`af demo`: one real call, end to end, with nothing set up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentfield_cli.options import AsJson

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit after the call, with 1 if anything failed.")] = False,
    audio: Annotated[
        list[Path] | None, typer.Option("--audio", help="Another recording to speak; repeat it for more turns.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port, 0 takes a free one.")] = 0,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of what survives; a temporary one when left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make one real voice call, here and now, with no key and no network.

    Starts a control plane, an agent and the offline speech server, calls the agent over WebRTC with a recording,
    shows what happens, and then keeps serving and prints the address of a page to call it from.

    \b
    Examples:
      af demo
      af demo --once --json
      af demo --audio question.wav
    """  # noqa: D301 - \b is typer's mark of a block that keeps its lines
    from agentfield_cli.calling import require_caller
    from agentfield_cli.connect import run
    from agentfield_cli.output import Output

    require_caller()
    out = Output(as_json=as_json)
    names = ", ".join(file.name for file in audio or ()) or "a packed recording"
    out.line("A live voice call on this machine: no key, no network.", "bold")
    out.line("First the speech engines are loaded from disk, about 100 MB (Silero, Moonshine tiny, Piper joe).", "dim")
    out.line(f"Then a caller speaks {names} over WebRTC, and the agent answers.", "dim")
    # imported only now, because it takes a moment
    from agentfield_cli.demo.runner import DemoOptions, run_demo

    options = DemoOptions(once=once, recordings=tuple(audio or ()), port=port, home=data)
    raise typer.Exit(run(run_demo(options, out)))
