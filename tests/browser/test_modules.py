"""The browser modules in Chromium: the event stream and the reducer of its events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Page

from agentfield.identity import NodeKey, b64url
from agentfield.proof import Coverage, LogTree, sign_head
from agentfield_server.api.pages import PageRoutes
from support.browser.chromium import chromium

_FOLLOW = """
async (give_up) => {
  const {EventStream} = await import('/agentfield/stream.js');
  const seen = [];
  await new Promise((resolve) => {
    const stream = new EventStream({
      url: '/events', token: 'ek_af_test',
      onEvent: (event) => { seen.push(event.seq ?? event.type); if (event.seq === 3) { stream.close(); resolve(); } },
      onOpen: () => seen.push('open'), onLost: () => seen.push('lost'),
      onRefused: (error) => { seen.push(`refused ${error.code} ${error.hint}`); resolve(); },
    });
    stream.run();
  });
  return seen;
}
"""

_TELL = """
async (events) => {
  const {CallReducer} = await import('/agentfield/call_reducer.js');
  const told = [];
  const reducer = new CallReducer((type, detail) => told.push({...detail, told: type}));
  for (const event of events) reducer.apply(event);
  return told;
}
"""

_SHOW = """
async (events) => {
  const {CallReducer} = await import('/agentfield/call_reducer.js');
  const {Transcript} = await import('/agentfield/transcript.js');
  const transcript = new Transcript();
  const reducer = new CallReducer((type, detail) => { if (type === 'transcript') transcript.show(detail); });
  for (const event of events) reducer.apply(event);
  return [...transcript.element.querySelectorAll('.af-line')].map((line) => [
    line.querySelector('.af-heard').textContent,
    [...line.querySelectorAll('.af-mark')].map((mark) => mark.textContent),
  ]);
}
"""


_HOLD = """
async (events) => {
  const {HeldHead} = await import('/agentfield/proof/held_head.js');
  const told = [];
  const held = new HeldHead(({state, size, final}) => told.push([state, size, final]));
  for (const event of events) void held.take(event);
  await held.take({head: null});
  return told;
}
"""


class _Peer:
    """An event route that breaks its stream once, or refuses it."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        self.refuse = False

    async def events(self, request: web.Request) -> web.StreamResponse:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.refuse:
            problem = {"code": "token_expired", "detail": "Too late.", "hint": "start a new session"}
            return web.json_response(problem, status=401, content_type="application/problem+json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if len(self.headers) == 1:
            for piece in (
                b": keep-alive\r\n\r\nid: 1\r\nevent: a\r",
                b'\ndata: {"seq":\r\ndata: 1}\r\n\r\n',
                b"event: live\n",
            ):
                await response.write(piece)
            await response.write(b'data: {"type":"x"}\n\nid: 2\ndata: {"seq":2}\n\nid: 3\ndata: {"se')
        else:
            await response.write(b'id: 3\ndata: {"seq":3}\n\n')
        return response


@pytest.fixture
def peer() -> _Peer:
    return _Peer()


@pytest.fixture
async def page(peer: _Peer) -> AsyncIterator[Page]:
    app = web.Application()
    app.router.add_get("/events", peer.events)
    for route in PageRoutes(None).routes():
        app.router.add_route(route.method, route.path, route.handler)
    async with TestServer(app) as server, chromium(None) as browser:
        it = await browser.new_page()
        await it.goto(str(server.make_url("/agentfield.js")))
        yield it


async def test_a_lost_stream_is_resumed_after_the_last_event(page: Page, peer: _Peer) -> None:
    """A connection that breaks within an event loses and repeats nothing; the token is in a header."""
    assert await page.evaluate(_FOLLOW) == ["open", 1, "x", 2, "lost", "open", 3]
    assert "last-event-id" not in peer.headers[0]
    assert peer.headers[1]["last-event-id"] == "2"
    assert {headers["authorization"] for headers in peer.headers} == {"Bearer ek_af_test"}


async def test_a_refused_stream_is_not_requested_again(page: Page, peer: _Peer) -> None:
    """A token that has expired ends the stream with the control plane's code and hint."""
    peer.refuse = True
    assert await page.evaluate(_FOLLOW) == ["refused token_expired start a new session"]
    assert len(peer.headers) == 1


def _recorded(seq: int, type_: str, execution_id: str | None = None, **body: object) -> dict[str, object]:
    return {"seq": seq, "type": type_, "at": 1000 + seq / 1000, "execution_id": execution_id, "body": body}


async def _tell(page: Page, *events: dict[str, object]) -> list[dict[str, object]]:
    told: list[dict[str, object]] = await page.evaluate(_TELL, json.loads(json.dumps(events)))
    return told


async def test_words_grow_until_the_heard_part_is_known(page: Page) -> None:
    """Pieces of a reply are appended, the complete text replaces them, and an interruption marks the unheard part."""
    told = await _tell(
        page,
        _recorded(1, "speech.started", speech_id="s1", kind="say", asked="One two three.", turn_id="t1"),
        {"type": "reply.started", "reply": "r1", "speech_id": "s1"},
        {"type": "reply.transcript", "reply": "r1", "text": "One "},
        {"type": "reply.transcript", "reply": "r1", "text": "two"},
        {"type": "reply.transcript", "reply": "r1", "text": "One two three.", "final": True},
        {"type": "interrupted", "reply": "r1", "heard_ms": 400},
        _recorded(
            2,
            "speech.ended",
            speech_id="s1",
            asked="One two three.",
            generated="One two three.",
            verbatim=True,
            heard_ms=400,
            heard_text="One ",
            interrupted=True,
            stale=False,
            remaining="two three.",
        ),
    )
    lines = [event for event in told if event["told"] == "transcript"]
    assert {event["id"] for event in lines} == {"s1"}
    assert [event["text"] for event in lines] == ["", "", "One ", "One two", *["One two three."] * 3]
    assert [event["partial"] for event in lines] == [True] * 6 + [False]
    assert (lines[-1]["heardText"], lines[-1]["remaining"], lines[-1]["interrupted"]) == ("One ", "two three.", True)


async def test_partial_words_of_the_caller_replace_each_other(page: Page) -> None:
    """A partial transcript of the caller replaces the previous one; the recorded turn is final."""
    told = await _tell(
        page,
        {"type": "turn.started", "item": "i1"},
        {"type": "turn.transcript", "item": "i1", "text": "My", "final": False},
        {"type": "turn.transcript", "item": "i1", "text": "My name", "final": False},
        _recorded(1, "turn.committed", turn_id="t1", item="i1", text="My name is Maria.", text_missing=None),
        _recorded(1, "turn.committed", turn_id="t1", item="i1", text="repeated", text_missing=None),
    )
    lines = [event for event in told if event["told"] == "transcript"]
    assert [(event["text"], event["final"]) for event in lines] == [
        ("", False),
        ("My", False),
        ("My name", False),
        ("My name is Maria.", True),
    ]
    assert lines[-1]["turnId"] == "t1"


async def test_a_tool_is_timed_from_its_start_to_its_end(page: Page) -> None:
    """A tool is shown with its parent, status and milliseconds; turns and the session are no tools."""
    told = await _tell(
        page,
        _recorded(
            1, "execution.created", "exe_turn", kind="turn", target="n.s", parent_id="exe_root", status="running"
        ),
        _recorded(2, "execution.created", "exe_1", kind="call", target="n.f", parent_id="exe_turn", status="queued"),
        _recorded(5, "execution.started", "exe_1", attempt=1, node_id="n", instance_id="i"),
        _recorded(25, "execution.ended", "exe_1", kind="call", target="n.f", status="succeeded"),
        _recorded(26, "tool.refused", call_id="c1", name="rm", why="not allowed"),
    )
    tools = [event for event in told if event["told"] == "tool"]
    assert [(tool["target"], tool["status"]) for tool in tools] == [
        ("n.f", "queued"),
        ("n.f", "running"),
        ("n.f", "succeeded"),
        ("rm", "refused"),
    ]
    assert tools[2]["parentId"] == "exe_turn"
    assert tools[2]["ms"] == pytest.approx(20)


async def test_a_tool_that_was_recorded_late_shows_its_duration(page: Page) -> None:
    """Its start was recorded together with its end, with its own time."""
    told = await _tell(
        page,
        _recorded(1, "execution.created", "exe_1", kind="call", target="n.f", parent_id="exe_t", status="running"),
        _recorded(9, "execution.started", "exe_1", attempt=1, node_id="n", instance_id="i", entered_at=1000.006),
        _recorded(10, "execution.ended", "exe_1", kind="call", target="n.f", status="succeeded"),
    )
    (done,) = [event for event in told if event["told"] == "tool" and event["status"] == "succeeded"]
    assert done["ms"] == pytest.approx(4)


async def test_a_tool_shows_lost_attempts_and_approvals(page: Page) -> None:
    """A lost attempt and a pending approval are shown while they last, and stay as notes."""
    lost = {"attempt": 1, "status": "failed", "problem": {"code": "node_lost", "detail": "The node was lost."}}
    told = await _tell(
        page,
        _recorded(1, "execution.created", "exe_1", kind="call", target="n.f", parent_id="exe_t", status="running"),
        _recorded(2, "execution.started", "exe_1", attempt=1, node_id="n", instance_id="i"),
        _recorded(3, "execution.retrying", "exe_1", **lost),
        _recorded(
            4, "execution.returned", "exe_1", attempt=2, instance_id="k", reason="it was not sent to the instance k"
        ),
        _recorded(5, "execution.started", "exe_1", attempt=3, node_id="n", instance_id="j"),
        _recorded(6, "approval.requested", "exe_1", approval_id="apr_1", title="Pay 80?"),
        _recorded(7, "approval.decided", "exe_1", approval_id="apr_1", status="approved", by="mia", note=None),
        _recorded(8, "execution.started", "exe_1", attempt=4, node_id="n", instance_id="j"),
        _recorded(9, "execution.ended", "exe_1", kind="call", target="n.f", status="succeeded"),
    )
    tools = [event for event in told if event["told"] == "tool"]
    assert [(tool["status"], tool.get("waitsFor")) for tool in tools] == [
        ("running", None),
        ("running", None),
        ("queued", None),
        ("queued", None),
        ("running", None),
        ("waiting", "Pay 80?"),
        ("queued", None),
        ("running", None),
        ("succeeded", None),
    ]
    notes = [
        "attempt 1 did not succeed: The node was lost.",
        "attempt 2 did not begin: it was not sent to the instance k",
        "asked: Pay 80?",
        "approved by mia",
    ]
    assert tools[-1]["notes"] == notes


async def test_usage_is_summed_until_the_total_arrives(page: Page) -> None:
    """Costs add up during the call until the total replaces them; key presses are lines, a listener is a mark."""
    told = await _tell(
        page,
        _recorded(1, "usage", kind="reply", usage={"text_out": 3}, cost=0.5),
        _recorded(2, "usage", kind="reply", usage={"text_out": 3}, cost=None),
        _recorded(3, "usage", kind="speech", usage={"characters": 3}, cost=0.25),
        _recorded(4, "dtmf", digit="5"),
        _recorded(5, "backchannel", item="i1"),
        _recorded(6, "session.usage", usage={"reply": {"text_out": 6}}, cost=0.75, unpriced=1),
    )
    used = [event for event in told if event["told"] == "usage"]
    assert [(event["cost"], event["final"]) for event in used] == [(0.5, False), (0.75, False), (0.75, True)]
    lines = [event for event in told if event["told"] == "transcript"]
    assert [(line.get("digit"), line.get("backchannel"), line["role"]) for line in lines] == [
        ("5", None, "caller"),
        (None, True, "caller"),
    ]


async def test_a_line_says_what_became_of_the_words(page: Page) -> None:
    """A cut-off text is no other text, a reply that called a tool is no missing one, and other words are marked."""
    cut = {
        "generated": "Your order is",
        "verbatim": None,
        "interrupted": True,
        "heard_ms": 900,
        "heard_text": "Your order",
    }
    other = {"generated": "It is stuck.", "verbatim": False, "heard_ms": 900}
    events = [
        _recorded(1, "speech.ended", speech_id="a", asked="Your order is stuck.", **cut),
        _recorded(2, "speech.ended", speech_id="b", asked="Your order is stuck.", **other),
        _recorded(3, "speech.ended", speech_id="c", asked=None, generated="", verbatim=None, tool_calls=1),
        _recorded(4, "speech.ended", speech_id="d", asked=None, generated="", verbatim=None),
    ]
    assert await page.evaluate(_SHOW, events) == [
        ["Your order", ["interrupted after 900 ms"]],
        ["It is stuck.", ["heard 900 ms", "other words than asked for"]],
        ["(called a tool)", []],
        ["(nothing was generated)", []],
    ]


def _head(tree: LogTree, size: int, since: int = 0) -> dict[str, object]:
    """Return the event of a head over the first events of a log."""
    coverage = Coverage(size=size, root=tree.root(size), final=size == len(tree))
    event: dict[str, object] = {"type": "log.head", "head": sign_head(_KEY, log="run_1", coverage=coverage, at=1.0)}
    if since:
        event |= {"since": since, "consistency": [b64url(node) for node in tree.consistency(since, size)]}
    return event


_KEY = NodeKey.generate()
_LOG = LogTree(bytes([n]) * 32 for n in range(40))


async def test_a_page_holds_heads_that_continue(page: Page) -> None:
    """Every pair of sizes is checked as the server proves it; a head in between that was missed is no fork."""
    sizes = [1, 2, 3, 5, 8, 13, 16, 31, 32, 40]
    events = [_head(_LOG, size, since) for since, size in zip([0, *sizes], sizes, strict=False)]
    told = await page.evaluate(_HOLD, events)
    assert told[:-1] == [["held", size, size == 40] for size in sizes]
    told = await page.evaluate(_HOLD, [_head(_LOG, 3), _head(_LOG, 16, 8), _head(_LOG, 40, 16)])
    assert told[:-1] == [["held", 3, False], ["held", 16, False], ["held", 40, True]]


async def test_a_page_reports_a_rewritten_log(page: Page) -> None:
    """A head with another root, a shorter log, a proof of something else, or a changed document is a fork; nothing later counts."""
    other = LogTree(bytes([n if n != 5 else 99]) * 32 for n in range(40))
    changed = _head(_LOG, 16, 8)
    changed["head"] = {**changed["head"], "size": 17}  # type: ignore[dict-item]
    for wrong in (
        _head(other, 16, 8),
        _head(other, 8),
        _head(_LOG, 5),
        _head(_LOG, 16, 8) | {"consistency": []},
        changed,
    ):
        told = await page.evaluate(_HOLD, [_head(_LOG, 8), wrong, _head(_LOG, 40, 8)])
        assert [state for state, *_ in told] == ["held", "fork"], wrong
