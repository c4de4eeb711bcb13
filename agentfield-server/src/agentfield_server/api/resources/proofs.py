"""Proofs over REST: credentials, heads, exports, and the DID document of the control plane."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from aiohttp import web

from agentfield.errors import InvalidInput, NotFound
from agentfield.wire.redaction import RedactRequest, RedactView
from agentfield_server.access.principals import PRINCIPAL, Access
from agentfield_server.api.http.bodies import json_reply, read_limit, read_model
from agentfield_server.api.http.route import Route
from agentfield_server.proof.exporting import Exporter
from agentfield_server.proof.issuer_key import did_document
from agentfield_server.proof.issuing import Issuer
from agentfield_server.proof.redacting import RunRedactor
from agentfield_server.store.proofs import ProofStore

__all__ = ["ProofRoutes"]

_READ: Access = ("operator", "reader")
_HEADS: Access = ("token", "starter", "operator", "reader")
_MAX_NUMBER = 15
_JSON_LINES = "application/jsonl"
_DID_DESCRIPTION = (
    "The document of its `did:web`, with the key of its `did:key` in `alsoKnownAs`. Credentials are verified against the "
    "`did:key`, which a verifier gets from its operator and does not fetch."
)
_EXPORT_DESCRIPTION = (
    "JSON Lines, verified with `af verify`. `bodies=0` leaves bodies and salts out. A session that has ended is exported with "
    "its final head and anchor, for which the response waits up to ten seconds."
)
_REDACT_DESCRIPTION = (
    "Bodies and salts are erased with every copy: events, inputs, outputs, problems, decided approvals, and the caller and "
    "metadata of a session. With `executions`, only those of these executions. The event `log.redacted` records it. Log, "
    "heads and credentials still verify, since they hold commitments. A log of format 1 is refused."
)
_HEAD_DESCRIPTION = (
    "With `since=SIZE` the answer has a proof that the log of that size is a prefix of this one (RFC 9162, section 2.1.4): "
    "whoever holds a head of that size detects a log that was rewritten."
)


class ProofRoutes:
    """The routes of proofs.

    Args:
        store: The store.
        issuer: Issues credentials and heads.
        public_url: Returns the public base URL of this control plane.
    """

    def __init__(self, store: ProofStore, issuer: Issuer, *, public_url: Callable[[], str]) -> None:
        self._store = store
        self._issuer = issuer
        self._exporter = Exporter(store, issuer)
        self._redactor = RunRedactor(store, issuer)
        self._public_url = public_url

    def routes(self) -> list[Route]:
        """Return the routes of the resource."""
        session, run = "/api/v1/sessions/{session_id}", "/api/v1/workflows/{run_id}"
        return [
            Route(
                "GET",
                "/.well-known/did.json",
                self.did,
                ("public",),
                "Show the DID document of the control plane",
                view="caller",
                description=_DID_DESCRIPTION,
            ),
            Route(
                "GET",
                "/api/v1/executions/{execution_id}/credentials",
                self.of_execution,
                _READ,
                "Show the credential of an execution; an empty list until it is issued",
            ),
            Route("GET", session + "/credentials", self.of_session, _READ, "List the credentials of a session"),
            Route("GET", run + "/credentials", self.of_run, _READ, "List the credentials of a run"),
            Route(
                "GET",
                session + "/head",
                self.head,
                _HEADS,
                "Show the newest signed head of the log of a session",
                view="caller",
                description=_HEAD_DESCRIPTION,
            ),
            Route(
                "GET",
                session + "/export",
                self.export_session,
                _READ,
                "Export a session for verification",
                stream=True,
                media_type=_JSON_LINES,
                description=_EXPORT_DESCRIPTION,
            ),
            Route(
                "POST",
                session + "/redact",
                self.redact_session,
                ("operator",),
                "Erase bodies of an ended session",
                request=RedactRequest,
                response=RedactView,
                description=_REDACT_DESCRIPTION,
            ),
            Route(
                "POST",
                run + "/redact",
                self.redact_run,
                ("operator",),
                "Erase bodies of an ended run",
                request=RedactRequest,
                response=RedactView,
                description=_REDACT_DESCRIPTION,
            ),
            Route(
                "GET",
                run + "/export",
                self.export_run,
                _READ,
                "Export a run for verification",
                stream=True,
                media_type=_JSON_LINES,
                description=_EXPORT_DESCRIPTION,
            ),
        ]

    async def did(self, _: web.Request) -> web.Response:
        """Show the DID document."""
        return json_reply(did_document(self._issuer.did, self._public_url()))

    async def of_execution(self, request: web.Request) -> web.Response:
        """Show the credential of an execution, as its canonical bytes in a list."""
        execution_id = request.match_info["execution_id"]
        found = await self._store.credential(execution_id)
        if found is None and not await self._store.get_executions([execution_id]):
            raise NotFound(f"There is no execution {execution_id!r}.", code="unknown_execution")
        return _documents([] if found is None else [found], "null")

    async def of_session(self, request: web.Request) -> web.Response:
        """List credentials of a session: ``?after=NUMBER``, ``?limit=``."""
        _, run_id = await self._session(request)
        return await self._list(request, run_id)

    async def of_run(self, request: web.Request) -> web.Response:
        """List credentials of a run: ``?after=NUMBER``, ``?limit=``."""
        return await self._list(request, await self._run(request))

    async def head(self, request: web.Request) -> web.Response:
        """Show the newest head of a session, with a consistency proof for ``?since=SIZE``."""
        _, run_id = await self._session(request)
        return json_reply(await self._issuer.newest_head(run_id, since=_number(request, "since")))

    async def export_session(self, request: web.Request) -> web.StreamResponse:
        """Export a session."""
        session_id, run_id = await self._session(request)
        return await self._export(request, run_id, session_id)

    async def export_run(self, request: web.Request) -> web.StreamResponse:
        """Export a run, with or without a session."""
        run_id = await self._run(request)
        return await self._export(request, run_id, await self._store.session_of_run(run_id))

    async def redact_session(self, request: web.Request) -> web.Response:
        """Erase bodies of a session."""
        _, run_id = await self._session(request)
        return await self._redact(request, run_id)

    async def redact_run(self, request: web.Request) -> web.Response:
        """Erase bodies of a run, with or without a session."""
        return await self._redact(request, await self._run(request))

    async def _redact(self, request: web.Request, run_id: str) -> web.Response:
        body = await read_model(request, RedactRequest)
        erased = await self._redactor.redact(
            run_id, executions=body.executions, reason=body.reason, by=request[PRINCIPAL].id
        )
        return json_reply(RedactView(run_id=run_id, events=erased))

    async def _list(self, request: web.Request, run_id: str) -> web.Response:
        limit = read_limit(request)
        page = await self._store.credentials(run_id, after=_number(request, "after"), limit=limit)
        following = str(page[-1].number) if len(page) == limit else "null"
        return _documents([each.document for each in page], following)

    async def _export(self, request: web.Request, run_id: str, session_id: str | None) -> web.StreamResponse:
        bodies = request.query.get("bodies", "1")
        if bodies not in ("0", "1"):
            raise InvalidInput("bodies is 0 or 1.", hint="bodies=0", field="bodies")
        pages = self._exporter.export(run_id, session_id=session_id, bodies=bodies == "1", at=time.time())
        first = await anext(pages)  # what is refused is refused before the response begins
        response = web.StreamResponse(headers={"Content-Type": _JSON_LINES, "Cache-Control": "no-store"})
        await response.prepare(request)
        await response.write(b"".join(first))
        async for lines in pages:
            await response.write(b"".join(lines))
        await response.write_eof()
        return response

    async def _session(self, request: web.Request) -> tuple[str, str]:
        session_id = request.match_info["session_id"]
        row = await self._store.get_session(session_id)
        if row is None:
            raise NotFound(f"There is no session {session_id!r}.", code="unknown_session", hint="af session list")
        return row.id, row.run_id

    async def _run(self, request: web.Request) -> str:
        run_id = request.match_info["run_id"]
        if await self._store.log_format(run_id) is None:
            raise NotFound(f"There is no run {run_id!r}.", code="unknown_run", run_id=run_id)
        return run_id


def _documents(documents: Sequence[bytes], following: str) -> web.Response:
    """Return credentials with the bytes that were signed."""
    body = b'{"credentials":[' + b",".join(documents) + b'],"next":' + following.encode() + b"}"
    return web.Response(body=body, content_type="application/json")


def _number(request: web.Request, name: str) -> int:
    value = request.query.get(name, "0")
    if not value.isascii() or not value.isdigit() or len(value) > _MAX_NUMBER:
        raise InvalidInput(f"{name} is a number, 0 or more.", field=name)
    return int(value)
