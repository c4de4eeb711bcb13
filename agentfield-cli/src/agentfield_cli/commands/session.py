"""`af session`: starts, calls, shows and ends sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agentfield_cli.terminal.options import AsJson, Url, with_start_options

__all__ = ["app"]

app = typer.Typer(invoke_without_command=True, add_completion=False)

SessionId = Annotated[
    str, typer.Argument(metavar="SESSION", help="Session id (ses_…), as printed by af session start.")
]


@app.callback()
def session(context: typer.Context) -> None:
    """Start, call, watch and end sessions.

    \b
    Examples:
      af session start voice-support.voice --provider openai --transport webrtc
      af session call voice-support.voice --audio question.wav
      af session workflows ses_0198
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
@with_start_options
def start(request: Any, url: Url = None, as_json: AsJson = False) -> None:
    """Start a session and print the address of a page that makes the call.

    Provider and transport are checked against the declaration and never changed silently. The address works once and
    holds no key. For a session over a WebSocket or with recorded turns the command also prints the address of its
    audio; --json prints its token as well.

    \b
    Examples:
      af session start voice-support.voice \\
        --provider openai --transport webrtc --model gpt-realtime-2 --voice marin
      af session start phone.line --provider openai --transport websocket --json
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def begin() -> None:
        out = Output(as_json=as_json)
        async with connected(url) as client:
            started = await client.start_session(request)
        out.result(started)
        for name, value in (
            ("session", started.session_id),
            ("target", started.target),
            ("pair", f"{started.provider}/{started.transport}"),
            ("model", started.model),
            ("voice", started.voice or "-"),
            ("floor", started.floor),
            ("page", started.page_url),
            ("media", started.media_url),
            ("turns", started.turns_url),
        ):
            if value is not None:
                out.line(f"{name:<8} {value}")

    run(begin())


@app.command("list")
def list_(url: Url = None, as_json: AsJson = False) -> None:
    """List sessions, newest first.

    \b
    Examples:
      af session list
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def ask() -> None:
        out = Output(as_json=as_json)
        async with connected(url) as client:
            views = list(await client.list_sessions())
        out.result({"sessions": views})
        rows = [
            (
                view.id,
                view.target,
                f"{view.provider}/{view.transport}",
                view.state,
                view.end_reason,
                view.turns,
                _when(view.created_at),
            )
            for view in views
        ]
        columns = ("session", "target", "pair", "state", "reason", "turns", "started")
        out.table(columns, rows, empty="There are no sessions. Start one with: af session start TARGET")

    run(ask())


@app.command()
def show(session_id: SessionId, url: Url = None, as_json: AsJson = False) -> None:
    """Show one session with its frozen configuration.

    \b
    Examples:
      af session show ses_0198
      af session show ses_0198 --json
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def ask() -> None:
        out = Output(as_json=as_json)
        async with connected(url) as client:
            view = await client.get_session(session_id)
        out.result(view)
        because = f" ({view.end_reason}{f': {view.end_detail}' if view.end_detail else ''})" if view.end_reason else ""
        for name, value in (
            ("session", view.id),
            ("run", view.run_id),
            ("target", view.target),
            ("pair", f"{view.provider}/{view.transport}"),
            ("model", view.model),
            ("voice", view.voice or "-"),
            ("floor", view.floor),
            ("state", f"{view.state}{because}"),
            ("caller", view.caller or "-"),
            ("turns", f"{view.turns}{_by_state(view.turns_by_state)}"),
            ("cost", "-" if view.cost is None else f"{view.cost:.4f} US dollars"),
            ("started", _when(view.created_at)),
            ("ended", _when(view.ended_at)),
        ):
            out.line(f"{name:<8} {value}")

    run(ask())


@app.command()
def workflows(session_id: SessionId, url: Url = None, as_json: AsJson = False) -> None:
    """Draw the executions of a session as a tree.

    \b
    Examples:
      af session workflows ses_0198
      af session workflows ses_0198 --json
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output
    from agentfield_cli.terminal.tree import workflow_tree

    async def ask() -> None:
        out = Output(as_json=as_json)
        async with connected(url) as client:
            dag = await client.workflow(session_id)
        out.result(dag)
        if not as_json:
            out.show(workflow_tree(dag))

    run(ask())


@app.command()
@with_start_options
def call(
    request: Any,
    audio: Annotated[
        list[Path] | None, typer.Option("--audio", help="Recording to speak; repeat it for more turns.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="Text to type after the recordings; repeat it for more turns.")
    ] = None,
    save: Annotated[Path | None, typer.Option("--save", help="WAV file for the audio that the caller heard.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make a real call from the terminal: speak recordings, record the answers, print the conversation.

    The call uses the transport of the session: WebRTC, a WebSocket, or one POST per recorded turn. The exit code is 1
    if the handler failed in a turn.

    \b
    Examples:
      af session call voice-support.voice --audio question.wav
      af session call voice-support.voice --audio one.wav --audio two.wav --save reply.wav
      af session call phone.line --transport websocket --audio question.wav --json
      af session call notes.dictation --transport audio_turns --audio note.wav --text "that is all"
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.call.place_call import require_call_libraries
    from agentfield_cli.connect import run
    from agentfield_cli.terminal.output import ExitCode, Output

    require_call_libraries()
    value = run(_place(request, audio or [], text or [], save, url, as_json=as_json))
    Output(as_json=as_json).result(value)
    if value.get("failures"):
        raise typer.Exit(ExitCode.FAILED)


async def _place(
    request: Any, audio: list[Path], texts: list[str], save: Path | None, url: str | None, *, as_json: bool
) -> dict[str, Any]:
    from agentfield.errors import InvalidInput
    from agentfield.settings import discover_url, is_loopback
    from agentfield_cli.call.make_call import call_failures, make_call
    from agentfield_cli.call.recordings import check_writable, read_speech, wire_rate, write_recording
    from agentfield_cli.connect import connected
    from agentfield_cli.terminal.output import Output
    from agentfield_cli.terminal.tree import workflow_tree

    if not audio and not texts:
        raise InvalidInput(
            "There is nothing to say in the call.",
            code="nothing_to_say",
            hint=f"af session call {request.target} --audio FILE",
        )
    out = Output(as_json=as_json)
    recordings = [read_speech(path) for path in audio]
    if save is not None:
        check_writable(save)
    async with connected(url) as client:
        with out.progress(f"starting {request.target}"):
            # the report of the call has arguments and costs, which are the operator's
            started = await client.start_session(request.model_copy(update={"details": True}))
        out.line(f"  session {started.session_id} {started.provider}/{started.transport} {started.model}", "dim")
        report = await make_call(
            client,
            started,
            recordings,
            out,
            loopback=is_loopback(discover_url(url)),
            texts=texts,
            rate=wire_rate(audio),
        )
    if save is not None and report.heard is not None:
        write_recording(save, report.heard)
    if report.dag is not None and not as_json:
        out.show(workflow_tree(report.dag))
    for number, row in enumerate(report.timings, start=1):
        out.line(f"  turn {number}: {_timings(row)}", "dim")
    failures = call_failures(report)
    for failure in failures:
        out.line(f"failed: {failure}", "bold red")
    return report.as_json() | ({"saved": str(save)} if save else {}) | ({"failures": failures} if failures else {})


@app.command()
def export(
    session_id: SessionId,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="File to write; by default standard output.")
    ] = None,
    without_bodies: Annotated[
        bool, typer.Option("--without-bodies", help="Leave out all bodies and their salts: commitments only.")
    ] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Export a session as signed JSON Lines, which anybody who knows the issuer can verify offline.

    The export has the entries of the event log, signed heads, credentials and anchors, and the bodies that they commit
    to. The id of a run exports that run, with or without a session. A session that has ended is exported with its final head; the export of a live one verifies as a prefix.

    \b
    Examples:
      af session export ses_0198 -o call.jsonl
      af session export ses_0198 --without-bodies > call.jsonl
      af session export run_0198 -o run.jsonl
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.connect import connected, run
    from agentfield_cli.session_export import write_export
    from agentfield_cli.terminal.output import Output

    async def write() -> None:
        out = Output(as_json=as_json and output is not None)
        async with connected(url) as client:
            done = await write_export(client, session_id, output, bodies=not without_bodies)
        if output is not None:
            out.result({"session_id": session_id, "file": str(output), **done})
            out.line(f"{done['lines']} lines, {done['bytes']} bytes in {output}")

    run(write())


@app.command()
def redact(
    session_id: SessionId,
    reason: Annotated[
        str, typer.Option("--reason", help="Reason, recorded in the log for everyone who reads it.")
    ] = "",
    execution: Annotated[
        list[str] | None, typer.Option("--execution", metavar="EXECUTION", help="Only this execution; may be repeated.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Erase what was said and passed in a session that has ended; it cannot be undone.

    Bodies and salts go with every copy in the store. The event log.redacted records it, and log, heads and credentials
    still verify, since they hold commitments. Exports and traces that were made before are not changed. The id of a run
    redacts that run, with or without a session.

    \b
    Examples:
      af session redact ses_0198 --reason "request 17"
      af session redact ses_0198 --execution exe_0198
      af session redact run_0198 --reason "request 17"
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def erase() -> None:
        out = Output(as_json=as_json)
        async with connected(url) as client:
            ask = client.redact_run if session_id.startswith("run_") else client.redact_session
            done = await ask(session_id, executions=execution, reason=reason)
        out.result(done)
        out.line(f"{done.events} bodies of events were erased, and those of the executions")

    run(erase())


@app.command()
def end(session_id: SessionId, url: Url = None, as_json: AsJson = False) -> None:
    """End a session and hang up its call at the provider.

    \b
    Examples:
      af session end ses_0198
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def hang_up() -> None:
        out = Output(as_json=as_json)
        async with connected(url) as client:
            await client.end_session(session_id, reason="operator")
            view = await client.get_session(session_id)
        out.result(view)
        out.line(f"{view.id} {view.state}{f' ({view.end_reason})' if view.end_reason else ''}")

    run(hang_up())


def _by_state(counts: dict[str, int] | None) -> str:
    """Return the turns in each state as a parenthesis, empty if there are none."""
    return f" ({', '.join(f'{count} {state}' for state, count in sorted(counts.items()))})" if counts else ""


def _when(at: float | None) -> str:
    import datetime as dt

    if at is None:
        return "-"
    return dt.datetime.fromtimestamp(at, dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _timings(row: dict[str, Any]) -> str:
    parts = (
        ("offer to answer", row["offer_to_answer_ms"]),
        ("end of speech to first audio", row["end_of_speech_to_first_audio_ms"]),
        ("tool dispatch", row["tool_dispatch_ms"]),
    )
    return ", ".join(f"{name} {value:g} ms" for name, value in parts if value is not None) or "no answer was heard"
