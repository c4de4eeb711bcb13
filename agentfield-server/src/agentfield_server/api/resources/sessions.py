"""Sessions over REST: start, offer, events, input, end, list, show, workflows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, nullcontext, suppress

from aiohttp import web
from aiohttp_sse import EventSourceResponse

from agentfield.errors import InvalidInput, NotFound, SessionEnded, Unauthorized
from agentfield.realtime.sdp import MAX_SDP, gate_sdp
from agentfield.wire.rest import (
    DagView,
    EndRequest,
    ExchangeRequest,
    ExchangeResponse,
    InputRequest,
    SessionView,
    StartRequest,
    StartResponse,
    TokenRequest,
    TokenResponse,
)
from agentfield.wire.trace_context import TRACEPARENT, parse_traceparent
from agentfield_server.access.attempts import Attempts
from agentfield_server.access.browser_tokens import BrowserTokenService
from agentfield_server.access.guard import CALLER
from agentfield_server.access.principals import PRINCIPAL, Access
from agentfield_server.api.http.bodies import json_reply, read_limit, read_model, read_text
from agentfield_server.api.http.caller_view import CallerView, live_for_caller, session_for_caller
from agentfield_server.api.http.event_stream import follow, last_event_id, new_event_hints, open_stream, send
from agentfield_server.api.http.idempotency import idempotency_key
from agentfield_server.api.http.route import Route, view_of
from agentfield_server.api.resources.views import dag_page, session_view
from agentfield_server.bus import Bus
from agentfield_server.sessions import SessionService
from agentfield_server.sessions.recorded_turns.service import RecordedTurnService
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import EventRow, SessionRow

__all__ = ["SessionRoutes"]

_LIST: Access = ("operator", "reader", "starter")
_READ: Access = ("token", "starter", "operator", "reader")
_USE: Access = ("token", "starter", "operator")
_EVENTS = (
    "Recorded events have an id, and `Last-Event-ID` resumes after one; live ones have none. With `audio=1`, on sessions "
    "of recorded turns, live events `reply.audio` carry the audio that belongs to no turn."
)


class SessionRoutes:
    """The routes of sessions.

    Args:
        sessions: The session service.
        store: The store.
        tokens: Issues browser tokens and one-time codes.
        attempts: Limits the rate of wrong codes.
        bus: Hints of recorded events, and live events.
        turns: The legs of sessions of recorded turns.
        public_url: Returns the public base URL of this control plane.
    """

    def __init__(
        self,
        *,
        sessions: SessionService,
        store: Store,
        tokens: BrowserTokenService,
        attempts: Attempts,
        bus: Bus,
        turns: RecordedTurnService,
        public_url: Callable[[], str],
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._tokens = tokens
        self._attempts = attempts
        self._bus = bus
        self._turns = turns
        self._public_url = public_url

    def routes(self) -> list[Route]:
        """Return the routes of the resource."""
        base = "/api/v1/sessions"
        one = base + "/{session_id}"
        return [
            Route(
                "POST", base, self.start, ("starter",), "Start a session", request=StartRequest, response=StartResponse
            ),
            Route(
                "POST",
                "/api/v1/session-targets/{target}/start",
                self.start,
                ("starter",),
                "Start a session (alias)",
                request=TargetStartRequest,
                response=StartResponse,
            ),
            Route("GET", base, self.list_all, _LIST, "List sessions"),
            Route(
                "POST",
                base + "/exchange",
                self.exchange,
                ("verified",),
                "Exchange a one-time code for a browser token",
                view="caller",
                request=ExchangeRequest,
                response=ExchangeResponse,
            ),
            Route("GET", one, self.show, _READ, "Show a session", view="caller", response=SessionView),
            Route(
                "POST",
                one + "/offer",
                self.offer,
                _USE,
                "Exchange an SDP offer for an answer",
                view="caller",
                counts="offers",
                accepts=("application/sdp",),
                media_type="application/sdp",
            ),
            Route(
                "POST",
                "/api/v1/session-instances/{session_id}/realtime-offer",
                self.offer,
                _USE,
                "Exchange an SDP offer for an answer (alias)",
                view="caller",
                counts="offers",
                accepts=("application/sdp",),
                media_type="application/sdp",
            ),
            Route(
                "GET",
                one + "/events",
                self.events,
                _READ,
                "Follow a session",
                view="caller",
                watches=True,
                stream=True,
                media_type="text/event-stream",
                description=_EVENTS,
            ),
            Route(
                "POST",
                one + "/input",
                self.input,
                _USE,
                "Send typed text",
                view="caller",
                counts="inputs",
                request=InputRequest,
            ),
            Route("POST", one + "/end", self.end, _USE, "End a session", view="caller", request=EndRequest),
            Route(
                "GET",
                one + "/workflows",
                self.workflows,
                _READ,
                "The executions of a session",
                view="caller",
                response=DagView,
            ),
            Route(
                "POST",
                one + "/tokens",
                self.issue_token,
                ("starter", "operator"),
                "Issue a browser token",
                request=TokenRequest,
                response=TokenResponse,
            ),
        ]

    async def start(self, request: web.Request) -> web.Response:
        """Start a session; respond with a browser token and the URLs for its caller."""
        body = await self._start_body(request)
        key = idempotency_key(request, route="sessions", target=body.target, body=body)
        row, config = await self._sessions.start(
            body,
            principal=request[PRINCIPAL].id,
            idempotency=key,
            traceparent=parse_traceparent(request.headers.get(TRACEPARENT)),
        )
        details = bool(body.details) and view_of(request) == "operator"
        base = self._public_url()
        path = f"/api/v1/sessions/{row.id}"
        media = self._sessions.media(config)
        reply = StartResponse(
            session_id=row.id,
            run_id=row.run_id,
            target=row.target,
            provider=config.declaration.provider,
            transport=config.declaration.transport,
            model=config.model,
            voice=config.voice,
            floor=config.declaration.floor,
            token=await self._tokens.issue_token(row.id, details=details),
            page_url=f"{base}/call#code={await self._tokens.issue_code(row.id, details=details)}",
            details=details,
            offer_url=f"{base}{path}/offer" if media == "direct" else None,
            media_url=f"{_websocket_url(base)}{path}/media" if media == "bridged" else None,
            turns_url=f"{base}{path}/turns" if media == "turns" else None,
            events_url=f"{base}{path}/events",
        )
        return json_reply(reply, status=201, headers={"Location": path})

    async def _start_body(self, request: web.Request) -> StartRequest:
        target = request.match_info.get("target")
        if target is None:
            return await read_model(request, StartRequest)
        body = await read_model(request, TargetStartRequest)
        if body.target not in ("", target):
            raise InvalidInput(
                f"The path names the session {target!r}, the body {body.target[:200]!r}.",
                hint="leave target out of the body",
                field="target",
            )
        return StartRequest(**{**body.model_dump(), "target": target})

    async def list_all(self, request: web.Request) -> web.Response:
        """List sessions, newest first; with the scope `starter` only, those that the key started."""
        principal = request[PRINCIPAL]
        rows = await self._store.list_sessions(
            principal=None if principal.sees_all(_LIST) else principal.id,
            before=request.query.get("before"),
            limit=read_limit(request),
        )
        views = [session_view(row) for row in rows]
        return json_reply(views if view_of(request) == "operator" else [session_for_caller(view) for view in views])

    async def show(self, request: web.Request) -> web.Response:
        """Show one session with its frozen configuration."""
        return json_reply(await self._view(request, await self._row(request)))

    async def exchange(self, request: web.Request) -> web.Response:
        """Exchange a one-time code."""
        body = await read_model(request, ExchangeRequest)
        try:
            session_id, token, details = await self._tokens.exchange(body.code)
        except Unauthorized as error:
            raise self._attempts.refusal(request, error) from None
        view = session_view(await self._find(session_id))
        return json_reply(
            ExchangeResponse(
                session_id=session_id,
                token=token,
                target=view.target,
                provider=view.provider,
                transport=view.transport,
                model=view.model,
                details=details,
            )
        )

    async def offer(self, request: web.Request) -> web.Response:
        """Check an SDP offer, create the call at the provider, respond with the SDP answer."""
        row = await self._row(request)
        sdp = gate_sdp(await read_text(request, media_type="application/sdp", max_bytes=MAX_SDP))
        answer = await self._sessions.offer(row.id, sdp)
        return web.Response(
            text=answer, content_type="application/sdp", headers={"Location": f"/api/v1/sessions/{row.id}"}
        )

    async def input(self, request: web.Request) -> web.Response:
        """Take text that the caller typed as a turn."""
        row = await self._row(request)
        body = await read_model(request, InputRequest)
        pair = await self._sessions.pair(row.id)
        if pair.media == "turns" and pair.capabilities.text_input:
            # typed text opens the call, as a first recording does
            await self._turns.leg(row)
        await self._sessions.input_text(row.id, body.text)
        return json_reply({"accepted": True}, status=202)

    async def end(self, request: web.Request) -> web.Response:
        """End a session; a caller may only give the reasons `caller_hangup` and `ice_failed`."""
        row = await self._row(request)
        body = await read_model(request, EndRequest)
        caller_reason = "ice_failed" if body.reason == "ice_failed" else "caller_hangup"
        await self._sessions.end(row.id, caller_reason if request.get(CALLER) else body.reason)
        return json_reply(await self._view(request, await self._find(row.id)))

    async def workflows(self, request: web.Request) -> web.Response:
        """Return a page of the executions of a session."""
        row = await self._row(request)
        after, limit = request.query.get("after"), read_limit(request)
        page = await dag_page(self._store, row.run_id, after=after, limit=limit, session_id=row.id)
        return json_reply(page if view_of(request) == "operator" else await CallerView(self._store, row).dag(page))

    async def issue_token(self, request: web.Request) -> web.Response:
        """Issue a browser token: for a caller, or for somebody who only watches."""
        row = await self._row(request)
        body = await read_model(request, TokenRequest)
        details = body.details and view_of(request) == "operator"
        token = await self._tokens.issue_token(row.id, rights=body.rights, details=details)
        return json_reply(TokenResponse(token=token, rights=body.rights, details=details), status=201)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Stream recorded and live events; `Last-Event-ID` resumes, `audio=1` adds the audio of recorded turns."""
        row = await self._row(request)
        after = last_event_id(request)
        view = CallerView(self._store, row) if view_of(request) == "caller" else None
        presence = self._sessions.caller_attached(row.id) if request.get(CALLER) else nullcontext()
        with presence, ExitStack() as sources:
            # subscribed before the first read, so that no event is missed in between
            hints = sources.enter_context(new_event_hints(self._bus, row.run_id))
            live = [sources.enter_context(self._bus.subscribe(f"live:{row.id}"))]
            if request.query.get("audio") == "1" and row.state != "ended" and self._turns.serves(row):
                live.append(sources.enter_context(self._turns.follow_audio(row)))
                # a session that ends while its call is opened has events to replay, as one that ended before
                with suppress(SessionEnded):
                    await self._turns.leg(row)
            async with open_stream(request) as stream:
                tasks = [
                    asyncio.create_task(_forward_live_events(stream, source, everything=view is None))
                    for source in live
                ]
                try:
                    over = row.state == "ended"
                    await follow(
                        stream,
                        self._store,
                        row.run_id,
                        after=after,
                        hints=hints,
                        is_last=_is_end,
                        over=over,
                        view=None if view is None else view.recorded,
                    )
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        return stream

    async def _view(self, request: web.Request, row: SessionRow) -> SessionView:
        if view_of(request) == "caller":
            return session_for_caller(session_view(row))
        used = await self._store.last_event(row.run_id, "session.usage") if row.state == "ended" else None
        created = await self._store.last_event(row.run_id, "session.created")
        return session_view(row, used, created, await self._store.count_turns(row.run_id))

    async def _row(self, request: web.Request) -> SessionRow:
        return await self._find(request.match_info["session_id"])

    async def _find(self, session_id: str) -> SessionRow:
        row = await self._store.get_session(session_id)
        if row is None:
            raise NotFound(f"There is no session {session_id!r}.", code="unknown_session", hint="af session list")
        return row


class TargetStartRequest(StartRequest):
    """``POST /api/v1/session-targets/{target}/start``: the path has the target."""

    target: str = ""


async def _forward_live_events(stream: EventSourceResponse, live: AsyncIterator[object], *, everything: bool) -> None:
    while True:
        # the iteration ends after an overflow; only live events were lost, so it is simply resumed
        async for event in live:
            # a text is audio, which is the caller's own
            shown = event if everything or not isinstance(event, dict) else live_for_caller(event)
            if shown is not None:
                data = shown if isinstance(shown, str) else json.dumps(shown, separators=(",", ":"), ensure_ascii=False)
                await send(stream, data, event="live")


def _websocket_url(base: str) -> str:
    """Return the ws:// or wss:// form of a base URL."""
    return "ws" + base.removeprefix("http")


def _is_end(event: EventRow) -> bool:
    return event.type == "session.state" and json.loads(event.canonical)["body"].get("state") == "ended"
