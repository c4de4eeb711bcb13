"""Faults in bridged calls and recorded turns: a process is killed, or a connection is cut, during the call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import psutil

from agentfield.client import ControlPlaneClient
from agentfield.wire.rest import StartRequest
from agentfield_cli.call.recordings import wav
from agentfield_local.server import LocalServer
from support.audio import tone_samples
from support.faults.installation import Installation, opened
from support.faults.live_call import LiveCall, calling
from support.faults.tcp_proxy import TcpProxy
from support.paths import ROOT
from support.processes.programs import AF, free_port
from support.providers.engines import local_provider
from support.waiting import until_async

SPOKEN = ROOT / "tests" / "fixtures" / "speech" / "synthetic" / "01.wav"
TARGETS = ("steps.line", "steps.notes")
"""A session over a WebSocket, and one of recorded turns."""


@asynccontextmanager
async def both(
    installation: Installation, client: ControlPlaneClient | None = None
) -> AsyncIterator[tuple[LiveCall, ...]]:
    """Start a call of each session at the same time."""
    async with AsyncExitStack() as stack:
        yield tuple(
            [await stack.enter_async_context(calling(installation, target, client=client)) for target in TARGETS]
        )


async def turns(calls: tuple[LiveCall, ...], text: str) -> None:
    """Say something in each call, one after the other, as the provider's transcripts come in order."""
    for call in calls:
        await call.turn(text)


async def all_answered(calls: tuple[LiveCall, ...], said: str) -> None:
    """Wait until each caller has heard this answer; a caller of recorded turns has read it to the end."""
    for call in calls:
        told = (await call.answered(said))["body"]
        assert (told["failed"], told["interrupted"], told["heard_ms"] > 0) == (None, False, True), told
        await asyncio.wait_for(asyncio.gather(*call.answers), 60)
        assert call.call.recording.any()


async def hung_up(installation: Installation, calls: tuple[LiveCall, ...], local: LocalServer | None = None) -> None:
    """Hang up; then logs are complete, and no session, execution, process or provider connection is left."""
    for call in calls:
        assert (await call.hang_up()).end_reason == "caller_hangup"
    await nothing_left(installation, calls, local)


async def nothing_left(
    installation: Installation, calls: tuple[LiveCall, ...], local: LocalServer | None = None
) -> None:
    """Assert that ended calls left nothing behind."""
    for call in calls:
        log = installation.stored().check_over(call.run_id)
        assert call.record.events == log[: len(call.record.events)]
    assert {view.state for view in await installation.client.list_sessions()} == {"ended"}
    assert psutil.Process(installation.plane.pid).children() == []
    if local is not None:
        await until_async(lambda: _sessions(local), lambda count: count == 0)


async def _sessions(local: LocalServer) -> int:
    return len(local.sessions)


async def test_agent_killed_while_its_handlers_run(tmp_path):
    """Handlers that were lost with their agent run again on the next instance and get their open turns again."""
    async with (
        local_provider("one", "one", "two", "two") as local,
        opened(Installation(tmp_path, local_url=local.url)) as installation,
    ):
        await installation.start_plane()
        agent = installation.agent()
        await installation.start_agent(agent)
        installation.gate.touch()
        async with both(installation) as calls:
            await turns(calls, "one")
            for call in calls:
                await call.record.until("execution.started", node_id="steps")

            await agent.kill()
            installation.gate.unlink()
            await installation.start_agent(agent)

            await all_answered(calls, "one, attempt 2, resumed True")
            await turns(calls, "two")
            await all_answered(calls, "two, attempt 1, resumed False")
            for call in calls:
                await call.record.until("execution.ended", kind="call", status="failed")
            await hung_up(installation, calls, local)
        for call in calls:
            assert len(call.record.all("turn.committed")) == 2
            assert len(call.record.all("execution.ended", kind="call", status="failed")) == 1


async def test_control_plane_killed_while_the_agent_speaks(tmp_path):
    """Callers reconnect to the next control plane by themselves; unfinished speech is spoken again."""
    async with (
        local_provider("story", "story", "two", "two") as local,
        opened(Installation(tmp_path, local_url=local.url)) as installation,
    ):
        await installation.start_plane()
        agent = installation.agent()
        await installation.start_agent(agent)
        async with both(installation) as calls:
            for call in calls:
                end = await call.turn("story")
                await call.call.wait_for_voice(end)

            await installation.plane.kill()
            await installation.start_plane()

            await installation.linked(agent)
            await all_answered(calls, "story, attempt 2, resumed True")
            await turns(calls, "two")
            await all_answered(calls, "two, attempt 1, resumed False")
            await hung_up(installation, calls, local)
        for call in calls:
            assert len(call.record.all("turn.committed")) == 2
            failed = [event["body"]["failed"] for event in call.record.all("speech.ended")]
            assert failed == ["control_plane_restart", None, None]
            assert set(installation.stored().statuses(call.run_id).values()) == {"succeeded"}


async def test_control_plane_killed_while_calls_of_the_handlers_run(tmp_path):
    """Work that ran when the control plane was killed finishes and counts once; the turns are asked again."""
    async with (
        local_provider("one", "one", "one") as local,
        opened(Installation(tmp_path, local_url=local.url)) as installation,
    ):
        await installation.start_plane()
        agent = installation.agent()
        await installation.start_agent(agent)
        installation.gate.touch()
        async with both(installation) as calls:
            await turns(calls, "one")
            running = [await call.record.until("execution.started", node_id="steps") for call in calls]
            # a caller that follows no events: it has only the answers to its posts
            bare = (await installation.client.start_session(StartRequest(target="steps.notes"))).session_id
            post = partial(
                installation.client.turn, bare, wav(tone_samples(), 24_000), "audio/wav", idempotency_key="key"
            )
            posted = [event async for event in _until(post(), "execution.started")]

            await installation.plane.kill()
            await installation.start_plane()
            again = asyncio.create_task(_all(post()))
            for call in calls:
                await call.record.until("handler.started", resumed=True)
            installation.gate.unlink()

            await all_answered(calls, "one, attempt 2, resumed True")
            answer = await asyncio.wait_for(again, 60)
            await installation.client.end_session(bare)
            await hung_up(installation, calls, local)
        for call, ran in zip(calls, running, strict=True):
            assert installation.stored().statuses(call.run_id)[ran["execution_id"]] == "succeeded"
            assert len(call.record.all("turn.committed")) == 1
        # the events since the commit of the turn are sent again
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


async def test_connections_of_callers_cut(tmp_path):
    """A caller whose connections break reconnects by itself and hears the answer; nothing is asked twice."""
    async with (
        local_provider("one", "one", "two", "two") as local,
        opened(Installation(tmp_path, local_url=local.url)) as installation,
    ):
        await installation.start_plane()
        await installation.start_agent(installation.agent())
        installation.gate.touch()
        async with (
            TcpProxy(installation.port) as proxy,
            ControlPlaneClient(proxy.url) as client,
            both(installation, client) as calls,
        ):
            await turns(calls, "one")
            for call in calls:
                await call.record.until("execution.started", node_id="steps")

            assert proxy.cut() >= 4  # two streams of events, a socket, and an answer
            installation.gate.unlink()

            await all_answered(calls, "one, attempt 1, resumed False")
            await turns(calls, "two")
            await all_answered(calls, "two, attempt 1, resumed False")
            await hung_up(installation, calls, local)
        for call in calls:
            assert len(call.record.all("turn.committed")) == 2
            assert set(installation.stored().statuses(call.run_id).values()) == {"succeeded"}


async def test_callers_killed_in_a_call(tmp_path):
    """Sessions of killed callers end as hung up after a while; nothing is left at the provider."""
    async with local_provider("story") as local, opened(Installation(tmp_path, local_url=local.url)) as installation:
        await installation.start_plane()
        await installation.start_agent(installation.agent())
        installation.gate.touch()
        callers = []
        for target in TARGETS:
            command = ("session", "call", target, "--audio", str(SPOKEN), "--url", installation.url)
            callers.append(installation.program(f"caller of {target}", AF, *command, env=installation.env))
            await callers[-1].start()
        views = await until_async(
            installation.client.list_sessions, lambda found: sum(bool(view.turns) for view in found) == 2
        )

        for caller in callers:
            await caller.kill()
        installation.gate.unlink()

        for view in views:
            assert (await installation.ended(view.id)).end_reason == "caller_hangup"
            installation.stored().check_over(view.run_id)
        await nothing_left(installation, (), local)


async def test_provider_killed_with_and_without_a_replacement(tmp_path):
    """A broken provider connection is replaced if another server answers; else the call ends and a recording fails."""
    first, second = free_port(), free_port()
    async with TcpProxy(first) as proxy, opened(Installation(tmp_path, openai_url=f"{proxy.url}/v1")) as installation:
        servers = [installation.provider(port) for port in (first, second)]
        for server in servers:
            await installation.start_provider(server)
        await installation.start_plane()
        await installation.start_agent(installation.agent(env={"STEPS_PROVIDER": "openai"}))
        installation.gate.touch()
        async with both(installation) as calls:
            line, notes = calls
            await turns(calls, "hello")

            proxy.port = second
            await servers[0].kill()

            await line.record.until("provider.attached", count=2)
            assert line.record.all("warning", code="provider_lost")
            installation.gate.unlink()
            await all_answered(calls, "hello, attempt 1, resumed False")
            installation.gate.touch()
            await turns(calls, "hello")

            await servers[1].kill()
            installation.gate.unlink()

            ended = await line.record.until("session.state", state="ended")
            assert (ended["body"]["reason"], bool(ended["body"]["detail"])) == ("provider_error", True)
            lost = await notes.record.until("speech.ended", count=2)
            assert lost["body"]["failed"]
            await notes.record.until("execution.ended", kind="turn", count=2)
            proxy.port = first
            await installation.start_provider(servers[0])
            await turns((notes,), "hello")
            await notes.record.until("execution.ended", kind="turn", count=3)
            assert (await notes.answered("hello, attempt 1"))["body"]["heard_ms"] > 0
            await hung_up(installation, (notes,))
            await nothing_left(installation, calls)
