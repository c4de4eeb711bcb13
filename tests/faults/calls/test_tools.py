"""Calls with tools on another node: its instance is killed, another one takes the work, an approval is decided."""

from __future__ import annotations

from support.faults.installation import Installation, opened
from support.faults.live_call import calling
from support.paths import ROOT
from support.processes.programs import AF, Program
from support.providers.engines import local_provider

PROGRAMS = ROOT / "tests" / "faults" / "programs"


async def test_worker_killed_and_approval_decided_in_one_call(tmp_path):
    """The node's other instance replaces a killed one, an approval is decided in another terminal, and the call continues."""
    async with (
        local_provider("order", "refund") as local,
        opened(Installation(tmp_path, local_url=local.url)) as installation,
    ):
        await installation.start_plane()
        await installation.start_agent(installation.agent(PROGRAMS / "caller_agent.py"))
        workers = {}
        for _ in range(2):
            worker = installation.agent(PROGRAMS / "refund_agent.py")
            workers[(await installation.start_agent(worker)).instance_id] = worker
        installation.gate.touch()
        async with calling(installation, "front.talk") as call:
            await call.turn("order")
            started = await call.record.until("execution.started", target="shop.answer")
            await workers[started["body"]["instance_id"]].kill()
            again = await call.record.until("execution.started", target="shop.answer", count=2)
            installation.gate.unlink()
            assert again["body"]["instance_id"] != started["body"]["instance_id"]
            assert again["execution_id"] == started["execution_id"]
            await call.answered("found order")

            await call.turn("refund")
            asked = await call.record.until("approval.requested")
            terminal = ("approvals", "approve", asked["body"]["approval_id"], "--by", "mia", "--note", "fine with me")
            await _af(installation, *terminal)
            await call.answered("approved, fine with me")
            session = await call.hang_up()
        assert (session.end_reason, session.turns) == ("caller_hangup", 2)
        installation.stored().check_over(call.run_id)

        lines = (await _af(installation, "session", "workflows", call.session_id)).splitlines()
        drawn = [line.lstrip(" │├└─").partition(" exe_")[0] for line in lines]
        first, second = [number for number, line in enumerate(drawn) if line.startswith("call shop.answer succeeded")]
        assert drawn[first + 1].startswith(
            "attempt 1 did not succeed: The node 'shop' was lost while it ran shop.answer"
        )
        assert drawn[second + 1] == f"asked: Refund 80 dollars? ({asked['body']['approval_id']})"
        assert drawn[second + 2] == "approved by local (mia): fine with me"


async def _af(installation: Installation, *arguments: str) -> str:
    """Run an `af` command in another terminal and return its output."""
    log = installation.folder / f"af-{arguments[0]}-{arguments[1]}.log"
    env = {"AGENTFIELD_URL": installation.url, "NO_COLOR": "1", "COLUMNS": "200"}
    terminal = Program((AF, *arguments), env=env, log=log)
    assert await terminal.run() == 0, terminal.output
    return terminal.output
