"""Restart of the control plane between and during calls: every session is resumed, or ended with a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from agentfield.errors import CapabilityMissing
from agentfield.identity import NodeKey
from agentfield.plugins import Manifest, Registry, hookimpl
from agentfield.realtime.commands import SayCommand, ToolResultCommand
from agentfield.realtime.events import (
    ReplyEnded,
    ReplyStarted,
    ToolRequested,
    TurnCommitted,
    TurnStarted,
    TurnTranscript,
    Warned,
)
from agentfield.wire.frames import RunningAttempt
from support.server.sessions import PAIR, Acme, Adapter, ScriptedNode, plane
from support.waiting import until, until_async


async def test_a_call_continues_after_a_restart(tmp_path: Path) -> None:
    """After a restart during a turn, the call is attached again, the handler resumed, and the turn delivered again."""
    adapter, key = Adapter(), NodeKey.generate()
    async with plane(tmp_path, adapter) as before:
        node = await ScriptedNode(key, before.url).link()
        session_id = await before.start()
        await before.sessions.offer(session_id, "offer")
        await node.opened(1)
        await node.answer(await node.command("set_state", state={"step": 1}))
        adapter.calls["call1"].caller_says("one")
        first = await node.turn()
        say = await node.command("say", text="hello")
        await adapter.calls["call1"].speaks()
        await node.answer(say)
        await node.drop()
    assert adapter.hung_up == []

    async with plane(tmp_path, adapter) as after:
        node = await ScriptedNode(key, after.url, instance="two").link()
        opened = await node.opened(2)
        assert (opened.resumed, opened.state) == (True, {"step": 1})
        assert [entry["role"] for entry in opened.history] == ["caller", "agent"]
        again = await node.turn()
        assert (again["id"], again["attempt"], again["text"]) == (first["id"], 2, "one")
        provider = adapter.calls["call1"]
        say = await node.command("say", text="as I said")
        await provider.speaks()
        assert (await node.answer(say)).value["verbatim"] is True
        assert [c.text for c in provider.sent if isinstance(c, SayCommand)] == ["as I said"]
        await after.sessions.end(session_id, "operator")
        row = await after.row(session_id)
        assert (row.state, row.end_reason, row.turns) == ("ended", "operator", 1)
        await node.drop()


async def test_late_words_survive_a_restart(tmp_path: Path) -> None:
    """Late words are in the history after a restart, and the turn that is delivered again has them."""
    adapter, key = Adapter(), NodeKey.generate()
    async with plane(tmp_path, adapter) as before:
        node = await ScriptedNode(key, before.url).link()
        session_id = await before.start()
        await before.sessions.offer(session_id, "offer")
        await node.opened(1)
        spoken = [TurnStarted(item="i"), TurnCommitted(item="i"), Warned(code="seen", message="all of it")]
        adapter.calls["call1"].tell(*spoken)
        await until_async(lambda: before.recorded(session_id, "warning"))
        before.clock.advance(4)
        turn = await node.turn()
        assert (turn["text"], turn["text_missing"]) == (None, "timeout")
        adapter.calls["call1"].tell(TurnTranscript(item="i", text="late"))
        await until(lambda: [event["text"] for event in node.events() if event.get("late")] == ["late"])
        await until_async(lambda: before.recorded(session_id, "turn.transcript"))
        await node.drop()

    async with plane(tmp_path, adapter) as after:
        node = await ScriptedNode(key, after.url, instance="two").link()
        opened = await node.opened(2)
        assert [entry["text"] for entry in opened.history] == ["late"]
        again = await node.turn()
        assert (again["id"], again["attempt"], again["text"]) == (turn["id"], 2, "late")
        await after.sessions.end(session_id, "operator")
        await node.drop()


async def test_an_unresumable_call_ends_with_the_reason(tmp_path: Path) -> None:
    """A call that cannot be resumed is hung up at the provider, and its session ends with that reason."""
    adapter, key = Adapter(), NodeKey.generate()
    async with plane(tmp_path, adapter) as before:
        node = await ScriptedNode(key, before.url).link()
        session_id = await before.start()
        await before.sessions.offer(session_id, "offer")
        await node.opened(1)
        adapter.calls["call1"].caller_says("one")
        turn = await node.turn()
        await node.drop()
    adapter.alive.clear()
    async with plane(tmp_path, adapter) as after:
        row = await after.state(session_id, "ended")
        assert row.end_reason == "control_plane_restart"
        assert adapter.hung_up[0] == "call1"
        states = {x.id: x.status for x in await after.executions(session_id)}
        assert states[turn["id"]] == "cancelled"
        assert states[row.root_id] == "failed"


async def test_a_session_is_not_resumed_without_its_capabilities(tmp_path: Path) -> None:
    """After a restart with fewer capabilities, the session ends and names the missing one."""
    adapter, key = Adapter(), NodeKey.generate()
    async with plane(tmp_path, adapter) as before:
        node = await ScriptedNode(key, before.url).link()
        session_id = await before.start()
        await before.sessions.offer(session_id, "offer")
        await node.opened(1)
        await node.drop()
    async with plane(tmp_path, adapter, registry=deaf()) as after:
        row = await after.state(session_id, "ended")
        assert row.end_reason == "control_plane_restart"
        assert row.end_detail == (
            "the control plane was restarted and cannot resume the session: acme/webrtc (unit) cannot run this session:"
            " caller_transcript is none, not final or partial (for the handler floor). No other installed pair can."
        )


async def test_the_pair_is_checked_again_with_each_connection_to_the_provider(tmp_path: Path) -> None:
    """Each further connection of a session, a rotation for instance, resolves the pair with all needs of the session."""
    async with plane(tmp_path, Adapter()) as here:
        node = await ScriptedNode(NodeKey.generate(), here.url).link()
        session_id = await here.start()
        await here.sessions.offer(session_id, "offer")
        await node.opened(1)
        here.sessions._live._registry = deaf()
        with pytest.raises(CapabilityMissing, match="caller_transcript is none"):
            await here.sessions.offer(session_id, "another")
        await node.drop()


def deaf() -> Registry:
    """Return a registry with the same pair, now without transcription of the caller."""
    less = replace(PAIR, capabilities=replace(PAIR.capabilities, caller_transcript="none"))

    @hookimpl
    def agentfield_manifest() -> Manifest:
        (provider,) = Registry.of([Acme()]).providers()
        return Manifest(api=(2, 0), providers=(provider,), pairs=(less,))

    plugin = ModuleType("unit")
    plugin.agentfield_manifest = agentfield_manifest  # type: ignore[attr-defined]
    return Registry.of([plugin])


async def test_a_waiting_session_still_waits_after_a_restart(tmp_path: Path) -> None:
    """A session without a call can be called after a restart, and ends after its timeout."""
    adapter, key = Adapter(), NodeKey.generate()
    async with plane(tmp_path, adapter) as before:
        node = await ScriptedNode(key, before.url).link()
        called, forgotten = await before.start(), await before.start()
        await node.drop()
    async with plane(tmp_path, adapter) as after:
        node = await ScriptedNode(key, after.url).link()
        await after.sessions.offer(called, "offer")
        await after.state(called, "live")
        await node.opened(1)
        after.clock.advance(601)
        assert (await after.state(forgotten, "ended")).end_reason == "never_connected"
        await node.drop()


async def test_a_tool_that_ran_during_the_restart_is_answered_once(tmp_path: Path) -> None:
    """A tool that was requested before the restart runs once, and its result reaches the model after it."""
    adapter, key = Adapter(), NodeKey.generate()
    async with plane(tmp_path, adapter) as before:
        node = ScriptedNode(key, before.url, floor="model", tools=("shop.look",))
        node.functions["look"] = lambda given: ...
        await node.link()
        session_id = await before.start()
        await before.sessions.offer(session_id, "offer")
        await node.opened(1)
        provider = adapter.calls["call1"]
        provider.caller_says("look")
        provider.tell(ReplyStarted(reply="r1"))
        provider.tell(ToolRequested(call_id="c1", name="shop.look", arguments='{"a":1}', reply="r1"))
        provider.tell(ReplyEnded(reply="r1", tools=1))
        await until(lambda: node.invoked)
        await node.drop()
    async with plane(tmp_path, adapter) as after:
        again = ScriptedNode(key, after.url, floor="model", tools=("shop.look",))
        again.functions["look"] = lambda given: ...
        (invoke,) = node.invoked
        attempt = RunningAttempt(
            execution_id=invoke.context.execution_id, attempt=invoke.context.attempt, epoch=invoke.epoch
        )
        again.running = (attempt,)
        await again.link()
        await again.opened(2)
        await again.finish(invoke, {"found": 1})
        tools = [x for x in await after.executions(session_id) if x.kind == "tool"]
        assert len(tools) == 1
        result = await adapter.calls["call1"].asked(ToolResultCommand)
        assert (result.call_id, result.output) == ("c1", '{"found":1}')
        assert again.invoked == []
        assert len([x for x in await after.executions(session_id) if x.kind == "tool"]) == 1
        await again.drop()


async def test_a_session_taken_by_another_control_plane_is_released(tmp_path: Path) -> None:
    """The next write after a takeover fails: the actor detaches and frees its lease, but does not hang up or end the session."""
    adapter, key = Adapter(), NodeKey.generate()
    async with plane(tmp_path, adapter) as old:
        node = await ScriptedNode(key, old.url).link()
        session_id = await old.start()
        await old.sessions.offer(session_id, "offer")
        await node.opened(1)
        await old.state(session_id, "live")
        assert await old.store.take_session(session_id, owner="another") is not None
        adapter.calls["call1"].caller_says("one")
        await until(lambda: old.sessions._live.get(session_id) is None)
        assert (adapter.hung_up, adapter.alive, adapter.admitted) == ([], {"call1"}, {})
        assert adapter.calls["call1"].closed
        row = await old.row(session_id)
        assert (row.state, row.owner, row.turns) == ("live", "another", 0)
        await node.drop()
