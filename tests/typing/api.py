"""The public API as programs use it; checked by mypy, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, assert_type

from agentfield import (
    Agent,
    AgentFieldError,
    ExecutionError,
    Limits,
    Reply,
    Say,
    SemanticVad,
    ServerVad,
    Session,
    SessionEnded,
    Speech,
    Spoken,
    Turn,
)
from agentfield.client import ControlPlaneClient, discover_url
from agentfield.context import current, session_id
from agentfield.realtime.events import Event
from agentfield.wire.frames import ExecutionContext
from agentfield.wire.rest import DagView, ExecutionView, SessionView, StartRequest, StartResponse

app = Agent(node_id="voice-support")
other = Agent("other", url="http://127.0.0.1:8080", api_key="key", concurrency=5)


@app.reasoner()
async def resolve_turn(turn: dict[str, object]) -> dict[str, object]:
    return turn


@app.reasoner("named", description="Does it.", tags=["a"], timeout=5, retries=2, on_interrupt="cancel")
def plain(n: int) -> int:
    return n


@app.reasoner
async def bare(n: int) -> int:
    return n


@app.session(
    "voice",
    provider="openai",
    transport="webrtc",
    model="gpt-realtime-2",
    modalities=["audio", "text"],
    voice="marin",
    tools=["voice-support.resolve_turn"],
    tags=["support:voice"],
)
async def voice(session: Session) -> None:
    turn = await session.input()
    result = await session.call("voice-support.resolve_turn", turn=turn)
    await session.say(result["spoken_response"])


@app.session("model", provider="openai", transport="websocket", turn_detection=None, limits=Limits(duration=60))
async def model(session: Session) -> None: ...


@app.session("vad", provider="local", transport="webrtc", turn_detection=SemanticVad(), floor="model", say="exact")
async def vad(session: Session) -> None:
    """The model answers."""


@app.session(
    "more",
    provider="local",
    transport="webrtc",
    turn_detection=ServerVad(silence_duration_ms=300),
    greeting=Say("Hello.", interruptible=False),
    goodbye="Bye.",
)
async def more(session: Session) -> None:
    assert_type(await session.input(), Turn)
    speech = session.say("Hello.", interruptible=False, stale="speak")
    assert_type(speech, Speech)
    assert_type(await speech, Spoken)
    assert_type(await session.reply(instructions="Be brief.", tools=["a.b"]), Reply)
    events = session.events()
    assert_type(events, AsyncIterator[Event])
    session.state["n"] = 1
    await session.save()
    await session.end()
    assert_type(session.resumed, bool)


async def use() -> None:
    assert_type(await resolve_turn({}), dict[str, object])
    assert_type(plain(1), int)
    assert_type(await bare(1), int)
    async with app:
        await app.call("a.b", timeout=3, order=427)
    assert_type(current(), ExecutionContext | None)
    assert_type(session_id(), str | None)
    try:
        await app.call("a.b")
    except SessionEnded as error:
        assert_type(error.code, str)
    except ExecutionError as error:
        assert_type(error.hint, str | None)
    except AgentFieldError:
        raise


async def client() -> None:
    assert_type(discover_url(), str)
    async with ControlPlaneClient() as plane:
        started = await plane.start_session(StartRequest(target="a.b"))
        assert_type(started, StartResponse)
        assert_type(await plane.offer(started.session_id, "v=0", started.token), str)
        assert_type(await plane.execute("a.b", {"n": 1}, timeout=3), ExecutionView)
        assert_type(await plane.list_sessions(), list[SessionView])
        assert_type(await plane.workflow(started.session_id), DagView)
        async for event in plane.session_events(started.session_id):
            assert_type(event, dict[str, Any])


if __name__ == "__main__":
    app.run()
