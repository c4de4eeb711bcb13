"""Calls whose work is done by another node: it dies, another instance takes over, a person decides; the call goes on."""

from __future__ import annotations

from pathlib import Path

from faults_kit import AF, House, Program, opened, phone, provider

HERE = Path(__file__).parent


async def test_the_desk_dies_and_a_person_decides_in_one_call(tmp_path):
    """Killed while it works, the desk is replaced by its other instance; a decision comes from another terminal."""
    async with provider("order", "refund") as local, opened(House(tmp_path, local_url=local.url)) as house:
        await house.start_plane()
        await house.start_agent(house.agent(HERE / "front_agent.py"))
        desks = {}
        for _ in range(2):
            desk = house.agent(HERE / "desk_agent.py")
            desks[(await house.start_agent(desk)).instance_id] = desk
        house.gate.touch()
        async with phone(house, "front.talk") as call:
            await call.turn("order")
            started = await call.story.until("execution.started", target="desk.answer")
            await desks[started["body"]["instance_id"]].kill()
            again = await call.story.until("execution.started", target="desk.answer", count=2)
            house.gate.unlink()
            assert again["body"]["instance_id"] != started["body"]["instance_id"]
            assert again["execution_id"] == started["execution_id"]
            await call.answered("found order")

            await call.turn("refund")
            asked = await call.story.until("approval.requested")
            terminal = ("approvals", "approve", asked["body"]["approval_id"], "--by", "mia", "--note", "fine with me")
            await _af(house, *terminal)
            await call.answered("approved, fine with me")
            session = await call.hang_up()
        assert (session.end_reason, session.turns) == ("caller_hangup", 2)
        house.books().check_over(call.run_id)

        lines = (await _af(house, "session", "workflows", call.session_id)).splitlines()
        drawn = [line.lstrip(" │├└─").partition(" exe_")[0] for line in lines]
        first, second = [number for number, line in enumerate(drawn) if line.startswith("call desk.answer succeeded")]
        assert drawn[first + 1].startswith(
            "attempt 1 did not succeed: The node 'desk' was lost while it ran desk.answer"
        )
        assert drawn[second + 1] == f"asked: Refund 80 dollars? ({asked['body']['approval_id']})"
        assert drawn[second + 2] == "approved by mia: fine with me"


async def _af(house: House, *arguments: str) -> str:
    """Run a command as somebody in another terminal would, and return what it printed."""
    log = house.folder / f"af-{arguments[0]}-{arguments[1]}.log"
    env = {"AGENTFIELD_URL": house.url, "NO_COLOR": "1", "COLUMNS": "200"}
    terminal = Program((AF, *arguments), env=env, log=log)
    assert await terminal.run() == 0, terminal.said
    return terminal.said
