"""`af verify`: verifies an export, a credential or a head offline, against an issuer that is never taken from the file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentfield_cli.terminal.options import AsJson

if TYPE_CHECKING:
    from agentfield.proof import Head, Report
    from agentfield_cli.terminal.output import Output

__all__ = ["VerifyExit", "app"]

app = typer.Typer(add_completion=False)

_PATIENCE = 1.0
"""Seconds without progress lines; a longer verification prints one each time that they pass again."""

_MAX_HEAD = 64 * 1024


class VerifyExit(IntEnum):
    """Exit codes of `af verify`, one for each verdict."""

    COMPLETE = 0
    PREFIX = 10
    WRONG = 11
    CONSISTENT = 12


_EXITS = {
    "complete": VerifyExit.COMPLETE,
    "valid": VerifyExit.COMPLETE,
    "prefix": VerifyExit.PREFIX,
    "wrong": VerifyExit.WRONG,
    "consistent": VerifyExit.CONSISTENT,
}


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An export, or one credential or head.")],
    issuer: Annotated[
        str | None, typer.Option("--issuer", metavar="DID", help="The expected issuer, from a source other than FILE.")
    ] = None,
    head: Annotated[
        list[Path] | None, typer.Option("--head", metavar="FILE", help="A head that you hold; repeat for more.")
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option("--node", metavar="DID", help="A node that may run targets; repeat for more.")
    ] = None,
    revoked: Annotated[
        list[str] | None,
        typer.Option(
            "--revoked",
            metavar="DID@SIZE",
            help="A stolen key of the issuer, and the size of the control plane's log from which it does not count.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify an export, a credential or a head, offline.

    Exit codes: 0 complete (an export) or valid (a credential or head), 10 prefix (no final head covers all events), 11 wrong,
    12 consistent, but no issuer was given; 2 bad usage.

    \b
    Examples:
      af verify call.jsonl --issuer DID
      af verify call.jsonl --issuer DID --head head.json --node DID
      af verify call.jsonl --issuer DID --revoked DID@1200
    """  # noqa: D301 - \b tells typer to keep the lines of a block
    from agentfield.proof import verify_file
    from agentfield_cli.terminal.output import Output

    out = Output(as_json=as_json)
    held = [_read_head(path) for path in head or ()]
    stolen = dict(map(_parse_revoked, revoked or ()))
    for option, dids in (("--issuer", [issuer] if issuer else []), ("--node", node or []), ("--revoked", list(stolen))):
        _check_dids(option, dids)
    try:
        with file.open("rb") as opened, _progress(out, file.name) as progress:
            report = verify_file(opened, issuer=issuer, heads=held, nodes=node or (), revoked=stolen, progress=progress)
    except OSError as error:
        raise _unreadable(file, error) from error
    out.result(report.document())
    _print(out, report)
    raise typer.Exit(_EXITS[report.verdict])


def _print(out: Output, report: Report) -> None:
    """Print a report for people: the verdict first, then what it rests on."""
    if report.problem is not None:
        place = "" if report.problem.line is None else f" (line {report.problem.line})"
        out.line(f"wrong: {report.problem.item}{place}: {report.problem.why}", style="bold red")
        out.line(f"code: {report.problem.code}")
        return
    out.line(
        _VERDICTS[report.verdict], style="bold green" if report.verdict in ("complete", "valid") else "bold yellow"
    )
    out.line(f"issuer       {report.issuer}{'' if report.pinned else ' (as the file says)'}")
    if report.session_id is not None or report.run_id is not None:
        out.line(f"of           {report.session_id or report.run_id}")
    if report.kind == "export":
        out.line(f"events       {report.events}, of which heads cover {report.covered}")
        out.line(f"heads        {report.heads}, the last one {'final' if report.final else 'not final'}")
        out.line(f"credentials  {report.credentials}, {report.without_node} calls without the signature of a node")
        out.line(f"bodies       {report.bodies}")
    for did, count in sorted(report.node_proofs.items()):
        out.line(f"node         {did} signed {count}")
    for held in report.held:
        out.line(f"held head    {held.log} of size {held.size}: {held.state}")
    for each in report.not_checked:
        out.line(f"not checked  {each}")


_VERDICTS = {
    "complete": "complete: a final head covers all events and credentials",
    "prefix": "prefix: nothing is wrong, but no final head covers all events and credentials",
    "consistent": "consistent, issuer not pinned",
    "valid": "valid",
}


@contextmanager
def _progress(out: Output, name: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the number of each line, and shows it once the verification lasts."""
    due = time.monotonic() + _PATIENCE
    show: Callable[[str], None] | None = None
    with ExitStack() as stack:

        def progress(number: int) -> None:
            nonlocal due, show
            if number % 64 or time.monotonic() < due:
                return
            due = time.monotonic() + _PATIENCE
            text = f"{name}: {number} lines are verified"
            if show is None:
                show = stack.enter_context(out.progress(text))
            else:
                show(text)

        yield progress


def _read_head(path: Path) -> Head:
    from agentfield.errors import InvalidInput
    from agentfield.proof import parse_head

    try:
        with path.open("rb") as file:
            data = file.read(_MAX_HEAD)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        return parse_head(data.removesuffix(b"\n"))
    except InvalidInput as error:
        raise InvalidInput(
            f"{path} holds no head: {error.message}",
            code=error.code,
            hint="save a head as the event log.head has it, in canonical form",
        ) from error


def _unreadable(path: Path, error: OSError) -> Exception:
    from agentfield.errors import InvalidInput

    return InvalidInput(
        f"{path} cannot be read: {error.strerror or error}.", code="file_unreadable", hint="af verify --help"
    )


def _parse_revoked(text: str) -> tuple[str, int]:
    did, _, size = text.rpartition("@")
    if not did or not (size.isascii() and size.isdigit() and len(size) <= 16):
        raise typer.BadParameter(f"expected DID@SIZE, not {text}", param_hint="--revoked")
    return did, int(size)


def _check_dids(option: str, dids: list[str]) -> None:
    for did in dids:
        if not did.startswith("did:key:z6Mk"):
            raise typer.BadParameter(f"expected the did:key of an Ed25519 key, not {did}", param_hint=option)
