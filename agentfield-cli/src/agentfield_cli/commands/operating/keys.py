"""`af keys`: keys of the control plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agentfield_cli.terminal.options import AsJson, Url

if TYPE_CHECKING:
    from agentfield.wire.access import KeysView, KeyView

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True)

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@app.callback()
def keys() -> None:
    """Make, list and revoke keys.

    \b
    The scopes of a key say what it may do:
      operator   administer: keys, rules, nodes, webhooks; see everything
      starter    start sessions, and use those that it started
      caller     call targets, and see those calls
      approver   decide approvals
      node       link agent nodes
      reader     see everything
    \b
    The first key ends development mode for good; it needs the scope operator.
    \b
    Examples:
      af keys create --scope operator --scope starter --scope caller --note "for me"
      af keys create --scope starter --tag staff --expires 30d
      af keys list
      af keys revoke 1f0c8a2b9d3e
    """  # noqa: D301 - \b tells typer to keep the lines of a block


@app.command()
def create(
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope", help="operator, starter, caller, approver, node or reader (af keys --help); repeat for more."
        ),
    ],
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag that rules of access may name.")] = None,
    note: Annotated[str | None, typer.Option("--note", help="Whose key it is, for people.")] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="Its life, such as 12h or 30d; default: for ever.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown only once."""
    from agentfield.wire.access import KeyRequest
    from agentfield.wire.requests import make_request
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    request = make_request(
        KeyRequest, scopes=tuple(scope), tags=tuple(tag or ()), note=note, expires_in=_seconds(expires)
    )

    async def ask() -> KeyView:
        async with connected(url) as client:
            return await client.create_key(request)

    made = run(ask())
    out = Output(as_json=as_json)
    out.result(made)
    out.line(f"key        {made.key}")
    out.line(f"id         {made.id}")
    out.line(f"scopes     {', '.join(made.scopes)}")
    out.line(f"tags       {', '.join(made.tags) or '-'}")
    out.line(f"expires    {_when(made.expires_at)}")
    out.note("it is shown only now; programs and af take it from AGENTFIELD_API_KEY")


@app.command("list")
def list_(url: Url = None, as_json: AsJson = False) -> None:
    """List all keys that were ever made."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def ask() -> KeysView:
        async with connected(url) as client:
            return await client.list_keys()

    found = run(ask())
    out = Output(as_json=as_json)
    out.result(found)
    rows = [
        (view.id, view.state, ", ".join(view.scopes), ", ".join(view.tags) or "-", _when(view.expires_at), view.note)
        for view in found.keys
    ]
    empty = "There are no keys: development mode, requests need none." if found.development else "There are no keys."
    out.table(("key", "state", "scopes", "tags", "expires", "note"), rows, empty=empty)
    if found.settings_key:
        out.note("the key in the settings (AGENTFIELD_API_KEY) is valid as well, with all scopes")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The id of a key; af keys list shows them.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a key; links, streams and sockets that use it are closed."""
    from agentfield_cli.connect import connected, run
    from agentfield_cli.terminal.output import Output

    async def ask() -> KeyView:
        async with connected(url) as client:
            return await client.revoke_key(key_id)

    revoked = run(ask())
    out = Output(as_json=as_json)
    out.result(revoked)
    out.line(f"{revoked.id} was revoked")


def _seconds(text: str | None) -> float | None:
    """Return the seconds of a time such as ``30d``; None of None.

    Raises:
        InvalidInput: It is not a number and one of the units s, m, h, d.
    """
    from agentfield.errors import InvalidInput

    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if unit not in _SECONDS or not (number.isascii() and number.isdigit() and len(number) <= 6 and int(number)):
        raise InvalidInput(f"--expires {text[:40]!r} is no time.", hint="--expires 12h, or 30d", field="expires")
    return float(int(number) * _SECONDS[unit])


def _when(seconds: float | None) -> str:
    import datetime as dt

    if seconds is None:
        return "never"
    return dt.datetime.fromtimestamp(seconds, dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M")
