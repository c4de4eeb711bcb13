"""Runs `af demo`: a real control plane, agent, speech server and caller, all on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError
from agentfield.proof import Report, bounded_lines, verify_export
from agentfield.realtime.gc_tuning import freeze_long_lived_objects
from agentfield.wire.rest import StartRequest
from agentfield_cli.call.make_call import CallReport, make_call
from agentfield_cli.call.recordings import read_speech
from agentfield_cli.demo.speech import SpeechServer, speech_server
from agentfield_cli.processes.children import agent_process
from agentfield_cli.processes.serve import stop_on_signals, wait_for_session
from agentfield_cli.session_export import write_export
from agentfield_cli.terminal.output import ExitCode, Output
from agentfield_cli.terminal.tree import workflow_tree
from agentfield_server.app import control_plane
from agentfield_server.settings import read_settings

if TYPE_CHECKING:
    from agentfield_server.app import ControlPlane

__all__ = ["DemoOptions", "call_problems", "run_demo"]

TARGET = "voice-support.voice"
TOOL = "voice-support.resolve_turn"
_EXPORTS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Options of the command line."""

    once: bool
    recordings: Sequence[Path]
    port: int
    home: Path | None
    export: Path | None


async def run_demo(options: DemoOptions, out: Output) -> int:
    """Make the call of the demo and return the exit code.

    Args:
        options: Options of the command line.
        out: Prints the course of the call.

    Raises:
        AgentFieldError: A part that the call needs did not start.
    """
    folder = _demo_folder()
    files = list(options.recordings) or [folder / "caller.wav"]
    recordings = [await asyncio.to_thread(read_speech, file) for file in files]
    with stop_on_signals() as stop, _data_folder(options.home) as home:
        async with AsyncExitStack() as stack:
            with out.progress("starting the control plane"):
                settings = read_settings(host="127.0.0.1", port=options.port, home=home)
                plane = await stack.enter_async_context(control_plane(settings))
            out.line(f"control plane  {plane.url}")
            with out.progress("loading the speech engines") as update:
                loading = speech_server(home, lambda engine: update(f"loading the speech engines: {engine}"))
                speech = await stack.enter_async_context(loading)
            out.line(f"local provider {speech.url}")
            await _link_agent(stack, plane, folder / "agent.py", home, out)
            client = await stack.enter_async_context(ControlPlaneClient(plane.url))
            freeze_long_lived_objects()
            code = await _run_until_stopped(
                stop, _call(client, plane.issuer.did, recordings, speech, options, out, stop)
            )
    return code


def _demo_folder() -> Path:
    return Path(str(resources.files("agentfield_cli") / "demo")).absolute()


@contextlib.contextmanager
def _data_folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="agentfield-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


async def _link_agent(stack: AsyncExitStack, plane: ControlPlane, file: Path, home: Path, out: Output) -> None:
    log = stack.enter_context((home / "agent.log").open("wb"))
    env = {**os.environ, "AGENTFIELD_HOME": str(home)}
    with out.progress("starting the agent"):
        child = await stack.enter_async_context(agent_process(file, url=plane.url, env=env, log=log))
        try:
            await wait_for_session(plane, TARGET, child)
        except AgentFieldError as error:
            output = await asyncio.to_thread((home / "agent.log").read_text, errors="replace")
            error.message += f" Its output: {output.strip()[-1500:] or 'none'}"
            raise
    out.line(f"agent          {TARGET}")


async def _run_until_stopped(stop: asyncio.Event, work: Any) -> int:
    """Run `work` and return its exit code, or INTERRUPTED if a signal arrives first."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else ExitCode.INTERRUPTED
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _call(
    client: ControlPlaneClient,
    issuer: str,
    recordings: Sequence[Any],
    speech: SpeechServer,
    options: DemoOptions,
    out: Output,
    stop: asyncio.Event,
) -> int:
    request = StartRequest(target=TARGET, caller="demo", details=True)
    started = await client.start_session(request)
    out.line(f"session        {started.session_id}\n")
    report = await make_call(client, started, recordings, out, loopback=True)
    with out.progress("transcribing what the caller heard"):
        heard = await speech.transcribe(report.heard) if report.heard is not None and report.heard.size else ""
    failures = call_problems(report, heard)
    with out.progress("verifying the record of the call"):
        verified = await _verify(client, started.session_id, issuer, options.export)
    if verified["verdict"] != "complete":
        failures.append(f"the record of the call is not complete but {verified['verdict']}: {verified.get('why')}")
    page = started.page_url if options.once else (await client.start_session(request)).page_url
    out.result(_report_json(report, heard, page, failures) | {"verified": verified})
    _print_report(out, report, heard)
    out.line(
        f"\nverified: {verified['events']} events and {verified['credentials']} credentials are {verified['verdict']}"
    )
    out.line(f"issuer    {issuer}", "dim")
    if options.export is not None:
        out.line(f"export    {options.export}; af verify {options.export} --issuer {issuer}", "dim")
    for failure in failures:
        out.line(f"failed: {failure}", "bold red")
    if options.once or failures:
        return ExitCode.FAILED if failures else ExitCode.OK
    _keep_serving(out, client.url, page)
    await stop.wait()
    return ExitCode.OK


async def _verify(client: ControlPlaneClient, session_id: str, issuer: str, file: Path | None) -> dict[str, Any]:
    """Export the session and verify the export against the issuer of the running control plane.

    Args:
        client: The client of the control plane.
        session_id: The session.
        issuer: The DID that the control plane has in memory; the one in the export is only compared with it.
        file: Also write the export there.
    """
    with tempfile.TemporaryDirectory(prefix="agentfield-export-") as folder:
        path = file or Path(folder) / "call.jsonl"
        for _ in range(_EXPORTS):
            await write_export(client, session_id, path)
            report = await asyncio.to_thread(_verify_file, path, issuer)
            if report.verdict != "prefix":  # on a busy machine the final head may take longer than an export waits
                break
    verified = {
        "issuer": issuer,
        "credentials": report.credentials,
        "events": report.events,
        "verdict": report.verdict,
    }
    return verified if report.problem is None else verified | {"why": report.problem.why}


def _verify_file(path: Path, issuer: str) -> Report:
    with path.open("rb") as lines:
        return verify_export(bounded_lines(lines), issuer=issuer)


def _report_json(report: CallReport, heard: str, page: str, failures: Sequence[str]) -> dict[str, Any]:
    value = report.as_json() | {"reply_heard": heard, "page_url": page}
    value.pop("end_reason")  # every other end reason is listed in `failures`
    return value | ({"failures": list(failures)} if failures else {})


def call_problems(report: CallReport, heard: str) -> list[str]:
    """Return the reasons why a call of the demo failed, none if it succeeded."""
    found = []
    if not report.turns:
        found.append("the caller was not understood: no turn was taken")
    if not any(e["target"] == TOOL and e["status"] == "succeeded" for e in report.executions):
        found.append(f"{TOOL} did not succeed")
    if any(e["status"] in ("failed", "timeout") for e in report.executions):
        found.append("an execution failed")
    if not any(turn["generated"] for turn in report.turns):
        found.append("the agent said nothing")
    if not heard.strip():
        found.append("the caller heard no words")
    if report.end_reason != "caller_hangup":
        found.append(f"the session ended with {report.end_reason or 'no reason'} instead of caller_hangup")
    return found


def _print_report(out: Output, report: CallReport, heard: str) -> None:
    out.line()
    if report.dag is not None and not out.as_json:
        out.show(workflow_tree(report.dag))
    out.line(f"\nthe caller heard: {heard}")
    names = ("offer_to_answer_ms", "end_of_speech_to_first_audio_ms", "tool_dispatch_ms")
    rows = [(number, *(row[name] for name in names)) for number, row in enumerate(report.timings, start=1)]
    columns = ("turn", "offer to answer, ms", "end of speech to first audio, ms", "tool dispatch, ms")
    out.table(columns, rows, empty="There are no timings.")


def _keep_serving(out: Output, url: str, page: str) -> None:
    out.line("\nNow call it yourself:", "bold")
    out.line(page)
    out.line("The address works once, for ten minutes. To get another one, run in a second terminal:", "dim")
    out.line(f"  af session start {TARGET} --url {url}", "dim")
    out.line("Stop with Ctrl-C.", "dim")
