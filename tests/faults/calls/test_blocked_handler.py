"""A session's handler that blocks the event loop of its node: the call continues on another instance."""

from __future__ import annotations

from support.faults.installation import Installation, opened
from support.faults.live_call import calling
from support.paths import ROOT
from support.providers.engines import local_provider

BLOCKING = ROOT / "tests" / "faults" / "programs" / "blocking_agent.py"


async def test_a_blocked_handler_counts_as_lost(tmp_path):
    """The handler runs again on the other instance with its open turn, and the blocked one says nothing any more."""
    async with (
        local_provider("one", "two") as local,
        opened(Installation(tmp_path, local_url=local.url)) as installation,
    ):
        await installation.start_plane()
        env = {"WORK_FOLDER": str(tmp_path)}
        for _ in range(2):
            await installation.start_agent(installation.agent(BLOCKING, env=env))
        installation.gate.touch()
        async with calling(installation, target="shop.voice") as call:
            await call.turn("one")
            said = await call.answered("one, attempt 2, resumed True")
            assert said["body"]["heard_ms"] > 0
            assert installation.gate.exists()
            installation.gate.unlink()
            await call.turn("two")
            await call.answered("two, attempt 1, resumed False")
            assert len(call.record.all("turn.committed")) == 2
            spoken = [str(event["body"]["asked"]) for event in call.record.all("speech.started")]
            assert not [text for text in spoken if text.startswith("one, attempt 1")]
            assert (await call.hang_up()).end_reason == "caller_hangup"
        installation.stored().check_over(call.run_id)
        assert len(local.calls) == 1
