"""Calls whose audio the control plane carries, and recorded turns, when a process dies in the middle or the line is cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import psutil

from agentfield.client import ControlPlaneClient
from agentfield.wire.rest import StartRequest
from agentfield_cli.audio import wav
from agentfield_local.server import LocalServer
from cable_kit import Cable
from faults_kit import AF, ROOT, House, Phone, eventually, free_port, opened, phone, provider, tone

SPOKEN = ROOT / "tests" / "speech_fixtures" / "synthetic" / "01.wav"
TARGETS = ("steps.line", "steps.notes")
"""A session over a WebSocket, and one of recorded turns."""


@asynccontextmanager
async def both(house: House, client: ControlPlaneClient | None = None) -> AsyncIterator[tuple[Phone, ...]]:
    """Call both sessions at the same time."""
    async with AsyncExitStack() as stack:
        yield tuple([await stack.enter_async_context(phone(house, target, client=client)) for target in TARGETS])


async def turns(calls: tuple[Phone, ...], text: str) -> None:
    """Say something in each call, one after the other, as the provider's words come in order."""
    for call in calls:
        await call.turn(text)


async def all_answered(calls: tuple[Phone, ...], said: str) -> None:
    """Wait until each caller was answered like this and heard it; whoever posted a recording got the answer whole."""
    for call in calls:
        told = (await call.answered(said))["body"]
        assert (told["failed"], told["interrupted"], told["heard_ms"] > 0) == (None, False, True), told
        await asyncio.wait_for(asyncio.gather(*call.answers), 30)
        assert call.call.recording.any()


async def hung_up(house: House, calls: tuple[Phone, ...], local: LocalServer | None = None) -> None:
    """Hang up; then the log is whole, and no session, execution, process or connection to the provider is left."""
    for call in calls:
        assert (await call.hang_up()).end_reason == "caller_hangup"
    await nothing_left(house, calls, local)


async def nothing_left(house: House, calls: tuple[Phone, ...], local: LocalServer | None = None) -> None:
    """Check that calls which are over left nothing behind."""
    for call in calls:
        log = house.books().check_over(call.run_id)
        assert call.story.events == log[: len(call.story.events)]
    assert {view.state for view in await house.client.list_sessions()} == {"ended"}
    assert psutil.Process(house.plane.pid).children() == []
    if local is not None:
        await eventually(lambda: _sessions(local), lambda count: count == 0)


async def _sessions(local: LocalServer) -> int:
    return len(local.sessions)


async def test_agent_killed_while_its_handlers_run(tmp_path):
    """Handlers that were lost with their agent are run again on the next instance, and their open turns come again."""
    async with provider("one", "one", "two", "two") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        agent = house.agent()
        await house.start_agent(agent)
        house.gate.touch()
        async with both(house) as calls:
            await turns(calls, "one")
            for call in calls:
                await call.story.until("execution.started", node_id="steps")

            await agent.kill()
            house.gate.unlink()
            await house.start_agent(agent)

            await all_answered(calls, "one, attempt 2, resumed True")
            await turns(calls, "two")
            await all_answered(calls, "two, attempt 1, resumed False")
            for call in calls:
                await call.story.until("execution.ended", kind="call", status="failed")
            await hung_up(house, calls, local)
        for call in calls:
            assert len(call.story.all("turn.committed")) == 2
            assert len(call.story.all("execution.ended", kind="call", status="failed")) == 1


async def test_control_plane_killed_while_the_agent_speaks(tmp_path):
    """Callers come back to the next control plane by themselves; what was not said to its end is said again."""
    async with (
        provider("story", "story", "two", "two") as local,
        opened(House(tmp_path, local_url=local.url)) as house,
    ):
        await house.start_plane()
        agent = house.agent()
        await house.start_agent(agent)
        async with both(house) as calls:
            for call in calls:
                end = await call.turn("story")
                await call.call.hear(end)

            await house.plane.kill()
            await house.start_plane()

            await house.linked(agent)
            await all_answered(calls, "story, attempt 2, resumed True")
            await turns(calls, "two")
            await all_answered(calls, "two, attempt 1, resumed False")
            await hung_up(house, calls, local)
        for call in calls:
            assert len(call.story.all("turn.committed")) == 2
            failed = [event["body"]["failed"] for event in call.story.all("speech.ended")]
            assert failed == ["control_plane_restart", None, None]
            assert set(house.books().statuses(call.run_id).values()) == {"succeeded"}


async def test_control_plane_killed_while_calls_of_the_handlers_run(tmp_path):
    """What the agent was doing when the control plane died is finished and counted once; the turns are asked again."""
    async with provider("one", "one", "one") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        agent = house.agent()
        await house.start_agent(agent)
        house.gate.touch()
        async with both(house) as calls:
            await turns(calls, "one")
            running = [await call.story.until("execution.started", node_id="steps") for call in calls]
            # a caller that follows no events: all it has is the answer to what it posts
            bare = (await house.client.start_session(StartRequest(target="steps.notes"))).session_id
            post = partial(house.client.turn, bare, wav(tone(), 24_000), "audio/wav", idempotency_key="key")
            posted = [event async for event in _until(post(), "execution.started")]

            await house.plane.kill()
            await house.start_plane()
            again = asyncio.create_task(_all(post()))
            for call in calls:
                await call.story.until("handler.started", resumed=True)
            house.gate.unlink()

            await all_answered(calls, "one, attempt 2, resumed True")
            answer = await asyncio.wait_for(again, 30)
            await house.client.end_session(bare)
            await hung_up(house, calls, local)
        for call, ran in zip(calls, running, strict=True):
            assert house.books().statuses(call.run_id)[ran["execution_id"]] == "succeeded"
            assert len(call.story.all("turn.committed")) == 1
        # what was told before is told again, from where the turn was taken on
        [taken] = [event["seq"] for event in answer if event["type"] == "turn.committed"]
        told = [event for event in posted if taken <= event.get("seq", 0)]
        assert [event for event in answer if "seq" in event][: len(told)] == told
        [said] = [event["body"] for event in answer if event["type"] == "speech.ended"]
        assert (said["asked"], said["failed"]) == ("one, attempt 2, resumed True", None)
        assert sum(len(event["data"]) for event in answer if event["type"] == "reply.audio") > 24_000
        assert answer[-1]["type"] == "execution.ended"


async def _until(events: AsyncIterator[dict[str, Any]], last: str) -> AsyncIterator[dict[str, Any]]:
    """Yield events up to the first one of a type."""
    async for event in events:
        yield event
        if event["type"] == last:
            return


async def _all(events: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event async for event in events]


async def test_the_line_of_callers_cut(tmp_path):
    """A caller whose connections break comes back by itself and hears the answer; nothing is asked twice."""
    async with provider("one", "one", "two", "two") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        await house.start_agent(house.agent())
        house.gate.touch()
        async with Cable(house.port) as cable, ControlPlaneClient(cable.url) as client, both(house, client) as calls:
            await turns(calls, "one")
            for call in calls:
                await call.story.until("execution.started", node_id="steps")

            assert cable.cut() >= 4  # two streams of events, a socket, and an answer
            house.gate.unlink()

            await all_answered(calls, "one, attempt 1, resumed False")
            await turns(calls, "two")
            await all_answered(calls, "two, attempt 1, resumed False")
            await hung_up(house, calls, local)
        for call in calls:
            assert len(call.story.all("turn.committed")) == 2
            assert set(house.books().statuses(call.run_id).values()) == {"succeeded"}


async def test_callers_killed_in_a_call(tmp_path):
    """Callers that are killed count as gone after a while: their sessions end as hung up, nothing stays at the provider."""
    async with provider("story") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        await house.start_agent(house.agent())
        house.gate.touch()
        callers = []
        for target in TARGETS:
            command = ("session", "call", target, "--audio", str(SPOKEN), "--url", house.url)
            callers.append(house.program(f"caller of {target}", AF, *command, env=house.env))
            await callers[-1].start()
        views = await eventually(house.client.list_sessions, lambda found: sum(bool(view.turns) for view in found) == 2)

        for caller in callers:
            await caller.kill()
        house.gate.unlink()

        for view in views:
            assert (await house.ended(view.id)).end_reason == "caller_hangup"
            house.books().check_over(view.run_id)
        await nothing_left(house, (), local)


async def test_provider_killed_with_another_one_there_and_then_without(tmp_path):
    """A broken line to the provider is replaced where another server answers; else the call ends, and a recording fails."""
    first, second = free_port(), free_port()
    async with Cable(first) as cable, opened(House(tmp_path, openai_url=f"{cable.url}/v1")) as house:
        servers = [house.provider(port) for port in (first, second)]
        for server in servers:
            await house.start_provider(server)
        await house.start_plane()
        await house.start_agent(house.agent(env={"STEPS_PROVIDER": "openai"}))
        house.gate.touch()
        async with both(house) as calls:
            line, notes = calls
            await turns(calls, "hello")

            cable.port = second
            await servers[0].kill()

            await line.story.until("provider.attached", count=2)
            assert line.story.all("warning", code="provider_lost")
            house.gate.unlink()
            await all_answered(calls, "hello, attempt 1, resumed False")
            house.gate.touch()
            await turns(calls, "hello")

            await servers[1].kill()
            house.gate.unlink()

            ended = await line.story.until("session.state", state="ended")
            assert (ended["body"]["reason"], bool(ended["body"]["detail"])) == ("provider_error", True)
            lost = await notes.story.until("speech.ended", count=2)
            assert lost["body"]["failed"]
            await notes.story.until("execution.ended", kind="turn", count=2)
            cable.port = first
            await house.start_provider(servers[0])
            await turns((notes,), "hello")
            await notes.story.until("execution.ended", kind="turn", count=3)
            assert (await notes.answered("hello, attempt 1"))["body"]["heard_ms"] > 0
            await hung_up(house, (notes,))
            await nothing_left(house, calls)
