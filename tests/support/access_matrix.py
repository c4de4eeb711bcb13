"""The access matrix: who may use which route, as real requests observe it, and the tables of `docs/security.md`.

Run as a script, it writes the tables of the page; `tests/integration/access/test_matrix.py` compares them, and compares what the
route table declares with what requests observe.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import aiohttp
from pydantic import SecretStr

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.wire.access import KeyRequest, KeyScope
from agentfield.wire.rest import StartRequest
from agentfield_server.access.principals import Access
from agentfield_server.api.http.route import Route
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings
from support.paths import ROOT

__all__ = ["FRAMES", "HOOKS", "PAGE", "Matrix", "declared", "observed", "open_matrix", "page_with_tables"]

PAGE = ROOT / "docs" / "security.md"
COMMAND = "PYTHONPATH=tests uv run python -m support.access_matrix"

SCOPES: tuple[str, ...] = get_args(KeyScope)
CREDENTIALS = ("none", "wrong", *SCOPES, "starter'", "caller'", "token", "token'")
"""No key, a wrong key, a key of each scope (that of `starter` and `caller` began what the paths name), another key of the same
scope, the token of the session, the token of another session."""

_OWNED = ("session_id", "execution_id", "run_id")
_PLACEHOLDER = re.compile(r"\{(\w+)(?::[^{}]*)?\}")
_REFUSALS = {
    "unauthorized": "401",
    "scope_missing": "403",
    "token_scope": "403",
    "token_expired": "401",
    "unknown_session": "404",
    "unknown_execution": "404",
    "unknown_run": "404",
}
_SETTINGS_KEY = "settings-key-0123456789"

FRAMES: Mapping[str, str] = {
    "Hello": "`node` scope of the request; signed by a DID of the node id; tags are stored before its targets can be called",
    "WatchHello": "the same; the instance must be that of a link",
    "Accepted": "the link that holds the attempt",
    "Result": "the link that holds the attempt, with a signature of the instance's DID",
    "Progress": "the link that holds the attempt",
    "Call": "the rules of access; a parent only from the link that holds its attempt or handler",
    "SessionCommand": "the link that runs the handler, in its current run",
    "SessionDone": "the link that runs the handler, in its current run",
    "Drain": "its own link",
    "LoopState": "its own link",
    "GiveBack": "attempts that are assigned to the instance",
    "Ping": "its own link",
    "Pong": "its own link",
}
"""Access rule of each frame of a node."""

HOOKS: Mapping[str, str] = {
    "agentfield_manifest": "installed code; declares only",
    "agentfield_lifespan": "installed code; gets its own settings and folder only",
    "agentfield_tool_middleware": "sees calls after admission; what it changes is checked again by the schema, never by the rules",
    "agentfield_session_authorize": "after the rules of access: it may refuse more, never allow more",
    "agentfield_session_started": "observes events",
    "agentfield_session_turn": "observes events",
    "agentfield_session_ended": "observes events",
    "agentfield_execution_started": "observes events",
    "agentfield_execution_finished": "observes events",
    "agentfield_dag_event": "observes events",
}
"""Access rule of each hook of a plugin."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A control plane with a session and an execution, and the credentials of all columns."""

    plane: ControlPlane
    credentials: Mapping[str, str | None]
    path: Mapping[str, str]
    """Values of placeholders: what the keys `starter` and `caller` began, and names of nothing."""
    by_caller: Mapping[str, str]
    """Values that differ for what `caller` began."""


@asynccontextmanager
async def open_matrix(home: Path) -> AsyncIterator[Matrix]:
    """Run a control plane in which two keys of each owning scope began something."""
    settings = Settings(home=home, port=0, api_key=SecretStr(_SETTINGS_KEY))
    async with AsyncExitStack() as stack:
        plane = await stack.enter_async_context(control_plane(settings, environ={"OPENAI_API_KEY": "sk-not-used"}))
        operator = await stack.enter_async_context(ControlPlaneClient(plane.url, _SETTINGS_KEY))
        keys: dict[str, str | None] = {"none": None, "wrong": "sk_af_0123456789ab_wrong"}
        for scope in (*SCOPES, "starter'", "caller'"):
            made: Any = await operator.create_key(KeyRequest.model_validate({"scopes": (scope.rstrip("'"),)}))
            keys[scope] = made.key
        app = Agent("shop", url=plane.url, api_key=keys["node"])

        @app.reasoner()
        async def echo(word: str) -> str:
            return word

        @app.session("voice", provider="openai", transport="webrtc")
        async def voice(session: Any) -> None:
            await session.input()

        await stack.enter_async_context(app)
        starter = await stack.enter_async_context(ControlPlaneClient(plane.url, keys["starter"]))
        caller = await stack.enter_async_context(ControlPlaneClient(plane.url, keys["caller"]))
        own, other = [await starter.start_session(StartRequest(target="shop.voice")) for _ in range(2)]
        called = await caller.execute("shop.echo", {"word": "a"})
        keys |= {"token": own.token, "token'": other.token}
        root = (await operator.dag(own.run_id)).executions[0].id
        path = {"session_id": own.session_id, "execution_id": root, "run_id": own.run_id, "target": "shop.nothing"}
        yield Matrix(plane, keys, path, {"execution_id": called.id, "run_id": called.run_id})


def declared(route: Route, credential: str) -> str:
    """Return what the route table says a credential gets: ``yes``, or the status of the refusal."""
    access: Access = route.access
    if "public" in access or "verified" in access:
        return "yes"
    if credential in ("none", "wrong"):
        return "401"
    if credential.startswith("token"):
        return "yes" if "token" in access and credential == "token" else "403"
    scope = credential.rstrip("'")
    if scope not in access:
        return "403"
    owned = any(f"{{{name}" in route.path for name in _OWNED)
    return "404" if credential.endswith("'") and owned else "yes"


async def observed(matrix: Matrix, route: Route, credential: str, http: aiohttp.ClientSession) -> str:
    """Send a request and return what the credential gets; the body is one that no route takes, so that nothing changes."""
    values = {**matrix.path, **(matrix.by_caller if credential.startswith("caller") else {})}
    path = _PLACEHOLDER.sub(lambda found: values.get(found[1], "nothing"), route.path)
    key = matrix.credentials[credential]
    headers = {"Content-Type": "text/x-nothing", **({} if key is None else {"Authorization": f"Bearer {key}"})}
    async with http.request(route.method, matrix.plane.url + path, headers=headers, data=_body(route)) as response:
        if response.content_type != "application/problem+json":
            return "yes"
        code = (await response.json())["code"]
    return _REFUSALS.get(code, "yes") if code != "unknown_run" or "{run_id" in route.path else "yes"


def _body(route: Route) -> bytes | None:
    return b"nothing" if route.method == "POST" else None


async def observe_all(matrix: Matrix, routes: Iterable[Route]) -> dict[tuple[str, str, str], str]:
    """Return what each credential gets of each route."""
    found = {}
    async with aiohttp.ClientSession() as http:
        for route in routes:
            for credential in CREDENTIALS:
                found[route.method, route.path, credential] = await observed(matrix, route, credential, http)
    return found


# --- the page


def page_with_tables(page: str, routes: Sequence[Route]) -> str:
    """Return the page with its tables written anew."""
    page = _replace(page, "routes", _route_table(routes))
    page = _replace(page, "frames", _table(("frame of a node", "who may send it"), FRAMES))
    return _replace(page, "hooks", _table(("hook of a plugin", "what it may decide"), HOOKS))


def _route_table(routes: Sequence[Route]) -> str:
    lines = [f"| route | view | {' | '.join(CREDENTIALS)} |", f"|---|---|{'---|' * len(CREDENTIALS)}"]
    for route in sorted(routes, key=lambda route: (route.path, route.method)):
        path = _PLACEHOLDER.sub(r"{\1}", route.path)
        cells = ("verified" if "verified" in route.access else declared(route, each) for each in CREDENTIALS)
        lines.append(f"| `{route.method} {path}` | {route.view} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| `{name}` | {rule} |" for name, rule in rows.items())]
    return "\n".join(lines)


def _replace(page: str, name: str, table: str) -> str:
    begin, end = f"<!-- {name}: {COMMAND} -->\n", f"\n<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{PAGE} has no place for the table of {name}")
    return before + begin + table + end + after


async def _write() -> None:
    with TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), port=0)
        async with control_plane(settings, environ={}) as plane:
            routes = core_routes(plane)
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8"), routes), encoding="utf-8")


def core_routes(plane: ControlPlane) -> list[Route]:
    """Return the routes of a control plane without those of plugins, which depend on what is installed."""
    return [route for route in plane.routes if not route.path.startswith("/api/v1/transports/")]


if __name__ == "__main__":
    asyncio.run(_write())
    sys.stdout.write(f"{PAGE}\n")
