"""Handlers of the SDK against the sessions: input loop, speech, replies with tools, failures, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentfield import Agent, Session
from agentfield.context import current
from agentfield.errors import SessionEnded
from agentfield.plugins import Registry
from agentfield.realtime.commands import CancelReplyCommand, ReplyCommand, SayCommand, ToolResultCommand
from agentfield.realtime.events import Interrupted, PlayoutStarted, ReplyEnded, ReplyStarted, ToolRequested
from support.server.sessions import Acme, Adapter, Plane, plane


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AGENTFIELD_API_KEY", raising=False)


@pytest.fixture
def adapter() -> Adapter:
    return Adapter()


@pytest.fixture
async def here(tmp_path: Path, adapter: Adapter) -> AsyncIterator[Plane]:
    async with plane(tmp_path, adapter) as made:
        yield made


def agent_at(here: Plane) -> Agent:
    return Agent("shop", url=here.url.partition("/api")[0], registry=Registry.of([Acme()]))


async def called(here: Plane, adapter: Adapter) -> tuple[str, Any]:
    session_id = await here.start()
    await here.sessions.offer(session_id, "offer")
    await here.state(session_id, "live")
    return session_id, list(adapter.calls.values())[-1]


async def test_three_turns_of_a_short_handler(here: Plane, adapter: Adapter) -> None:
    """A handler of three lines takes each turn, calls a reasoner and answers."""
    app = agent_at(here)
    seen: list[str | None] = []

    @app.reasoner()
    async def resolve(turn: dict[str, Any]) -> dict[str, str]:
        context = current()
        seen.append(context.headers.get("X-Session-ID") if context is not None else None)
        return {"spoken": f"You said: {turn['text']}"}

    @app.session("voice", provider="acme", transport="webrtc", tools=["shop.resolve"])
    async def voice(session: Session) -> None:
        turn = await session.input()
        result = await session.call("shop.resolve", turn=turn)
        await session.say(result["spoken"])

    async with app:
        session_id, provider = await called(here, adapter)
        for number, words in enumerate(["one", "two", "three"], start=1):
            provider.caller_says(words)
            assert await provider.speaks(number) == f"You said: {words}"
        await here.sessions.end(session_id, "operator")
    kinds = [(x.kind, x.status) for x in await here.executions(session_id)]
    assert kinds.count(("call", "succeeded")) == 3
    assert len([kind for kind, _ in kinds if kind == "turn"]) == 3
    assert seen == [session_id] * 3


async def test_interrupted_speech_and_its_turn(here: Plane, adapter: Adapter) -> None:
    """A handler learns that it was interrupted, and the next turn has the heard part."""
    app = agent_at(here)
    told: asyncio.Queue[Any] = asyncio.Queue()

    @app.session("voice", provider="acme", transport="webrtc", greeting="Hello!")
    async def voice(session: Session) -> None:
        while True:
            turn = await session.input()
            told.put_nowait(turn)
            told.put_nowait(await session.say("alpha beta gamma delta epsilon"))

    async with app:
        session_id, provider = await called(here, adapter)
        assert await provider.speaks(1) == "Hello!"
        provider.caller_says("go on")
        assert (await asyncio.wait_for(told.get(), 60)).text == "go on"
        say = await provider.asked(SayCommand, 2)
        provider.tell(ReplyStarted(reply="r2", command=say.id), PlayoutStarted(reply="r2"))
        provider.tell(Interrupted(reply="r2", heard_ms=900, method="provider"))
        provider.tell(ReplyEnded(reply="r2", status="cancelled", why="interrupted", text=say.text))
        spoken = await asyncio.wait_for(told.get(), 60)
        assert (spoken.interrupted, spoken.heard_text, spoken.remaining) == (True, "alpha beta", "gamma delta epsilon")
        provider.caller_says("stop")
        assert (await asyncio.wait_for(told.get(), 60)).heard == "alpha beta"
        await here.sessions.end(session_id, "operator")


async def test_reply_with_tools(here: Plane, adapter: Adapter) -> None:
    """`reply` lets the model use a tool and returns its final text."""
    app = agent_at(here)
    told: asyncio.Queue[Any] = asyncio.Queue()

    @app.reasoner()
    async def look(order: int) -> dict[str, int]:
        return {"order": order}

    @app.session("voice", provider="acme", transport="webrtc", tools=["shop.look"], floor="handler")
    async def voice(session: Session) -> None:
        await session.input()
        told.put_nowait(await session.reply(instructions="be brief"))

    async with app:
        session_id, provider = await called(here, adapter)
        provider.caller_says("look it up")
        reply = await provider.asked(ReplyCommand)
        provider.tell(ReplyStarted(reply="r1", command=reply.id))
        provider.tell(ToolRequested(call_id="c1", name="shop.look", arguments='{"order":427}', reply="r1"))
        provider.tell(ReplyEnded(reply="r1", command=reply.id, tools=1))
        assert (await provider.asked(ToolResultCommand)).output == '{"order":427}'
        await provider.speaks(2, "It is found.")
        answer = await asyncio.wait_for(told.get(), 60)
        assert answer.text == "It is found."
        assert [call["target"] for call in answer.tool_calls] == ["shop.look"]
        await here.sessions.end(session_id, "operator")


async def test_handler_that_raises_and_cancels(here: Plane, adapter: Adapter) -> None:
    """An exception speaks `on_error` and the next turn is taken; a cancelled speech is stopped at the provider."""
    app = agent_at(here)
    told: asyncio.Queue[Any] = asyncio.Queue()

    @app.session("voice", provider="acme", transport="webrtc", on_error="Sorry.")
    async def voice(session: Session) -> None:
        turn = await session.input()
        if turn.text == "fail":
            raise ValueError("boom")
        speech = session.say("a long story")
        await asyncio.wait_for(begun.wait(), 60)
        speech.cancel()
        told.put_nowait(await speech)

    begun = asyncio.Event()
    async with app:
        session_id, provider = await called(here, adapter)
        provider.caller_says("fail")
        assert await provider.speaks(1) == "Sorry."
        provider.caller_says("talk")
        say = await provider.asked(SayCommand, 2)
        provider.tell(ReplyStarted(reply="r2", command=say.id), PlayoutStarted(reply="r2"))
        begun.set()
        await provider.asked(CancelReplyCommand)
        provider.tell(ReplyEnded(reply="r2", status="cancelled", why="asked", text="a long"))
        assert (await asyncio.wait_for(told.get(), 60)).interrupted is True
        assert (await here.recorded(session_id, "handler.failed"))[0]["message"]
        await here.sessions.end(session_id, "operator")


async def test_after_the_call(here: Plane, adapter: Adapter) -> None:
    """After the end `input` raises with the reason, and a call is still accepted."""
    app = agent_at(here)
    told: asyncio.Queue[Any] = asyncio.Queue()

    @app.reasoner()
    async def note(reason: str) -> str:
        return f"noted {reason}"

    @app.session("voice", provider="acme", transport="webrtc")
    async def voice(session: Session) -> None:
        try:
            await session.input()
        except SessionEnded as ended:
            told.put_nowait(await session.call("shop.note", reason=ended.data["reason"]))

    async with app:
        session_id, _ = await called(here, adapter)
        await here.state(session_id, "live")
        await until_started(here, session_id)
        await here.sessions.end(session_id, "caller_hangup")
        assert await asyncio.wait_for(told.get(), 60) == "noted caller_hangup"


async def until_started(here: Plane, session_id: str) -> None:
    async with asyncio.timeout(60):
        while not await here.recorded(session_id, "handler.started"):  # noqa: ASYNC110 - a condition in the store
            await asyncio.sleep(0.01)


async def test_handler_ends_the_session(here: Plane, adapter: Adapter) -> None:
    """`session.end()` finishes the speech, hangs up, and the session has that reason."""
    app = agent_at(here)

    @app.session("voice", provider="acme", transport="webrtc", goodbye="Goodbye.")
    async def voice(session: Session) -> None:
        await session.input()
        await session.say("That is all.")
        await session.end()

    async with app:
        session_id, provider = await called(here, adapter)
        provider.caller_says("bye")
        await provider.speaks(1)
        assert await provider.speaks(2) == "Goodbye."
        row = await here.state(session_id, "ended")
        assert row.end_reason == "handler_ended"
        assert adapter.hung_up == ["call1"]
